//! Tokens of service accounts, asked of the API server: `create` of
//! `tokenreviews` (authentication.k8s.io) must be allowed.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use remora_proto::well_known::TOKEN_AUDIENCE;

use super::{Caller, Check, TokenError};
use crate::answer;

/// How the name of a service account's user begins.
const USER_PREFIX: &str = "system:serviceaccount:";
/// Where the API server says to which pod a token is bound (KEP-1205).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Asks the API server.
pub struct Review(Api<TokenReview>);

impl Review {
    /// By this client.
    pub fn new(client: kube::Client) -> Self {
        Self(Api::all(client))
    }
}

#[tonic::async_trait]
impl Check for Review {
    async fn check(&self, token: &str, _now: u64) -> Result<Caller, TokenError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let params = PostParams::default();
        let answered = answer::of(self.0.create(&params, &review)).await;
        let answered = answered.map_err(|error| TokenError::Unavailable(error.to_string()))?;
        read(answered.status.unwrap_or_default())
    }
}

/// What the API server says of it.
fn read(status: TokenReviewStatus) -> Result<Caller, TokenError> {
    if status.authenticated != Some(true) {
        let mut why = status.error.unwrap_or_default();
        crate::text::cut(&mut why, 200);
        if why.is_empty() {
            "the API server does not know it".clone_into(&mut why);
        }
        return Err(TokenError::Refused(why));
    }
    // An authenticator that does not know of audiences names none: whom the
    // token was made for is then unknown.
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(TokenError::Audience);
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix(USER_PREFIX);
    let Some((namespace, account)) = account.and_then(|account| account.split_once(':')) else {
        return Err(TokenError::Unbound);
    };
    let extra: BTreeMap<String, Vec<String>> = user.extra.unwrap_or_default();
    let one = |name: &str| match extra.get(name).map(Vec::as_slice) {
        Some([value]) => value.clone(),
        _ => String::new(),
    };
    Caller::new(namespace, account, &one(POD_NAME), &one(POD_UID))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(change: impl Fn(&mut Value)) -> Result<Caller, TokenError> {
        let mut status = json!({
            "authenticated": true, "audiences": ["remora.io"],
            "user": {"username": "system:serviceaccount:shop:web", "extra": {
                "authentication.kubernetes.io/pod-name": ["web-1"],
                "authentication.kubernetes.io/pod-uid": ["u-1"],
            }},
        });
        change(&mut status);
        read(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_token_bound_to_a_pod_is_that_pod() {
        let caller = said(|_| {}).unwrap();
        assert_eq!(caller, Caller::new("shop", "web", "web-1", "u-1").unwrap());
    }

    #[test]
    fn anything_less_is_nobody() {
        let none = said(|status| status["authenticated"] = json!(false));
        assert!(matches!(none, Err(TokenError::Refused(_))));
        let error = said(|status| {
            status["authenticated"] = json!(null);
            status["error"] = json!("expired");
        });
        assert_eq!(error, Err(TokenError::Refused("expired".to_owned())));
        for audiences in [json!([]), json!(null), json!(["https://kubernetes"])] {
            let other = said(|status| status["audiences"] = audiences.clone());
            assert_eq!(other, Err(TokenError::Audience));
        }
        for user in ["admin", "system:serviceaccount:shop", "system:node:a"] {
            let user = said(|status| status["user"]["username"] = json!(user));
            assert_eq!(user, Err(TokenError::Unbound));
        }
        let unbound = said(|status| status["user"]["extra"] = json!({}));
        assert_eq!(unbound, Err(TokenError::Unbound));
        let two = said(|status| status["user"]["extra"][POD_UID] = json!(["a", "b"]));
        assert_eq!(two, Err(TokenError::Unbound));
    }
}
