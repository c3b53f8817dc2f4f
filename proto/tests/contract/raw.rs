//! gRPC without a schema: messages pass as the bytes that they are, so that
//! what neither side's types know is kept.

use prost::bytes::{Buf, BufMut, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport;
use tonic::{Request, Status, Streaming};

use crate::exchange::Channel;

/// Where each stream is served.
pub fn path(channel: Channel) -> &'static str {
    match channel {
        Channel::Stream => {
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
        }
        Channel::Reports => "/remora.v1.Reports/Report",
    }
}

/// Opens a stream to a server at `url`, and sends what `outgoing` gives.
pub async fn open(
    url: String,
    channel: Channel,
    outgoing: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Streaming<Bytes>, Status> {
    let unavailable = |error: transport::Error| Status::unavailable(error.to_string());
    let endpoint = transport::Endpoint::try_from(url).map_err(unavailable)?;
    let connection = endpoint.connect().await.map_err(unavailable)?;
    let mut client = tonic::client::Grpc::new(connection);
    client.ready().await.map_err(unavailable)?;
    let path = PathAndQuery::from_static(path(channel));
    let opened = client.streaming(Request::new(outgoing), path, Raw).await;
    opened.map(tonic::Response::into_inner)
}

/// The codec that decodes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
