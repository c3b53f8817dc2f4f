//! Who may come in: every call on the streams' port is known by its token, is
//! of a pod that is there, and is not one of a flood.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use remora_proto::well_known::{self, resource_name};
use tokio::sync::watch;
use tonic::Status;

use super::figures::Figures;
use super::tokens::cache::Cache;
use super::tokens::{Caller, MAX_TOKEN_BYTES, TokenError};
use crate::bucket::Bucket;
use crate::clock;
use crate::core::store::{Resource, ResourceType, Store};
use crate::stream::session::Node;

/// Questions about tokens from one address: a sidecar asks three times at its
/// start, and behind one address there may be a whole node.
const CHECKS_PER_SECOND: f64 = 50.0;
const CHECKS_AT_ONCE: f64 = 200.0;
/// Addresses whose questions are counted; what comes beyond shares one count.
const MAX_PEERS: usize = 8_192;
/// A token may come before the pod that it is of: the watch brings that one
/// within so long.
const POD_PATIENCE: Duration = Duration::from_secs(3);
/// How often the pod is looked for.
const POD_PAUSE: Duration = Duration::from_millis(50);

/// A caller that may come in, with every call of it.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Whose token it has.
    pub caller: Caller,
    /// From where it calls.
    pub peer: Option<IpAddr>,
}

impl Admitted {
    /// Whether it is the sidecar that it calls itself.
    ///
    /// # Errors
    /// When its token is another pod's.
    pub fn is(&self, node: &Node) -> Result<(), Status> {
        let caller = &self.caller;
        if (&caller.namespace, &caller.pod, &caller.pod_uid)
            == (&node.namespace, &node.pod, &node.pod_uid)
        {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "the token is of the pod {}/{} (uid {}), not of {}/{} (uid {})",
            caller.namespace, caller.pod, caller.pod_uid, node.namespace, node.pod, node.pod_uid
        )))
    }

    /// Whether it calls from one of these addresses, its pod's; any will do
    /// where none is known yet. Who calls from this machine's own address shares
    /// its network with us and has no address to be told by (the playground
    /// without network namespaces).
    pub fn calls_from(&self, addresses: &[IpAddr]) -> bool {
        let Some(peer) = self.peer else {
            return false;
        };
        let itself = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ];
        addresses.is_empty() || addresses.contains(&peer) || itself.contains(&peer)
    }
}

/// A replica of this control plane that may come in: never to be taken for a pod
/// with a sidecar, whose calls are none of its.
#[derive(Clone, Debug)]
pub struct AdmittedReplica {
    /// Its pod.
    pub pod: String,
}

/// The gate.
pub struct Gate {
    tokens: Cache,
    /// Our own namespace: of which the service account is that of replicas.
    system_namespace: String,
    store: Arc<Store>,
    /// True once the source has told all it had at the start: before that no
    /// pod is known not to be there.
    synced: watch::Receiver<bool>,
    checks: Mutex<HashMap<Option<IpAddr>, Bucket>>,
    figures: Arc<Figures>,
}

impl Gate {
    /// By these tokens, for the pods of this store.
    pub fn new(
        tokens: Cache,
        store: Arc<Store>,
        synced: watch::Receiver<bool>,
        figures: Arc<Figures>,
        system_namespace: &str,
    ) -> Self {
        Self {
            tokens,
            system_namespace: system_namespace.to_owned(),
            store,
            synced,
            checks: Mutex::default(),
            figures,
        }
    }

