//! A soak: everything at once for a minute, or for `REMORA_SOAK_SECONDS`, through
//! two sidecars and beside them. What is asserted is that nothing stays behind:
//! memory is flat after the first third, descriptors come back, gauges and
//! permits return to zero, and a limit admits exactly what it says afterwards.
//!
//! # Layout
//! - [`world`]: the sidecars, the services, who dies and comes back.
//! - [`callers`]: who calls, by which protocol, and who breaks off.
//! - [`mischief`]: policies, endpoints, applications and the control plane change.

mod callers;
mod mischief;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::eventually;
use crate::mesh::{limits, policy};
use crate::process::MIB;
use crate::sidecar::Sidecar;
use callers::{Counts, KINDS};
use world::World;

/// Unless `REMORA_SOAK_SECONDS` says otherwise.
const SECONDS: u64 = 60;
/// The highest resident memory of the last third may exceed the highest of the
/// second by so much: a debug build's allocator finds its level within it.
const RESIDENT_TOLERANCE: u64 = 3 * MIB;
/// Descriptors that may be open in the end beyond those of the beginning: the
/// admin endpoint's connections that are about to close.
const DESCRIPTOR_TOLERANCE: usize = 3;
/// The limit that is tried in the end.
const LIMIT: u32 = 4;

#[tokio::test]
async fn nothing_stays_behind() {
    let seconds =
        std::env::var("REMORA_SOAK_SECONDS").map_or(SECONDS, |text| text.parse().unwrap());
    let span = Duration::from_secs(seconds);
    let mut world = World::start().await;
    let descriptors = world.each(|sidecar| sidecar.process().descriptors());
    let over = Arc::new(AtomicBool::new(false));
    let calling = callers::start(&world, &over);
    let residents = endure(&mut world, span).await;
    over.store(true, SeqCst);
    let counts = calling.ended().await;
    world.restore().await;
    report(&world, &counts, &residents);
    // The sweep is worth something only while all of this really happens in it.
    for (kind, count) in KINDS.iter().zip(&counts.kinds) {
        assert!(count.served as u64 > seconds, "{kind}: {count:?}");
        assert!(count.broken_off > 0, "{kind}: {count:?}");
    }
    for (sidecar, residents) in [("caller's", &residents[0]), ("target's", &residents[1])] {
        let third = residents.len() / 3;
        let most = |samples: &[u64]| samples.iter().copied().max().unwrap();
        let (second, last) = (
            most(&residents[third..2 * third]),
            most(&residents[2 * third..]),
        );
        assert!(
            last <= second + RESIDENT_TOLERANCE,
            "the {sidecar} sidecar grows: {second} bytes, then {last}"
        );
    }
    let ok = r#"side="inbound",result="ok""#;
    let target = world.sidecars()[1];
    let handshakes = target.counter("remora_tls_handshakes_total", ok).await;
    assert!(handshakes > seconds / 5, "{handshakes} handshakes");
    nothing_is_held(&world).await;
    for (at, before) in descriptors.into_iter().enumerate() {
        eventually("descriptors are back", async || {
            let now = world.each(|sidecar| sidecar.process().descriptors())[at];
            now <= before + DESCRIPTOR_TOLERANCE
        })
        .await;
    }
    the_limit_is_whole(&world).await;
    world.end().await;
}

/// Mischief until `span` is over; resident memory of each sidecar, once a second.
async fn endure(world: &mut World, span: Duration) -> [Vec<u64>; 2] {
    let began = Instant::now();
    let mut mischief = mischief::Mischief::new(7);
    let mut residents = [Vec::new(), Vec::new()];
    let mut sampled = began;
    while began.elapsed() < span {
        mischief.play(world).await;
        if sampled.elapsed() >= Duration::from_secs(1) {
            sampled = Instant::now();
            for (samples, now) in residents
                .iter_mut()
                .zip(world.each(|s| s.process().resident()))
            {
                samples.push(now);
            }
        }
    }
    residents
}

/// In-flight gauges and permits of both sidecars are at zero.
async fn nothing_is_held(world: &World) {
    for sidecar in world.sidecars() {
        let mut held = Vec::new();
        let settled = async {
            loop {
                held = what_is_held(sidecar).await;
                if held.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(crate::PATIENCE, settled).await;
        assert!(waited.is_ok(), "still held:\n{}", held.join("\n"));
    }
}

async fn what_is_held(sidecar: &Sidecar) -> Vec<String> {
    let mut held = Vec::new();
    let stats = sidecar.json("/stats").await;
    for side in ["outbound", "inbound"] {
        for entry in stats[side].as_array().unwrap() {
            if entry["in_flight"] != 0 || entry["tcp_open"] != 0 {
                held.push(format!("/stats {side}: {entry}"));
            }
        }
    }
    let breakers = sidecar.json("/breakers").await;
    for service in breakers["services"].as_array().unwrap() {
        let limits = service["limits"].as_object().unwrap();
        let in_use = limits.iter().filter(|(_, limit)| limit["in_use"] != 0);
        held.extend(in_use.map(|(kind, limit)| format!("{}: {kind} {limit}", service["service"])));
        let endpoints = service["endpoints"].as_array().unwrap();
        let busy = endpoints
            .iter()
            .filter(|endpoint| endpoint["in_flight"] != 0);
        held.extend(busy.map(|endpoint| format!("endpoint {endpoint}")));
    }
    let metrics = sidecar.get("/metrics").await.text();
    for line in metrics.lines() {
        let gauge = [
            "remora_requests_in_flight",
            "remora_tcp_open",
            "remora_limit_in_flight",
        ];
        let is_zero = line.ends_with(" 0");
        if gauge.iter().any(|name| line.starts_with(name)) && !is_zero {
            held.push(format!("/metrics {line}"));
        }
    }
    held
}

/// At full `maxRequests` one more is refused, and one is admitted when one ends.
async fn the_limit_is_whole(world: &World) {
    world.mesh.service(
        "catalog",
        limits(|limits| limits.max_requests = Some(LIMIT)),
    );
    eventually("the limit is in force", async || {
        let breaker = world.mesh.sidecar.service_breaker().await;
        breaker["limits"]["requests"]["max"] == LIMIT
    })
    .await;
    let mut held = Vec::new();
    for number in 1..=u64::from(LIMIT) {
        let mut client = world.mesh.client().await;
        client.send("GET", "catalog:8080", "/never", "", "").await;
        eventually("each is admitted", async || {
            let breaker = world.mesh.sidecar.service_breaker().await;
            breaker["limits"]["requests"]["in_use"] == number
        })
        .await;
        held.push(client);
    }
    let answer = world.mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
    drop(held);
    eventually("requests are admitted again", async || {
        world.mesh.get("/").await.status == 200
    })
    .await;
    world.mesh.service("catalog", policy());
}

fn report(world: &World, counts: &Counts, residents: &[Vec<u64>; 2]) {
    for (kind, count) in KINDS.iter().zip(&counts.kinds) {
        println!("soak: {kind}: {count:?}");
    }
    for (name, residents) in ["caller's", "target's"].iter().zip(residents) {
        let third = residents.len() / 3;
        let most: Vec<String> = residents
            .chunks(third.max(1))
            .map(|third| {
                format!(
                    "{:.1}",
                    third.iter().max().map_or(0, |most| *most) as f64 / MIB as f64
                )
            })
            .collect();
        println!(
            "soak: {name} sidecar, highest MiB of each third: {}",
            most.join(" ")
        );
    }
    let times = world.each(|sidecar| sidecar.process().processor_time());
    println!("soak: processor time {times:?}, {}", world.deeds());
}
