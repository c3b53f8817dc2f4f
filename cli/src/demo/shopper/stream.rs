//! A stream of requests at a fixed rate.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Shopper;
use super::counts::Outcome;
use crate::demo::client::{Answer, Call, Client};
use crate::demo::dial::Dialer;
use crate::demo::trouble::{value, values};
use crate::demo::{clock, inventory, pace, tally};

/// How long a request may take before it counts as unanswered.
const TIMEOUT: Duration = Duration::from_secs(8);
/// Requests a second, at most.
const MAX_RATE: u32 = 10_000;
/// The longest that a connection of TCP is held.
const MAX_HOLD_MS: u64 = 60_000;
/// Orders and users have a number that is theirs alone in this process.
static ORDERS: AtomicU64 = AtomicU64::new(0);

/// What a stream is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `stream=`: the name under which it is counted.
    pub name: String,
    /// `to=host:port`.
    pub to: String,
    /// `method=` (GET). A POST has a body, and an `x-order-id` of its own.
    pub method: Method,
    /// `path=` (`/reviews`).
    pub path: String,
    /// `rate=`: requests a second.
    pub rate: u32,
    /// `most=` (256): under way at a time; what would be more is skipped.
    pub most: u32,
    /// `header=name:value`, several times.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// `users=` (1): requests are by so many by turns; above 1 each says in `x-user`
    /// who it is.
    pub users: u32,
    /// `cookies=keep`: each user sends the cookies that it was given.
    pub keeps_cookies: bool,
    /// `kind=tcp&hold_ms=N`: connections to an inventory, each held so long.
    pub hold: Option<Duration>,
}

impl Asked {
    /// Reads the name and what follows it.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, query) = text
            .split_once('&')
            .ok_or("a stream has a name, and more")?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(is_plain) {
            return Err(format!("{name:?} is no name of a stream"));
        }
        let number = |key: &str, default: Option<u32>, most: u32| match value(query, key) {
            None => default.ok_or_else(|| format!("{name}: say {key}=")),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| (1..=most).contains(number))
                .ok_or_else(|| format!("{name}: {key} is a number from 1 to {most}")),
        };
        let hold = value(query, "hold_ms").unwrap_or("0").parse::<u64>();
        let hold = hold.map_err(|_| format!("{name}: hold_ms is a number"))?;
        Ok(Self {
            to: value(query, "to")
                .ok_or_else(|| format!("{name}: say to="))?
                .to_owned(),
            method: match value(query, "method").unwrap_or("GET").parse() {
                Ok(method) => method,
                Err(_) => return Err(format!("{name}: no such method")),
            },
            path: value(query, "path").unwrap_or("/reviews").to_owned(),
            rate: number("rate", None, MAX_RATE)?,
            most: number("most", Some(256), 4096)?,
            headers: headers(query)?,
            users: number("users", Some(1), 10_000)?,
            keeps_cookies: value(query, "cookies") == Some("keep"),
            hold: (value(query, "kind") == Some("tcp"))
                .then(|| Duration::from_millis(hold.min(MAX_HOLD_MS))),
            name: name.to_owned(),
        })
    }
}

fn headers(query: &str) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let headers = values(query, "header").map(|text| {
        let (name, value) = text.split_once(':').ok_or("a header is name:value")?;
        let name = name.parse().map_err(|_| format!("{name:?} is no header"))?;
        let value = value.trim().parse();
        Ok((name, value.map_err(|_| format!("{text:?} is no header"))?))
    });
    headers.collect()
}

enum Upstream {
    Http(Client),
    Lines(inventory::Client),
}

/// A stream that runs.
pub struct Stream {
    shopper: Arc<Shopper>,
    asked: Asked,
    upstream: Upstream,
    places: Arc<Semaphore>,
    /// By user.
    cookies: Mutex<HashMap<u32, HeaderValue>>,
}

impl Stream {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// When whom it asks is no `host:port`.
    pub fn new(shopper: Arc<Shopper>, dialer: &Dialer, asked: Asked) -> anyhow::Result<Arc<Self>> {
        let upstream = match asked.hold {
            Some(_) => Upstream::Lines(inventory::Client::new(dialer.clone(), &asked.to)?),
            None => Upstream::Http(Client::new(dialer.clone(), &asked.to)?),
        };
        Ok(Arc::new(Self {
            shopper,
            places: Arc::new(Semaphore::new(asked.most as usize)),
            asked,
            upstream,
            cookies: Mutex::new(HashMap::new()),
        }))
    }

