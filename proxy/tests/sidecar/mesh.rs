//! One test's mesh: a control plane, a sidecar, and what the test says about
//! services, endpoints and policies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use remora_proto::v1::{self, service::Kind};
use remora_proto::well_known as names;

use crate::client::Client;
use crate::control::Control;
use crate::sidecar::{Options, Sidecar};

/// The service's port in every test.
pub const PORT: u16 = 8080;

/// A mesh of one sidecar; everything ends on drop.
pub struct Mesh {
    /// What the control plane says.
    pub control: Control,
    /// The sidecar under test.
    pub sidecar: Sidecar,
    /// The test's /24.
    pub net: Net,
}

/// A /24 of 127/8 that no other test uses.
#[derive(Clone, Copy, Debug)]
pub struct Net(u8, u8);

impl Net {
    /// The next free one of this process.
    pub fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Another run of the same tests at the same time gets others.
        let number = NEXT.fetch_add(1, Relaxed) + std::process::id().wrapping_mul(97) % 20_000;
        Self(100 + (number / 250 % 100) as u8, 1 + (number % 250) as u8)
    }

    /// The address with this last byte.
    pub fn ip(self, last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.0, self.1, last))
    }

    /// The address with this last byte, and the tests' port.
    pub fn at(self, last: u8) -> SocketAddr {
        SocketAddr::new(self.ip(last), PORT)
    }
}

impl Mesh {
    /// A control plane and a sidecar that is ready.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// As [`Mesh::start`], with options for the sidecar.
    pub async fn start_with(options: Options) -> Self {
        let net = Net::next();
        let address = SocketAddr::new(net.ip(1), 15110);
        let control = Control::start_with(address, options.authority.clone());
        let authority = options.authority.clone();
        let sidecar = Sidecar::start(net, &control.url(), options).await;
        let mesh = Self {
            control,
            sidecar,
            net,
        };
        if let Some(authority) = &authority {
            mesh.trust(authority);
        }
        mesh.workload(|_| ());
        mesh.sidecar.until_ready().await;
        mesh
    }

    /// A further pod with a sidecar, which is ready.
    pub async fn beside(&self, host: u8, options: Options) -> Sidecar {
        let options = Options { host, ..options };
        let sidecar = Sidecar::start(self.net, &self.control.url(), options).await;
        self.workload_of(host, |_| ());
        sidecar.until_ready().await;
        sidecar
    }

    /// The service `shop/catalog` with this policy, and an endpoint with a
    /// sidecar of this version at each of these last bytes.
    pub fn meshed(&self, policy: v1::ServicePolicy, hosts: &[u8]) {
        for (number, host) in hosts.iter().enumerate() {
            self.endpoint("catalog", number, self.net.at(*host), |endpoint| {
                endpoint.sidecar = true;
                endpoint.mesh_protocols = vec!["remora-h2".into(), "remora-h1".into()];
            });
        }
        self.service("catalog", policy);
    }

    /// Tells the sidecars whom `authority` is to be believed now.
    pub fn trust(&self, authority: &crate::authority::Authority) {
        let bundle = authority.bundle();
        let name = names::TRUST_BUNDLE;
        self.control
            .put(names::TRUST_BUNDLE_TYPE, name, Vec::new(), &bundle);
    }

    /// Endpoint `number` of `catalog` at this last byte, which is sent mutual TLS
    /// and must be the pod `web-<account>`.
    pub fn secured(&self, number: usize, host: u8, account: u8) {
        self.endpoint("catalog", number, self.net.at(host), |endpoint| {
            endpoint.sidecar = true;
            endpoint.mesh_protocols = names::mesh::ALL.map(str::to_owned).to_vec();
            endpoint.identity = crate::authority::id(&format!("web-{account}"));
        });
    }

    /// An HTTP/2 client of the sidecar's outbound listener.
    pub async fn client2(&self) -> crate::h2_client::Client {
        crate::h2_client::Client::connect(self.sidecar.outbound()).await
    }

    /// The service `shop/catalog` with this policy and an endpoint at each of
    /// these addresses.
    pub fn catalog(&self, policy: v1::ServicePolicy, endpoints: &[SocketAddr]) {
        for (number, address) in endpoints.iter().enumerate() {
            self.endpoint("catalog", number, *address, |_| ());
        }
        self.service("catalog", policy);
    }

