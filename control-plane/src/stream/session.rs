//! One stream: who is at its other end, its types, its bounds, and what it
//! watches in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use remora_proto::discovery::DeltaDiscoveryRequest;

use super::protocol::{Answer, Request, Response, TypeStream, View};
use crate::core::objects::Name;
use crate::core::store::{Mailbox, Resource, ResourceType, Store, glob_prefix};
use crate::identity::gate::Admitted;

/// Names that one stream may subscribe to, over all types.
pub const MAX_SUBSCRIPTIONS: usize = 16_384;
/// Types on one stream.
pub const MAX_TYPES: usize = 8;
/// Bytes of a name; two Kubernetes names, a port and a uid are below 600.
pub const MAX_NAME_BYTES: usize = 640;

/// Why a stream is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The node does not say who it is.
    #[error("node.id {0:?} is not sidecar/<namespace>/<pod>/<pod uid>")]
    NodeId(String),
    /// A name that no resource can have.
    #[error(
        "a resource name is empty, longer than {MAX_NAME_BYTES} bytes, or has control characters"
    )]
    Name,
    /// Too much on one stream.
    #[error("a stream may subscribe to at most {MAX_SUBSCRIPTIONS} names")]
    TooManySubscriptions,
    /// Too many types on one stream.
    #[error("a stream may carry at most {MAX_TYPES} types")]
    TooManyTypes,
}

/// A sidecar, as it names itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// The pod's uid; may be empty where pods have none.
    pub pod_uid: String,
}

impl Node {
    /// From `sidecar/<namespace>/<pod>/<pod uid>`.
    ///
    /// # Errors
    /// When it is not of that form.
    pub fn parse(id: &str) -> Result<Self, Violation> {
        let refused = || Violation::NodeId(id.chars().take(200).collect());
        let mut parts = id.split('/');
        let parts = [
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ];
        let [Some("sidecar"), Some(namespace), Some(pod), Some(uid), None] = parts else {
            return Err(refused());
        };
        let plain = |part: &str| {
            part.len() <= 253
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        if namespace.is_empty() || pod.is_empty() || ![namespace, pod, uid].into_iter().all(plain) {
            return Err(refused());
        }
        Ok(Self {
            namespace: namespace.into(),
            pod: pod.into(),
            pod_uid: uid.into(),
        })
    }

    /// Whether a resource that is for one node only is for this one. Where
    /// either side has no uid, namespace and name decide.
    pub(crate) fn is(&self, only_for: &str) -> bool {
        let Ok(owner) = Self::parse(only_for) else {
            return false;
        };
        let same_uid = owner.pod_uid == self.pod_uid;
        owner.namespace == self.namespace
            && owner.pod == self.pod
            && (same_uid || owner.pod_uid.is_empty() || self.pod_uid.is_empty())
    }
}

/// No resource has such a name.
#[allow(clippy::ptr_arg)] // stands where an iterator gives `&String`
fn hostile(name: &String) -> bool {
    name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control)
}

/// What one node may see of one type.
struct NodeView<'a> {
    store: &'a Store,
    kind: Option<ResourceType>,
    node: &'a Node,
    /// As its token says, where callers are known.
    admitted: Option<&'a Admitted>,
}

impl NodeView<'_> {
    /// What is for one node is for that one, and where callers are known from
    /// its own address alone.
    fn may_have(&self, resource: &Resource) -> bool {
        let Some(owner) = &resource.only_for else {
            return true;
        };
        match self.admitted {
            None => self.node.is(owner),
            Some(admitted) => {
                let is_owner = Node::parse(owner).as_ref() == Ok(self.node);
                is_owner && admitted.calls_from(&resource.only_from)
            }
        }
    }
}

impl View for NodeView<'_> {
    fn find(&self, name: &str) -> Option<Arc<Resource>> {
        let namespace = &self.node.namespace;
        let resource = self.store.find_for(self.kind?, name, namespace)?;
        self.may_have(&resource).then_some(resource)
    }

    fn members(&self, prefix: &str) -> Vec<Name> {
        self.kind
            .map(|kind| self.store.members(kind, prefix))
            .unwrap_or_default()
    }
}

