//! Who is told that something changed, and for whom something did.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

use tokio::sync::Notify;

use super::{ResourceType, lock};
use crate::core::objects::Name;

/// What changed of all that one stream watches, each name once.
#[derive(Default)]
pub struct Mailbox {
    /// Whose node's; where it is not known, no variants are looked at.
    namespace: Option<Name>,
    changed: Mutex<HashSet<(ResourceType, Name)>>,
    notify: Notify,
}

impl Mailbox {
    /// That of a node of this namespace.
    pub fn of(namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.into()),
            ..Self::default()
        }
    }

    /// Resolves when something changed that [`Mailbox::take`] has not given yet.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }

    /// What changed since the last time: canonical names and aliases.
    pub fn take(&self) -> HashSet<(ResourceType, Name)> {
        std::mem::take(&mut *lock(&self.changed))
    }

    pub(super) fn put(&self, kind: ResourceType, name: &Name) {
        lock(&self.changed).insert((kind, name.clone()));
        self.notify.notify_one();
    }
}

/// For whom a resource is another one than before.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) general: bool,
    /// Those that have, or had, one of their own.
    pub(super) namespaces: BTreeMap<Name, bool>,
}

impl Changed {
    pub(super) fn everything() -> Self {
        Self {
            general: true,
            namespaces: BTreeMap::new(),
        }
    }

    pub(super) fn any(&self) -> bool {
        self.general || self.namespaces.values().any(|changed| *changed)
    }

    pub(super) fn is_for(&self, mailbox: &Mailbox) -> bool {
        let own = mailbox.namespace.as_ref();
        let own = own.and_then(|namespace| self.namespaces.get(namespace));
        own.copied().unwrap_or(self.general)
    }
}
