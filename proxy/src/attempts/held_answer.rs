//! gRPC tells how a call went after its body. Where a policy retries on that,
//! the answer's head is held back for the first frame, for a moment.

use std::pin::Pin;
use std::time::Duration;

use http::Response;
use http_body::Body;

use super::{Attempted, Attempting};
use crate::attempt::Held;
use crate::body::{BodyError, Incoming};
use crate::grpc;
use crate::policy::config::AttemptEnd;
use crate::state::Endpoint;

/// For so long a head is held for the first frame of its body.
const HOLD: Duration = Duration::from_millis(20);

impl Attempting<'_> {
    /// Response headers came; whether their call's status is worth waiting for.
    pub(super) fn note_answer(&mut self, response: &Response<Incoming>, held: Held) -> bool {
        let is_grpc = self.exchange.is_grpc;
        let status = if is_grpc {
            grpc::status(response.headers())
        } else {
            None
        };
        if let Some(live) = &mut self.exchange.live {
            live.held = Some(held);
            live.grpc_status = status;
        }
        is_grpc && status.is_none() && self.holds(response)
    }

    /// Waits a moment for the first frame: how the attempt went, as far as it
    /// can be known then.
    pub(super) async fn hold(
        &mut self,
        endpoint: &Endpoint,
        response: Response<Incoming>,
    ) -> Attempted {
        let live = self.exchange.live.as_mut();
        if let Some(breaker) = live.and_then(|live| live.breaker.as_mut()) {
            breaker.answered(crate::clock::now());
        }
        let (parts, body) = response.into_parts();
        match first_frame(body).await {
            Ok((body, status)) => {
                if let Some(live) = &mut self.exchange.live {
                    live.grpc_status = status;
                }
                self.answered(endpoint, Response::from_parts(parts, body))
            }
            Err(error) => {
                let failure = crate::attempt::Failure::Ended(
                    AttemptEnd::Reset,
                    format!("{} broke off: {error}", endpoint.runtime.name),
                );
                self.failed(endpoint, failure)
            }
        }
    }

    /// Only where it can matter: the policy lists gRPC codes, and the request
    /// has been sent whole (a stream that is still sending is never held).
    fn holds(&self, response: &Response<Incoming>) -> bool {
        let retries = self.way.retries();
        let listed = retries
            .is_some_and(|retries| retries.attempts > 0 && !retries.on.grpc_codes.is_empty());
        listed && self.source.has_ended() && !response.body().is_end_stream()
    }
}

/// The body with its first frame read, where one came in time, and the status
/// in it where that were the trailers.
async fn first_frame(mut body: Incoming) -> Result<(Incoming, Option<u8>), BodyError> {
    let reading = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
    match tokio::time::timeout(HOLD, reading).await {
        Err(_) | Ok(None) => Ok((body, None)),
        Ok(Some(Err(error))) => Err(error),
        Ok(Some(Ok(frame))) => {
            let status = frame.trailers_ref().and_then(grpc::status);
            Ok((body.with_first(frame), status))
        }
    }
}
