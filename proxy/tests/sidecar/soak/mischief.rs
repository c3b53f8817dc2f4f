//! What changes under the callers: policies of all kinds, endpoints that come
//! and go, applications that die, a control plane that is away.

use std::time::Duration;

use remora_proto::v1::{RateLimit, ServicePolicy, Timeouts};

use super::world::{SERVICES, World};
use crate::mesh::{breaker, limits, policy, retrying, trip};

/// Between two deeds.
const PAUSE: Duration = Duration::from_millis(120);
/// An application stays dead for so many deeds.
const DEAD_FOR: u64 = 6;

/// A sequence of deeds by chance.
pub struct Mischief {
    random: fastrand::Rng,
    /// Who is dead, and until which deed.
    dead: Option<(usize, u64)>,
    deeds: u64,
}

impl Mischief {
    /// By this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            dead: None,
            deeds: 0,
        }
    }

    /// One deed, and a pause.
    pub async fn play(&mut self, world: &mut World) {
        tokio::time::sleep(PAUSE).await;
        self.deeds += 1;
        if let Some((at, until)) = self.dead
            && self.deeds >= until
        {
            world.revive(at).await;
            self.dead = None;
        }
        match self.random.u64(0..40) {
            0..4 if self.dead.is_none() => {
                let at = self.random.usize(0..world.applications());
                world.kill(at);
                self.dead = Some((at, self.deeds + DEAD_FOR));
            }
            4 => world.remove_second(SERVICES[self.random.usize(0..2)].0),
            5 => world.second_endpoints(true),
            6 => world.second_endpoints(false),
            7 if self.deeds.is_multiple_of(3) => world.outage(Duration::from_millis(400)).await,
            8..28 => {
                let (service, protocol) = SERVICES[self.random.usize(0..SERVICES.len())];
                let policy = self.policy();
                world.policy(service, protocol, policy);
                world.changed();
            }
            _ => {}
        }
    }

    fn policy(&mut self) -> ServicePolicy {
        let number = self.random.u32(1..20);
        match self.random.u64(0..8) {
            0 => limits(|limits| limits.max_requests = Some(number)),
            1 => limits(|limits| {
                limits.max_connections = Some(number);
                limits.max_pending_requests = Some(number);
            }),
            2 => breaker(|breaker| {
                breaker.per_endpoint.as_mut().unwrap().max_requests = Some(number);
            }),
            3 => trip(|trip| {
                trip.consecutive_failures = number;
                trip.base_ejection_ms = 200;
                trip.max_ejection_ms = 400;
            }),
            4 => retrying(number % 4, |retries| {
                retries.on.as_mut().unwrap().server_error = true
            }),
            5 => ServicePolicy {
                timeouts: Some(Timeouts {
                    request_ms: Some(200 * u64::from(number)),
                    idle_ms: Some(500),
                    ..Timeouts::default()
                }),
                ..policy()
            },
            6 => {
                let mut policy = policy();
                let outbound = policy.outbound.as_mut().unwrap();
                outbound.max_requests_per_connection = Some(number);
                outbound.max_connection_age_ms = Some(500);
                outbound.idle_timeout_ms = 200;
                policy
            }
            _ => ServicePolicy {
                rate_limits: vec![RateLimit {
                    name: "soak".into(),
                    requests: 50 + number,
                    per_ms: 1_000,
                    burst: number,
                    policy: "shop/soak".into(),
                    max_keys: 10_000,
                    ..RateLimit::default()
                }],
                ..policy()
            },
        }
    }
}
