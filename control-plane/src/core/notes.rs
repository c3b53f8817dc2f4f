//! What is to be known of objects that are right in themselves: what shows
//! only between them, or only when one knows what Remora does with them.

use std::collections::HashMap;
use std::net::IpAddr;

use remora_proto::well_known::{self, WEIGHT};

use super::Note;
use super::index::Index;
use super::objects::{Id, Key, Kind, Pod, Reach, Weight};

impl Index {
    /// What is to be known of objects that are right in themselves.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for service in self.services.values() {
            if service.reach == Reach::ExternalName {
                notes.push(Note {
                    key: Key {
                        kind: Kind::Service,
                        id: service.id.clone(),
                    },
                    field: "spec.externalName".to_owned(),
                    message: "an ExternalName Service has no address of its own; \
                              calls to it are relayed untouched and no policy applies"
                        .to_owned(),
                    information: true,
                });
            }
        }
        notes.extend(self.shared_addresses());
        notes.extend(self.without_identities());
        notes.extend(self.wrong_weights());
        let unowned = self.slices.values().filter(|slice| slice.service.is_none());
        let mut unowned: Vec<&Id> = unowned.map(|slice| &slice.id).collect();
        unowned.sort();
        notes.extend(unowned.into_iter().map(|id| Note {
            key: Key {
                kind: Kind::EndpointSlice,
                id: id.clone(),
            },
            field: "metadata.labels".to_owned(),
            message:
                "has no label kubernetes.io/service-name and so belongs to no Service".to_owned(),
            information: false,
        }));
        notes
    }

    /// Weights of pods that are none, and count as 1.
    fn wrong_weights(&self) -> impl Iterator<Item = Note> {
        self.pods.values().filter_map(|pod| {
            let Weight::Wrong(text) = &pod.weight else {
                return None;
            };
            Some(Note {
                key: Key {
                    kind: Kind::Pod,
                    id: pod.id.clone(),
                },
                field: format!("metadata.annotations.{WEIGHT}"),
                message: format!("is {text:?}, must be a number from 1 to 1000; it counts as 1"),
                information: false,
            })
        })
    }

    /// What can have no effect, or a bad one, for want of identities.
    fn without_identities(&self) -> Vec<Note> {
        let Some(trust_domain) = &self.trust_domain else {
            let mut policies: Vec<&Id> = self.policies.with_mtls().collect();
            policies.sort();
            let note = |id: &Id| Note {
                key: Key {
                    kind: Kind::TrafficPolicy,
                    id: id.clone(),
                },
                field: "spec.mtls".to_owned(),
                message: "there are no identities: the control plane runs without a CA \
                          (--ca-secret, or --ca-dir)"
                    .to_owned(),
                information: false,
            };
            return policies.into_iter().map(note).collect();
        };
        let other = |pod: &&Pod| {
            let said = pod.trust_domain.as_ref().filter(|_| pod.sidecar);
            said.is_some_and(|said| said != trust_domain)
        };
        let note = |pod: &Pod| Note {
            key: Key {
                kind: Kind::Pod,
                id: pod.id.clone(),
            },
            field: format!("metadata.annotations.{}", well_known::IDENTITY),
            message: format!(
                "its sidecar is of the trust domain {}, the control plane issues for \
                 {trust_domain}: its calls fail until it is made anew (is --trust-domain the \
                 same for injector and control plane?)",
                pod.trust_domain.as_deref().unwrap_or_default()
            ),
            information: false,
        };
        self.pods.values().filter(other).map(note).collect()
    }

    /// Cluster IPs that several Services claim, or that are a pod's: an API
    /// server would not allow it.
    fn shared_addresses(&self) -> Vec<Note> {
        let mut claimed: HashMap<IpAddr, &Id> = HashMap::new();
        let mut notes = Vec::new();
        let services = self.services.values().collect();
        for service in self.by_age(services) {
            let Reach::ClusterIp(addresses) = &service.reach else {
                continue;
            };
            for address in addresses {
                let first = *claimed.entry(*address).or_insert(&service.id);
                if *first != service.id {
                    notes.push(Note {
                        key: Key {
                            kind: Kind::Service,
                            id: service.id.clone(),
                        },
                        field: "spec.clusterIP".to_owned(),
                        message: format!(
                            "{address} is the address of Service {first} already, which keeps it"
                        ),
                        information: false,
                    });
                }
            }
        }
        // Nor this: the Service captures what is meant for the pod.
        for pod in self.pods.values() {
            let shared = pod.addresses.iter().filter_map(|address| {
                let service = claimed.get(address)?;
                Some((address, *service))
            });
            notes.extend(shared.map(|(address, service)| Note {
                key: Key {
                    kind: Kind::Service,
                    id: service.clone(),
                },
                field: "spec.clusterIP".to_owned(),
                message: format!(
                    "{address} is the address of Pod {} too: calls to that pod go to this Service",
                    pod.id
                ),
                information: false,
            }));
        }
        notes
    }

    /// Running pods without a sidecar, though their Namespace asks for one and
    /// they do not decline it: made before the Namespace was labelled, or while
    /// the injector was away.
    pub fn without_sidecar(&self) -> impl Iterator<Item = &Pod> {
        let never = |name: &str| {
            well_known::NEVER_INJECTED.contains(&name) || name == well_known::SYSTEM_NAMESPACE
        };
        let asked = move |pod: &&Pod| {
            let namespace = &pod.id.namespace;
            self.inject.get(namespace) == Some(&true) && !never(namespace)
        };
        let pods = self.pods.values().filter(asked);
        pods.filter(|pod| pod.running && !pod.draining && !pod.sidecar && !pod.declines_sidecar)
    }
}
