//! All parts, started and watched over: one that ends, ends the process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Admin};
use crate::certificate::{configuration, files, handover, secret};
use crate::metrics::Metrics;
use crate::namespaces::Namespaces;
use crate::options::Options;
use crate::readiness::Readiness;
use crate::serve::Stage;
use crate::serve::tls::Served;
use crate::settings::KubernetesVersion;
use crate::webhook::Webhook;
use crate::{serve, version};

/// How long a connection to the API server may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long parts may take to end beyond what the webhook itself may.
const END_TIMEOUT: Duration = Duration::from_secs(2);
const WEBHOOK: &str = "the webhook";

type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Runs until SIGTERM or SIGINT, against the cluster in which it is, or that
/// of the kubeconfig.
///
/// # Errors
/// When an option is wrong, an address cannot be had, no cluster is
/// configured, or a part of it ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let client = client().await?;
    let mut running = start(options, client).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = running.ended() => return ended,
    }
    running.stop().await;
    Ok(())
}

async fn client() -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer().await.context(
        "no cluster is configured (is this a pod with a service account, or is KUBECONFIG set?)",
    )?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(kube::Client::try_from(config)?)
}

/// An injector that runs. Dropping it ends it at once.
pub struct Running {
    /// Where reviews are posted.
    pub listen: SocketAddr,
    /// Where its admin endpoint is.
    pub admin: SocketAddr,
    shutdown_delay: Duration,
    stage: watch::Sender<Stage>,
    tasks: Tasks,
}

impl Running {
    /// Resolves when one of its parts ends, which none should.
    ///
    /// # Errors
    /// Always: what ended, and why.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => bail!("{name} ended"),
            Some(Ok((name, Err(error)))) => Err(error.context(format!("{name} ended"))),
            Some(Err(error)) => {
                Err(anyhow::Error::new(error).context("a part of the injector died"))
            }
            None => bail!("nothing runs"),
        }
    }

    /// Ends it so that no review is lost: `/ready` says no, reviews are still
    /// taken until every API server has heard of it, then what is in flight is
    /// answered.
    pub async fn stop(mut self) {
        tracing::info!(delay = ?self.shutdown_delay, "ending");
        self.stage.send_replace(Stage::Leaving);
        tokio::time::sleep(self.shutdown_delay).await;
        self.stage.send_replace(Stage::Ending);
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if matches!(ended, Ok((WEBHOOK, _))) {
                    break;
                }
            }
        };
        let timeout = serve::DRAIN_TIMEOUT + END_TIMEOUT;
        if tokio::time::timeout(timeout, ended).await.is_err() {
            tracing::warn!(?timeout, "the webhook did not end in time");
        }
    }
}

/// Starts an injector.
///
/// # Errors
/// When an option is wrong, or an address cannot be had.
pub async fn start(options: Options, client: kube::Client) -> anyhow::Result<Running> {
    // Wrong options end it now, not when the version is known.
    options.settings(KubernetesVersion::NATIVE_SIDECARS)?;
    let listener = bind(options.listen).await?;
    let admin_listener = bind(options.admin).await?;
    let (listen, admin) = (listener.local_addr()?, admin_listener.local_addr()?);

    let mut tasks = JoinSet::new();
    let served = Arc::new(Served::default());
    let settings = Arc::new(ArcSwapOption::empty());
    let metrics = Arc::new(Metrics::default());
    let (stage, ending) = watch::channel(Stage::Serving);
    let (namespaces, watch, known) = Namespaces::new(client.clone());
    tasks.spawn(async move { ("the watch of namespaces", watch.run().await) });
    let in_place = certificate(&mut tasks, &options, &client, &served);
    let readiness = Readiness {
        served: served.clone(),
        in_place,
        namespaces: known,
        settings: settings.clone(),
        stage: ending.clone(),
        was_ready: Arc::default(),
    };
    let webhook = Arc::new(Webhook {
        settings: settings.clone(),
        namespaces,
        metrics: metrics.clone(),
    });
    let shutdown_delay = options.shutdown_delay;
    let version = version::run(client, options, settings);
    tasks.spawn(async move { ("the watch of the version", version.await) });
    let webhook = serve::run(listener, webhook, served, ending);
    tasks.spawn(async move { (WEBHOOK, webhook.await) });
    let router = admin::router(Admin { readiness, metrics });
    tasks.spawn(async move {
        let served = axum::serve(admin_listener, router).await;
        ("the admin endpoint", served.map_err(Into::into))
    });
    tracing::info!(%listen, %admin, "the injector runs");
    Ok(Running {
        listen,
        admin,
        shutdown_delay,
        stage,
        tasks,
    })
}

/// Starts what brings the certificate; returns what is in place of it at the
/// API servers, where that is our affair.
fn certificate(
    tasks: &mut Tasks,
    options: &Options,
    client: &kube::Client,
    served: &Arc<Served>,
) -> Option<watch::Receiver<configuration::InPlace>> {
    if let Some(folder) = options.certificate.clone() {
        let files = files::run(folder, served.clone());
        tasks.spawn(async move { ("the watch of the certificate's folder", files.await) });
        return None;
    }
    let (keeper, offered) =
        secret::Keeper::new(client.clone(), &options.system_namespace, options.names());
    tasks.spawn(async move { ("the keeper of the certificate", keeper.run().await) });
    let (keeper, in_place) = configuration::Keeper::new(client.clone(), offered.clone());
    tasks.spawn(async move { ("the keeper of caBundle", keeper.run().await) });
    let handover = handover::run(served.clone(), offered, in_place.clone());
    tasks.spawn(async move { ("the handover of certificates", handover.await) });
    Some(in_place)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (is another process there?)"))
}
