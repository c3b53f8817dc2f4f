//! Keeps the CA: looks at what is written, makes one where there is none, and
//! tells the rest which one issues and whom to trust. What is wrong with what
//! is written is said, and the last good one stays.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use remora_proto::v1;
use tokio::sync::watch;

use super::authority::Authority;
use super::figures::Figures;
use super::material::Material;
use super::record::Record;
use super::rotation::{PROPAGATION_SECONDS, Rotation};
use crate::{clock, random};

/// How long at most until what is written is looked at again: time alone makes
/// a CA expire, and a former root go.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How much longer than its last leaf a former root stays: clocks differ.
const MARGIN_SECONDS: u64 = 60;

/// Which CA issues, and whom to trust.
#[derive(Debug)]
pub struct Trust {
    /// The CA that issues.
    pub issuing: Arc<Authority>,
    /// The roots.
    pub record: Record,
}

impl Trust {
    /// As sidecars are told.
    pub fn bundle(&self) -> v1::TrustBundle {
        let roots = self.record.certificates();
        v1::TrustBundle {
            trust_domain: self.issuing.trust_domain().to_owned(),
            roots: roots.iter().map(|root| root.to_vec().into()).collect(),
        }
    }
}

/// What is written as the CA.
#[derive(Debug, Default)]
pub enum Written {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// Nothing.
    Missing,
    /// This.
    Material(Material),
    /// Half of it, or nothing that may be used; in words.
    Broken(String),
}

/// What is written.
#[derive(Debug, Default)]
pub struct Seen {
    /// The CA.
    pub ca: Written,
    /// The record of roots; empty where there is none.
    pub record: String,
}

/// Why something was not written or seen.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Somebody else was first: what is written now must be looked at.
    #[error("somebody else was first")]
    Conflict,
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

/// Where a CA is kept, and the record of roots beside it.
#[tonic::async_trait]
pub trait Place: Send {
    /// What is written, as soon as it is another than before, or after so long.
    async fn look(&mut self, patience: Duration) -> Result<Seen, PlaceError>;
    /// Writes a CA where there is none.
    async fn create(&mut self, material: &Material) -> Result<(), PlaceError>;
    /// Writes the record in the place of the one last seen.
    async fn write_record(&mut self, text: &str) -> Result<(), PlaceError>;
    /// Whether a CA is to be made where there is none; else it is waited for.
    fn generates(&self) -> bool;
    /// What it is called.
    fn name(&self) -> String;
}

/// How it is kept.
pub struct Keeping {
    /// The mesh's.
    pub trust_domain: String,
    /// The longest lifetime of a leaf.
    pub lifetime_seconds: u64,
    /// Who is told.
    pub trust: watch::Sender<Option<Arc<Trust>>>,
    /// What is counted.
    pub figures: Arc<Figures>,
}

/// Keeps the CA of this place.
pub async fn keep(mut place: Box<dyn Place>, keeping: Keeping) -> Infallible {
    let mut keeper = Keeper {
        keeping,
        rotation: None,
        material: None,
        record: Record::default(),
        complaints: BTreeMap::new(),
    };
    let mut patience = Duration::ZERO;
    loop {
        patience = match place.look(patience).await {
            Ok(seen) => {
                keeper.is_right(About::Place);
                keeper
                    .step(seen, place.as_mut(), clock::unix_seconds())
                    .await
            }
            Err(error) => {
                keeper.complain(
                    About::Place,
                    format!("{} cannot be read: {error}", place.name()),
                );
                tokio::time::sleep(RETRY).await;
                LOOK_AGAIN
            }
        };
    }
}

/// What something wrong is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// Whether it can be seen at all.
    Place,
    /// What is written as the CA.
    Ca,
    /// The record of roots.
    Record,
}

impl About {
    /// In words, when nothing is wrong with it.
    fn well(self) -> &'static str {
        match self {
            Self::Place => "the place of the CA can be read",
            Self::Ca => "the CA that is written there can be taken",
            Self::Record => "the record of roots can be written",
        }
    }
}

struct Keeper {
    keeping: Keeping,
    rotation: Option<Rotation>,
    /// The last good one.
    material: Option<Material>,
    /// As it was last made, whether or not it could be written.
    record: Record,
    /// What is wrong, by what it is about.
    complaints: BTreeMap<About, String>,
}

