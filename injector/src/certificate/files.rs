//! A folder in which somebody else keeps the certificate (tls.crt, tls.key),
//! as a mounted Secret of cert-manager. Read again when it changes; what is
//! not whole or does not fit is not taken, and the last good one stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::pem::{Certificate, CertificateError};
use crate::clock;
use crate::serve::tls::Served;
use crate::trouble::Trouble;

/// How often the files are read. They are small; a mounted Secret changes by
/// links that few ways of watching see.
const EVERY: Duration = Duration::from_secs(1);
/// The most that is read of one.
const MAX_BYTES: u64 = 1024 * 1024;
const CHECK: &str = "are tls.crt and tls.key there, readable, PEM, and of each other?";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum FilesError {
    #[error("{0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} is larger than {MAX_BYTES} bytes")]
    Large(PathBuf),
    #[error("{0}: {1}")]
    Wrong(PathBuf, #[source] CertificateError),
}

/// Serves what is in the folder; never ends.
///
/// # Errors
/// None: while the folder is wrong the last good certificate stays.
pub async fn run(folder: PathBuf, served: Arc<Served>) -> anyhow::Result<()> {
    let mut trouble = Trouble::new("read the certificate");
    let mut before = None;
    loop {
        match read(&folder).await {
            // What was read before was served, or told to be wrong.
            Ok(files) if before.as_ref() == Some(&files) => {}
            Ok(files) => match Certificate::read(&files.0, &files.1) {
                Ok(certificate) => {
                    trouble.is_over();
                    tracing::info!(names = ?certificate.names(), "serving a new certificate");
                    served.set(Arc::new(certificate));
                    before = Some(files);
                }
                Err(error) => {
                    let error = FilesError::Wrong(folder.clone(), error);
                    trouble.is_there(clock::now(), &error, CHECK);
                }
            },
            Err(error) => trouble.is_there(clock::now(), &error, CHECK),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn read(folder: &Path) -> Result<(Vec<u8>, Vec<u8>), FilesError> {
    Ok((
        one(folder.join("tls.crt")).await?,
        one(folder.join("tls.key")).await?,
    ))
}

async fn one(path: PathBuf) -> Result<Vec<u8>, FilesError> {
    let size = tokio::fs::metadata(&path).await.map(|about| about.len());
    match size {
        Ok(size) if size > MAX_BYTES => Err(FilesError::Large(path)),
        Ok(_) => tokio::fs::read(&path)
            .await
            .map_err(|error| FilesError::Read(path, error)),
        Err(error) => Err(FilesError::Read(path, error)),
    }
}
