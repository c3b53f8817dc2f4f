//! A server of both streams that passes bytes on, whatever they mean.

use std::convert::Infallible;
use std::task::{Context, Poll};

use prost::bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::raw::Raw;
use crate::exchange::Channel;

/// Messages on their way to the sidecar.
const QUEUE: usize = 64;

/// A stream that a sidecar opened.
pub struct Opened {
    pub channel: Channel,
    pub requests: Streaming<Bytes>,
    pub responses: mpsc::Sender<Result<Bytes, Status>>,
}

/// Serves until it is dropped, and hands on every stream that is opened.
pub async fn serve(listener: TcpListener, opened: mpsc::Sender<Opened>) {
    let serving = tonic::transport::Server::builder()
        .add_service(Face::<false>(opened.clone()))
        .add_service(Face::<true>(opened))
        .serve_with_incoming(TcpListenerStream::new(listener));
    serving.await.unwrap();
}

/// One of the two services.
#[derive(Clone)]
struct Face<const REPORTS: bool>(mpsc::Sender<Opened>);

impl<const REPORTS: bool> NamedService for Face<REPORTS> {
    const NAME: &'static str = match REPORTS {
        true => "remora.v1.Reports",
        false => "envoy.service.discovery.v3.AggregatedDiscoveryService",
    };
}

impl<const REPORTS: bool> Service<http::Request<tonic::body::Body>> for Face<REPORTS> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let face = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(face, request).await) })
    }
}

impl<const REPORTS: bool> StreamingService<Bytes> for Face<REPORTS> {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (responses, outgoing) = mpsc::channel(QUEUE);
        let opened = Opened {
            channel: match REPORTS {
                true => Channel::Reports,
                false => Channel::Stream,
            },
            requests: request.into_inner(),
            responses,
        };
        let taken = self.0.clone();
        Box::pin(async move {
            let gone = |_| Status::unavailable("nobody takes it");
            taken.send(opened).await.map_err(gone)?;
            Ok(Response::new(ReceiverStream::new(outgoing)))
        })
    }
}
