//! What is said of every route: it is found Service by Service, and put together
//! route by route.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::RouteId;
use super::held::Routes;
use super::verdict::{ParentVerdict, RouteVerdict};
use crate::core::objects::Id;

/// What is said of each route.
pub type Verdicts = BTreeMap<RouteId, Arc<RouteVerdict>>;

/// What is said of routes.
#[derive(Default)]
pub struct Judged {
    /// For each Service, whether it is there or not.
    of_services: BTreeMap<Id, BTreeMap<RouteId, Vec<ParentVerdict>>>,
    verdicts: Arc<Verdicts>,
}

impl Judged {
    /// What is said of every route.
    pub fn verdicts(&self) -> Arc<Verdicts> {
        self.verdicts.clone()
    }

    /// Takes what is said of the routes of a Service; of which routes something
    /// may be said anew.
    pub fn take(
        &mut self,
        service: &Id,
        said: BTreeMap<RouteId, Vec<ParentVerdict>>,
    ) -> BTreeSet<RouteId> {
        let mut judged: BTreeSet<RouteId> = said.keys().cloned().collect();
        let before = if said.is_empty() {
            self.of_services.remove(service)
        } else {
            self.of_services.insert(service.clone(), said)
        };
        judged.extend(before.into_iter().flat_map(BTreeMap::into_keys));
        judged
    }

    /// Puts together anew what is said of these routes.
    pub fn judge(&mut self, held: &Routes, routes: BTreeSet<RouteId>) {
        for id in routes {
            let verdict = self.verdict(held, &id);
            if self.verdicts.get(&id) == verdict.as_ref() {
                continue;
            }
            let verdicts = Arc::make_mut(&mut self.verdicts);
            match verdict {
                Some(verdict) => verdicts.insert(id, verdict),
                None => verdicts.remove(&id),
            };
        }
    }

    fn verdict(&self, held: &Routes, id: &RouteId) -> Option<Arc<RouteVerdict>> {
        let route = held.find(id)?;
        let mut parents = Vec::new();
        for parent in &route.says.parents {
            let of_service = self.of_services.get(&parent.service(&id.id.namespace));
            let said = of_service.and_then(|routes| routes.get(id));
            let said = said.into_iter().flatten();
            parents.extend(said.filter(|said| said.parent == *parent).cloned());
        }
        Some(Arc::new(RouteVerdict {
            route: id.clone(),
            generation: route.generation,
            parents,
        }))
    }
}
