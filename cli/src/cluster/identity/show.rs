//! The answer for people, at most 80 columns wide where what it quotes allows.

use k8s_openapi::jiff::Timestamp;

use super::{Certificate, Identity, State, restart};
use crate::cluster::output::{Paint, Tone};
use crate::cluster::text;

/// Columns of a terminal.
const WIDTH: usize = 80;
/// So wide are the names on the left.
const NAMES: usize = 14;
/// A certificate that is renewed at half of its life, and yet has less than
/// this part of it left, was not.
const LATE: u64 = 3;

/// The whole answer.
pub fn text(identity: &Identity, paint: Paint) -> String {
    let mut page = Page {
        paint,
        text: String::new(),
    };
    page.line("Pod", Tone::Plain, &identity.pod);
    match (&identity.spiffe_id, identity.chain.split_first()) {
        (Some(id), Some((leaf, chain))) => {
            page.line("Identity", Tone::Plain, id);
            page.certificate(identity, leaf);
            page.renewal(identity);
            page.chain(identity, chain);
        }
        _ => page.absent(identity),
    }
    if identity.state != State::Disabled {
        page.roots(identity);
    }
    page.text
}

struct Page {
    paint: Paint,
    text: String,
}

impl Page {
    fn line(&mut self, name: &str, tone: Tone, what: &str) {
        let mut name = name;
        for line in wrapped(what, WIDTH - NAMES - 1) {
            let heading = self.paint.text(Tone::Heading, &format!("{name:NAMES$}"));
            let line = self.paint.text(tone, &line);
            self.text.push_str(&format!("{heading} {line}\n"));
            name = "";
        }
    }

    fn absent(&mut self, identity: &Identity) {
        let (namespace, _) = identity.pod.split_once('/').unwrap_or_default();
        if identity.state == State::Disabled {
            self.line("Identity", Tone::Bad, "none, and it is not to have one");
            self.text.push_str(&format!(
                "\nIts sidecar was injected without a trust domain: calls to and from it travel in\n\
                 plaintext. Give the injector --trust-domain (manifests/install does), then\n\
                 {}.\n",
                text::clean(&restart(namespace, identity.owner.as_deref()))
            ));
            return;
        }
        self.line("Identity", Tone::Bad, "none yet: no certificate has come");
        self.renewal(identity);
        self.text.push_str(
            "\nUntil it comes the pod is not ready, and its calls to other sidecars fail.\n\
             Check that the control plane runs and issues (kubectl -n remora-system logs\n\
             deployment/remora-control-plane), and that NetworkPolicies let this pod reach\n\
             its port 15110.\n",
        );
    }

    fn certificate(&mut self, identity: &Identity, leaf: &Certificate) {
        let now = identity.now_ms;
        let left = leaf.not_after_ms.saturating_sub(now);
        let life = leaf.not_after_ms.saturating_sub(leaf.not_before_ms);
        let (tone, state) = match identity.state {
            State::NotYetValid => (
                Tone::Bad,
                format!(
                    "not valid yet: it begins {}",
                    moved(leaf.not_before_ms, now)
                ),
            ),
            State::Expired => (
                Tone::Bad,
                format!("expired {}", moved(leaf.not_after_ms, now)),
            ),
            _ if left < life / LATE => (
                Tone::Notice,
                format!("valid, {} left: it should have been renewed", length(left)),
            ),
            _ => (Tone::Good, format!("valid, {} left", length(left))),
        };
        self.line("Certificate", tone, &state);
        self.line("  from", Tone::Plain, &moment(leaf.not_before_ms));
        self.line("  until", Tone::Plain, &moment(leaf.not_after_ms));
        self.line("  serial", Tone::Plain, &leaf.serial);
        self.line("  sha256", Tone::Plain, &leaf.sha256);
    }

    fn renewal(&mut self, identity: &Identity) {
        if let Some(at) = identity.next_renewal_ms {
            let when = format!("{}, {}", moment(at), moved(at, identity.now_ms));
            self.line("Next renewal", Tone::Plain, &when);
        }
        match &identity.last_failure {
            Some(why) => {
                self.line("Last failure", Tone::Bad, why);
            }
            None if identity.chain.is_empty() => {}
            None => self.line("Last failure", Tone::Quiet, "none since the last success"),
        }
    }

