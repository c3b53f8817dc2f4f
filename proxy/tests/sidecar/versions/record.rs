//! Lives through the story with a real control plane, of any build, and writes
//! down what passes between it and the sidecar.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;
use remora_proto::v1::SidecarReport;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::raw;
use super::server::{self, Opened};
use crate::exchange::{Channel, Line};
use crate::mesh::Net;

type Lines = Arc<Mutex<Vec<Line>>>;

/// A control plane as a process, over a folder; killed on drop.
pub struct ControlPlane {
    child: Child,
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// One that listens.
    pub async fn start(program: &OsString, net: Net, yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("world.yaml"), yaml).unwrap();
        let child = Command::new(program)
            .arg("--source")
            .arg(format!("files:{}", folder.path().display()))
            .args(["--listen", &address(net).to_string()])
            .args(["--admin", &SocketAddr::new(net.ip(200), 15114).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let control_plane = Self { child, folder };
        crate::eventually("the control plane listens", async || {
            TcpStream::connect(address(net)).await.is_ok()
        })
        .await;
        control_plane
    }

    pub fn change(&self, yaml: &str) {
        std::fs::write(self.folder.path().join("world.yaml"), yaml).unwrap();
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(net: Net) -> SocketAddr {
    SocketAddr::new(net.ip(200), 15110)
}

/// Stands between a sidecar and [`ControlPlane`]; where it listens is where
/// sidecars look for their control plane.
pub struct Relay {
    pub url: String,
    lines: Lines,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub async fn start(net: Net) -> Self {
        let at = SocketAddr::new(net.ip(1), 15110);
        let listener = crate::bind(at).await;
        let lines = Lines::default();
        let written = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            let (opened, mut streams) = mpsc::channel(4);
            let serving = tokio::spawn(server::serve(listener, opened));
            while let Some(stream) = streams.recv().await {
                tokio::spawn(pass(
                    stream,
                    format!("http://{}", address(net)),
                    written.clone(),
                ));
            }
            serving.abort();
        });
        let url = format!("http://{at}");
        Self { url, lines, task }
    }

    pub fn world(&self, yaml: String) {
        self.lines.lock().unwrap().push(Line::World(yaml));
    }

    pub fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One stream, both ways, each message written down before it goes on.
async fn pass(stream: Opened, url: String, lines: Lines) {
    let Opened {
        channel,
        mut requests,
        responses,
    } = stream;
    let (sender, receiver) = mpsc::channel::<Bytes>(64);
    let written = Arc::clone(&lines);
    tokio::spawn(async move {
        while let Ok(Some(message)) = requests.message().await {
            let line = Line::FromSidecar(channel, message.to_vec());
            written.lock().unwrap().push(line);
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    match raw::open(url, channel, ReceiverStream::new(receiver)).await {
        Ok(mut answers) => {
            while let Ok(Some(message)) = answers.message().await {
                let line = Line::FromControlPlane(channel, message.to_vec());
                lines.lock().unwrap().push(line);
                if responses.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
        Err(status) => drop(responses.send(Err(status)).await),
    }
}

/// Completes when the sidecar has told of the breaker that it opened, and
/// little is under way any more: reports are a quarter of a second apart.
pub async fn settled(relay: &Relay) {
    crate::eventually("the sidecar has reported", async || {
        relay.lines().iter().any(|line| match line {
            Line::FromSidecar(Channel::Reports, bytes) => {
                let report = SidecarReport::decode(&**bytes).unwrap();
                !report.breaker_changes.is_empty()
            }
            _ => false,
        })
    })
    .await;
    tokio::time::sleep(Duration::from_millis(600)).await;
}
