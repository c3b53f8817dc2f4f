//! The gate before every service of a server.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use remora_proto::v1::replicas_server;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};

use super::gate::Gate;

/// Whether a call is of the service that replicas alone may call. That service looks
/// itself, too, by whom it was let in.
fn is_for_replicas(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("") && parts.next() == Some(replicas_server::SERVICE_NAME)
}

/// Puts a gate before what it wraps, or nothing where there is none.
#[derive(Clone)]
pub struct GateLayer(Option<Arc<Gate>>);

impl GateLayer {
    /// With this gate.
    pub fn new(gate: Option<Arc<Gate>>) -> Self {
        Self(gate)
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated {
            gate: self.0.clone(),
            inner,
        }
    }
}

/// A service behind a gate.
#[derive(Clone)]
pub struct Gated<S> {
    gate: Option<Arc<Gate>>,
    inner: S,
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that is ready serves; what is left behind is asked anew.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let Some(gate) = self.gate.clone() else {
            return Box::pin(inner.call(request));
        };
        Box::pin(async move {
            let peer = request.extensions().get::<TcpConnectInfo>();
            let peer = peer.and_then(TcpConnectInfo::remote_addr);
            let let_in = if is_for_replicas(request.uri().path()) {
                let admitted = gate.admit_replica(request.headers(), peer).await;
                admitted.map(|one| drop(request.extensions_mut().insert(one)))
            } else {
                let admitted = gate.admit(request.headers(), peer).await;
                admitted.map(|one| drop(request.extensions_mut().insert(one)))
            };
            match let_in {
                Ok(()) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_that_service_are_for_replicas() {
        assert!(is_for_replicas("/remora.v1.Replicas/Verdicts"));
        for other in [
            "/remora.v1.Reports/Report",
            "/remora.v1.ReplicasX/Verdicts",
            "remora.v1.Replicas/Verdicts",
            "//remora.v1.Replicas/Verdicts",
            "",
        ] {
            assert!(!is_for_replicas(other), "{other}");
        }
    }
}