    /// Sends for as long as it is not dropped.
    pub async fn run(self: Arc<Self>) -> Infallible {
        let mut under_way = JoinSet::new();
        let send = |n| {
            while under_way.try_join_next().is_some() {}
            self.send(n, &mut under_way);
        };
        pace::keep(self.asked.rate, send).await
    }

    fn send(self: &Arc<Self>, n: u64, under_way: &mut JoinSet<()>) {
        let number = self.shopper.number();
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.shopper
                .count(&self.asked.name, number, |counts| counts.skipped += 1);
            return;
        };
        let user = u32::try_from(n % u64::from(self.asked.users)).unwrap_or(0);
        let stream = Arc::clone(self);
        under_way.spawn(async move {
            let sent = clock::now();
            let outcome = stream.ask(user).await;
            let latency = clock::now().saturating_duration_since(sent);
            stream.shopper.count(&stream.asked.name, number, |counts| {
                counts.ended(&outcome, latency)
            });
            drop(place);
        });
    }

    async fn ask(&self, user: u32) -> Outcome {
        let nothing = || Outcome {
            status: "none".to_owned(),
            user,
            ..Outcome::default()
        };
        match &self.upstream {
            Upstream::Lines(lines) => {
                let hold = self.asked.hold.unwrap_or_default();
                match lines.visit(hold).await {
                    Ok(()) => Outcome {
                        status: "ok".to_owned(),
                        user,
                        ..Outcome::default()
                    },
                    Err(_) => nothing(),
                }
            }
            Upstream::Http(client) => match client.call(&self.call(user), TIMEOUT).await {
                Ok(answer) => {
                    self.keep_cookie(user, &answer);
                    outcome(&answer, user)
                }
                Err(_) => nothing(),
            },
        }
    }

    fn call(&self, user: u32) -> Call {
        let mut headers = self.asked.headers.clone();
        if self.asked.users > 1 {
            headers.push((HeaderName::from_static("x-user"), user.into()));
        }
        let mut body = "";
        if self.asked.method == Method::POST {
            body = r#"{"stars":5}"#;
            let order = ORDERS.fetch_add(1, Ordering::Relaxed);
            headers.push((HeaderName::from_static(tally::ORDER), order.into()));
        }
        if self.asked.keeps_cookies {
            let cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
            let cookie = cookies.get(&user).cloned();
            headers.extend(cookie.map(|cookie| (header::COOKIE, cookie)));
        }
        Call {
            method: self.asked.method.clone(),
            path: Cow::Owned(self.asked.path.clone()),
            headers,
            body,
        }
    }

    /// What a browser keeps of it: the name and the value.
    fn keep_cookie(&self, user: u32, answer: &Answer) {
        let given = answer.headers.get(header::SET_COOKIE);
        if let Some(given) = given.filter(|_| self.asked.keeps_cookies) {
            let bytes = given.as_bytes().split(|byte| *byte == b';').next();
            let kept = bytes.and_then(|bytes| HeaderValue::from_bytes(bytes).ok());
            let mut cookies = self.cookies.lock().unwrap_or_else(PoisonError::into_inner);
            // As many as there are users.
            cookies.extend(kept.map(|kept| (user, kept)));
        }
    }
}

fn outcome(answer: &Answer, user: u32) -> Outcome {
    let pod = answer.headers.get("x-pod");
    let pod = pod.map(|pod| String::from_utf8_lossy(pod.as_bytes()).into_owned());
    Outcome {
        status: answer.status.as_str().to_owned(),
        reason: answer.reason.clone(),
        pod,
        has_retry_after: answer.headers.contains_key(header::RETRY_AFTER),
        user,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_what_was_said_and_nonsense_is_refused() {
        let asked = Asked::parse(
            "buys&to=reviews:8080&method=POST&rate=20&header=x-priority:critical&users=7&cookies=keep",
        )
        .unwrap();
        assert_eq!((asked.name.as_str(), asked.method), ("buys", Method::POST));
        assert_eq!((asked.rate, asked.users, asked.most), (20, 7, 256));
        assert_eq!(asked.headers[0].1, "critical");
        assert!(asked.keeps_cookies && asked.hold.is_none());
        let lines = Asked::parse("a&to=ledger:7000&kind=tcp&rate=2&hold_ms=500").unwrap();
        assert_eq!(lines.hold, Some(Duration::from_millis(500)));
        for wrong in [
            "a",
            "&to=x:1&rate=1",
            "a&rate=1",
            "a&to=x:1",
            "a&to=x:1&rate=0",
            "a&to=x:1&rate=1&header=nonsense",
            "a b&to=x:1&rate=1",
        ] {
            assert!(Asked::parse(wrong).is_err(), "{wrong}");
        }
    }
}
