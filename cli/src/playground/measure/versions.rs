//! How long a change takes to be in force, by what sidecars show in `/config`: of a
//! route until every one that has the Service has another version of it
//! ([`Versions`]), of policies until nothing changes any more ([`Applied`]).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::client::Client;
use super::propagation::{Config, LOST_AFTER};
use crate::playground::clock;

/// How often a sidecar is asked while a change is on its way.
const ASK_EVERY: Duration = Duration::from_millis(3);
/// After the last change so long nothing has to change for all to be in force.
const QUIET: Duration = Duration::from_millis(150);

/// Which version of a Service each sidecar has that has it at all.
#[derive(Debug)]
pub struct Versions {
    service: String,
    sidecars: Vec<(Client, String)>,
}

impl Versions {
    /// Asks all sidecars; one that does not answer, or calls others, takes no part.
    pub async fn ask(sidecars: Vec<(String, SocketAddr)>, service: &str) -> Self {
        let asked = sidecars.into_iter().map(|(_, admin)| async move {
            let mut client = Client::new(admin);
            let config: Config = client.json("/config").await.ok()?;
            let version = version_of(&config, service)?;
            Some((client, version))
        });
        Self {
            service: service.to_owned(),
            sidecars: join_all(asked).await.into_iter().flatten().collect(),
        }
    }

    /// Waits until all of them have another; `None` where none has it, or one
    /// did not get another in time.
    pub async fn until_changed(self, changed_at: Instant) -> Option<Duration> {
        let service = self.service.as_str();
        let all = self
            .sidecars
            .into_iter()
            .map(|(client, version)| until_other(client, service, version, changed_at));
        let took: Option<Vec<Duration>> = join_all(all).await.into_iter().collect();
        took?.into_iter().max()
    }
}

/// What some sidecars have, each with the versions of it.
#[derive(Debug)]
pub struct Applied {
    sidecars: Vec<(Client, Vec<String>)>,
}

impl Applied {
    /// Asks them; one that does not answer takes no part.
    pub async fn ask(sidecars: Vec<SocketAddr>) -> Self {
        let asked = sidecars.into_iter().map(|admin| async move {
            let mut client = Client::new(admin);
            let applied = versions(&mut client).await?;
            Some((client, applied))
        });
        Self {
            sidecars: join_all(asked).await.into_iter().flatten().collect(),
        }
    }

    /// Waits until one of them has something else, and then none something new; how
    /// long the last change took. `None` where nothing came in time.
    pub async fn until_changed(mut self, changed_at: Instant) -> Option<Duration> {
        let mut last = None;
        loop {
            for (client, before) in &mut self.sidecars {
                if let Some(now) = versions(client).await
                    && now != *before
                {
                    *before = now;
                    last = Some(clock::now());
                }
            }
            let now = clock::now();
            match last {
                Some(last) if now.saturating_duration_since(last) >= QUIET => {
                    return Some(last.saturating_duration_since(changed_at));
                }
                None if now.saturating_duration_since(changed_at) > LOST_AFTER => return None,
                _ => tokio::time::sleep(ASK_EVERY).await,
            }
        }
    }
}

async fn versions(client: &mut Client) -> Option<Vec<String>> {
    let config: Config = client.json("/config").await.ok()?;
    let applied = config.applied.iter();
    let mut versions: Vec<_> = applied
        .filter(|one| matches!(one.kind.as_str(), "Service" | "Workload"))
        .map(|one| format!("{} {} {}", one.kind, one.name, one.version))
        .collect();
    versions.sort();
    Some(versions)
}

fn version_of(config: &Config, service: &str) -> Option<String> {
    let mut applied = config.applied.iter();
    let found = applied.find(|one| one.kind == "Service" && one.name == service);
    found.map(|one| one.version.clone())
}

async fn until_other(
    mut client: Client,
    service: &str,
    before: String,
    changed_at: Instant,
) -> Option<Duration> {
    loop {
        let config: Result<Config, _> = client.json("/config").await;
        let took = clock::now().saturating_duration_since(changed_at);
        let has_other =
            |config: &Config| version_of(config, service).is_some_and(|now| now != before);
        if config.is_ok_and(|config| has_other(&config)) {
            return Some(took);
        }
        if took > LOST_AFTER {
            return None;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_told_from_other_resources_of_its_name() {
        let config: Config = serde_json::from_value(serde_json::json!({"applied": [
            {"type": "Workload", "name": "shop/payment", "version": "1"},
            {"type": "Service", "name": "shop/payment", "version": "7"},
        ]}))
        .unwrap();
        assert_eq!(version_of(&config, "shop/payment").as_deref(), Some("7"));
        assert_eq!(version_of(&config, "shop/cart"), None);
    }
}