    /// From above the leaf to the root.
    fn chain(&mut self, identity: &Identity, chain: &[Certificate]) {
        self.text.push('\n');
        self.heading("What issued it");
        for (number, one) in chain.iter().enumerate() {
            self.listed(identity, one, &format!("intermediate {}", number + 1));
        }
        let mut roots = identity.roots.iter().zip(1..);
        match roots.find(|(root, _)| root.issued_own == Some(true)) {
            Some((_, number)) => self.text.push_str(&format!("  root {number} below\n")),
            None if identity.roots.iter().any(|root| root.issued_own.is_some()) => {
                let none = "  none of the roots below: who believes the same refuses it";
                let none = self.paint.text(Tone::Bad, none);
                self.text.push_str(&format!("{none}\n"));
            }
            None => self
                .text
                .push_str("  one of the roots below (its sidecar does not tell which)\n"),
        }
    }

    fn roots(&mut self, identity: &Identity) {
        self.text.push('\n');
        let domain = identity.trust_domain.as_deref().unwrap_or_default();
        let of = if domain.is_empty() { "" } else { " of " };
        self.heading(&format!("Roots that it trusts for identities{of}{domain}"));
        for (root, number) in identity.roots.iter().zip(1..) {
            self.listed(identity, root, &format!("root {number}"));
        }
        if identity.roots.is_empty() {
            self.text.push_str("  none has come yet\n");
        }
    }

    fn heading(&mut self, what: &str) {
        let what = self.paint.text(Tone::Heading, what);
        self.text.push_str(&format!("{what}\n"));
    }

    fn listed(&mut self, identity: &Identity, one: &Certificate, what: &str) {
        let until = moment(one.not_after_ms);
        let left = one.not_after_ms.saturating_sub(identity.now_ms);
        let (tone, left) = if left == 0 {
            (Tone::Bad, "expired".to_owned())
        } else {
            (Tone::Plain, format!("{} left", length(left)))
        };
        let until = self.paint.text(tone, &format!("until {until}, {left}"));
        let digest = self.paint.text(Tone::Quiet, &one.sha256);
        self.text
            .push_str(&format!("  {what:14} {until}\n    sha256 {digest}\n"));
    }
}

/// The words of a text in lines of at most so many characters; a longer word
/// has a line of its own.
fn wrapped(what: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in what.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `2026-11-22 00:12:04 UTC`
fn moment(at_ms: u64) -> String {
    let at = i64::try_from(at_ms / 1_000).ok();
    let at = at.and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map_or("?".to_owned(), |at| {
        at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    })
}

/// `in 5 hours 2 minutes`, `5 hours 2 minutes ago`, `now`
fn moved(at_ms: u64, now_ms: u64) -> String {
    match (at_ms / 1_000).cmp(&(now_ms / 1_000)) {
        std::cmp::Ordering::Equal => "now".to_owned(),
        std::cmp::Ordering::Greater => format!("in {}", length(at_ms - now_ms)),
        std::cmp::Ordering::Less => format!("{} ago", length(now_ms - at_ms)),
    }
}

/// A length of time in its two largest units.
fn length(ms: u64) -> String {
    const UNITS: [(u64, &str); 5] = [
        (365 * 86_400, "year"),
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let mut seconds = ms / 1_000;
    let first = UNITS.iter().position(|(size, _)| seconds >= *size);
    let Some(first) = first else {
        return "less than a second".to_owned();
    };
    let mut words = Vec::new();
    for (size, name) in UNITS.iter().skip(first).take(2) {
        let count = seconds / size;
        seconds %= size;
        if count > 0 {
            let plural = if count == 1 { "" } else { "s" };
            words.push(format!("{count} {name}{plural}"));
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_their_two_largest_units() {
        for (seconds, words) in [
            (0, "less than a second"),
            (1, "1 second"),
            (61, "1 minute 1 second"),
            (3_600, "1 hour"),
            (42_120, "11 hours 42 minutes"),
            (86_400 * 29 + 3_600 * 3, "29 days 3 hours"),
            (86_400 * 3_650, "10 years"),
            (86_400 * 3_649, "9 years 364 days"),
        ] {
            assert_eq!(length(seconds * 1_000), words);
        }
        assert_eq!(moved(1_000, 1_999), "now");
        assert_eq!(moved(61_000, 1_000), "in 1 minute");
        assert_eq!(moved(1_000, 4_000), "3 seconds ago");
        assert_eq!(moment(1_795_282_340_000), "2026-11-21 17:32:20 UTC");
    }
}
