//! A control plane over a folder.

use std::path::Path;
use std::time::Duration;

use remora_control_plane::{Options, Running, Source, start};

pub use crate::sidecar::{PATIENCE, Sidecar, open};

/// A control plane over a folder of its own.
pub struct Plane {
    pub folder: tempfile::TempDir,
    pub running: Running,
}

impl Plane {
    pub async fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let running = run(folder.path()).await;
        let plane = Self { folder, running };
        while !plane.fetch("/ready").await.0.contains("200") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        plane
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    pub async fn admin(&self, path: &str) -> serde_json::Value {
        let (head, body) = self.fetch(path).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        serde_json::from_str(&body).unwrap()
    }

    pub async fn fetch(&self, path: &str) -> (String, String) {
        crate::sidecar::fetch(self.running.admin, path).await
    }

    /// Asks `/problems` until it holds what is wanted.
    pub async fn problem(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        for _ in 0..250 {
            let problems = self.admin("/problems").await;
            let found = problems
                .as_array()
                .unwrap()
                .iter()
                .find(|problem| wanted(problem));
            if let Some(found) = found {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no such problem: {}", self.admin("/problems").await);
    }
}

pub async fn run(folder: &Path) -> Running {
    start(Options {
        sources: vec![Source::Files(folder.to_owned())],
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: "127.0.0.1:0".parse().unwrap(),
        identity: Default::default(),
    })
    .await
    .unwrap()
}

impl Sidecar {
    pub async fn connect(plane: &Plane, pod: &str) -> Self {
        let id = format!("sidecar/shop/{pod}/{pod}-uid");
        Self::connect_as(plane.running.listen, id).await
    }
}