    /// Who calls, by the headers of the call.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED or UNAVAILABLE.
    pub async fn admit(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Result<Admitted, Status> {
        let peer = peer.map(|peer| peer.ip().to_canonical());
        let caller = self.known(headers, peer).await?;
        self.is_there(&caller).await?;
        Ok(Admitted { caller, peer })
    }

    /// Who calls what is for replicas alone: the control plane's own service account
    /// in its own namespace, and nobody else.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub async fn admit_replica(
        &self,
        headers: &HeaderMap,
        peer: Option<SocketAddr>,
    ) -> Result<AdmittedReplica, Status> {
        let peer = peer.map(|peer| peer.ip().to_canonical());
        let caller = self.known(headers, peer).await?;
        let ours = (&*self.system_namespace, well_known::CONTROL_PLANE);
        if (&*caller.namespace, &*caller.service_account) == ours {
            return Ok(AdmittedReplica { pod: caller.pod });
        }
        self.figures.checks.count("no_replica");
        Err(Status::permission_denied(format!(
            "this is for the control plane's own replicas: the token is of the service account \
             {}/{}, not of {}/{}",
            caller.namespace, caller.service_account, ours.0, ours.1
        )))
    }

    /// Whose the token is that the call carries.
    async fn known(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, Status> {
        let found = match token(headers) {
            Ok(token) => match self.tokens.remembered(token, clock::now()) {
                Some(found) => found,
                None => {
                    self.count(peer, clock::now())?;
                    self.tokens.ask(token).await
                }
            },
            Err(error) => Err(error),
        };
        match found {
            Ok(caller) => {
                self.figures.checks.count("good");
                Ok(caller)
            }
            Err(error) => {
                self.figures.checks.count(error.word());
                tracing::debug!(?peer, %error, "a caller is not known");
                Err(error.status())
            }
        }
    }

    /// That the pod is there, with the uid that the token names.
    async fn is_there(&self, caller: &Caller) -> Result<(), Status> {
        if !*self.synced.borrow() {
            let mut synced = self.synced.clone();
            let read = tokio::time::timeout(POD_PATIENCE, synced.wait_for(|synced| *synced));
            if !matches!(read.await, Ok(Ok(_))) {
                return Err(Status::unavailable("the source has not been read yet"));
            }
        }
        let looked = async {
            while workload(&self.store, caller).is_none() {
                tokio::time::sleep(POD_PAUSE).await;
            }
        };
        if tokio::time::timeout(POD_PATIENCE, looked).await.is_err() {
            self.figures.checks.count("no_pod");
            return Err(Status::permission_denied(format!(
                "there is no pod {}/{} with the uid {} that the token names (is it gone?)",
                caller.namespace, caller.pod, caller.pod_uid
            )));
        }
        Ok(())
    }

    fn count(&self, peer: Option<IpAddr>, now: Instant) -> Result<(), Status> {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        if checks.len() >= MAX_PEERS && !checks.contains_key(&peer) {
            checks.retain(|_, bucket| !bucket.is_full(now));
        }
        // What is left are addresses that ask much: others share a count.
        let place = peer.filter(|_| checks.len() < MAX_PEERS || checks.contains_key(&peer));
        let bucket = checks
            .entry(place)
            .or_insert_with(|| Bucket::new(CHECKS_PER_SECOND, CHECKS_AT_ONCE, now));
        bucket.take(now).map_err(|_| {
            self.figures.checks.count("throttled");
            Status::resource_exhausted("too many tokens to check from this address")
        })
    }
}

/// How often it is looked whether a caller is still there.
const LOOK_WHETHER_GONE: Duration = Duration::from_secs(3);

/// Completes, with what to tell it, when the pod of a caller is gone or has
/// ended: a stream that was let in must not outlive who may come in. Never for a
/// caller that showed nothing, where nobody has to.
pub async fn gone(store: &Store, admitted: Option<&Admitted>) -> Status {
    let Some(Admitted { caller, .. }) = admitted else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(LOOK_WHETHER_GONE).await;
        if workload(store, caller).is_none() {
            return Status::permission_denied(format!(
                "the pod {}/{} (uid {}) is gone",
                caller.namespace, caller.pod, caller.pod_uid
            ));
        }
    }
}

/// The Workload of a caller's pod, as it is known now: for this very pod, and
/// from its addresses.
pub fn workload(store: &Store, caller: &Caller) -> Option<Arc<Resource>> {
    let name = resource_name(&caller.namespace, &caller.pod);
    let resource = store.exact(ResourceType::Workload, &name)?;
    let owner = well_known::node_id(&caller.namespace, &caller.pod, &caller.pod_uid);
    (resource.only_for.as_deref() == Some(&*owner)).then_some(resource)
}

