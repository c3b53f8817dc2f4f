//! The API server, asked with bounds: every request has its time, every
//! answer its size, and every error says what to check.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::{Body, Client};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use remora_proto::spiffe::is_name;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::error::{Error, Need};
use super::options::Connection;
use super::resources::{ACCESS_REVIEWS, PODS, Resource, encoded};
use super::text;

/// The largest answer that is read: 500 large pods.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Objects that are asked for at a time.
const PAGE: usize = 500;
/// Objects of one kind that are read in all.
const MAX_OBJECTS: usize = 50_000;
/// Bytes of a kubeconfig that are looked at to tell whether it is text.
const MAX_LOOKED_AT: u64 = 1 << 20;
/// Characters of another's message that are shown.
const MAX_MESSAGE: usize = 600;

/// The API server.
#[derive(Clone)]
pub struct Api {
    client: Client,
    url: String,
    timeout: Duration,
    /// The namespace of the kubeconfig's context.
    pub default_namespace: String,
    /// The namespace of Remora's own daemons.
    pub system_namespace: String,
}

/// What a list holds.
#[derive(Debug)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// There are more than are read.
    pub is_cut: bool,
}

#[derive(Deserialize)]
struct Page<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
    #[serde(default)]
    metadata: PageMetadata,
}

#[derive(Default, Deserialize)]
struct PageMetadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// What the API server says of itself.
#[derive(Debug, Clone)]
pub struct Server {
    /// Where it is.
    pub url: String,
    /// `v1.34.4`.
    pub version: String,
    /// Its clock, in seconds since 1970, where it tells.
    pub now: Option<i64>,
}

/// One question of access.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// The verb.
    pub verb: &'static str,
    /// On what.
    pub resource: &'a Resource,
    /// Where; `None` is the whole cluster.
    pub namespace: Option<&'a str>,
}

impl Access<'_> {
    /// As a need.
    pub fn need(&self) -> Need {
        need(self.verb, self.resource, self.namespace)
    }
}

fn need(verb: &'static str, resource: &Resource, namespace: Option<&str>) -> Need {
    Need {
        verb,
        resource: resource.shown(),
        namespace: namespace.map(str::to_owned),
    }
}