impl Keeper {
    /// How long to wait then.
    async fn step(&mut self, seen: Seen, place: &mut dyn Place, now: u64) -> Duration {
        let mut pause = LOOK_AGAIN;
        match seen.ca {
            Written::Unknown => {}
            Written::Missing if place.generates() => {
                self.generate(place, now).await;
                pause = RETRY;
            }
            Written::Missing => self.complain(
                About::Ca,
                format!(
                    "{} is not there: it is waited for (bring a CA: tls.crt, tls.key, ca.crt)",
                    place.name()
                ),
            ),
            Written::Broken(why) => self.complain(About::Ca, format!("{}: {why}", place.name())),
            Written::Material(material) => self.take(material, place, now),
        }
        let due = self.tell(&seen.record, place, now).await;
        pause.min(Duration::from_secs(due.saturating_sub(now).max(1)))
    }

    async fn generate(&mut self, place: &mut dyn Place, now: u64) {
        let made = random::serial()
            .map_err(|error| error.to_string())
            .and_then(|serial| {
                let made = Material::generate(&self.keeping.trust_domain, serial, now);
                made.map_err(|error| error.to_string())
            });
        let written = match made {
            Ok(material) => place.create(&material).await,
            Err(error) => Err(PlaceError::Failed(error)),
        };
        match written {
            Ok(()) => tracing::info!(place = place.name(), "made a new CA"),
            Err(PlaceError::Conflict) => {
                tracing::info!(place = place.name(), "another replica made the CA");
            }
            Err(error) => self.complain(
                About::Ca,
                format!("{} cannot be made: {error}", place.name()),
            ),
        }
    }

    fn take(&mut self, material: Material, place: &dyn Place, now: u64) {
        if self.material.as_ref() == Some(&material) {
            self.is_right(About::Ca);
            return;
        }
        match Authority::read(&material, &self.keeping.trust_domain, now) {
            Ok(authority) => {
                let authority = Arc::new(authority);
                match &mut self.rotation {
                    Some(rotation) => {
                        rotation.take(authority, now);
                        tracing::info!(place = place.name(), "the CA is another now");
                    }
                    None => self.rotation = Some(Rotation::new(authority)),
                }
                self.material = Some(material);
                self.is_right(About::Ca);
            }
            Err(error) => self.complain(About::Ca, format!("{}: {error}", place.name())),
        }
    }

    /// Tells who issues and whom to trust; when something of it changes by
    /// time alone.
    async fn tell(&mut self, written: &str, place: &mut dyn Place, now: u64) -> u64 {
        let Some(rotation) = &mut self.rotation else {
            return u64::MAX;
        };
        let issuing = rotation.issuing(now).clone();
        let mut record = Record::read(written);
        // What could not be written, or was taken away, still counts.
        for root in &self.record.0 {
            if record
                .0
                .iter()
                .all(|one| one.certificate != root.certificate)
            {
                record.0.push(root.clone());
            }
        }
        let overlap = PROPAGATION_SECONDS + self.keeping.lifetime_seconds + MARGIN_SECONDS;
        let record = record.with(rotation.latest().roots(), now, overlap);
        let due = rotation.due().unwrap_or(u64::MAX);
        let due = due.min(record.next_end().unwrap_or(u64::MAX));
        self.record = record.clone();
        let text = record.text();
        let figures = &self.keeping.figures;
        figures.ca_ends.store(issuing.ends(), Ordering::Relaxed);
        let roots = u64::try_from(record.0.len()).unwrap_or(u64::MAX);
        figures.roots.store(roots, Ordering::Relaxed);
        let trust = Trust { issuing, record };
        self.keeping.trust.send_if_modified(|told| {
            let same = told.as_ref().is_some_and(|told| {
                Arc::ptr_eq(&told.issuing, &trust.issuing) && told.record == trust.record
            });
            if !same {
                *told = Some(Arc::new(trust));
            }
            !same
        });
        if text == written {
            self.is_right(About::Record);
            return due;
        }
        match place.write_record(&text).await {
            Ok(()) => {
                self.is_right(About::Record);
                due
            }
            Err(PlaceError::Conflict) => now + 1,
            Err(error) => {
                self.complain(
                    About::Record,
                    format!(
                        "the roots beside {} cannot be written: {error}",
                        place.name()
                    ),
                );
                due.min(now + 5)
            }
        }
    }

    fn is_right(&mut self, about: About) {
        if self.complaints.remove(&about).is_some() {
            tracing::info!("{} again", about.well());
        }
        self.show();
    }

    /// Once for each reason.
    fn complain(&mut self, about: About, why: String) {
        if self.complaints.get(&about) != Some(&why) {
            let stays = self.rotation.is_some();
            tracing::error!(last_good_stays = stays, "{why}");
            self.complaints.insert(about, why);
        }
        self.show();
    }

    fn show(&self) {
        let is_wrong = &self.keeping.figures.ca_is_wrong;
        is_wrong.store(!self.complaints.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
