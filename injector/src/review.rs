//! AdmissionReview (admission.k8s.io/v1): what the API server asks and is
//! answered. Owns the wire form and its bounds, not the decision.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::Patch;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
/// Maps and lists in one review. A pod of many containers has some hundred. A
/// `{}` in a list of containers takes three bytes on the wire and a thousand
/// in memory: without this bound a pod of 3 MiB would take gigabytes.
const MAX_STRUCTURES: usize = 20_000;
/// Warnings of one answer. The API server gives at most 4 KiB of them to the
/// client, and cuts each at 256 characters where there is more.
const MAX_WARNINGS: usize = 16;
const MAX_WARNING_BYTES: usize = 512;

/// What the API server asks about.
#[derive(Debug)]
pub struct Review {
    /// Ties the answer to the question.
    pub uid: String,
    /// In which the object is being made.
    pub namespace: Option<String>,
    /// Of the object, or of what generates it; for the log.
    pub name: String,
    /// Nothing of it will be kept.
    pub dry_run: bool,
    /// The object.
    pub subject: Subject,
}

/// The object of a review.
#[derive(Debug)]
pub enum Subject {
    /// A pod that is being created.
    Pod(Box<Pod>),
    /// Something else: the webhook's rules are wider than ours. Names it.
    Other(String),
    /// A pod that cannot be read, and why.
    Unreadable(String),
}

/// Nothing that could be answered by a review.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, or without what every review has.
    #[error("not an AdmissionReview: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of another version or kind.
    #[error("{0:?} is not {API_VERSION} {KIND}")]
    Foreign(String),
    /// An answer, or nothing.
    #[error("the AdmissionReview has no request with a uid")]
    NoRequest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "T: DeserializeOwned")]
struct Envelope<T> {
    api_version: String,
    kind: String,
    request: Option<Request<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound = "T: DeserializeOwned")]