impl Api {
    /// Reads the kubeconfig; nothing is asked yet.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub async fn connect(options: &Connection) -> Result<Self, Error> {
        let mut config = match config(options).await {
            Ok(config) => config,
            Err(why) => return Err(Error::Config(unreadable(options).unwrap_or(why))),
        };
        config.connect_timeout = Some(options.request_timeout);
        // A pod that does not answer is 503, and said at once.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let default_namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| Error::Config(chain(&error)))?;
        Ok(Self {
            client,
            url: url.trim_end_matches('/').to_owned(),
            timeout: options.request_timeout,
            default_namespace,
            system_namespace: options.system_namespace.clone(),
        })
    }

    /// One object.
    ///
    /// # Errors
    /// What the API server says; [`Error::NotFound`] when it is not there.
    pub async fn get<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<T, Error> {
        let need = need("get", resource, namespace);
        let path = resource.path(namespace, Some(name));
        self.json(Method::GET, &path, None, &need).await
    }

    /// One object; `None` when it is not there.
    ///
    /// # Errors
    /// What else the API server says.
    pub async fn find<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Option<T>, Error> {
        match self.get(resource, namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects of a kind with these labels (a selector; empty: all).
    ///
    /// # Errors
    /// What the API server says; [`Error::NotFound`] when it knows no such kind.
    pub async fn list<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        labels: &str,
    ) -> Result<List<T>, Error> {
        let need = need("list", resource, namespace);
        let base = resource.path(namespace, None);
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let mut path = format!("{base}?limit={PAGE}");
            for (name, value) in [("labelSelector", labels), ("continue", next.as_str())] {
                if !value.is_empty() {
                    path = format!("{path}&{name}={}", encoded(value));
                }
            }
            let page: Page<T> = self.json(Method::GET, &path, None, &need).await?;
            items.extend(page.items);
            next = page.metadata.next.unwrap_or_default();
            if next.is_empty() || items.len() >= MAX_OBJECTS {
                let is_cut = !next.is_empty();
                return Ok(List { items, is_cut });
            }
        }
    }

    /// Whether whoever asks may do this (SelfSubjectAccessReview).
    ///
    /// # Errors
    /// What the API server says.
    pub async fn may(&self, access: &Access<'_>) -> Result<bool, Error> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": access.verb,
                "group": access.resource.group,
                "resource": access.resource.plural,
                "namespace": access.namespace.unwrap_or_default(),
            }},
        });
        let need = need("create", &ACCESS_REVIEWS, None);
        let path = ACCESS_REVIEWS.path(None, None);
        let answer: Value = self.json(Method::POST, &path, Some(&review), &need).await?;
        Ok(answer["status"]["allowed"] == true)
    }

    /// Which API server this is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn server(&self) -> Result<Server, Error> {
        let (status, headers, body) = self.exchange(Method::GET, "/version", None).await?;
        if !status.is_success() {
            let need = Need {
                verb: "get",
                resource: "/version".to_owned(),
                namespace: None,
            };
            return Err(refusal(status, &body, &need));
        }
        let version: Value = read(&body, "/version")?;
        let date = headers.get(header::DATE);
        let date = date.and_then(|value| value.to_str().ok());
        Ok(Server {
            url: self.url.clone(),
            version: version["gitVersion"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            now: date.and_then(http_date),
        })
    }

    /// GETs JSON from the admin endpoint of a pod, through the API server.
    ///
    /// # Errors
    /// What the API server says, [`Error::Pod`] when it cannot reach the pod.
    pub async fn pod_admin<T: DeserializeOwned>(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<T, Error> {
        let body = self.pod_bytes(namespace, pod, port, path).await?;
        read(&body, &format!("GET {path} of {namespace}/{pod}"))
    }

    /// GETs text from there.
    ///
    /// # Errors
    /// As [`Self::pod_admin`].
    pub async fn pod_text(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<String, Error> {
        let body = self.pod_bytes(namespace, pod, port, path).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn pod_bytes(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<Bytes, Error> {
        // Names come from the cluster: what is no name never becomes a path.
        if !is_name(namespace) || !is_name(pod) {
            return Err(Error::NotFound(format!("{namespace}/{pod} is no pod")));
        }
        let base = PODS.path(Some(namespace), None);
        let whole = format!("{base}/{pod}:{port}/proxy{path}");
        let need = Need {
            verb: "get",
            resource: "pods/proxy".to_owned(),
            namespace: Some(namespace.to_owned()),
        };
        let (status, _, body) = self.exchange(Method::GET, &whole, None).await?;
        if status.is_success() {
            return Ok(body);
        }
        match refusal(status, &body, &need) {
            Error::Refused { message, .. } => Err(Error::Pod {
                pod: format!("{namespace}/{pod}"),
                port,
                cause: message,
            }),
            other => Err(other),
        }
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        need: &Need,
    ) -> Result<T, Error> {
        let (status, _, answer) = self.exchange(method, path, body).await?;
        if status.is_success() {
            read(&answer, &need.to_string())
        } else {
            Err(refusal(status, &answer, need))
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, http::HeaderMap, Bytes), Error> {
        let what = format!("{method} {path}");
        let body = body.map(|body| body.to_string().into_bytes());
        let body = body.unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body));
        let request = request.map_err(|error| Error::Usage(format!("{what}: {error}")))?;
        let asked = async {
            let answer = self.client.send(request).await;
            let answer = answer.map_err(|error| self.unanswered(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| Error::Answer {
                what: what.clone(),
                cause: error.to_string(),
            })?;
            Ok((head.status, head.headers, body.to_bytes()))
        };
        let answered = tokio::time::timeout(self.timeout, asked).await;
        answered.unwrap_or_else(|_| {
            Err(Error::Timeout {
                url: self.url.clone(),
                timeout: self.timeout,
                what,
            })
        })
    }

    fn unanswered(&self, error: &kube::Error) -> Error {
        match error {
            kube::Error::Auth(error) => Error::Unauthorized(chain(error)),
            error => Error::Unreachable {
                url: self.url.clone(),
                cause: chain(error),
            },
        }
    }
}

async fn config(options: &Connection) -> Result<Config, String> {
    let chosen = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    if let Some(file) = &options.kubeconfig {
        let read = Kubeconfig::read_from(file).map_err(|error| chain(&error))?;
        let config = Config::from_custom_kubeconfig(read, &chosen).await;
        return config.map_err(|error| chain(&error));
    }
    if options.context.is_some() {
        let config = Config::from_kubeconfig(&chosen).await;
        return config.map_err(|error| chain(&error));
    }
    Config::infer().await.map_err(|error| chain(&error))
}

/// The kubeconfig that is no text at all, where one is: what its reader says of
/// it helps nobody.
fn unreadable(options: &Connection) -> Option<String> {
    let files: Vec<PathBuf> = match &options.kubeconfig {
        Some(file) => vec![file.clone()],
        None => match std::env::var_os("KUBECONFIG") {
            Some(files) => std::env::split_paths(&files).collect(),
            None => Vec::from_iter(std::env::home_dir().map(|home| home.join(".kube/config"))),
        },
    };
    files.iter().find_map(|file| {
        let mut start = Vec::new();
        let opened = std::fs::File::open(file).ok()?;
        opened.take(MAX_LOOKED_AT).read_to_end(&mut start).ok()?;
        (!is_text(&start)).then(|| format!("{} is not a text file", file.display()))
    })
}

/// Whether bytes are UTF-8 without control characters, or UTF-16 with its mark,
/// which is read too.
fn is_text(bytes: &[u8]) -> bool {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return true;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    !text.contains(is_odd) && !text.contains(char::REPLACEMENT_CHARACTER)
}

/// An error with its causes, each once, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    shortened(&text)
}

fn shortened(text: &str) -> String {
    let text = text::clean(text.trim());
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn read<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Answer {
        what: what.to_owned(),
        cause: error.to_string(),
    })
}

/// An answer that is no success, in the operator's words.
fn refusal(status: StatusCode, body: &[u8], need: &Need) -> Error {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = match said["message"].as_str() {
        Some(message) => shortened(message),
        None => shortened(&String::from_utf8_lossy(body)),
    };
    match status {
        StatusCode::UNAUTHORIZED => Error::Unauthorized(message),
        StatusCode::FORBIDDEN => Error::Forbidden {
            need: need.clone(),
            message,
        },
        StatusCode::NOT_FOUND => Error::NotFound(message),
        status => Error::Refused {
            status: status.as_u16(),
            what: need.to_string(),
            message,
        },
    }
}

/// `Sat, 21 Nov 2026 17:32:20 GMT` in seconds since 1970 (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<i64> {
    let date = k8s_openapi::jiff::fmt::rfc2822::parse(text).ok()?;
    Some(date.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_read_as_http_writes_it() {
        assert_eq!(
            http_date("Sat, 21 Nov 2026 17:32:20 GMT"),
            Some(1_795_282_340)
        );
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn text_is_told_from_bytes() {
        for text in [
            "kind: Config\n\tx: ü".as_bytes(),
            b"",
            b"\xff\xfea\0",
            b"cut \xc3",
        ] {
            assert!(is_text(text), "{text:?}");
        }
        for bytes in [
            &b"\x7fELF\x01"[..],
            b"a\xffb",
            b"a\0b",
            "a\u{fffd}".as_bytes(),
        ] {
            assert!(!is_text(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn a_refusal_names_verb_and_resource() {
        let need = need("list", &PODS, Some("shop"));
        let body = br#"{"kind":"Status","message":"pods is forbidden: \u001b[2J"}"#;
        let error = refusal(StatusCode::FORBIDDEN, body, &need);
        let text = error.to_string();
        assert!(text.contains("list pods in namespace shop"), "{text}");
        assert!(error.is_forbidden() && !text.contains('\u{1b}'), "{text}");
        assert!(refusal(StatusCode::NOT_FOUND, b"404 page not found", &need).is_not_found());
    }
}
