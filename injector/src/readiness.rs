//! When reviews may come: a certificate is served, API servers know it,
//! namespaces and the API server's version are known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::certificate::configuration::InPlace;
use crate::serve::Stage;
use crate::serve::tls::Served;
use crate::settings::Settings;

/// What readiness hangs on.
#[derive(Clone)]
pub struct Readiness {
    /// The certificate.
    pub served: Arc<Served>,
    /// The bundle that API servers have; `None` where that is not our affair.
    pub in_place: Option<watch::Receiver<InPlace>>,
    /// Whether the namespaces are known.
    pub namespaces: watch::Receiver<bool>,
    /// Known together with the version.
    pub settings: Arc<ArcSwapOption<Settings>>,
    /// Whether the process is ending.
    pub stage: watch::Receiver<Stage>,
    /// Whether all of it was there once.
    pub was_ready: Arc<AtomicBool>,
}

impl Readiness {
    /// Each condition, as it is now.
    pub fn conditions(&self) -> Vec<(&'static str, bool)> {
        let mut conditions = vec![("certificate", self.served.ends().is_some())];
        if let Some(in_place) = &self.in_place {
            conditions.push(("ca_bundle", in_place.borrow().is_some()));
        }
        conditions.push(("namespaces", *self.namespaces.borrow()));
        conditions.push(("kubernetes_version", self.settings.load().is_some()));
        conditions
    }

    /// Whether reviews may come. Once true, it stays so until the end: who
    /// takes `caBundle` away takes it from all replicas, and to be taken out
    /// of the Service for it would only delay the mending, by a probe's period.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self) -> Result<(), String> {
        if *self.stage.borrow() > Stage::Serving {
            return Err("ending".to_owned());
        }
        if self.was_ready.load(Relaxed) {
            return Ok(());
        }
        let conditions = self.conditions();
        let missing = conditions.iter().filter(|(_, holds)| !holds);
        let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
        if missing.is_empty() {
            self.was_ready.store(true, Relaxed);
            tracing::info!("ready");
            Ok(())
        } else {
            Err(format!("not there yet: {}", missing.join(", ")))
        }
    }
}