/// One stream.
pub struct Session {
    store: Arc<Store>,
    node: Node,
    admitted: Option<Admitted>,
    mailbox: Arc<Mailbox>,
    types: BTreeMap<String, TypeStream>,
    watched: BTreeSet<(ResourceType, Name)>,
}

impl Session {
    /// A stream of this node, whose token says that it is it where callers are
    /// known.
    pub fn new(store: Arc<Store>, node: Node, admitted: Option<Admitted>) -> Self {
        Self {
            store,
            mailbox: Arc::new(Mailbox::of(&node.namespace)),
            node,
            admitted,
            types: BTreeMap::new(),
            watched: BTreeSet::new(),
        }
    }

    /// Who is at the other end.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Where changes are announced.
    pub fn mailbox(&self) -> Arc<Mailbox> {
        self.mailbox.clone()
    }

    /// Takes a request.
    ///
    /// # Errors
    /// When it breaks a bound: the stream is to be closed.
    pub fn request(&mut self, request: DeltaDiscoveryRequest) -> Result<Answer, Violation> {
        let url = request.type_url;
        let kind = ResourceType::from_url(&url);
        let subscribed = request.resource_names_subscribe.iter();
        if subscribed
            .chain(&request.resource_names_unsubscribe)
            .any(hostile)
            || hostile(&url)
        {
            return Err(Violation::Name);
        }
        if !self.types.contains_key(&url) && self.types.len() == MAX_TYPES {
            return Err(Violation::TooManyTypes);
        }
        let held: usize = self
            .types
            .values()
            .map(TypeStream::subscription_count)
            .sum();
        if held + request.resource_names_subscribe.len() > MAX_SUBSCRIPTIONS {
            return Err(Violation::TooManySubscriptions);
        }
        let read = Request {
            subscribe: request
                .resource_names_subscribe
                .into_iter()
                .map(Name::from)
                .collect(),
            unsubscribe: request
                .resource_names_unsubscribe
                .into_iter()
                .map(Name::from)
                .collect(),
            initial_versions: request.initial_resource_versions,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
        };
        // Unwatched before and watched before the store is read: a change in
        // between is then announced, at worst for nothing.
        if let Some(kind) = kind {
            for name in &read.unsubscribe {
                self.unwatch(kind, name);
            }
            for name in &read.subscribe {
                self.watch(kind, name);
            }
        }
        let view = NodeView {
            store: &self.store,
            kind,
            node: &self.node,
            admitted: self.admitted.as_ref(),
        };
        let stream = self
            .types
            .entry(url)
            .or_insert_with(|| TypeStream::new(kind));
        Ok(stream.request(&view, read))
    }

    /// What to send now: of each type at most one response.
    pub fn responses(&mut self) -> Vec<(String, Response)> {
        let changed = self.mailbox.take();
        let mut responses = Vec::new();
        for (url, stream) in &mut self.types {
            let kind = ResourceType::from_url(url);
            for (_, name) in changed.iter().filter(|(of, _)| Some(*of) == kind) {
                stream.touch(name);
            }
            let view = NodeView {
                store: &self.store,
                kind,
                node: &self.node,
                admitted: self.admitted.as_ref(),
            };
            responses.extend(stream.next(&view).map(|response| (url.clone(), response)));
        }
        responses
    }

    fn watch(&mut self, kind: ResourceType, name: &Name) {
        let key: Name = glob_prefix(kind, name).map_or_else(|| name.clone(), Name::from);
        self.store.watch(kind, &key, &self.mailbox);
        self.watched.insert((kind, key));
    }

    fn unwatch(&mut self, kind: ResourceType, name: &Name) {
        let key: Name = glob_prefix(kind, name).map_or_else(|| name.clone(), Name::from);
        self.store.unwatch(kind, &key, &self.mailbox);
        self.watched.remove(&(kind, key));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for (kind, name) in std::mem::take(&mut self.watched) {
            self.store.unwatch(kind, &name, &self.mailbox);
        }
    }
}
