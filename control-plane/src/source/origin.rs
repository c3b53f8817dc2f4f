//! Where objects come from, as the command line says it: one cluster, or some folders.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::bail;
use tokio::sync::mpsc;

use super::files;
use super::kubernetes::{Cluster, Watches};
use crate::core::objects::Event;
use crate::problems::Problems;

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A watched folder.
    Files(PathBuf),
    /// A cluster.
    Kubernetes,
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("files:") {
            Some(folder) if !folder.is_empty() => Ok(Self::Files(folder.into())),
            None if text == "kubernetes" => Ok(Self::Kubernetes),
            _ => Err(format!("{text:?} is neither kubernetes nor files:DIR")),
        }
    }
}

/// The one source of a control plane.
pub enum Origin {
    /// Folders.
    Files(Box<files::Files>),
    /// A cluster.
    Kubernetes(Cluster),
}

impl Origin {
    /// Of what the command line says.
    ///
    /// # Errors
    /// When it is neither one cluster nor some folders, or cannot be had.
    pub async fn of(sources: Vec<Source>) -> anyhow::Result<Self> {
        if sources == [Source::Kubernetes] {
            return Ok(Self::Kubernetes(Cluster::infer().await?));
        }
        let folders = sources.into_iter().map(|source| match source {
            Source::Files(folder) => Ok(folder),
            Source::Kubernetes => bail!(
                "--source kubernetes stands alone: objects come from one cluster or from folders, not from both"
            ),
        });
        let folders = folders.collect::<anyhow::Result<Vec<PathBuf>>>()?;
        let files = files::Files::new(folders)?;
        Ok(Self::Files(Box::new(files)))
    }

    /// What the metrics show of it.
    pub fn watches(&self) -> Option<Arc<Watches>> {
        match self {
            Self::Files(_) => None,
            Self::Kubernetes(cluster) => Some(cluster.watches.clone()),
        }
    }

    /// Tells events for as long as it can.
    pub async fn feed(
        self,
        events: mpsc::Sender<Vec<Event>>,
        problems: Arc<Problems>,
    ) -> (&'static str, anyhow::Result<()>) {
        match self {
            Self::Files(files) => {
                let ended = files.run(events, problems).await;
                ("the file source", ended.map_err(Into::into))
            }
            Self::Kubernetes(cluster) => {
                let ended = cluster.run(events, problems).await;
                ("the cluster source", ended.map_err(Into::into))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_cluster_or_some_folders_are_the_source() {
        let files: Source = "files:/a".parse().unwrap();
        assert_eq!(files, Source::Files("/a".into()));
        assert_eq!("kubernetes".parse(), Ok(Source::Kubernetes));
        for wrong in ["files:", "", "kubernetes:x", "Kubernetes"] {
            wrong.parse::<Source>().unwrap_err();
        }
        for both in [
            vec![Source::Kubernetes, files],
            vec![Source::Kubernetes, Source::Kubernetes],
        ] {
            let refused = Origin::of(both).await.err().unwrap();
            assert!(refused.to_string().contains("stands alone"), "{refused}");
        }
    }
}
