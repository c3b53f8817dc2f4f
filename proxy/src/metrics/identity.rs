//! What is counted of the sidecar's identity and of mutual TLS.

use super::exposition::one;
use super::text::{Exposition, Labels, Samples};
use crate::identity::status::RenewalResult;
use crate::tls::context::Refused;
use crate::tls::{HandshakeResult, Side};
use crate::worker::Shared;

pub(super) fn write(shared: &Shared, text: &mut Exposition) {
    if !shared.tls.has_identity() {
        return;
    }
    handshakes(shared, text);
    let by = |name: &'static str, word: &str| -> Labels { vec![(name, word.to_owned())] };
    let refused: Samples<u64> = Refused::ALL
        .into_iter()
        .map(|what| (by("what", what.word()), shared.tls.refused_total(what)))
        .collect();
    text.counter(
        "remora_strict_refused",
        "Connections that were refused because their port takes nothing but mutual TLS",
        &refused,
    );
    let renewals: Samples<u64> = RenewalResult::ALL
        .into_iter()
        .map(|result| {
            (
                by("result", result.word()),
                shared.identity.renewals(result),
            )
        })
        .collect();
    text.counter(
        "remora_identity_renewals",
        "Attempts at a certificate for this sidecar",
        &renewals,
    );
    let mutual = shared.tls.mutual();
    let expires = mutual.as_ref().map_or(0, |mutual| mutual.own.not_after);
    text.gauge(
        "remora_identity_expires_seconds",
        "When the sidecar's certificate ends, in seconds since the Unix epoch; 0: there is none",
        &one(expires),
    );
}

/// Those that were, and the good ones always: a rate needs its zero.
fn handshakes(shared: &Shared, text: &mut Exposition) {
    let mut samples: Samples<u64> = Vec::new();
    for side in Side::ALL {
        for result in HandshakeResult::ALL {
            let total = shared.tls.handshakes.total(side, result);
            if total > 0 || result == HandshakeResult::Ok {
                let labels = vec![
                    ("side", side.word().to_owned()),
                    ("result", result.word().to_owned()),
                ];
                samples.push((labels, total));
            }
        }
    }
    text.counter(
        "remora_tls_handshakes",
        "Handshakes of mutual TLS between sidecars, by who began them and how they ended",
        &samples,
    );
}