    /// Puts a service in the namespace `shop`.
    pub fn service(&self, name: &str, policy: v1::ServicePolicy) {
        self.service_with(name, |service| service.policy = Some(policy));
    }

    /// Puts a service that is changed by `change` first.
    pub fn service_with(&self, name: &str, change: impl FnOnce(&mut v1::Service)) {
        let mut service = v1::Service {
            namespace: "shop".into(),
            name: name.into(),
            kind: Kind::ClusterIp as i32,
            ports: vec![v1::ServicePort {
                port: PORT.into(),
                name: "http".into(),
                protocol: v1::Protocol::Http1 as i32,
            }],
            policy: Some(policy()),
            ..v1::Service::default()
        };
        change(&mut service);
        let aliases = service.addresses.iter().map(|bytes| alias(bytes)).collect();
        let name = names::resource_name("shop", name);
        self.control
            .put(names::SERVICE_TYPE, &name, aliases, &service);
    }

    /// Puts endpoint `number` of a service; its pod is `<service>-<number>`.
    pub fn endpoint(
        &self,
        service: &str,
        number: usize,
        address: SocketAddr,
        change: impl FnOnce(&mut v1::Endpoint),
    ) {
        let mut endpoint = endpoint(service, number, address);
        change(&mut endpoint);
        let name = endpoint_name(service, number);
        self.control
            .put(names::ENDPOINT_TYPE, &name, Vec::new(), &endpoint);
    }

    /// Takes an endpoint away.
    pub fn remove_endpoint(&self, service: &str, number: usize) {
        let name = endpoint_name(service, number);
        self.control.remove(names::ENDPOINT_TYPE, &name);
    }

    /// Puts a pod that is reached by its own addresses.
    pub fn pod(&self, name: &str, addresses: &[IpAddr], policy: v1::ServicePolicy) {
        let first = SocketAddr::new(addresses[0], 0);
        let mut pod = endpoint(name, 0, first);
        pod.port = 0;
        pod.target_port = 0;
        pod.pod = name.into();
        let service = v1::Service {
            namespace: "shop".into(),
            name: name.into(),
            kind: Kind::Pod as i32,
            addresses: addresses.iter().map(|address| octets(*address)).collect(),
            policy: Some(policy),
            pod: Some(pod),
            ..v1::Service::default()
        };
        let aliases = addresses
            .iter()
            .map(|address| names::address_alias(*address))
            .collect();
        let name = names::pod_resource_name("shop", name);
        self.control
            .put(names::SERVICE_TYPE, &name, aliases, &service);
    }

    /// Puts the sidecar's own workload.
    pub fn workload(&self, change: impl FnOnce(&mut v1::Workload)) {
        self.workload_of(1, change);
    }

    /// Puts the workload of the pod at this last byte.
    pub fn workload_of(&self, host: u8, change: impl FnOnce(&mut v1::Workload)) {
        let pod = format!("web-{host}");
        let mut workload = v1::Workload {
            namespace: "shop".into(),
            pod: pod.clone(),
            pod_uid: format!("uid-{pod}"),
            addresses: vec![octets(self.net.ip(host))],
            ..v1::Workload::default()
        };
        change(&mut workload);
        let name = names::resource_name("shop", &pod);
        self.control
            .put(names::WORKLOAD_TYPE, &name, Vec::new(), &workload);
    }

    /// A client of the sidecar's outbound listener.
    pub async fn client(&self) -> Client {
        Client::connect(self.sidecar.outbound()).await
    }

    /// One request to `catalog` on a connection of its own.
    pub async fn get(&self, path: &str) -> crate::client::Answer {
        self.client().await.get("catalog:8080", path).await
    }

    /// One POST with a body to `catalog` on a connection of its own.
    pub async fn post(&self, path: &str, body: &str) -> crate::client::Answer {
        self.client().await.post("catalog:8080", path, body).await
    }

    /// Completes when the sidecar has taken all that was put so far for `catalog`.
    pub async fn until_applied(&self, name: &str, version_after: usize) {
        crate::eventually("the change is applied", async || {
            self.control.times_sent(name) > version_after
        })
        .await;
    }
}