struct Request<T> {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    name: Option<String>,
    operation: String,
    #[serde(default = "nothing")]
    object: Option<T>,
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

fn nothing<T>() -> Option<T> {
    None
}

/// Reads a review.
///
/// # Errors
/// When there is nothing to answer to. A review whose object cannot be read is
/// none: it is answered.
pub fn read(body: &[u8]) -> Result<Review, ReviewError> {
    if structures(body) > MAX_STRUCTURES {
        let why = format!("it has more than {MAX_STRUCTURES} maps and lists");
        return opened::<IgnoredAny>(body)?.review(|_| Subject::Unreadable(why));
    }
    let whole = |object: Option<Pod>| match object {
        Some(pod) => Subject::Pod(Box::new(pod)),
        None => Subject::Unreadable("there is no object".to_owned()),
    };
    match opened::<Pod>(body) {
        Ok(envelope) => envelope.review(whole),
        // Perhaps only the object is not a pod: then there is a uid to answer to.
        Err(error) => {
            opened::<IgnoredAny>(body)?.review(|_| Subject::Unreadable(error.to_string()))
        }
    }
}

fn opened<T: DeserializeOwned>(body: &[u8]) -> Result<Envelope<T>, serde_json::Error> {
    serde_json::from_slice(body)
}

/// How many maps and lists there are at most: those within strings count too.
fn structures(body: &[u8]) -> usize {
    let opens = |byte: &&u8| matches!(byte, b'{' | b'[');
    body.iter().filter(opens).count()
}

impl<T> Envelope<T> {
    fn review(self, subject: impl FnOnce(Option<T>) -> Subject) -> Result<Review, ReviewError> {
        if self.api_version != API_VERSION || self.kind != KIND {
            return Err(ReviewError::Foreign(format!(
                "{} {}",
                self.api_version, self.kind
            )));
        }
        let request = self.request.filter(|request| !request.uid.is_empty());
        let request = request.ok_or(ReviewError::NoRequest)?;
        let Kind {
            group,
            version,
            kind,
        } = &request.kind;
        let is_pod = (group.as_str(), version.as_str(), kind.as_str()) == ("", "v1", "Pod");
        let part = request.sub_resource.filter(|part| !part.is_empty());
        let subject = if is_pod && part.is_none() && request.operation == "CREATE" {
            subject(request.object)
        } else {
            let part = part.map(|part| format!("/{part}")).unwrap_or_default();
            let operation = &request.operation;
            Subject::Other(format!("{operation} {group}/{version} {kind}{part}"))
        };
        let full = |text: &String| !text.is_empty();
        let mut name = request.name.filter(full);
        let mut namespace = request.namespace.filter(full);
        if let Subject::Pod(pod) = &subject {
            let metadata = &pod.metadata;
            // A pod of a ReplicaSet has no name yet when it comes here.
            name = name.or_else(|| metadata.name.clone()).or_else(|| {
                metadata
                    .generate_name
                    .as_ref()
                    .map(|name| format!("{name}*"))
            });
            namespace = namespace.or_else(|| metadata.namespace.clone());
        }
        Ok(Review {
            uid: request.uid,
            namespace,
            name: name.unwrap_or_default(),
            dry_run: request.dry_run.unwrap_or(false),
            subject,
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<ByteString>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'a str>,
}

/// The answer to the review with this uid: always allowed. This webhook adds
/// to pods; it judges none.
pub fn answer(uid: &str, patch: Option<&Patch>, warnings: &[String]) -> Vec<u8> {
    let patch = patch.filter(|patch| !patch.0.is_empty());
    // Patches are made of strings and numbers, which have a JSON form.
    let patch = patch.and_then(|patch| serde_json::to_vec(patch).ok());
    let answer = Answer {
        api_version: API_VERSION,
        kind: KIND,
        response: Response {
            uid,
            allowed: true,
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch: patch.map(ByteString),
            warnings: warnings
                .iter()
                .take(MAX_WARNINGS)
                .map(|warning| cut(warning, MAX_WARNING_BYTES))
                .collect(),
        },
    };
    serde_json::to_vec(&answer).unwrap_or_default()
}

/// The first bytes of a text, whole characters only.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn review(change: impl FnOnce(&mut Value)) -> Result<Review, ReviewError> {
        let mut value = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u-1", "operation": "CREATE", "namespace": "shop",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "userInfo": {"username": "x"}, "dryRun": true, "somethingNew": [1],
                "object": {
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"generateName": "web-"},
                    "spec": {"containers": [{"name": "web"}], "somethingNew": {}},
                },
            },
        });
        change(&mut value);
        read(&serde_json::to_vec(&value).unwrap())
    }

    #[test]
    fn a_pod_without_a_name_is_read() {
        let review = review(|_| {}).unwrap();
        assert_eq!(
            (review.uid.as_str(), review.name.as_str()),
            ("u-1", "web-*")
        );
        assert_eq!(review.namespace.as_deref(), Some("shop"));
        assert!(review.dry_run);
        let Subject::Pod(pod) = review.subject else {
            panic!("{:?}", review.subject);
        };
        assert_eq!(pod.spec.unwrap().containers[0].name, "web");
    }

    #[test]
    fn a_namespace_may_stand_in_the_pod_alone() {
        let review = review(|value| {
            value["request"]["namespace"] = Value::Null;
            value["request"]["object"]["metadata"]["namespace"] = json!("till");
        });
        assert_eq!(review.unwrap().namespace.as_deref(), Some("till"));
    }

    #[test]
    fn what_is_no_pod_being_created_is_told_apart() {
        let other = |change: fn(&mut Value)| match review(change).unwrap().subject {
            Subject::Other(what) => what,
            subject => panic!("{subject:?}"),
        };
        let told = other(|value| value["request"]["operation"] = json!("UPDATE"));
        assert_eq!(told, "UPDATE /v1 Pod");
        let told = other(|value| value["request"]["subResource"] = json!("ephemeralcontainers"));
        assert_eq!(told, "CREATE /v1 Pod/ephemeralcontainers");
        let told = other(|value| {
            value["request"]["kind"] =
                json!({"group": "apps", "version": "v1", "kind": "Deployment"});
            value["request"]["object"] = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        });
        assert_eq!(told, "CREATE apps/v1 Deployment");
    }

    #[test]
    fn a_pod_that_cannot_be_read_still_has_its_answer() {
        for object in [json!("a"), Value::Null, json!({"spec": {"containers": 1}})] {
            let review = review(|value| value["request"]["object"] = object.clone()).unwrap();
            assert_eq!(review.uid, "u-1");
            assert!(matches!(review.subject, Subject::Unreadable(_)), "{object}");
        }
    }

    #[test]
    fn a_pod_of_a_million_empty_containers_is_not_unfolded() {
        let many: Vec<Value> = vec![json!({}); MAX_STRUCTURES];
        let review = review(|value| value["request"]["object"]["spec"]["containers"] = many.into());
        let Subject::Unreadable(why) = review.unwrap().subject else {
            panic!("it was read");
        };
        assert!(why.contains("20000"), "{why}");
    }

    #[test]
    fn what_has_no_uid_cannot_be_answered() {
        let wrong: [fn(&mut Value); 5] = [
            |value| value["kind"] = json!("ConversionReview"),
            |value| value["apiVersion"] = json!("admission.k8s.io/v1beta1"),
            |value| value["request"] = Value::Null,
            |value| value["request"]["uid"] = json!(""),
            |value| value["request"]["kind"] = json!("Pod"),
        ];
        for change in wrong {
            assert!(review(change).is_err());
        }
        let deep = [b"[".repeat(100_000), b"{\"a\":".repeat(10_000)];
        for body in [b"".as_slice(), b"x", b"[]", b"\xff\xfe", &deep[0], &deep[1]] {
            assert!(read(body).is_err());
        }
    }

    #[test]
    fn an_answer_is_allowed_and_its_patch_is_base64() {
        let patch: Patch =
            serde_json::from_value(json!([{"op": "add", "path": "/a", "value": 1}])).unwrap();
        let value: Value =
            serde_json::from_slice(&answer("u-1", Some(&patch), &["w".to_owned()])).unwrap();
        assert_eq!(value["apiVersion"], "admission.k8s.io/v1");
        let response = &value["response"];
        assert_eq!(response["uid"], "u-1");
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        assert_eq!(response["warnings"], json!(["w"]));
        let ByteString(bytes) = serde_json::from_value(response["patch"].clone()).unwrap();
        assert_eq!(serde_json::from_slice::<Patch>(&bytes).unwrap(), patch);

        let none: Value =
            serde_json::from_slice(&answer("u-2", Some(&Patch::default()), &[])).unwrap();
        assert_eq!(none["response"], json!({"uid": "u-2", "allowed": true}));
    }

    #[test]
    fn warnings_are_bounded_by_whole_characters() {
        let value: Value =
            serde_json::from_slice(&answer("u", None, &vec!["ü".repeat(999); 99])).unwrap();
        let warnings = value["response"]["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), MAX_WARNINGS);
        assert_eq!(warnings[0], "ü".repeat(MAX_WARNING_BYTES / 2));
    }
}
