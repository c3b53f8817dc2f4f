//! Attempts side by side: the first good answer wins (`policy::hedge` says when
//! another is sent, and what is good).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use http::Response;

use super::{Attempted, Attempting};
use crate::answer::Reason;
use crate::attempt::{self, Bounds, Failure, Held, Sent};
use crate::body::Incoming;
use crate::caller::{Caller, Interim};
use crate::clock::{self, Timestamp};
use crate::exchange::LiveAttempt;
use crate::http1::parse;
use crate::policy::config::{AttemptEnd, HedgeAfter};
use crate::policy::hedge::{self, Hedges};
use crate::policy::retry;
use crate::select;
use crate::state::Endpoint;
use crate::upstream::Head;

type Answered = Result<(Response<Incoming>, Held), Failure>;

/// One of the attempts that are under way at the same time.
struct Racer<'a> {
    // Before what it holds: its places are free once it is off the connection.
    sending: Pin<Box<dyn Future<Output = Answered> + 'a>>,
    live: LiveAttempt,
    endpoint: &'a Endpoint,
    began: Timestamp,
    is_hedge: bool,
}

impl<'a> Attempting<'a> {
    /// The hedges of an attempt that begins now; nothing for nearly every request.
    pub(super) fn hedges(&self, now: Timestamp) -> Option<Hedges> {
        let policy = self.way.retries()?;
        let hedge = policy.hedge.as_ref()?;
        let is_free = !self.way.target.is_direct()
            && !self.is_bound()
            && !parse::asks_for_tunnel(&self.parts)
            && self.request(Some(policy)).is_safe(policy);
        if !is_free {
            return None;
        }
        let latencies = |percentile| self.way.target.runtime.latencies().percentile(percentile);
        Hedges::new(hedge, self.hedged, latencies, now)
    }

    /// Notes how long an attempt took, where a policy wants to know what is late.
    pub(super) fn note_latency(&self, latency: Duration) {
        let hedge = self.way.retries().and_then(|policy| policy.hedge);
        if hedge.is_some_and(|hedge| matches!(hedge.after, HedgeAfter::Percentile(_))) {
            self.way.target.runtime.latencies().note(latency);
        }
    }

    /// The attempt whose places are taken, and its hedges: until one is good, or all
    /// are bad.
    pub(super) async fn race(&mut self, endpoint: &'a Endpoint, mut hedges: Hedges) -> Attempted {
        let mut racers = Vec::with_capacity(2);
        racers.extend(self.start(endpoint, false));
        loop {
            let Some((at, answered)) = next(&mut racers, hedges.due()).await else {
                match self.hedge() {
                    Some(racer) => {
                        hedges.sent(racer.began);
                        racers.push(racer);
                    }
                    None => hedges.stop(),
                }
                continue;
            };
            let Racer {
                sending,
                live,
                endpoint,
                began,
                is_hedge,
            } = racers.swap_remove(at);
            drop(sending);
            self.exchange.live = Some(live);
            self.attempt_began = began;
            self.is_hedge = is_hedge;
            let attempted = match answered {
                Ok((response, held)) => {
                    if self.note_answer(&response, held) {
                        self.hold(endpoint, response).await
                    } else {
                        self.answered(endpoint, response)
                    }
                }
                Err(failure) => self.failed(endpoint, failure),
            };
            let is_good = self.is_good(&attempted);
            if is_hedge {
                let traffic = self.exchange.traffic();
                let counter = if is_good {
                    &traffic.hedges_won
                } else {
                    &traffic.hedges_lost
                };
                counter.fetch_add(1, Relaxed);
            }
            if is_good || racers.is_empty() || !is_put_aside(&attempted) {
                self.cancel(racers);
                return attempted;
            }
            if let Attempted::Answered(response, _) = attempted {
                self.let_go(response);
            }
            self.exchange.live = None;
        }
    }

    fn is_good(&self, attempted: &Attempted) -> bool {
        let Attempted::Answered(_, end) = attempted else {
            return false;
        };
        let Some(policy) = self.way.retries() else {
            return true;
        };
        let breaker = self.way.target.config.policy.circuit_breaker.as_ref();
        let failures = breaker.map(|breaker| &breaker.trip.failures);
        hedge::is_good(*end, &policy.on, failures)
    }

