//! The API server's version, asked at the start and then now and then: a
//! cluster is upgraded under a running injector.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::clock;
use crate::options::Options;
use crate::settings::{KubernetesVersion, Settings};
use crate::trouble::Trouble;

/// How often it is asked.
const EVERY: Duration = Duration::from_secs(600);
/// How soon after a failure.
const SOON: Duration = Duration::from_secs(2);
/// How long the answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
const CHECK: &str = "does the API server answer, and may this pod reach it (NetworkPolicy)? \
    Every service account may read /version (ClusterRole system:public-info-viewer)";

/// Keeps the settings up to the API server's version; never ends.
///
/// # Errors
/// When the options are wrong, which was checked before.
pub async fn run(
    client: kube::Client,
    options: Options,
    settings: Arc<ArcSwapOption<Settings>>,
) -> anyhow::Result<()> {
    let mut trouble = Trouble::new("read the API server's version");
    loop {
        let pause = match asked(&client).await {
            Ok(version) => {
                trouble.is_over();
                let before = settings.load().as_ref().map(|now| now.kubernetes);
                if before != Some(version) {
                    tracing::info!(%version, "the API server's version");
                    if version < KubernetesVersion::NATIVE_SIDECARS {
                        let needed = KubernetesVersion::NATIVE_SIDECARS;
                        tracing::warn!(%version, %needed, "too old: no pod gets a sidecar");
                    }
                    settings.store(Some(Arc::new(options.settings(version)?)));
                }
                EVERY
            }
            Err(error) => {
                trouble.is_there(clock::now(), &error, CHECK);
                SOON
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn asked(client: &kube::Client) -> anyhow::Result<KubernetesVersion> {
    let info = tokio::time::timeout(TIMEOUT, client.apiserver_version()).await??;
    Ok(info.git_version.parse()?)
}
