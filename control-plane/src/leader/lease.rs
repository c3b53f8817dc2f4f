//! The Lease as the API server has it, to and from what the machine knows.

use std::net::SocketAddr;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use remora_proto::well_known;

use super::machine::{Record, Seen};

/// What the machine needs of a Lease. What is missing in it is empty or zero.
pub fn read(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    let micros = |time: Option<MicroTime>| time.map_or(0, |MicroTime(at)| at.as_microsecond());
    let annotations = lease.metadata.annotations.as_ref();
    let address = annotations.and_then(|all| all.get(well_known::REPORTS_ADDRESS));
    Seen {
        record: Record {
            holder: spec.holder_identity.unwrap_or_default(),
            duration_seconds: spec.lease_duration_seconds.unwrap_or_default(),
            acquired_us: micros(spec.acquire_time),
            renewed_us: micros(spec.renew_time),
            transitions: spec.lease_transitions.unwrap_or_default(),
        },
        address: address.cloned().unwrap_or_default(),
        resource_version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// A Lease with this record; what others wrote into `before` is kept.
/// `address` takes the place of the one before where it is given.
pub fn write(
    before: Option<Lease>,
    namespace: &str,
    record: &Record,
    resource_version: Option<&str>,
    address: Option<&str>,
) -> Lease {
    let mut lease = before.unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(well_known::CONTROL_PLANE.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    lease.metadata.resource_version = resource_version.map(str::to_owned);
    // The API server keeps these itself.
    lease.metadata.managed_fields = None;
    if let Some(address) = address {
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert(well_known::REPORTS_ADDRESS.to_owned(), address.to_owned());
    }
    let time = |us: i64| Timestamp::from_microsecond(us).ok().map(MicroTime);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: Some(record.duration_seconds),
        acquire_time: time(record.acquired_us),
        renew_time: time(record.renewed_us),
        lease_transitions: Some(record.transitions),
        ..lease.spec.unwrap_or_default()
    });
    lease
}

/// The address in a Lease's annotation, if it is one.
pub fn address(text: &str) -> Option<SocketAddr> {
    let address: SocketAddr = text.parse().ok()?;
    (address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast())
        .then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_what_others_wrote_stays() {
        let record = Record {
            holder: "remora-control-plane-1".to_owned(),
            duration_seconds: 15,
            acquired_us: 1_700_000_000_000_001,
            renewed_us: 1_700_000_005_000_000,
            transitions: 3,
        };
        let first = write(None, "remora-system", &record, None, Some("10.0.0.1:15110"));
        let mut labelled = first.clone();
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        let again = write(Some(labelled), "remora-system", &record, Some("7"), None);
        assert_eq!(again.metadata.labels.as_ref().map(|all| all.len()), Some(1));
        let seen = read(&again);
        assert_eq!(
            (seen.record, seen.address.as_str()),
            (record, "10.0.0.1:15110")
        );
        assert_eq!(seen.resource_version, "7");
        assert_eq!(read(&Lease::default()), Seen::default());
    }

    #[test]
    fn only_an_address_that_can_be_reached_is_one() {
        assert!(address("10.0.0.1:15110").is_some() && address("[fd00::1]:15110").is_some());
        for bad in [
            "",
            "remora:15110",
            "10.0.0.1",
            "0.0.0.0:1",
            "10.0.0.1:0",
            "[::]:1",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }
}