    /// One more attempt elsewhere, where there is an endpoint and budget for it.
    fn hedge(&mut self) -> Option<Racer<'a>> {
        // Since the first endpoints may have come and gone.
        self.renew();
        let traffic = &self.way.service.runtime.traffic;
        if !self.source.has_ended() || !self.source.replayable() {
            return None;
        }
        let now = clock::now();
        if !select::has_another(self.way.target, &self.asking(now)) {
            traffic.hedges_without_endpoint.fetch_add(1, Relaxed);
            return None;
        }
        if !self.take_retry() {
            traffic.hedges_without_budget.fetch_add(1, Relaxed);
            return None;
        }
        let asking = self.asking(now);
        let picked = select::pick(self.way.target, &asking, crate::random::next());
        let endpoint = picked.ok().filter(|it| !self.tried.contains(it));
        let live = endpoint.and_then(|endpoint| Some((endpoint, self.take_places(endpoint, now)?)));
        let Some((endpoint, live)) = live else {
            self.give_retry_back();
            traffic.hedges_without_endpoint.fetch_add(1, Relaxed);
            return None;
        };
        let address = endpoint.config.address_for(self.way.destination);
        // Its own rules would have to be asked, and the pod itself is seldom the quicker.
        if self.worker.shared.is_own_pod(address.ip()) {
            traffic.hedges_without_endpoint.fetch_add(1, Relaxed);
            return None;
        }
        if !self.way.budget().try_spend(now) {
            traffic.hedges_without_budget.fetch_add(1, Relaxed);
            return None;
        }
        self.note_tried(endpoint);
        self.hedged += 1;
        self.exchange.attempts += 1;
        self.exchange.live = Some(live);
        endpoint.runtime.attempts.fetch_add(1, Relaxed);
        traffic.hedges.fetch_add(1, Relaxed);
        self.start(endpoint, true)
    }

    /// Sends what has its places.
    fn start(&mut self, endpoint: &'a Endpoint, is_hedge: bool) -> Option<Racer<'a>> {
        let began = match is_hedge {
            true => clock::now(),
            false => self.attempt_began,
        };
        self.pass_deadline_on(began);
        let live = self.exchange.live.take()?;
        let worker = self.worker;
        let target = self.target(endpoint);
        let own = self.own_identity(target.address);
        let parts = self.parts.clone();
        let attempt = self.exchange.attempts;
        let bounds = Bounds {
            until_headers: self.deadlines.attempt(began).until_headers,
            idle: self.way.timeouts().idle,
        };
        let caller = self.exchange.caller();
        let (source, caller) = if is_hedge {
            // What is told meanwhile is told by the first, and each has its own alarm.
            let caller = Caller {
                state: Rc::clone(&caller.state),
                interim: Rc::new(Interim::default()),
            };
            (self.source.beside(), caller)
        } else {
            (self.source.clone(), caller.clone())
        };
        let safe = retry::is_idempotent(parts.method.as_str());
        let has_sidecar = endpoint.config.sidecar;
        let sending = Box::pin(async move {
            let sent = Sent {
                head: Head {
                    parts: &parts,
                    attempt: Some(attempt),
                    identity: own.as_ref().map(|own| &own.header),
                },
                source: &source,
                caller: &caller,
                safe,
                bounds,
                began,
            };
            attempt::send(worker, &target, has_sidecar, &sent).await
        });
        Some(Racer {
            sending,
            live,
            endpoint,
            began,
            is_hedge,
        })
    }

    /// Those that another was quicker than: they say nothing of their endpoints but
    /// that they are at least so slow.
    fn cancel(&self, racers: Vec<Racer<'_>>) {
        let now = clock::now();
        for racer in racers {
            drop(racer.sending);
            racer.live.load.at_least(now);
            if racer.is_hedge {
                self.exchange.traffic().hedges_lost.fetch_add(1, Relaxed);
            } else {
                self.note_latency(now.since(racer.began));
            }
        }
    }
}

/// Whether what came of an attempt leaves it to the others.
fn is_put_aside(attempted: &Attempted) -> bool {
    matches!(
        attempted,
        Attempted::Answered(..)
            | Attempted::Ended(AttemptEnd::ConnectFailure, _)
            | Attempted::Ended(AttemptEnd::RefusedStream, _)
            | Attempted::Ended(AttemptEnd::Reset, _)
            | Attempted::Ended(AttemptEnd::Timeout, _)
            | Attempted::Refused(Reason::Overloaded, _)
    )
}

/// Which of the attempts has come to something, and to what; nothing once another is
/// to be sent.
async fn next(racers: &mut [Racer<'_>], due: Option<Timestamp>) -> Option<(usize, Answered)> {
    let ended = poll_fn(|cx| {
        for (at, racer) in racers.iter_mut().enumerate() {
            if let Poll::Ready(answered) = racer.sending.as_mut().poll(cx) {
                return Poll::Ready(Some((at, answered)));
            }
        }
        Poll::Pending
    });
    let Some(due) = due else { return ended.await };
    tokio::select! {
        biased;
        ended = ended => ended,
        () = tokio::time::sleep_until(clock::instant(due)) => None,
    }
}
