//! The parts of identities, started together.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use remora_proto::spiffe::SpiffeId;
use remora_proto::v1::certificates_server::CertificatesServer;
use remora_proto::well_known::{CONTROL_PLANE, TRUST_BUNDLE};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::figures::Figures;
use super::folder::Folder;
use super::gate::Gate;
use super::keep::{self, Keeping, Place, Trust};
use super::options::Options;
use super::secret::SecretPlace;
use super::service::{self, Issuing};
use super::serving::{self, Names, Serving};
use super::tokens::Check;
use super::tokens::cache::Cache;
use super::tokens::key::TokenKey;
use super::tokens::review::Review;
use crate::Tasks;
use crate::core::store::{Resource, ResourceType, Store};
use crate::replicas::connect::Credentials;

/// What identities need of the rest.
pub struct Inputs {
    /// The flags.
    pub options: Options,
    /// The API server, in a cluster.
    pub client: Option<kube::Client>,
    /// Remora's own namespace.
    pub system_namespace: String,
    /// Addresses by which sidecars reach this process.
    pub addresses: Vec<IpAddr>,
    /// Where the pods are, and where the trust bundle goes.
    pub store: Arc<Store>,
    /// Whether the source has told all it had at the start.
    pub synced: watch::Receiver<bool>,
}

/// What the rest needs of identities.
pub struct Identity {
    /// The mesh's.
    pub trust_domain: String,
    /// Stands before every call.
    pub gate: Arc<Gate>,
    /// Does handshakes.
    pub acceptor: TlsAcceptor,
    /// Issues certificates.
    pub certificates: CertificatesServer<Issuing>,
    /// Whom to trust.
    pub trust: watch::Receiver<Option<Arc<Trust>>>,
    /// How this replica knows another one, and shows who it is; `None` without a token.
    pub towards_replicas: Option<Credentials>,
    /// What is counted.
    pub figures: Arc<Figures>,
}

/// Starts them.
///
/// # Errors
/// When the key of tokens or the folder of the CA cannot be used.
pub fn start(tasks: &mut Tasks, inputs: Inputs) -> anyhow::Result<Identity> {
    let (options, store) = (inputs.options, inputs.store);
    let check: Arc<dyn Check> = match (&options.token_key, &inputs.client) {
        (Some(path), _) => Arc::new(TokenKey::of_file(path)?),
        (None, Some(client)) => Arc::new(Review::new(client.clone())),
        (None, None) => anyhow::bail!("nothing says how tokens are checked"),
    };
    let namespace = &inputs.system_namespace;
    let place: Box<dyn Place> = match (&options.ca_dir, &options.ca_secret, &inputs.client) {
        (Some(path), _, _) => Box::new(Folder::new(path)?),
        (None, Some(name), Some(client)) => {
            Box::new(SecretPlace::new(client.clone(), namespace, name))
        }
        _ => anyhow::bail!("nothing says where the CA is"),
    };
    let figures = Arc::new(Figures::default());
    let (told, trust) = watch::channel(None);
    let keeping = Keeping {
        trust_domain: options.trust_domain.clone(),
        lifetime_seconds: options.lifetime_seconds,
        trust: told,
        figures: figures.clone(),
    };
    tasks.spawn(async move { match keep::keep(place, keeping).await {} });
    tasks.spawn(publish(trust.clone(), store.clone()));
    let id = SpiffeId::new(&options.trust_domain, namespace, CONTROL_PLANE)
        .with_context(|| format!("the namespace {namespace:?}"))?;
    let name = format!("{CONTROL_PLANE}.{namespace}.svc");
    let towards_replicas = options.own_token.map(|token| Credentials {
        token,
        trust: trust.clone(),
        name: name.clone(),
        id: id.clone(),
    });
    let names = Names {
        id,
        names: vec![
            name,
            format!("{CONTROL_PLANE}.{namespace}.svc.cluster.local"),
            format!("{CONTROL_PLANE}.{namespace}"),
            "localhost".to_owned(),
        ],
        addresses: inputs.addresses,
    };
    let serving = Arc::new(Serving::default());
    let config = serving::config(serving.clone()).context("the streams' TLS")?;
    let lifetime = options.lifetime_seconds;
    let renewing = serving::keep(serving, names, lifetime, trust.clone(), figures.clone());
    tasks.spawn(async move { match renewing.await {} });
    let tokens = Cache::new(check);
    let gate = Gate::new(
        tokens,
        store.clone(),
        inputs.synced,
        figures.clone(),
        namespace,
    );
    Ok(Identity {
        trust_domain: options.trust_domain,
        gate: Arc::new(gate),
        acceptor: TlsAcceptor::from(Arc::new(config)),
        certificates: service::service(trust.clone(), store, lifetime, figures.clone()),
        trust,
        towards_replicas,
        figures,
    })
}

/// Whom to trust, as a resource of the stream.
async fn publish(
    mut trust: watch::Receiver<Option<Arc<Trust>>>,
    store: Arc<Store>,
) -> (&'static str, anyhow::Result<()>) {
    loop {
        let bundle = trust
            .borrow_and_update()
            .as_ref()
            .map(|trust| trust.bundle());
        if let Some(bundle) = bundle {
            let kind = ResourceType::TrustBundle;
            let resource = Resource::new(kind, TRUST_BUNDLE.into(), Vec::new(), None, &bundle);
            store.set(kind, resource);
        }
        if trust.changed().await.is_err() {
            return ("the CA", Ok(()));
        }
    }
}
