//! Session persistence (GEP-1619): who was served by an endpoint once is served by
//! it again. Backends are chosen before, by weight alone, so a token may hold a
//! session with several of them.
//!
//! ```text
//!   token = session ...     session = mark (1 byte) issued (4) tag (8) proof (8), in hex
//! ```
//!
//! The tag names an endpoint and tells nothing of it: both come from a hash of the
//! pod's uid, which no caller knows, so that every sidecar makes the same of it
//! and nobody else can. The proof is of when it was issued, and for whom; what is
//! forged is none. A token only ever chooses among the backend's own endpoints. The mark
//! tells whose session it is where its endpoint is gone: callers that send the cookies
//! of one service to another have sessions of both in a token of the same name.

use std::sync::LazyLock;

use aws_lc_rs::{constant_time, digest, hmac, rand};
use http::HeaderMap;
use http::header::{self, HeaderValue};

use super::config::{SessionCarrier, SessionPersistence};
use crate::balance::StableHash;
use crate::headers;

/// Sessions in one token: further backends push the oldest out.
const MAX_SESSIONS: usize = 8;
const MARK: usize = 1;
/// Seconds, until the year 2106.
const ISSUED: usize = 4;
const TAG: usize = 8;
const PROOF: usize = 8;
const SESSION: usize = MARK + ISSUED + TAG + PROOF;
/// Clocks of two nodes may differ by so much.
const SKEW_SECONDS: u64 = 60;

/// What an endpoint's sessions are named and proved by.
#[derive(Clone, Debug)]
pub struct SessionKey {
    tag: [u8; TAG],
    secret: [u8; 32],
}

impl SessionKey {
    /// Of a pod with this uid.
    pub fn of_pod(uid: &str) -> Self {
        Self::new(&[b"pod\0", uid.as_bytes()])
    }

    /// Of an address without a pod. All addresses can be tried, so only this
    /// process knows its sessions again.
    pub fn of_address(address: &str) -> Self {
        static SECRET: LazyLock<[u8; 32]> = LazyLock::new(|| {
            let mut secret = [0; 32];
            // Without it nothing is persistent but for guesses: no harm is done.
            let _ = rand::fill(&mut secret);
            secret
        });
        Self::new(&[b"address\0", &*SECRET, address.as_bytes()])
    }

    fn new(parts: &[&[u8]]) -> Self {
        let hash = |domain: &[u8]| {
            let mut context = digest::Context::new(&digest::SHA256);
            context.update(domain);
            for part in parts {
                context.update(part);
            }
            let mut bytes = [0; 32];
            bytes.copy_from_slice(context.finish().as_ref());
            bytes
        };
        let mut tag = [0; TAG];
        tag.copy_from_slice(&hash(b"remora session tag\0")[..TAG]);
        Self {
            tag,
            secret: hash(b"remora session secret\0"),
        }
    }

    fn proof(&self, issued: u64, context: &str) -> [u8; PROOF] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let mut signing = hmac::Context::with_key(&key);
        signing.update(&issued.to_be_bytes());
        signing.update(context.as_bytes());
        let mut proof = [0; PROOF];
        proof.copy_from_slice(&signing.sign().as_ref()[..PROOF]);
        proof
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Session {
    mark: u8,
    issued: u64,
    tag: [u8; TAG],
    proof: [u8; PROOF],
}

/// The sessions of one request.
#[derive(Debug)]
pub struct Sessions {
    held: Vec<Session>,
    /// Of the endpoint that has the request; whether the caller knows it.
    current: Option<(Session, bool)>,
}

impl Sessions {
    /// Those whose token a request carries.
    pub fn of(config: &SessionPersistence, request: &HeaderMap) -> Self {
        let token = match &config.carrier {
            SessionCarrier::Header(name) => request.get(name).and_then(|value| value.to_str().ok()),
            SessionCarrier::Cookie { name, .. } => headers::cookie(request, name),
        };
        Self {
            held: token.map(read).unwrap_or_default(),
            current: None,
        }
    }

    /// Whether there is one with this endpoint, which is still good.
    pub fn is_with(
        &self,
        key: &SessionKey,
        config: &SessionPersistence,
        context: &str,
        now: u64,
    ) -> bool {
        self.with(key, config, context, now).is_some()
    }

    /// Whether there is one of this service that its time has not ended, with
    /// whomever: of those who are away nobody can tell any more whether it is forged.
    pub fn has_any(&self, config: &SessionPersistence, context: &str, now: u64) -> bool {
        let mark = mark(context);
        let mut held = self.held.iter().filter(|session| session.mark == mark);
        held.any(|session| left(config, session.issued, now) != Some(0))
    }

