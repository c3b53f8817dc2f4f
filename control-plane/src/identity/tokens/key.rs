//! Tokens of a shared key (JWT, RFC 7519; HS256, RFC 7518, section 3.2), where
//! there is no API server to ask: whoever starts the pods has the key and makes
//! them, in the form that Kubernetes' own have.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use remora_proto::well_known::TOKEN_AUDIENCE;
use serde::{Deserialize, Serialize};

use super::{Caller, Check, TokenError};

/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// The one header; its fields have no other order where we write them, and any
/// where others do.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The shared key.
#[derive(Clone)]
pub struct TokenKey(hmac::Key);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No file, or none that may be read.
    #[error("the key of tokens cannot be read from {0}: {1}")]
    Unreadable(String, std::io::Error),
    /// Others than its owner may read it.
    #[error("{0} may be read by others (mode {1:03o}): chmod 600 it")]
    Open(String, u32),
    /// Not a key.
    #[error("the key of tokens is not 64 hexadecimal digits (32 bytes)")]
    Form,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood (RFC 7515, section 4.1.11).
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Default, Serialize, Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Kubernetes {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    pod: Named,
    #[serde(default)]
    serviceaccount: Named,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Audience,
    exp: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

impl TokenKey {
    /// From 64 hexadecimal digits.
    ///
    /// # Errors
    /// When they are not.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
            return Err(KeyError::Form);
        }
        let mut key = [0; KEY_BYTES];
        for (index, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16)
                .map_err(|_| KeyError::Form)?;
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// From a file that nobody else may read.
    ///
    /// # Errors
    /// When it cannot be read, others can, or it holds no key.
    pub fn of_file(path: &Path) -> Result<Self, KeyError> {
        let shown = || path.display().to_string();
        let unreadable = |error| KeyError::Unreadable(shown(), error);
        let mode = std::fs::metadata(path).map_err(unreadable)?;
        let mode = mode.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open(shown(), mode));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// A token of this pod, until `expires` (seconds since the Unix epoch).
    pub fn mint(&self, caller: &Caller, expires: u64) -> String {
        self.mint_for(TOKEN_AUDIENCE, caller, expires)
    }

    /// A token that is for somebody else to see.
    fn mint_for(&self, audience: &str, caller: &Caller, expires: u64) -> String {
        let claims = Claims {
            aud: Audience::Several(vec![audience.to_owned()]),
            exp: expires,
            nbf: None,
            kubernetes: Kubernetes {
                namespace: caller.namespace.clone(),
                pod: Named {
                    name: caller.pod.clone(),
                    uid: caller.pod_uid.clone(),
                },
                serviceaccount: Named {
                    name: caller.service_account.clone(),
                    uid: String::new(),
                },
            },
        };
        let claims = serde_json::to_vec(&claims).unwrap_or_default();
        let (header, claims) = (
            URL_SAFE_NO_PAD.encode(HEADER),
            URL_SAFE_NO_PAD.encode(claims),
        );
        let signed = format!("{header}.{claims}");
        let tag = hmac::sign(&self.0, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Whose it is.
    ///
    /// # Errors
    /// When it is nobody's.
    pub fn read(&self, token: &str, now: u64) -> Result<Caller, TokenError> {
        let (signed, tag) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let bytes = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenError::Malformed)
        };
        let header: Header =
            serde_json::from_slice(&bytes(header)?).map_err(|_| TokenError::Malformed)?;
        if header.alg != "HS256" || header.crit.is_some() {
            return Err(TokenError::Refused("it is not signed by HS256".to_owned()));
        }
        hmac::verify(&self.0, signed.as_bytes(), &bytes(tag)?)
            .map_err(|_| TokenError::Refused("its signature is another key's".to_owned()))?;
        let claims: Claims =
            serde_json::from_slice(&bytes(claims)?).map_err(|_| TokenError::Malformed)?;
        if claims.exp <= now {
            return Err(TokenError::Expired);
        }
        if claims.nbf.is_some_and(|begins| begins > now) {
            return Err(TokenError::Refused("it is not valid yet".to_owned()));
        }
        let is_ours = match &claims.aud {
            Audience::One(audience) => audience == TOKEN_AUDIENCE,
            Audience::Several(all) => all.iter().any(|audience| audience == TOKEN_AUDIENCE),
        };
        if !is_ours {
            return Err(TokenError::Audience);
        }
        let said = &claims.kubernetes;
        let account = &said.serviceaccount.name;
        Caller::new(&said.namespace, account, &said.pod.name, &said.pod.uid)
    }
}

