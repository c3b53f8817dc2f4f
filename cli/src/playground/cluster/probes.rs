//! Start-up and readiness probes, asked as the kubelet asks them, but every
//! few milliseconds: a stage that waits whole seconds for what is ready in ten
//! milliseconds would measure only its own patience.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::endpoints::container_port;
use crate::playground::measure::client::Client;

/// How often a probe is asked until it passes.
const INTERVAL: Duration = Duration::from_millis(5);
/// How long one asking may take.
const TIMEOUT: Duration = Duration::from_millis(500);

/// A probe that can be asked.
#[derive(Debug, Clone)]
pub enum Question {
    /// An HTTP GET that must answer 200 to 399.
    Get(SocketAddr, String),
    /// A connection that must be taken.
    Connect(SocketAddr),
}

/// What a probe asks, of a pod at `address`; `None` for kinds that are not
/// asked here (exec, grpc), which then count as passed.
pub fn question(probe: &Probe, pod: &Pod, address: IpAddr) -> Option<Question> {
    if let Some(HTTPGetAction { path, port, .. }) = &probe.http_get {
        let path = path.clone().unwrap_or_else(|| "/".to_owned());
        return Some(Question::Get(
            SocketAddr::new(address, number(port, pod)?),
            path,
        ));
    }
    let action = probe.tcp_socket.as_ref()?;
    Some(Question::Connect(SocketAddr::new(
        address,
        number(&action.port, pod)?,
    )))
}

fn number(port: &IntOrString, pod: &Pod) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => container_port(pod, name)?,
    };
    u16::try_from(number).ok()
}

/// Returns once the answer is yes; the caller limits the time.
pub async fn until_passed(question: &Question) {
    while !passes(question).await {
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn passes(question: &Question) -> bool {
    let asked = async {
        match question {
            Question::Connect(address) => tokio::net::TcpStream::connect(address).await.is_ok(),
            Question::Get(address, path) => {
                let status = Client::new(*address)
                    .get(path)
                    .await
                    .map(|(status, _)| status);
                status.is_ok_and(|status| (200..400).contains(&status))
            }
        }
    };
    tokio::time::timeout(TIMEOUT, asked).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_ports_are_looked_up() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]}
        }))
        .unwrap();
        let ask = |probe| {
            question(
                &serde_json::from_value(probe).unwrap(),
                &pod,
                [10, 77, 1, 1].into(),
            )
        };
        let Some(Question::Get(address, path)) =
            ask(json!({"httpGet": {"port": "http", "path": "/healthz"}}))
        else {
            panic!("a GET");
        };
        assert_eq!(
            (address.to_string().as_str(), path.as_str()),
            ("10.77.1.1:8080", "/healthz")
        );
        assert!(matches!(
            ask(json!({"tcpSocket": {"port": 7000}})),
            Some(Question::Connect(_))
        ));
        assert!(ask(json!({"exec": {"command": ["true"]}})).is_none());
    }
}
