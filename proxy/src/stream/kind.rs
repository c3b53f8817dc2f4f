//! The types of resources that the stream carries.

use remora_proto::well_known;

/// A type of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What the sidecar enforces for its own pod.
    Workload,
    /// A service as its callers see it.
    Service,
    /// One pod and port behind one service.
    Endpoint,
    /// Whose certificates are believed.
    TrustBundle,
}

impl Kind {
    /// All of them, in the order in which a new stream asks for them.
    pub const ALL: [Self; 4] = [
        Self::Workload,
        Self::Service,
        Self::Endpoint,
        Self::TrustBundle,
    ];

    /// Its type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Workload => well_known::WORKLOAD_TYPE,
            Self::Service => well_known::SERVICE_TYPE,
            Self::Endpoint => well_known::ENDPOINT_TYPE,
            Self::TrustBundle => well_known::TRUST_BUNDLE_TYPE,
        }
    }

    /// The type with this URL, if it is one of ours.
    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }

    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Workload => "Workload",
            Self::Service => "Service",
            Self::Endpoint => "Endpoint",
            Self::TrustBundle => "TrustBundle",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Workload => 0,
            Self::Service => 1,
            Self::Endpoint => 2,
            Self::TrustBundle => 3,
        }
    }
}

/// The glob collection that a resource belongs to: `<path>/*` for `<path>/<member>`
/// at any depth of the path. (xRFC TP1)
pub(super) fn collections_of(name: &str) -> impl Iterator<Item = String> + '_ {
    name.char_indices()
        .filter(|(_, character)| *character == '/')
        .map(|(at, _)| format!("{}/*", &name[..at]))
}

/// Whether this is the name of a glob collection.
pub(super) fn is_collection(name: &str) -> bool {
    name.ends_with("/*")
}
