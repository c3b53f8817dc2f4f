//! Memory of a control plane at rest that knows many services.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::clock::Moment;
use crate::http;
use crate::machine::Machine;
use crate::proc_stat::{self, Memory};
use crate::process::{Cores, Process, free_port, loopback};
use crate::stop;

/// How long it may take to read everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory is read after so much rest.
const REST: Duration = Duration::from_secs(10);

/// What there is to know.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct World {
    /// Services.
    pub services: u32,
    /// Endpoints of each.
    pub endpoints: u32,
    /// Each endpoint's Pod is known too, as in a cluster.
    pub pods: bool,
}

/// What a run of [`run`] found.
#[derive(Debug, Serialize)]
pub struct ControlPlaneReport {
    /// Where it was.
    pub machine: Machine,
    /// What it knew.
    pub world: World,
    /// What it held after it had rested.
    pub memory: Memory,
}

/// Starts `program` over a folder that holds this world, lets it rest, and
/// reads its memory.
///
/// # Errors
/// When it does not know everything in time.
pub fn run(program: &Path, world: World) -> anyhow::Result<ControlPlaneReport> {
    let (dir, cores) = (tempfile::tempdir()?, Cores::find()?);
    let folder = dir.path().join("objects");
    std::fs::create_dir(&folder)?;
    for number in 0..world.services {
        let text = service(number, world)?;
        std::fs::write(folder.join(format!("{number}.yaml")), text)?;
    }
    let (listen, admin) = (loopback(free_port()?), loopback(free_port()?));
    let mut command = Command::new(program);
    command
        .arg("--source")
        .arg(format!("files:{}", folder.display()))
        .args(["--listen", &listen.to_string()])
        .args(["--admin", &admin.to_string()]);
    let mut process = Process::start("control-plane", &command, cores.system, cores, dir.path())?;
    process.wait_for(admin, PATIENCE)?;
    let known = format!(
        "remora_control_plane_resources{{type=\"Endpoint\"}} {}\n",
        world.services * world.endpoints
    );
    let began = Moment::now();
    while !http::get(admin, "/metrics")?.1.contains(&known) {
        process.check_alive()?;
        if began.elapsed() > PATIENCE {
            bail!(
                "the control plane does not know all endpoints: {}",
                process.said()
            );
        }
        stop::sleep(Duration::from_millis(50))?;
    }
    stop::sleep(REST)?;
    let memory = proc_stat::memory(process.id()).context("its memory")?;
    Ok(ControlPlaneReport {
        machine: Machine::read(),
        world,
        memory,
    })
}

/// One service as a cluster holds it, with names as long as there.
fn service(number: u32, world: World) -> anyhow::Result<String> {
    let (high, low) = (number / 250, number % 250);
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{number}, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.{high}.{low}, selector: {{app: service-{number}}}, ports: [{{name: http, port: 8080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: service-{number}-a, namespace: shop, labels: {{kubernetes.io/service-name: service-{number}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    let mut pods = String::new();
    for endpoint in 0..world.endpoints {
        let all = number * world.endpoints + endpoint;
        let address = format!(
            "10.{}.{}.{}",
            100 + all / 62_500,
            all / 250 % 250,
            all % 250
        );
        let pod = format!("service-{number}-5d4f8c7b9d-x{endpoint:04}");
        let uid = format!("0f9e8d7c-6b5a-4f3e-2d1c-{all:012}");
        let node = format!("node-{}.example.internal", endpoint % 10);
        writeln!(
            text,
            "- addresses: [{address}]\n  conditions: {{ready: true}}\n  nodeName: {node}\n  zone: europe-west1-b\n  \
             targetRef: {{kind: Pod, name: {pod}, uid: {uid}}}"
        )?;
        if world.pods {
            writeln!(
                pods,
                "---\napiVersion: v1\nkind: Pod\n\
                 metadata: {{name: {pod}, namespace: shop, uid: {uid}, labels: {{app: service-{number}}}}}\n\
                 spec: {{nodeName: {node}, containers: [{{name: app, ports: [{{containerPort: 8080}}]}}]}}\n\
                 status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}"
            )?;
        }
    }
    Ok(text + &pods)
}
