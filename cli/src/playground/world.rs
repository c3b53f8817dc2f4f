//! The stage's cluster: what the user's folder asks for, made to be.
//!
//! Owns the pods and the files that the control plane reads; does not own time,
//! measuring or what is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use remora_proto::well_known::ADMIN_PORT;
use serde_json::Value;
use tokio::sync::mpsc;

use super::clock;
use super::cluster::catalogue::{Catalogue, Key, Problem};
use super::cluster::container::{Surroundings, has_sidecar};
use super::cluster::controller::{Existing, Step, steps, template_of};
use super::cluster::endpoints::{Standing, slices};
use super::cluster::generated::{ClusterIps, Generated, hosts};
use super::cluster::kubelet::{self, Happening, Order, PodEvent};
use super::cluster::pods::{self, Injection};
use super::cluster::staging::Mirror;
use super::identity::Identities;
use super::measure::client::Place;
use super::member::{Member, State, order_port};
use super::options::{Isolation, Plan};
use super::stage::network::{GATEWAY_ADDRESS, Network, pod_address, pod_address_v6};
use super::trials::SHOPPER;

/// The application label of the pods that make the load: they start last, so
/// that nothing fails for want of a stage.
const LOAD: &str = "visitor";
/// And those that only pay.
const BUYER: &str = "buyer";
/// More pods have no address.
const MOST_PODS: u8 = 250;

/// The cluster.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    network: Option<Network>,
    mirror: Mirror,
    catalogue: Catalogue,
    generated: Generated,
    ips: ClusterIps,
    control_plane: String,
    identities: Identities,
    pods: BTreeMap<String, Member>,
    events: mpsc::Sender<PodEvent>,
    load_may_start: bool,
    warnings: Vec<String>,
}

impl World {
    /// An empty cluster; pods' happenings go to `events`.
    ///
    /// # Errors
    /// When the network or the folders cannot be made.
    pub async fn create(
        plan: &Plan,
        control_plane: SocketAddr,
        events: mpsc::Sender<PodEvent>,
    ) -> anyhow::Result<Self> {
        let network = match plan.isolation {
            Isolation::Netns => Some(Network::create().await?),
            Isolation::Loopback => None,
        };
        let stage = plan.stage();
        fs::create_dir_all(stage.join("logs"))?;
        Ok(Self {
            network,
            mirror: Mirror::new(&plan.manifests, &stage.join("user"))?,
            catalogue: Catalogue::default(),
            generated: Generated::new(&stage.join("generated"))?,
            ips: ClusterIps::default(),
            control_plane: format!("https://{control_plane}"),
            identities: Identities::make(&stage)?,
            pods: BTreeMap::new(),
            events,
            load_may_start: false,
            warnings: Vec::new(),
            plan: plan.clone(),
        })
    }

    /// The pods by name.
    pub fn pods(&self) -> &BTreeMap<String, Member> {
        &self.pods
    }

    /// The policies of the user's folder.
    pub fn policies(&self) -> BTreeMap<Key, Value> {
        self.catalogue.policies()
    }

    /// What the playground itself finds wrong in the user's folder.
    pub fn problems(&self) -> Vec<Problem> {
        self.catalogue.problems()
    }

    /// The namespace with the most Deployments.
    pub fn main_namespace(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (namespace, _) in self.catalogue.deployments().into_keys() {
            *counts.entry(namespace).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or_else(|| "default".to_owned(), |(namespace, _)| namespace)
    }

    /// Brings everything in step with the user's folder; whether it had changed.
    ///
    /// # Errors
    /// When the folder cannot be read or our own not be written.
    pub async fn sync(&mut self) -> anyhow::Result<bool> {
        let folder = self.plan.manifests.display().to_string();
        let changes = self
            .mirror
            .sync()
            .with_context(|| format!("cannot follow {folder}"))?;
        if changes.is_empty() {
            return Ok(false);
        }
        self.catalogue.update(self.mirror.texts());
        let services: Vec<_> = self
            .catalogue
            .services()
            .iter()
            .map(|(key, service)| self.ips.fill(key, service))
            .collect();
        let objects: Result<Vec<Value>, _> = services.iter().map(serde_json::to_value).collect();
        self.generated.replace_kind("Service", &objects?)?;
        if self.network.is_some() {
            // In place, not renamed: the file is mounted over /etc/hosts.
            fs::write(self.plan.stage().join("hosts"), hosts(&services))?;
        }
        self.reconcile().await?;
        Ok(true)
    }

    /// Takes a policy out of the user's copy, to be written by [`Self::write_policy`].
    ///
    /// # Errors
    /// When the copy cannot be written.
    pub fn take_over(&mut self, policy: &Key) -> anyhow::Result<()> {
        Ok(self.mirror.take_over(policy)?)
    }

    /// Writes a policy of our own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_policy(&mut self, policy: &Value) -> anyhow::Result<()> {
        Ok(self.generated.write(policy)?)
    }