/// Whether a caller may speak for its pod: from an address of it, as far as those
/// are known. What is stolen of a pod is of no use elsewhere.
///
/// # Errors
/// PERMISSION_DENIED when it calls from elsewhere, or its pod is gone.
pub fn at_home(store: &Store, admitted: &Admitted) -> Result<(), Status> {
    let Caller { namespace, pod, .. } = &admitted.caller;
    let why = match workload(store, &admitted.caller) {
        None => format!("the pod {pod} is gone"),
        Some(workload) if admitted.calls_from(&workload.only_from) => return Ok(()),
        Some(_) => format!(
            "the call does not come from an address of the pod {namespace}/{pod} \
             (is its address translated on the way?)"
        ),
    };
    Err(Status::permission_denied(why))
}

fn token(headers: &HeaderMap) -> Result<&str, TokenError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(TokenError::Missing);
    };
    let value = value.to_str().map_err(|_| TokenError::Malformed)?;
    // The scheme's case does not count (RFC 9110, section 11.1).
    let (scheme, token) = value.split_once(' ').ok_or(TokenError::Missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(TokenError::Missing);
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Malformed);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tokens::key::TokenKey;

    #[test]
    fn a_token_stands_once_behind_its_scheme() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            token(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer a.b.c"]), Ok("a.b.c".to_owned()));
        assert_eq!(read(&["bearer  a"]), Ok("a".to_owned()));
        for none in [
            &[][..],
            &["Basic a"],
            &["Bearer "],
            &["a"],
            &["Bearer a", "Bearer b"],
        ] {
            assert_eq!(read(none), Err(TokenError::Missing), "{none:?}");
        }
        let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
        assert_eq!(read(&[&long]), Err(TokenError::Malformed));
    }

    #[test]
    fn an_address_that_asks_too_much_is_refused_and_others_are_not() {
        let key = TokenKey::parse(&"0".repeat(64)).unwrap();
        let (_, synced) = watch::channel(true);
        let tokens = Cache::new(Arc::new(key));
        let gate = Gate::new(
            tokens,
            Arc::default(),
            synced,
            Arc::default(),
            "remora-system",
        );
        let now = clock::now();
        let address = |number: u32| Some(IpAddr::V4(Ipv4Addr::from(number)));
        let taken = (0..1_000).filter(|_| gate.count(address(1), now).is_ok());
        assert_eq!(taken.count(), 200);
        gate.count(address(2), now).unwrap();
        gate.count(address(1), now + Duration::from_secs(1))
            .unwrap();
        // However many there are, they take no more room.
        for number in 3..9_000 {
            let _ = gate.count(address(number), now);
        }
        assert!(gate.checks.lock().unwrap().len() <= MAX_PEERS + 1);
    }

    #[test]
    fn a_caller_is_its_own_node_from_its_own_address() {
        let admitted = Admitted {
            caller: Caller::new("shop", "web", "web-1", "u").unwrap(),
            peer: Some("10.0.0.1".parse().unwrap()),
        };
        let node = |id: &str| Node::parse(id).unwrap();
        admitted.is(&node("sidecar/shop/web-1/u")).unwrap();
        for other in [
            "sidecar/shop/web-1/",
            "sidecar/shop/web-2/u",
            "sidecar/a/web-1/u",
        ] {
            let refused = admitted.is(&node(other)).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        }
        let here: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap()];
        let there: Vec<IpAddr> = vec!["10.0.0.2".parse().unwrap()];
        assert!(admitted.calls_from(&here) && admitted.calls_from(&[]));
        assert!(!admitted.calls_from(&there));
        let unknown = Admitted {
            peer: None,
            ..admitted
        };
        assert!(!unknown.calls_from(&here));
    }
}
