//! One stream of a caller: the handler, then its answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;

use super::message;
use super::stall::Stall;
use super::stream::{Send, Sending};
use super::unread;
use crate::body::Timed;
use crate::caller::Interim;

/// Answers on `respond` with what `handling` gives, unless the caller resets
/// the stream or its connection ends: then `handling`, or the answer, is
/// dropped. `bodiless` for an answer to HEAD.
pub async fn answer<F, B>(
    mut respond: SendResponse<Bytes>,
    handling: F,
    interim: &Interim,
    bodiless: bool,
) where
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Timed + Unpin,
{
    let response = {
        let mut handling = pin!(handling);
        poll_fn(|cx| {
            // Before the reset is looked at: the handler tells the caller's
            // connection of the request's end only when it has begun.
            let handled = handling.as_mut().poll(cx);
            pass_interim(&mut respond, interim);
            match handled {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            }
        })
        .await
    };
    let Some(response) = response else {
        return;
    };
    if interim.broken.get() {
        drop(response);
        respond.send_reset(Reason::INTERNAL_ERROR);
        return;
    }
    let (parts, body) = response.into_parts();
    let mut head = Response::new(());
    *head.status_mut() = parts.status;
    *head.headers_mut() = message::answer(parts.headers);
    let ends = bodiless || body.is_end_stream();
    // It fails where the caller has gone.
    let Ok(stream) = respond.send_response(head, ends) else {
        return;
    };
    if ends {
        return;
    }
    Box::pin(send(Send::new(stream, body), interim)).await;
}

async fn send<B: Body<Data = Bytes> + Timed + Unpin>(mut sending: Send<B>, interim: &Interim) {
    let mut stall = Stall::default();
    poll_fn(|cx| {
        match sending.poll(cx) {
            Poll::Ready(Err(Sending::Broke(_))) => {
                // Never a clean end: the caller would take a part for the whole.
                sending.reset(Reason::INTERNAL_ERROR);
                return Poll::Ready(());
            }
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending if interim.half_closed.take() => sending.half_close(),
            Poll::Pending => {}
        }
        if let Some(sent) = sending.waiting()
            && (sending.body_mut().poll_late(sent, cx).is_ready()
                || stall.poll_looking(sent, unread::stall, cx).is_ready())
        {
            tracing::debug!(
                "a caller granted no window for its answer in time; resetting its stream"
            );
            sending.reset(Reason::CANCEL);
            return Poll::Ready(());
        }
        sending.poll_reset(cx)
    })
    .await;
}

fn pass_interim(respond: &mut SendResponse<Bytes>, interim: &Interim) {
    while let Some((status, headers)) = interim.pop() {
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = message::answer(headers);
        if let Err(error) = respond.send_informational(head) {
            tracing::debug!(%error, "an interim answer was not passed on");
        }
    }
}

/// Answers with a bare status, to what no handler is to see.
pub fn refuse(mut respond: SendResponse<Bytes>, status: StatusCode, headers: HeaderMap) {
    let mut head = Response::new(());
    *head.status_mut() = status;
    *head.headers_mut() = headers;
    // It fails where the caller has gone.
    let _ = respond.send_response(head, true);
}