    /// Lets the load start: everything else is ready.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub async fn start_load(&mut self) -> anyhow::Result<()> {
        self.load_may_start = true;
        self.reconcile().await
    }

    /// Makes and removes pods as the Deployments ask for, and lists them.
    async fn reconcile(&mut self) -> anyhow::Result<()> {
        let mut wanted = self.catalogue.deployments();
        wanted.retain(|key, _| self.load_may_start || !is_load(key));
        for step in steps(&wanted, &self.existing()) {
            match step {
                Step::Make { deployment, name } => self
                    .make(&deployment, &name)
                    .await
                    .with_context(|| format!("pod {name}"))?,
                Step::Remove(name) => self.remove(&name)?,
            }
        }
        self.list_endpoints()
    }

    fn existing(&self) -> Vec<Existing> {
        let existing = self.pods.iter().map(|(name, member)| Existing {
            name: name.clone(),
            deployment: member.deployment.clone(),
            template: member.template.clone(),
            is_ready: matches!(member.state, State::Ready | State::Killed),
            is_leaving: member.state == State::Leaving,
        });
        existing.collect()
    }

    async fn make(&mut self, deployment: &Key, name: &str) -> anyhow::Result<()> {
        let Some(asked) = self.catalogue.deployments().remove(deployment) else {
            return Ok(());
        };
        let namespace = self.catalogue.namespace(&deployment.0);
        let injection = Injection::new(&self.control_plane, self.network.is_some());
        let (mut pod, warnings) = pods::make(&asked, deployment, name, &namespace, &injection)?;
        self.warnings.extend(
            warnings
                .into_iter()
                .map(|warning| format!("{name}: {warning}")),
        );
        let number = self.free_number()?;
        let (addresses, application, host) = self.addresses(number);
        pods::place(&mut pod, &addresses, host);
        let inside: Option<Arc<OwnedFd>> = match &self.network {
            Some(network) => Some(Arc::new(network.add_pod(number).await?)),
            None => None,
        };
        // The control plane knows the pod before its sidecar asks.
        self.generated.write(&pods::object(&pod, None)?)?;
        let pod = Arc::new(pod);
        let around = Surroundings {
            pod: Arc::clone(&pod),
            namespace: inside.clone(),
            address: addresses[0],
            application_address: application,
            logs: self.plan.stage().join("logs"),
            identity: self.identities.provide(&pod)?,
        };
        let member = Member {
            admin: has_sidecar(&pod).then(|| SocketAddr::new(addresses[0], ADMIN_PORT)),
            application: order_port(&pod).map(|port| Place {
                address: match &inside {
                    Some(_) => (Ipv4Addr::LOCALHOST, port).into(),
                    None if has_sidecar(&pod) => SocketAddr::new(application, port),
                    None => SocketAddr::new(addresses[0], port),
                },
                inside,
            }),
            pod,
            deployment: deployment.clone(),
            state: State::Starting,
            since: clock::now(),
            was_ready: false,
            sidecar_pid: None,
            sidecar_ready_ms: None,
            number,
            template: template_of(&asked),
            orders: kubelet::start(around, self.events.clone()),
        };
        self.pods.insert(name.to_owned(), member);
        Ok(())
    }

    /// A pod's addresses, where its application binds, and its host's.
    fn addresses(&self, number: u8) -> (Vec<IpAddr>, IpAddr, IpAddr) {
        match &self.network {
            Some(network) => {
                let mut addresses = vec![IpAddr::V4(pod_address(number))];
                if network.has_v6 {
                    addresses.push(pod_address_v6(number).into());
                }
                (
                    addresses,
                    pod_address(number).into(),
                    GATEWAY_ADDRESS.into(),
                )
            }
            None => {
                let pod = Ipv4Addr::new(127, 77, 1, number);
                let application = Ipv4Addr::new(127, 177, 1, number);
                (
                    vec![pod.into()],
                    application.into(),
                    Ipv4Addr::new(127, 77, 0, 1).into(),
                )
            }
        }
    }

    fn free_number(&self) -> anyhow::Result<u8> {
        let taken: BTreeSet<u8> = self.pods.values().map(|member| member.number).collect();
        let free = (1..=MOST_PODS).find(|number| !taken.contains(number));
        free.with_context(|| format!("the playground runs at most {MOST_PODS} pods"))
    }

    /// As in a cluster: the deletion is known before anything ends.
    fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        let Some(member) = self.pods.get_mut(name) else {
            return Ok(());
        };
        member.state = State::Leaving;
        member.since = clock::now();
        let deleted_at = pods::rfc3339(clock::unix_ms() / 1000);
        let object = pods::object(&member.pod, Some(&deleted_at))?;
        let orders = member.orders.clone();
        self.generated.write(&object)?;
        self.list_endpoints()?;
        orders
            .try_send(Order::Remove)
            .with_context(|| format!("pod {name} takes no orders"))
    }

    fn list_endpoints(&mut self) -> anyhow::Result<()> {
        let members: Vec<_> = self
            .pods
            .values()
            .map(|member| {
                let standing = match member.state {
                    State::Leaving => Standing::Terminating,
                    _ if member.was_ready => Standing::Listed,
                    _ => Standing::Starting,
                };
                (member.pod.as_ref(), standing)
            })
            .collect();
        let services = self.catalogue.services();
        let all: Vec<Value> = services
            .values()
            .flat_map(|service| slices(service, &members))
            .collect();
        Ok(self.generated.replace_kind("EndpointSlice", &all)?)
    }

    /// Takes note of what happened in a pod.
    ///
    /// # Errors
    /// When files cannot be written or a pod not be made.
    pub async fn note(&mut self, event: &PodEvent) -> anyhow::Result<()> {
        let Some(member) = self.pods.get_mut(&event.pod) else {
            return Ok(());
        };
        let is_leaving = member.state == State::Leaving;
        let state = match &event.happening {
            Happening::SidecarStarted { pid } => {
                member.sidecar_pid = Some(*pid);
                return Ok(());
            }
            Happening::SidecarReady { after_ms } => {
                member.sidecar_ready_ms.get_or_insert(*after_ms);
                return Ok(());
            }
            Happening::Ready => State::Ready,
            Happening::Killed => State::Killed,
            Happening::Restarting { .. } | Happening::Failed { .. } => State::Failing,
            Happening::Gone => {
                if let Some(member) = self.pods.remove(&event.pod) {
                    self.generated.remove(&pods::object(&member.pod, None)?);
                }
                return self.reconcile().await;
            }
        };
        if !is_leaving {
            member.state = state;
            member.since = clock::now();
        }
        if state == State::Ready {
            member.was_ready = true;
        }
        if state == State::Killed {
            member.sidecar_pid = None;
        }
        self.reconcile().await
    }

    /// Kills or revives a pod; what was done, in words.
    ///
    /// # Errors
    /// When there is no such pod, or it is not in a state for that.
    pub fn order(&mut self, pod: &str, order: Order) -> anyhow::Result<()> {
        let member = self.member(pod)?;
        match (order, member.state) {
            (Order::Kill, State::Killed) => bail!("{pod} is already killed"),
            (Order::Revive, State::Ready | State::Starting) => bail!("{pod} is not killed"),
            (_, State::Leaving) => bail!("{pod} is being removed"),
            _ => {}
        }
        if order == Order::Revive {
            // Known to be on its way from now on, not from when it is noticed.
            let member = self.pods.get_mut(pod);
            if let Some(member) = member {
                member.state = State::Starting;
                member.since = clock::now();
            }
        }
        self.member(pod)?
            .orders
            .try_send(order)
            .with_context(|| format!("{pod} takes no orders"))
    }

    /// The pod of this name.
    ///
    /// # Errors
    /// When there is none; the message names those that there are.
    pub fn member(&self, pod: &str) -> anyhow::Result<&Member> {
        self.pods.get(pod).with_context(|| {
            let names: Vec<_> = self.pods.keys().map(String::as_str).collect();
            format!("no pod {pod}; there are {}", names.join(", "))
        })
    }

    /// Whether all pods that may run are ready (killed ones are as they should be).
    pub fn is_settled(&self) -> bool {
        self.pods
            .values()
            .all(|member| matches!(member.state, State::Ready | State::Killed))
    }

    /// Ends all pods in order: load first, so that nothing fails at the end.
    pub fn end(&mut self) {
        let (load, rest): (Vec<_>, Vec<_>) = self
            .pods
            .values()
            .partition(|member| is_load(&member.deployment));
        for member in load.into_iter().chain(rest) {
            let _ = member.orders.try_send(Order::Remove);
        }
    }

    /// What the injector warned of since this was last asked.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Where the load's own counts are.
    pub fn load_stats(&self) -> Option<Place> {
        self.place_of(LOAD)
    }

    /// Where the buyer tells what it counted.
    pub fn buyer(&self) -> Option<Place> {
        self.place_of(BUYER)
    }

    /// The pods of a Deployment in the order of their names, and where each is told
    /// what to do.
    pub fn places_of(&self, deployment: &str) -> Vec<(String, Option<Place>)> {
        let members = self.pods.iter();
        let members = members.filter(|(_, member)| member.deployment.1 == deployment);
        members
            .map(|(name, member)| (name.clone(), member.application.clone()))
            .collect()
    }

    /// Where who makes the load of a Deployment is told what to do.
    pub fn place_of(&self, deployment: &str) -> Option<Place> {
        let mut members = self.pods.values();
        let member = members.find(|member| member.deployment.1 == deployment)?;
        member.application.clone()
    }

    /// These files beside the user's folder from the next [`Self::sync`] on, in
    /// the place of those before.
    pub fn overlay(&mut self, files: Vec<PathBuf>) {
        self.mirror.overlay(files);
    }

    /// The folder of logs.
    pub fn logs(&self) -> PathBuf {
        self.plan.stage().join("logs")
    }
}

fn is_load(deployment: &Key) -> bool {
    [LOAD, BUYER, SHOPPER].contains(&deployment.1.as_str())
}
