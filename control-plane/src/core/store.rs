//! The resources of the stream: encoded once per version, shared by all who
//! send them, and who is woken when one changes.

mod mailbox;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message;
use remora_proto::{v1, well_known};

use self::mailbox::Changed;
pub use self::mailbox::Mailbox;
use super::objects::{Id, Kind, Name};

/// The types of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// [`remora_proto::v1::Service`]
    Service,
    /// [`remora_proto::v1::Endpoint`]
    Endpoint,
    /// [`remora_proto::v1::Workload`]
    Workload,
    /// [`remora_proto::v1::TrustBundle`]
    TrustBundle,
}

impl ResourceType {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Service,
        Self::Endpoint,
        Self::Workload,
        Self::TrustBundle,
    ];

    /// Its type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Service => well_known::SERVICE_TYPE,
            Self::Endpoint => well_known::ENDPOINT_TYPE,
            Self::Workload => well_known::WORKLOAD_TYPE,
            Self::TrustBundle => well_known::TRUST_BUNDLE_TYPE,
        }
    }

    /// The type of a URL.
    pub fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.url() == url)
    }
}

/// A resource at one version.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its canonical name.
    pub name: Name,
    /// Further names by which it may be subscribed to.
    pub aliases: Vec<Name>,
    /// A hash of its content: the same after a restart.
    pub version: Name,
    /// The only node that may have it, where it is not for all: a pod's
    /// `sidecar/<namespace>/<pod>/` with its uid where that is known.
    pub only_for: Option<Name>,
    /// The addresses from which that node may ask for it, where callers are
    /// known; none: from any.
    pub only_from: Vec<IpAddr>,
    /// The TrafficPolicies that take part in it.
    pub policies: Vec<Id>,
    /// The AuthorizationPolicies that do.
    pub authorizations: Vec<Id>,
    /// A whole `envoy.service.discovery.v3.Resource`, encoded.
    pub encoded: Bytes,
}

/// `Any` and `Resource` of the published transport with shared bytes in them.
#[derive(Clone, PartialEq, Message)]
struct AnyBytes {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceBytes {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(message, optional, tag = "2")]
    resource: Option<AnyBytes>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, repeated, tag = "4")]
    aliases: Vec<String>,
}

impl Resource {
    /// Encodes a resource.
    pub fn new(
        kind: ResourceType,
        name: Name,
        aliases: Vec<Name>,
        only_for: Option<Name>,
        message: &impl Message,
    ) -> Self {
        let value = Bytes::from(message.encode_to_vec());
        let mut hasher = DefaultHasher::new();
        (&value[..], &aliases).hash(&mut hasher);
        let version = format!("{:016x}", hasher.finish());
        let whole = ResourceBytes {
            version: version.clone(),
            resource: Some(AnyBytes {
                type_url: kind.url().to_owned(),
                value,
            }),
            name: name.to_string(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
        };
        let encoded = Bytes::from(whole.encode_to_vec());
        Self {
            name,
            aliases,
            version: version.into(),
            only_for,
            only_from: Vec::new(),
            policies: Vec::new(),
            authorizations: Vec::new(),
            encoded,
        }
    }

    /// The same, for a node that asks from one of these addresses.
    pub fn from_addresses(mut self, addresses: &[IpAddr]) -> Self {
        self.only_from = addresses.iter().map(IpAddr::to_canonical).collect();
        self
    }

    /// What is in it.
    pub fn open<T: Message + Default>(&self) -> Option<T> {
        let whole = ResourceBytes::decode(self.encoded.clone()).ok()?;
        T::decode(whole.resource?.value).ok()
    }

    /// The same, with the TrafficPolicies that take part in it.
    pub fn with_policies(mut self, policies: &[v1::PolicyReference]) -> Self {
        self.policies = ids(policies);
        self
    }

    /// The same, with the AuthorizationPolicies that take part in it.
    pub fn with_authorizations(mut self, policies: &[v1::PolicyReference]) -> Self {
        self.authorizations = ids(policies);
        self
    }

    /// The policies of a kind that take part in it.
    pub fn policies_of(&self, kind: Kind) -> &[Id] {
        match kind {
            Kind::AuthorizationPolicy => &self.authorizations,
            _ => &self.policies,
        }
    }
}

fn ids(policies: &[v1::PolicyReference]) -> Vec<Id> {
    let ids = policies.iter();
    ids.map(|policy| Id::new(&policy.namespace, &policy.name))
        .collect()
}

/// The glob collection that a name is a member of: all but its last two
/// segments, as `<namespace>/<service>/<port>/<member>` has them.
pub fn collection_of(kind: ResourceType, name: &str) -> Option<&str> {
    if kind != ResourceType::Endpoint {
        return None;
    }
    let mut slashes = name.match_indices('/');
    let end = slashes.nth(1)?.0;
    slashes.next()?;
    Some(&name[..end])
}

/// The prefix of a glob collection `<namespace>/<service>/*`.
pub fn glob_prefix(kind: ResourceType, name: &str) -> Option<&str> {
    let prefix = name
        .strip_suffix("/*")
        .filter(|_| kind == ResourceType::Endpoint)?;
    (prefix.split('/').count() == 2 && !prefix.contains('*')).then_some(prefix)
}

/// By namespace; names and aliases are those of the general one.
pub type Variants = BTreeMap<Name, Arc<Resource>>;

#[derive(Default)]
struct Type {
    resources: HashMap<Name, Arc<Resource>>,
    /// Of a resource what nodes of some namespaces have in its place.
    variants: HashMap<Name, Variants>,
    /// Who bears an alias, the newest last.
    aliases: HashMap<Name, Vec<Name>>,
    /// Prefix of a collection to the names of its members.
    collections: HashMap<Name, BTreeSet<Name>>,
    /// Name, alias or prefix of a collection to who wants to know.
    watchers: HashMap<Name, Vec<Arc<Mailbox>>>,
}

/// The resources.
#[derive(Default)]
pub struct Store {
    types: [Mutex<Type>; 4],
}

impl Store {
    /// Publishes a resource; nothing happens where it is as before.
    /// Returns whether it was not.
    pub fn set(&self, kind: ResourceType, resource: Resource) -> bool {
        self.set_variants(kind, resource, BTreeMap::new())
    }

