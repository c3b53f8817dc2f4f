//! What reached an application, as itself counts it: the truth beside which what
//! the mesh says of itself is held.
//!
//! # `GET /tally`, and `POST /tally`, which answers the same and begins anew
//! ```json
//! {
//!   "requests": 812,         // that reached the role; health checks and orders do not count
//!   "most_at_once": 9,
//!   "again": 14,             // of them with `x-remora-attempt` above 1
//!   "orders": 90,            // with an `x-order-id`
//!   "most_times": 1,         // that the same order came
//!   "connections": 3,        // that are open; of plain TCP
//!   "most_connections": 5
//! }
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use remora_proto::well_known::header::ATTEMPT;

/// The header that names an order.
pub const ORDER: &str = "x-order-id";
/// Orders that are told apart.
const MAX_ORDERS: usize = 100_000;
/// A longer name is none.
const MAX_ORDER_BYTES: usize = 64;

/// The counts.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    at_once: u64,
    most_at_once: u64,
    again: u64,
    orders: HashMap<String, u64>,
    connections: u64,
    most_connections: u64,
}

/// A request, or a connection, until it is dropped.
#[derive(Debug)]
pub struct Here<'a> {
    tally: &'a Tally,
    is_connection: bool,
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        let mut counts = self.tally.counts();
        if self.is_connection {
            counts.connections -= 1;
        } else {
            counts.at_once -= 1;
        }
    }
}

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub fn request(&self, headers: &HeaderMap) -> Here<'_> {
        let word = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let attempt = word(ATTEMPT).and_then(|text| text.parse::<u32>().ok());
        let order = word(ORDER).filter(|order| order.len() <= MAX_ORDER_BYTES);
        let mut counts = self.counts();
        counts.requests += 1;
        counts.at_once += 1;
        counts.most_at_once = counts.most_at_once.max(counts.at_once);
        counts.again += u64::from(attempt.is_some_and(|attempt| attempt > 1));
        if let Some(order) = order
            && (counts.orders.len() < MAX_ORDERS || counts.orders.contains_key(order))
        {
            *counts.orders.entry(order.to_owned()).or_default() += 1;
        }
        Here {
            tally: self,
            is_connection: false,
        }
    }

    /// A connection of plain TCP has come.
    pub fn connection(&self) -> Here<'_> {
        let mut counts = self.counts();
        counts.requests += 1;
        counts.connections += 1;
        counts.most_connections = counts.most_connections.max(counts.connections);
        Here {
            tally: self,
            is_connection: true,
        }
    }

    /// As JSON; with `anew` what is over is forgotten.
    pub fn told(&self, anew: bool) -> String {
        let mut counts = self.counts();
        let told = serde_json::json!({
            "requests": counts.requests,
            "most_at_once": counts.most_at_once,
            "again": counts.again,
            "orders": counts.orders.len(),
            "most_times": counts.orders.values().max().copied().unwrap_or(0),
            "connections": counts.connections,
            "most_connections": counts.most_connections,
        });
        if anew {
            let (at_once, connections) = (counts.at_once, counts.connections);
            *counts = Counts {
                at_once,
                most_at_once: at_once,
                connections,
                most_connections: connections,
                ..Counts::default()
            };
        }
        told.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn told(tally: &Tally, anew: bool) -> serde_json::Value {
        serde_json::from_str(&tally.told(anew)).unwrap()
    }

    #[test]
    fn an_order_that_comes_twice_and_requests_side_by_side_are_seen() {
        let tally = Tally::default();
        let mut headers = HeaderMap::new();
        headers.insert(ORDER, HeaderValue::from_static("a-1"));
        let first = tally.request(&headers);
        headers.insert(ATTEMPT, HeaderValue::from_static("2"));
        drop(tally.request(&headers));
        let seen = told(&tally, true);
        let seen = |name: &str| seen[name].as_u64().unwrap();
        assert_eq!((seen("requests"), seen("most_at_once")), (2, 2));
        assert_eq!((seen("most_times"), seen("again")), (2, 1));
        // The first is still here.
        assert_eq!(told(&tally, false)["most_at_once"], 1);
        drop(first);
        let _connection = tally.connection();
        assert_eq!(told(&tally, true)["most_connections"], 1);
        assert_eq!(told(&tally, true)["most_times"], 0);
    }
}
