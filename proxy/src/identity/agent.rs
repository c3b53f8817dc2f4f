//! The task that keeps the sidecar's certificate and follows the trust bundle.
//! Runs on the control thread; workers see each change with their next connection.

use std::sync::Arc;
use std::time::Duration;

use remora_proto::v1::certificates_client::CertificatesClient;
use remora_proto::v1::{CertificateRequest, CertificateResponse};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tonic::Code;

use super::renewal::Renewal;
use super::request::KeyAndRequest;
use super::status::{RenewalResult, Status};
use crate::clock;
use crate::random;
use crate::state::{Mesh, decode};
use crate::stream::ControlPlane;
use crate::stream::channel::ConnectError;
use crate::tls::{Context, Mutual, Own, Trust};

/// So long a certificate may take to be issued.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// A renewal that is due far ahead is looked at so often, because the system's
/// clock may jump.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the control plane does not issue a certificate: {} {:?}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the control plane did not answer within {ISSUE_TIMEOUT:?}")]
    Timeout,
    #[error("the system has no randomness for a key")]
    NoRandomness,
    #[error("the certificate that the control plane issued cannot be used: {0}")]
    Unusable(String),
}

impl RenewError {
    fn result(&self) -> RenewalResult {
        match self {
            Self::Connect(_) | Self::Timeout => RenewalResult::Unreachable,
            Self::Status(status) => match status.code() {
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
                    RenewalResult::Refused
                }
                _ => RenewalResult::Unavailable,
            },
            Self::NoRandomness | Self::Unusable(_) => RenewalResult::Unusable,
        }
    }
}

/// Keeps one sidecar's identity.
#[derive(Debug)]
pub struct Agent<'a> {
    control_plane: ControlPlane,
    namespace: String,
    trust_domain: String,
    mesh: &'a Mesh,
    tls: &'a Context,
    status: &'a Status,
    renewal: Renewal,
    streamed: watch::Receiver<Option<Arc<Trust>>>,
    own: Option<Arc<Own>>,
    trust: Option<Arc<Trust>>,
}

impl<'a> Agent<'a> {
    /// For a pod of `namespace`; asks `control_plane`.
    pub fn new(
        control_plane: ControlPlane,
        namespace: &str,
        trust_domain: &str,
        mesh: &'a Mesh,
        tls: &'a Context,
        status: &'a Status,
    ) -> Self {
        Self {
            control_plane,
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.to_owned(),
            mesh,
            tls,
            status,
            renewal: Renewal::new(clock::system_ms()),
            streamed: mesh.trust(),
            own: None,
            trust: None,
        }
    }

    /// Never ends by itself.
    pub async fn run(mut self) {
        loop {
            let due = self.renewal.due_ms();
            self.status.next_renewal(due);
            let pause = Duration::from_millis(due.saturating_sub(clock::system_ms()));
            if pause.is_zero() {
                self.renew().await;
                continue;
            }
            tokio::select! {
                // The mesh holds the sender, and we borrow the mesh.
                _ = self.streamed.changed() => self.take_streamed(),
                () = tokio::time::sleep(pause.min(LOOK_EVERY)) => {}
            }
        }
    }

    async fn renew(&mut self) {
        let issuing = self.issue();
        let issued = match tokio::time::timeout(ISSUE_TIMEOUT, issuing).await {
            Ok(issued) => issued,
            Err(_) => Err(RenewError::Timeout),
        };
        let taken = issued.and_then(|(key, answer)| self.take(key, answer));
        let now = clock::system_ms();
        match taken {
            Ok(own) => {
                self.renewal
                    .issued(now, own.not_after * 1_000, random::next());
                self.status.renewed(RenewalResult::Ok, None);
                tracing::info!(
                    id = %own.id, not_after = own.not_after, renewal_ms = self.renewal.due_ms(),
                    "a certificate was issued"
                );
            }
            Err(error) => {
                let valid = self.renewal.is_valid(now);
                self.renewal.failed(now, random::next());
                let pause_ms = self.renewal.due_ms().saturating_sub(now);
                tracing::warn!(%error, valid, pause_ms, "no new certificate; a valid one stays to its end");
                self.status.renewed(error.result(), Some(error.to_string()));
            }
        }
    }

    async fn issue(&self) -> Result<(PrivateKeyDer<'static>, CertificateResponse), RenewError> {
        let made = KeyAndRequest::new().map_err(|_| RenewError::NoRandomness)?;
        // The token first: without it the connection is of no use.
        let request = self.control_plane.request(CertificateRequest {
            signing_request: made.request.into(),
            lifetime_seconds: 0,
        })?;
        let channel = self.control_plane.clone().connect().await?;
        let mut client =
            CertificatesClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let answer = client.create_certificate(request).await;
        let answer = answer.map_err(|status| RenewError::Status(Box::new(status)))?;
        Ok((made.key, answer.into_inner()))
    }

    fn take(
        &mut self,
        key: PrivateKeyDer<'static>,
        answer: CertificateResponse,
    ) -> Result<Arc<Own>, RenewError> {
        let unusable = |what: String| RenewError::Unusable(what);
        let chain = answer.chain.iter();
        let chain = chain
            .map(|der| CertificateDer::from(der.to_vec()))
            .collect();
        let own = Own::new(chain, key).map_err(|error| unusable(error.to_string()))?;
        let id = &own.id;
        if id.trust_domain() != self.trust_domain || id.namespace() != self.namespace {
            let (domain, namespace) = (&self.trust_domain, &self.namespace);
            return Err(unusable(format!(
                "it is for {id}, not of namespace {namespace} in {domain}"
            )));
        }
        let own = Arc::new(own);
        let bundle = answer.trust_bundle;
        let answered = bundle.map(|bundle| decode::trust(&bundle, &self.trust_domain));
        let answered = answered.transpose().map_err(unusable)?.map(Arc::new);
        // The stream tells of each change; an answer is of its moment, but may
        // know a new root before the stream does.
        let connected = self.mesh.is_connected();
        let streamed = self.streamed.borrow().clone().filter(|_| connected);
        let trust = [streamed, answered, self.trust.clone()]
            .into_iter()
            .flatten()
            .find(|trust| trust.believes(own.chain()))
            .ok_or_else(|| {
                unusable("no chain leads from it to a root of the trust bundle now".to_owned())
            })?;
        self.install(Arc::clone(&own), trust)
            .map_err(|error| unusable(error.to_string()))?;
        Ok(own)
    }

    fn install(&mut self, own: Arc<Own>, trust: Arc<Trust>) -> Result<(), rustls::Error> {
        self.control_plane.believe(&trust);
        self.tls
            .set(Mutual::new(Arc::clone(&own), Arc::clone(&trust))?);
        self.own = Some(own);
        self.trust = Some(trust);
        Ok(())
    }

    /// The stream has another bundle.
    fn take_streamed(&mut self) {
        let Some(trust) = self.streamed.borrow_and_update().clone() else {
            return;
        };
        if self.trust.as_ref().is_some_and(|held| held.is_same(&trust)) {
            return;
        }
        tracing::info!(roots = trust.roots().len(), "the trust bundle has changed");
        self.control_plane.believe(&trust);
        self.trust = Some(Arc::clone(&trust));
        let Some(own) = self.own.clone() else { return };
        if !trust.believes(own.chain()) {
            tracing::warn!("the trust bundle no longer holds our certificate's root; renewing it");
            self.renewal.hurry(clock::system_ms(), random::next());
        }
        if let Err(error) = self.install(own, trust) {
            tracing::error!(%error, "the trust bundle could not be put to use");
        }
    }
}