    /// Publishes a resource, and what nodes of some namespaces have in its place:
    /// of the same name and aliases. Who has what is as before is not woken.
    pub fn set_variants(
        &self,
        kind: ResourceType,
        resource: Resource,
        variants: BTreeMap<Name, Resource>,
    ) -> bool {
        let mut held = self.of(kind);
        let name = resource.name.clone();
        let before = held.resources.get(&name).cloned();
        let variants_before = held.variants.remove(&name).unwrap_or_default();
        let mut changed = Changed::default();
        let now = kept(before.as_ref(), resource);
        changed.general = before
            .as_ref()
            .is_none_or(|before| !Arc::ptr_eq(before, &now));
        let mut variants_now = Variants::new();
        for (namespace, variant) in variants {
            // Who had the general one until now had that.
            let had = variants_before.get(&namespace).or(before.as_ref());
            let variant = kept(had, variant);
            let same = had.is_some_and(|had| Arc::ptr_eq(had, &variant));
            changed.namespaces.insert(namespace.clone(), !same);
            variants_now.insert(namespace, variant);
        }
        for (namespace, had) in &variants_before {
            let entry = changed.namespaces.entry(namespace.clone());
            entry.or_insert_with(|| **had != *now);
        }
        if !variants_now.is_empty() {
            held.variants.insert(name.clone(), variants_now);
        }
        if !changed.any() {
            return false;
        }
        let aliases_before = before.map(|before| before.aliases.clone());
        let aliases_before = aliases_before.unwrap_or_default();
        held.rebind(&name, &aliases_before, &now.aliases);
        if let Some(prefix) = collection_of(kind, &name) {
            let members = held.collections.entry(prefix.into()).or_default();
            members.insert(name.clone());
        }
        let aliases = now.aliases.clone();
        held.resources.insert(name.clone(), now);
        let all = aliases.iter().chain(&aliases_before);
        held.wake(kind, &name, all, &changed);
        true
    }

    /// Takes a resource away.
    pub fn remove(&self, kind: ResourceType, name: &str) {
        let mut held = self.of(kind);
        let Some(old) = held.resources.remove(name) else {
            return;
        };
        for alias in &old.aliases {
            held.unbind(alias, name);
        }
        if let Some(prefix) = collection_of(kind, name)
            && let Some(members) = held.collections.get_mut(prefix)
        {
            members.remove(name);
            if members.is_empty() {
                held.collections.remove(prefix);
            }
        }
        held.variants.remove(name);
        held.wake(kind, &old.name, old.aliases.iter(), &Changed::everything());
    }

    /// The resource of a canonical name or an alias.
    pub fn find(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.of(kind).find(name).cloned()
    }

    /// The same, as nodes of a namespace have it.
    pub fn find_for(
        &self,
        kind: ResourceType,
        name: &str,
        namespace: &str,
    ) -> Option<Arc<Resource>> {
        let held = self.of(kind);
        let general = held.find(name)?;
        Some(held.variant(general, namespace).clone())
    }