fn endpoint_name(service: &str, number: usize) -> String {
    names::endpoint_name("shop", service, PORT, &format!("uid-{service}-{number}"))
}

fn endpoint(service: &str, number: usize, address: SocketAddr) -> v1::Endpoint {
    v1::Endpoint {
        namespace: "shop".into(),
        service: service.into(),
        port: PORT.into(),
        address: octets(address.ip()),
        target_port: address.port().into(),
        pod: format!("{service}-{number}"),
        pod_uid: format!("uid-{service}-{number}"),
        ready: true,
        serving: true,
        ..v1::Endpoint::default()
    }
}

/// An address as the stream carries it.
pub fn octets(address: IpAddr) -> prost::bytes::Bytes {
    match address {
        IpAddr::V4(address) => address.octets().to_vec().into(),
        IpAddr::V6(address) => address.octets().to_vec().into(),
    }
}

fn alias(bytes: &[u8]) -> String {
    let bytes: [u8; 4] = bytes.try_into().unwrap();
    names::address_alias(IpAddr::from(bytes))
}

/// The policy that says nothing, with the control plane's defaults.
pub fn policy() -> v1::ServicePolicy {
    v1::ServicePolicy {
        outbound: Some(v1::Outbound {
            connect_timeout_ms: 2_000,
            idle_timeout_ms: 60_000,
            ..v1::Outbound::default()
        }),
        ..v1::ServicePolicy::default()
    }
}

/// `circuitBreaker: {}` as the control plane resolves it, changed by `change`.
pub fn breaker(change: impl FnOnce(&mut v1::CircuitBreaker)) -> v1::ServicePolicy {
    let mut breaker = v1::CircuitBreaker {
        limits: Some(v1::Limits::default()),
        per_endpoint: Some(v1::Limits::default()),
        trip: Some(v1::Trip {
            consecutive_failures: 5,
            failures: Some(v1::Conditions {
                connect_failure: true,
                reset: true,
                timeout: true,
                server_error: true,
                ..v1::Conditions::default()
            }),
            base_ejection_ms: 10_000,
            max_ejection_ms: 300_000,
            honor_retry_after: true,
            probes: 1,
            successes: 1,
            max_ejected_percent: 50,
            min_endpoints: 1,
            ..v1::Trip::default()
        }),
    };
    change(&mut breaker);
    v1::ServicePolicy {
        circuit_breaker: Some(breaker),
        ..policy()
    }
}

/// `loadBalancing` as the control plane resolves it where it is empty, changed by `change`.
pub fn balancing(change: impl FnOnce(&mut v1::LoadBalancing)) -> v1::ServicePolicy {
    let mut balancing = v1::LoadBalancing::default();
    change(&mut balancing);
    v1::ServicePolicy {
        load_balancing: Some(balancing),
        ..policy()
    }
}

/// Limits over the whole service.
pub fn limits(change: impl FnOnce(&mut v1::Limits)) -> v1::ServicePolicy {
    breaker(|breaker| change(breaker.limits.as_mut().unwrap()))
}

/// The trip, changed by `change`.
pub fn trip(change: impl FnOnce(&mut v1::Trip)) -> v1::ServicePolicy {
    breaker(|breaker| change(breaker.trip.as_mut().unwrap()))
}

/// `retries: {attempts}` as the control plane resolves it, changed by `change`.
pub fn retries(attempts: u32, change: impl FnOnce(&mut v1::Retries)) -> v1::Retries {
    let mut retries = v1::Retries {
        attempts,
        on: Some(v1::Conditions {
            connect_failure: true,
            refused_stream: true,
            reset: true,
            gateway_error: true,
            ..v1::Conditions::default()
        }),
        backoff_base_ms: 2,
        backoff_max_ms: 10,
        max_retry_after_ms: 10_000,
        budget: Some(v1::RetryBudget {
            percent: 20,
            min_per_second: 10,
            window_ms: 10_000,
        }),
        buffer_bytes: 65_536,
        ..v1::Retries::default()
    };
    change(&mut retries);
    retries
}

/// A policy of `retries` alone.
pub fn retrying(attempts: u32, change: impl FnOnce(&mut v1::Retries)) -> v1::ServicePolicy {
    v1::ServicePolicy {
        retries: Some(retries(attempts, change)),
        ..policy()
    }
}
