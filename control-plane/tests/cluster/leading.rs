//! Who leads, and that another takes over.

use std::net::SocketAddr;
use std::time::Duration;

use remora_proto::v1;
use remora_proto::well_known::WORKLOAD_TYPE;
use serde_json::json;

use crate::replica::{Plane, event, reason, settled, until, version};
use crate::sidecar::{Sidecar, open};
use crate::world::{World, eventually};

#[tokio::test]
async fn one_replica_leads_and_when_it_dies_the_other_does_and_the_status_stays_true() {
    let Some(world) = World::new().await else {
        return;
    };
    let one = Plane::start(&world, "plane-1").await;
    one.until_leading().await;
    let two = Plane::start(&world, "plane-2").await;
    eventually("the second to know the first", async || {
        (two.leader().await["leader"] == "plane-1").then_some(())
    })
    .await;
    let known = two.leader().await;
    assert_eq!(known["leading"], false);
    assert_eq!(known["reports_address"], one.running.listen.to_string());
    assert_eq!(one.metric("remora_leader ").await, 1);
    assert_eq!(two.metric("remora_leader ").await, 0);
    assert_eq!(settled(&world).await.ancestors.len(), 1);
    let before = version(&world, "catalog").await;

    // No goodbye: its tasks are gone as if its node was.
    drop(one);
    let leads = tokio::time::timeout(Duration::from_secs(20), two.until_leading());
    leads.await.expect("within 20 s");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let now = version(&world, "catalog").await;
    assert_eq!(now, before, "what is right is not written again");
    let written = "remora_status_writes_total{result=\"written\"} ";
    assert_eq!(two.metric(written).await, 0);

    world.delete("Service", "catalog").await;
    let gone = until(&world, "catalog", "the new leader's status", |status| {
        reason(status) == "TargetNotFound"
    })
    .await;
    assert_eq!(gone.conditions[0].status, "False");
    let told = event(&world, "catalog", "TargetNotFound").await;
    assert_eq!(told, gone.conditions[0].message);
    two.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_good_end_hands_over_at_once_and_who_begins_writes_nothing_over_what_is_right() {
    let Some(world) = World::new().await else {
        return;
    };
    let one = Plane::start(&world, "plane-1").await;
    one.until_leading().await;
    settled(&world).await;
    let before = version(&world, "catalog").await;
    let two = Plane::start(&world, "plane-2").await;
    one.running.stop().await;
    let handed = tokio::time::timeout(Duration::from_secs(3), two.until_leading());
    handed.await.expect("at once");
    two.running.stop().await;
    // It leads before it has read anything.
    let three = Plane::start(&world, "plane-3").await;
    three.until_leading().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(version(&world, "catalog").await, before);
    three.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn every_workload_names_the_leader_and_follows_it() {
    let Some(world) = World::new().await else {
        return;
    };
    let one = Plane::start(&world, "plane-1").await;
    one.until_leading().await;
    let two = Plane::start(&world, "plane-2").await;
    let uid = world.pod("web-1", &["10.9.0.9"]).await;
    let id = format!("sidecar/{}/web-1/{uid}", world.namespace);
    let name = format!("{}/web-1", world.namespace);
    let mut sidecar = Sidecar::connect_as(two.running.listen, id).await;
    sidecar.subscribe(WORKLOAD_TYPE, &[&name]).await;
    let mut named = async |address: SocketAddr| {
        for _ in 0..20 {
            let response = sidecar.take().await;
            let workload = response.resources.first().map(open::<v1::Workload>);
            let told = workload.map(|workload| workload.reports_address);
            if told == Some(address.to_string()) {
                return;
            }
        }
        panic!("{address} was not named");
    };
    named(one.running.listen).await;
    one.running.stop().await;
    named(two.running.listen).await;
    world.let_go("web-1").await;
    two.running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_lease_that_is_taken_by_force_or_deleted_is_noticed_at_once() {
    let Some(world) = World::new().await else {
        return;
    };
    let plane = Plane::start(&world, "plane-1").await;
    plane.until_leading().await;
    let taken = json!({"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 4}});
    world.merge("Lease", "remora-control-plane", taken).await;
    let within = Duration::from_secs(1);
    let noticed = eventually("it to lead no more", async || {
        let leader = plane.leader().await;
        (leader["leading"] == false && leader["leader"] == "somebody").then_some(())
    });
    tokio::time::timeout(within, noticed)
        .await
        .expect("at once");
    // Nobody writes it on: it is taken again after its four seconds.
    plane.until_leading().await;
    world.delete("Lease", "remora-control-plane").await;
    let made_again = eventually("the Lease to be there again", async || {
        let lease = world.api("Lease").get_opt("remora-control-plane").await;
        let lease = lease.unwrap()?;
        (lease.data["spec"]["holderIdentity"] == "plane-1").then_some(())
    });
    tokio::time::timeout(within * 3, made_again)
        .await
        .expect("soon");
    plane.running.stop().await;
    let lease = world
        .api("Lease")
        .get("remora-control-plane")
        .await
        .unwrap();
    assert_eq!(lease.data["spec"]["holderIdentity"], "", "given up");
    world.end().await;
}
