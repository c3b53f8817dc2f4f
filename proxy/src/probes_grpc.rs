//! One gRPC health check, as the kubelet makes it.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

/// An answer of `Check` is a few bytes.
const ANSWER_BYTES: usize = 4096;

/// `HealthCheckResponse.ServingStatus.SERVING` (grpc/health/v1/health.proto).
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Whether `grpc.health.v1.Health/Check` says that `service` is serving.
///
/// # Errors
/// The connection broke, or what came back is no answer of a health check.
pub async fn check(
    stream: tokio::net::TcpStream,
    service: &str,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Ends also where the probe is given up.
    let mut driving = tokio::task::JoinSet::new();
    driving.spawn(connection);
    let message = prost::Message::encode_to_vec(&HealthCheckRequest {
        service: service.to_owned(),
    });
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put_slice(&message);
    let mut request = Request::post("http://application/grpc.health.v1.Health/Check")
        .body(Full::new(body.freeze()))?;
    request.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    request
        .headers_mut()
        .insert(header::TE, HeaderValue::from_static("trailers"));
    let response = sender.send_request(request).await?;
    let body: Bytes = Limited::new(response.into_body(), ANSWER_BYTES)
        .collect()
        .await?
        .to_bytes();
    let Some(message) = body.get(5..) else {
        return Ok(false);
    };
    let answer = <HealthCheckResponse as prost::Message>::decode(message)?;
    Ok(answer.status == SERVING)
}
