//! The application's probes, as the injector wrote them into `REMORA_PROBES`:
//! a port that serves exactly these, and dials the application for each.
//!
//! The kubelet has no identity in the mesh, so its probes come here instead of
//! to the application's own port. The injector's `probes` module documents the form.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use crate::{probes_grpc, probes_http, socket};

/// Probes that one pod may have: three for each of its containers, and hooks.
const PROBES: usize = 1024;

/// The rewritten probes of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Probes(Vec<Probe>);

/// One rewritten probe or lifecycle hook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Probe {
    path: String,
    timeout_ms: u64,
    http: Option<HttpProbe>,
    tcp: Option<TcpProbe>,
    grpc: Option<GrpcProbe>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct HttpProbe {
    port: u16,
    path: String,
    scheme: String,
    #[serde(default)]
    headers: Vec<Header>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct TcpProbe {
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct GrpcProbe {
    port: u16,
    #[serde(default)]
    service: String,
}

impl Probes {
    /// Reads the injector's JSON; `None` where it is not that, or names what
    /// cannot be asked here (TLS): no probe is taken and not asked.
    pub fn parse(text: &str) -> Option<Self> {
        let probes: Self = serde_json::from_str(text).ok()?;
        let is_one = |probe: &Probe| {
            usize::from(probe.http.is_some())
                + usize::from(probe.tcp.is_some())
                + usize::from(probe.grpc.is_some())
                == 1
        };
        let is_plain = |probe: &Probe| {
            let http = probe.http.as_ref();
            http.is_none_or(|http| http.scheme.eq_ignore_ascii_case("http"))
        };
        let fit = |probe: &Probe| is_one(probe) && is_plain(probe);
        (probes.0.len() <= PROBES && probes.0.iter().all(fit)).then_some(probes)
    }

    /// Whether there is nothing to serve.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, uri: &Uri) -> Option<&Probe> {
        self.0.iter().find(|probe| probe.path == uri.path())
    }
}

/// What a probe needs to reach the application.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// The probes.
    pub probes: Probes,
    /// Where the application listens.
    pub application: IpAddr,
    /// So that the redirect rules let the connection pass.
    pub socket_mark: Option<u32>,
}

/// Serves the probes, and nothing else.
pub fn router(target: ProbeTarget) -> Router {
    Router::new()
        .fallback(answer)
        .with_state(std::sync::Arc::new(target))
}

async fn answer(
    State(target): State<std::sync::Arc<ProbeTarget>>,
    uri: Uri,
) -> (StatusCode, String) {
    let Some(probe) = target.probes.find(&uri) else {
        return (
            StatusCode::NOT_FOUND,
            "no probe of the pod has this path\n".to_owned(),
        );
    };
    let asking = ask(&target, probe);
    match tokio::time::timeout(Duration::from_millis(probe.timeout_ms), asking).await {
        Ok(answer) => answer,
        Err(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            format!(
                "the application gave no answer within {} ms\n",
                probe.timeout_ms
            ),
        ),
    }
}

async fn ask(target: &ProbeTarget, probe: &Probe) -> (StatusCode, String) {
    let port = match (&probe.http, &probe.tcp, &probe.grpc) {
        (Some(http), _, _) => http.port,
        (_, Some(tcp), _) => tcp.port,
        (_, _, Some(grpc)) => grpc.port,
        (None, None, None) => return (StatusCode::NOT_FOUND, String::new()),
    };
    let address = SocketAddr::new(target.application, port);
    let stream = match socket::connect(address, target.socket_mark).await {
        Ok(stream) => stream,
        Err(error) => {
            let status = if probe.http.is_some() {
                StatusCode::BAD_GATEWAY
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            return (status, format!("{address}: {error}\n"));
        }
    };
    if let Some(http) = &probe.http {
        return match ask_http(stream, address, http).await {
            Ok(status) => (status, String::new()),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{address}: {error}\n")),
        };
    }
    if let Some(grpc) = &probe.grpc {
        return match probes_grpc::check(stream, &grpc.service).await {
            Ok(true) => (StatusCode::OK, String::new()),
            Ok(false) => (StatusCode::SERVICE_UNAVAILABLE, "not SERVING\n".to_owned()),
            Err(error) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{address}: {error}\n"),
            ),
        };
    }
    (StatusCode::OK, String::new())
}

async fn ask_http(
    stream: tokio::net::TcpStream,
    address: SocketAddr,
    probe: &HttpProbe,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let fields = fields(address, &probe.headers)?;
    let answered = probes_http::get(stream, &probe.path, fields).await?;
    Ok(answered.response.status())
}

/// What the probe says, a field as often as it stands there; ours where it says
/// nothing.
fn fields(
    address: SocketAddr,
    said: &[Header],
) -> Result<HeaderMap, Box<dyn std::error::Error + Send + Sync>> {
    let mut fields = HeaderMap::new();
    for header in said {
        let name = HeaderName::try_from(&header.name)?;
        fields.append(name, HeaderValue::try_from(&header.value)?);
    }
    let host = HeaderValue::from_str(&address.to_string())?;
    fields.entry(http::header::HOST).or_insert(host);
    let agent = HeaderValue::from_static("kube-probe/remora");
    fields.entry(http::header::USER_AGENT).or_insert(agent);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_a_probe_names_twice_is_sent_twice_and_its_host_wins() {
        let header = |name: &str, value: &str| Header {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let said = [
            header("x-a", "1"),
            header("X-A", "2"),
            header("Host", "web"),
        ];
        let sent = fields(address, &said).unwrap();
        assert_eq!(sent.get_all("x-a").iter().count(), 2);
        assert_eq!((&sent["host"], sent.len()), (&"web".parse().unwrap(), 4));
        assert_eq!(fields(address, &[]).unwrap()["host"], "10.0.0.1:80");
        assert!(fields(address, &[header("a b", "")]).is_err());
    }

    #[test]
    fn the_injectors_form_is_read() {
        let text = r#"[
            {"path": "/remora/probe/web/readiness", "timeout_ms": 1000,
             "http": {"port": 8080, "path": "/healthz", "scheme": "HTTP", "headers": [{"name": "Host", "value": "web"}]}},
            {"path": "/remora/probe/db/liveness", "timeout_ms": 1000, "tcp": {"port": 5432}}
        ]"#;
        let probes = Probes::parse(text).unwrap();
        assert!(
            probes
                .find(&Uri::from_static("/remora/probe/db/liveness?x"))
                .is_some()
        );
        assert!(probes.find(&Uri::from_static("/other")).is_none());
        assert_eq!(Probes::parse(r#"[{"path": "/x", "timeout_ms": 1}]"#), None);
        let over_tls = text.replace(r#""HTTP""#, r#""HTTPS""#);
        assert_eq!(Probes::parse(&over_tls), None, "it could not be asked");
    }

    #[tokio::test]
    async fn a_closed_port_fails_a_tcp_probe_and_an_open_one_passes() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = Probe {
            path: "/p".into(),
            timeout_ms: 500,
            http: None,
            tcp: Some(TcpProbe { port }),
            grpc: None,
        };
        let target = ProbeTarget {
            probes: Probes::default(),
            application: [127, 0, 0, 1].into(),
            socket_mark: None,
        };
        assert_eq!(ask(&target, &probe).await.0, StatusCode::OK);
        drop(listener);
        assert_eq!(
            ask(&target, &probe).await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
}
