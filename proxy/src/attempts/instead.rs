//! Attempts and fallbacks: the one attempt that a fallback makes, and the refusals
//! of others that have one.

use http::Response;
use http::header::{HeaderValue, RETRY_AFTER};

use super::{Attempted, Attempting};
use crate::answer::Reason;
use crate::body::Incoming;
use crate::body::response::ResponseBody;
use crate::clock::{self, Timestamp};
use crate::exchange::Exchange;
use crate::headers;
use crate::pipeline;
use crate::policy::deadline::Deadlines;

impl Attempting<'_> {
    /// One attempt for a fallback, which ends at `ends`, in the place of a refusal:
    /// the answer, marked; or the exchange, where no answer came.
    pub async fn once(
        mut self: Box<Self>,
        ends: Option<Timestamp>,
        instead_of: Reason,
    ) -> Result<Response<ResponseBody>, Box<Exchange>> {
        self.deadlines = Deadlines::new(self.way.timeouts(), clock::now());
        if let Some(ends) = ends {
            self.deadlines.shorten(ends);
        }
        // Others beside it would be more than one.
        self.hedged = u32::MAX;
        self.attempt_began = clock::now();
        match self.attempt().await {
            Attempted::Answered(mut response, end)
                if !response.headers().contains_key(headers::REASON) =>
            {
                let retry_after = headers::retry_after(response.headers());
                self.record_service_failure(end, retry_after);
                let word = HeaderValue::from_static(Reason::Fallback.word());
                response.headers_mut().insert(headers::REASON, word);
                self.exchange.falls_back_on(&[]);
                self.exchange.notes_fallback(instead_of);
                Ok(self.give(response))
            }
            Attempted::Answered(response, _) => {
                self.let_go(response);
                Err(self.exchange)
            }
            Attempted::Ended(end, _) => {
                self.record_service_failure(end, None);
                self.exchange.live = None;
                Err(self.exchange)
            }
            _ => {
                self.exchange.live = None;
                Err(self.exchange)
            }
        }
    }

    /// The target's sidecar refused it, and a fallback has an answer for that.
    pub(super) fn refused_there(
        mut self: Box<Self>,
        response: Response<Incoming>,
        reason: Reason,
    ) -> Response<ResponseBody> {
        let again = response.headers().get(RETRY_AFTER).cloned();
        self.let_go(response);
        let name = &self.way.target.runtime.name;
        let detail = format!("{name}: the endpoint's sidecar refused it");
        let mut answer = pipeline::refuse(self.exchange, reason, detail);
        if let Some(again) = again {
            answer.headers_mut().insert(RETRY_AFTER, again);
        }
        answer
    }
}