#[tonic::async_trait]
impl Check for TokenKey {
    async fn check(&self, token: &str, now: u64) -> Result<Caller, TokenError> {
        self.read(token, now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key(digit: char) -> TokenKey {
        TokenKey::parse(&digit.to_string().repeat(64)).unwrap()
    }

    fn caller() -> Caller {
        Caller::new("shop", "web", "web-1", "u-1").unwrap()
    }

    #[test]
    fn a_token_says_whose_it_is_until_it_expires() {
        let token = key('a').mint(&caller(), NOW + 1);
        assert_eq!(key('a').read(&token, NOW), Ok(caller()));
        assert_eq!(key('a').read(&token, NOW + 1), Err(TokenError::Expired));
        let other = key('b').read(&token, NOW).unwrap_err();
        assert!(matches!(other, TokenError::Refused(_)), "{other}");
    }

    #[test]
    fn what_is_not_for_us_or_names_no_pod_or_chooses_its_own_algorithm_is_refused() {
        let key = key('a');
        let token = key.mint_for("api", &caller(), NOW + 1);
        assert_eq!(key.read(&token, NOW), Err(TokenError::Audience));
        let signed = |header: &str, claims: &str| {
            let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
            let signed = format!("{}.{}", encode(header), encode(claims));
            let tag = hmac::sign(&key.0, signed.as_bytes());
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
        };
        let claims = r#"{"aud":"remora.io","exp":1800000001,"kubernetes.io":{"namespace":"shop","pod":{"name":"web-1","uid":"u-1"},"serviceaccount":{"name":"web"}}}"#;
        assert_eq!(key.read(&signed(HEADER, claims), NOW), Ok(caller()));
        let unbound = claims.replace(r#""pod":{"name":"web-1","uid":"u-1"},"#, "");
        let read = |header: &str, claims: &str| key.read(&signed(header, claims), NOW);
        assert_eq!(read(HEADER, &unbound), Err(TokenError::Unbound));
        let late = claims.replace("\"exp\"", "\"nbf\":1800000009,\"exp\"");
        assert!(read(HEADER, &late).is_err());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS512"}"#,
            r#"{"alg":"HS256","crit":["x"]}"#,
            "{}",
            "",
        ] {
            assert!(read(header, claims).is_err(), "{header}");
        }
        let unsigned = signed(HEADER, claims);
        let (unsigned, _) = unsigned.rsplit_once('.').unwrap();
        assert!(key.read(&format!("{unsigned}."), NOW).is_err());
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits_that_nobody_else_may_read() {
        for wrong in ["", "ab", &"g".repeat(64), &"ü".repeat(32)] {
            TokenKey::parse(wrong).unwrap_err();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, format!("{}\n", "0".repeat(64))).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o644);
        let open = TokenKey::of_file(&path).unwrap_err();
        assert!(open.to_string().contains("chmod 600"), "{open}");
        mode(0o600);
        TokenKey::of_file(&path).unwrap();
        TokenKey::of_file(folder.path().join("none").as_path()).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_text_is_a_token_but_one_that_was_made(text in ".{0,80}", at in any::<usize>()) {
            let key = key('a');
            prop_assert!(key.read(&text, NOW).is_err());
            let token = key.mint(&caller(), NOW + 1);
            let at = at % token.len();
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            prop_assert!(key.read(&changed, NOW).is_err());
        }
    }
}