    /// The names of a collection's members; `prefix` as [`glob_prefix`] gives it.
    pub fn members(&self, kind: ResourceType, prefix: &str) -> Vec<Name> {
        let held = self.of(kind);
        held.collections
            .get(prefix)
            .map(|members| members.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// From now on `mailbox` hears of this name, alias, or prefix of a collection.
    pub fn watch(&self, kind: ResourceType, name: &Name, mailbox: &Arc<Mailbox>) {
        let mut held = self.of(kind);
        let watchers = held.watchers.entry(name.clone()).or_default();
        if !watchers.iter().any(|known| Arc::ptr_eq(known, mailbox)) {
            watchers.push(mailbox.clone());
        }
    }

    /// The end of [`Store::watch`].
    pub fn unwatch(&self, kind: ResourceType, name: &str, mailbox: &Arc<Mailbox>) {
        let mut held = self.of(kind);
        if let Some(watchers) = held.watchers.get_mut(name) {
            watchers.retain(|known| !Arc::ptr_eq(known, mailbox));
            if watchers.is_empty() {
                held.watchers.remove(name);
            }
        }
    }

    /// The resource of a canonical name.
    pub fn exact(&self, kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
        self.of(kind).resources.get(name).cloned()
    }

    /// The resource of a canonical name, as nodes of a namespace have it.
    pub fn exact_for(
        &self,
        kind: ResourceType,
        name: &str,
        namespace: &str,
    ) -> Option<Arc<Resource>> {
        let held = self.of(kind);
        let general = held.resources.get(name)?;
        Some(held.variant(general, namespace).clone())
    }

    /// The resources in which some policy of a kind takes part, each with what
    /// nodes of some namespaces have in its place.
    pub fn with_policies(
        &self,
        kind: ResourceType,
        policies: Kind,
    ) -> Vec<(Arc<Resource>, Variants)> {
        let held = self.of(kind);
        let takes_part = |resource: &Arc<Resource>| !resource.policies_of(policies).is_empty();
        let with_variants = held.resources.values().filter_map(|resource| {
            let variants = held.variants.get(&resource.name);
            let mut all =
                std::iter::once(resource).chain(variants.into_iter().flat_map(BTreeMap::values));
            all.any(takes_part)
                .then(|| (resource.clone(), variants.cloned().unwrap_or_default()))
        });
        with_variants.collect()
    }

    /// How many resources there are of a type.
    pub fn count(&self, kind: ResourceType) -> usize {
        self.of(kind).resources.len()
    }

    fn of(&self, kind: ResourceType) -> MutexGuard<'_, Type> {
        lock(&self.types[kind as usize])
    }
}

impl Type {
    fn unbind(&mut self, alias: &str, name: &str) {
        if let Some(bearers) = self.aliases.get_mut(alias) {
            bearers.retain(|bearer| &**bearer != name);
            if bearers.is_empty() {
                self.aliases.remove(alias);
            }
        }
    }

    fn rebind(&mut self, name: &Name, before: &[Name], now: &[Name]) {
        for alias in before.iter().filter(|alias| !now.contains(alias)) {
            self.unbind(alias, name);
        }
        for alias in now.iter().filter(|alias| !before.contains(alias)) {
            let bearers = self.aliases.entry(alias.clone()).or_default();
            bearers.push(name.clone());
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<Resource>> {
        if let Some(resource) = self.resources.get(name) {
            return Some(resource);
        }
        // Of Services the first keeps an address that two claim; a pod's
        // address goes to the newest, since the older is on its way out.
        let bearers = self.aliases.get(name)?;
        let service = bearers.iter().find(|bearer| !bearer.starts_with("pod/"));
        self.resources.get(service.or(bearers.last())?)
    }

    fn variant<'a>(&'a self, general: &'a Arc<Resource>, namespace: &str) -> &'a Arc<Resource> {
        let variants = self.variants.get(&general.name);
        variants
            .and_then(|variants| variants.get(namespace))
            .unwrap_or(general)
    }

    fn wake<'a>(
        &self,
        kind: ResourceType,
        name: &Name,
        aliases: impl Iterator<Item = &'a Name>,
        changed: &Changed,
    ) {
        let wake = |key: &str, told: &Name| {
            for mailbox in self.watchers.get(key).into_iter().flatten() {
                if changed.is_for(mailbox) {
                    mailbox.put(kind, told);
                }
            }
        };
        let prefix = collection_of(kind, name);
        for key in std::iter::once(&**name).chain(prefix) {
            wake(key, name);
        }
        for alias in aliases {
            wake(alias, alias);
        }
    }
}

/// What was there, where it is the same still.
fn kept(before: Option<&Arc<Resource>>, now: Resource) -> Arc<Resource> {
    match before {
        Some(before) if **before == now => before.clone(),
        _ => Arc::new(now),
    }
}

/// A panic elsewhere leaves these maps whole, since no step of a change can
/// panic; so a poisoned lock is used on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