    fn with(
        &self,
        key: &SessionKey,
        config: &SessionPersistence,
        context: &str,
        now: u64,
    ) -> Option<Session> {
        let is_good = |session: &&Session| {
            session.tag == key.tag
                && session.mark == mark(context)
                && session.issued <= now + SKEW_SECONDS
                && left(config, session.issued, now) != Some(0)
                && constant_time::verify_slices_are_equal(
                    &session.proof,
                    &key.proof(session.issued, context),
                )
                .is_ok()
        };
        self.held.iter().find(is_good).copied()
    }

    /// An endpoint gets the request.
    pub fn served(
        &mut self,
        key: &SessionKey,
        config: &SessionPersistence,
        context: &str,
        now: u64,
    ) {
        let known = self.with(key, config, context, now);
        let is_known = known.is_some();
        let session = known.unwrap_or_else(|| Session {
            mark: mark(context),
            issued: now,
            tag: key.tag,
            proof: key.proof(now, context),
        });
        self.current = Some((session, is_known));
    }

    /// Gives the caller the token of its sessions, where it does not have it.
    /// `of_backend` is whether a session is with another endpoint of the same
    /// backend, and so ends with this one.
    pub fn tell(
        &self,
        config: &SessionPersistence,
        answer: &mut HeaderMap,
        now: u64,
        of_backend: impl Fn(&[u8; TAG]) -> bool,
    ) {
        let Some((current, is_known)) = self.current else {
            return;
        };
        if is_known && matches!(config.carrier, SessionCarrier::Cookie { .. }) {
            return;
        }
        let others = self.held.iter().filter(|other| {
            other.tag != current.tag
                && !of_backend(&other.tag)
                && left(config, other.issued, now) != Some(0)
        });
        let mut sessions: Vec<Session> = others.copied().collect();
        let surplus = (sessions.len() + 1).saturating_sub(MAX_SESSIONS);
        sessions.drain(..surplus);
        sessions.push(current);
        let token = write(&sessions);
        match &config.carrier {
            SessionCarrier::Header(name) => {
                if let Ok(value) = HeaderValue::from_str(&token) {
                    answer.insert(name, value);
                }
            }
            SessionCarrier::Cookie {
                name,
                path,
                permanent,
            } => {
                let age = left(config, current.issued, now).filter(|_| *permanent);
                let age = age
                    .map(|age| format!("; Max-Age={age}"))
                    .unwrap_or_default();
                let cookie = format!("{name}={token}; Path={path}{age}; HttpOnly");
                if let Ok(value) = HeaderValue::from_str(&cookie) {
                    answer.append(header::SET_COOKIE, value);
                }
            }
        }
    }
}

/// One of 256: two services seldom have the same, and then a strict session of the one
/// is asked for at the other.
fn mark(context: &str) -> u8 {
    let mut hash = StableHash::new();
    hash.write(context.as_bytes());
    hash.finish() as u8
}

/// Seconds that a session has left; `None`: as long as its endpoint is there.
fn left(config: &SessionPersistence, issued: u64, now: u64) -> Option<u64> {
    let timeout = config.absolute_timeout?;
    // Of less than a second a browser would make none.
    let ends = issued.saturating_add(timeout.as_secs().max(1));
    Some(ends.saturating_sub(now))
}

/// What is not a token holds no session.
fn read(token: &str) -> Vec<Session> {
    let text = token.as_bytes();
    if text.len() > MAX_SESSIONS * SESSION * 2 || !text.len().is_multiple_of(SESSION * 2) {
        return Vec::new();
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes: Option<Vec<u8>> = text
        .chunks(2)
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect();
    let bytes = bytes.unwrap_or_default();
    bytes
        .chunks_exact(SESSION)
        .map(|bytes| {
            let (mut issued, mut tag, mut proof) = ([0; 8], [0; TAG], [0; PROOF]);
            let (mark, rest) = (bytes[0], &bytes[MARK..]);
            issued[8 - ISSUED..].copy_from_slice(&rest[..ISSUED]);
            tag.copy_from_slice(&rest[ISSUED..ISSUED + TAG]);
            proof.copy_from_slice(&rest[ISSUED + TAG..]);
            Session {
                mark,
                issued: u64::from_be_bytes(issued),
                tag,
                proof,
            }
        })
        .collect()
}

fn write(sessions: &[Session]) -> String {
    use std::fmt::Write;
    let mut token = String::with_capacity(sessions.len() * SESSION * 2);
    for session in sessions {
        let issued = session.issued.to_be_bytes();
        for byte in std::iter::once(&session.mark)
            .chain(&issued[8 - ISSUED..])
            .chain(&session.tag)
            .chain(&session.proof)
        {
            // Writing to a string does not fail.
            let _ = write!(token, "{byte:02x}");
        }
    }
    token
}

impl SessionKey {
    /// Whether sessions of this tag are with this endpoint.
    pub fn has(&self, tag: &[u8; TAG]) -> bool {
        self.tag == *tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000;

    fn cookie(permanent: bool, seconds: u64) -> SessionPersistence {
        SessionPersistence {
            carrier: SessionCarrier::Cookie {
                name: "s".into(),
                path: "/".into(),
                permanent,
            },
            absolute_timeout: (seconds > 0).then(|| Duration::from_secs(seconds)),
        }
    }

    fn first_answer(config: &SessionPersistence, key: &SessionKey) -> String {
        let mut sessions = Sessions::of(config, &HeaderMap::new());
        sessions.served(key, config, "shop/a", NOW);
        let mut answer = HeaderMap::new();
        sessions.tell(config, &mut answer, NOW, |_| false);
        answer[header::SET_COOKIE].to_str().unwrap().to_owned()
    }

    fn returning(config: &SessionPersistence, set_cookie: &str) -> Sessions {
        let pair = set_cookie.split(';').next().unwrap();
        let value = HeaderValue::from_str(&format!("x=1; {pair}")).unwrap();
        Sessions::of(config, &HeaderMap::from_iter([(header::COOKIE, value)]))
    }

    #[test]
    fn a_token_leads_back_to_its_endpoint_and_to_no_other() {
        let (config, key) = (cookie(false, 0), SessionKey::of_pod("uid-1"));
        let told = first_answer(&config, &key);
        assert!(
            told.ends_with("; Path=/; HttpOnly") && !told.contains("Max-Age"),
            "{told}"
        );
        let sessions = returning(&config, &told);
        assert!(sessions.is_with(&key, &config, "shop/a", NOW + 1_000_000));
        assert!(!sessions.is_with(&SessionKey::of_pod("uid-2"), &config, "shop/a", NOW));
        assert!(
            !sessions.is_with(&key, &config, "shop/b", NOW),
            "another service"
        );
        assert!(sessions.has_any(&config, "shop/a", NOW));
        assert!(!sessions.has_any(&config, "shop/b", NOW));
    }

    #[test]
    fn what_is_forged_is_none() {
        let (config, key) = (cookie(false, 60), SessionKey::of_pod("uid-1"));
        let told = first_answer(&config, &key);
        let token = told[2..].split(';').next().unwrap().to_owned();
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            let forged = format!("s={}", String::from_utf8(forged).unwrap());
            let sessions = returning(&config, &forged);
            assert!(!sessions.is_with(&key, &config, "shop/a", NOW), "{at}");
        }
        for nonsense in ["", "zz", &"0".repeat(42), &"0".repeat(10_000), "ä"] {
            assert!(read(nonsense).len() <= 1, "{nonsense}");
        }
    }

    #[test]
    fn a_session_ends_with_its_time_and_not_with_its_use() {
        let (config, key) = (cookie(true, 60), SessionKey::of_pod("uid-1"));
        let told = first_answer(&config, &key);
        assert!(told.contains("; Max-Age=60;"), "{told}");
        let mut sessions = returning(&config, &told);
        assert!(sessions.is_with(&key, &config, "shop/a", NOW + 59));
        assert!(!sessions.is_with(&key, &config, "shop/a", NOW + 60));
        sessions.served(&key, &config, "shop/a", NOW + 30);
        let mut answer = HeaderMap::new();
        sessions.tell(&config, &mut answer, NOW + 30, |_| true);
        assert!(answer.is_empty(), "it is known already: {answer:?}");
    }

    #[test]
    fn a_header_is_told_with_each_answer_and_backends_have_sessions_side_by_side() {
        let name = http::HeaderName::from_static("x-session");
        let config = SessionPersistence {
            carrier: SessionCarrier::Header(name.clone()),
            absolute_timeout: None,
        };
        let (one, other) = (SessionKey::of_pod("1"), SessionKey::of_pod("2"));
        let mut request = HeaderMap::new();
        for key in [&one, &other, &one] {
            let mut sessions = Sessions::of(&config, &request);
            sessions.served(key, &config, "shop/a", NOW);
            sessions.tell(&config, &mut request, NOW, |_| false);
        }
        let sessions = Sessions::of(&config, &request);
        assert!(sessions.is_with(&one, &config, "shop/a", NOW));
        assert!(sessions.is_with(&other, &config, "shop/a", NOW));
        for number in 0..20 {
            let mut sessions = Sessions::of(&config, &request);
            sessions.served(
                &SessionKey::of_address(&number.to_string()),
                &config,
                "",
                NOW,
            );
            sessions.tell(&config, &mut request, NOW, |_| false);
        }
        assert_eq!(request[&name].len(), MAX_SESSIONS * SESSION * 2);
    }
}
