//! The Certificates service: a certificate for the pod whose token the call
//! carries, and for nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use remora_proto::spiffe::SpiffeId;
use remora_proto::v1;
use remora_proto::v1::certificates_server::{Certificates, CertificatesServer};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::figures::Figures;
use super::gate::{self, Admitted};
use super::issue::{IssueError, Leaf, MAX_REQUEST_BYTES, requested_key};
use super::keep::Trust;
use super::tokens::Caller;
use crate::bucket::Bucket;
use crate::core::store::Store;
use crate::{clock, random};

/// Certificates of one pod: one for each renewal, and some for sidecars that
/// start again and again.
const PER_SECOND: f64 = 0.2;
const AT_ONCE: f64 = 10.0;
/// Pods whose requests are counted; the rest shares one count.
const MAX_PODS: usize = 50_000;
/// Lines of the log about calls with a pod's token from elsewhere; all of them
/// are counted.
const TOLD_PER_SECOND: f64 = 1.0;
const TOLD_AT_ONCE: f64 = 10.0;
/// The shortest lifetime that is given.
pub const MIN_LIFETIME_SECONDS: u64 = 60;
/// Bytes of a call: the request, and some for its frame.
const MAX_CALL_BYTES: usize = MAX_REQUEST_BYTES + 1_024;

/// The service.
pub struct Issuing {
    trust: watch::Receiver<Option<Arc<Trust>>>,
    store: Arc<Store>,
    lifetime_seconds: u64,
    counted: Mutex<HashMap<String, Bucket>>,
    /// Of calls from elsewhere than the pod, so many are told.
    told: Mutex<Bucket>,
    figures: Arc<Figures>,
}

/// The service, which issues for so long at most.
pub fn service(
    trust: watch::Receiver<Option<Arc<Trust>>>,
    store: Arc<Store>,
    lifetime_seconds: u64,
    figures: Arc<Figures>,
) -> CertificatesServer<Issuing> {
    let issuing = Issuing {
        trust,
        store,
        lifetime_seconds,
        counted: Mutex::default(),
        told: Mutex::new(Bucket::new(TOLD_PER_SECOND, TOLD_AT_ONCE, clock::now())),
        figures,
    };
    CertificatesServer::new(issuing).max_decoding_message_size(MAX_CALL_BYTES)
}

/// Why nothing was issued: for metrics, and for the caller.
type Refusal = (&'static str, Status);

impl Issuing {
    fn issue(
        &self,
        admitted: &Admitted,
        request: &v1::CertificateRequest,
    ) -> Result<v1::CertificateResponse, Refusal> {
        let caller = &admitted.caller;
        self.is_at_home(admitted)?;
        self.count(caller, clock::now())?;
        let key = requested_key(&request.signing_request)
            .map_err(|error| ("invalid", Status::invalid_argument(error.to_string())))?;
        let Some(trust) = self.trust.borrow().clone() else {
            return Err(("unavailable", Status::unavailable("there is no CA yet")));
        };
        let trust_domain = trust.issuing.trust_domain();
        let id = SpiffeId::new(trust_domain, &caller.namespace, &caller.service_account);
        let id = id.map_err(|error| ("failed", Status::internal(error.to_string())))?;
        let serial =
            random::serial().map_err(|error| ("failed", Status::internal(error.to_string())))?;
        let leaf = Leaf::new(&id, self.lifetime_of(request.lifetime_seconds));
        let now = clock::unix_seconds();
        let issued = trust.issuing.issue(&key, &leaf, serial, now);
        let issued = issued.map_err(|error| match error {
            IssueError::Expired => ("unavailable", Status::unavailable(error.to_string())),
            _ => ("failed", Status::internal(error.to_string())),
        })?;
        let serial: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        let (pod, ends) = (&caller.pod, issued.life.ends);
        tracing::info!(%id, pod, serial, ends, "issued a certificate");
        Ok(v1::CertificateResponse {
            chain: issued.chain.iter().map(|one| one.to_vec().into()).collect(),
            trust_bundle: Some(trust.bundle()),
        })
    }

    /// A stolen token is of no use elsewhere than in the pod.
    fn is_at_home(&self, admitted: &Admitted) -> Result<(), Refusal> {
        let Err(denied) = gate::at_home(&self.store, admitted) else {
            return Ok(());
        };
        let caller = &admitted.caller;
        if gate::workload(&self.store, caller).is_some() {
            let (namespace, pod, peer) = (&caller.namespace, &caller.pod, admitted.peer);
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.take(clock::now()).is_ok() {
                tracing::warn!(
                    namespace,
                    pod,
                    ?peer,
                    "a token is used from outside of its pod"
                );
            }
        }
        Err(("denied", denied))
    }

    fn lifetime_of(&self, wanted_seconds: u64) -> u64 {
        match wanted_seconds {
            0 => self.lifetime_seconds,
            wanted => wanted.max(MIN_LIFETIME_SECONDS).min(self.lifetime_seconds),
        }
    }

    fn count(&self, caller: &Caller, now: Instant) -> Result<(), Refusal> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.len() >= MAX_PODS && !counted.contains_key(&caller.pod_uid) {
            counted.retain(|_, bucket| !bucket.is_full(now));
        }
        let is_full = counted.len() >= MAX_PODS && !counted.contains_key(&caller.pod_uid);
        let place = if is_full { "" } else { &caller.pod_uid };
        let bucket = counted
            .entry(place.to_owned())
            .or_insert_with(|| Bucket::new(PER_SECOND, AT_ONCE, now));
        bucket.take(now).map_err(|_| {
            let why = "this pod asks for certificates too often";
            ("throttled", Status::resource_exhausted(why))
        })
    }
}

#[tonic::async_trait]
impl Certificates for Issuing {
    async fn create_certificate(
        &self,
        request: Request<v1::CertificateRequest>,
    ) -> Result<Response<v1::CertificateResponse>, Status> {
        let admitted = request.extensions().get::<Admitted>().cloned();
        let Some(admitted) = admitted else {
            return Err(Status::unauthenticated("the call carries no token"));
        };
        match self.issue(&admitted, request.get_ref()) {
            Ok(response) => {
                self.figures.issued.count("issued");
                Ok(Response::new(response))
            }
            Err((word, status)) => {
                self.figures.issued.count(word);
                let (caller, why) = (&admitted.caller, status.message());
                let (namespace, pod) = (&caller.namespace, &caller.pod);
                tracing::debug!(namespace, pod, why, "no certificate");
                Err(status)
            }
        }
    }
}
