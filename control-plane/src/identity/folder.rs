//! The CA in a folder, for where there is no API server: three files that
//! nobody else may read (0600, in a folder of 0700), and the record of roots.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keep::{Place, PlaceError, Seen, Written};
use super::material::{CERTIFICATE, KEY, Material, ROOTS};
use crate::clock;

/// The record of roots.
pub const RECORD: &str = "trust.crt";
/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of a file that are read.
const MAX_BYTES: u64 = 1024 * 1024;

/// The folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// What was last given: a change is one of this.
    last: Option<[io::Result<Vec<u8>>; 4]>,
}

impl Folder {
    /// This one, which is made where it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or others than its owner may come in.
    pub fn new(path: &Path) -> Result<Self, PlaceError> {
        let failed = |why: String| PlaceError::Failed(format!("{}: {why}", path.display()));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|error| failed(error.to_string()))?;
        let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(failed(format!(
                "others may come in (mode {mode:03o}): chmod 700 it"
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            last: None,
        })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        File::open(self.path.join(name))?
            .take(MAX_BYTES)
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn files(&self) -> [io::Result<Vec<u8>>; 4] {
        [CERTIFICATE, KEY, ROOTS, RECORD].map(|name| self.read(name))
    }

    fn written(&self, files: &[io::Result<Vec<u8>>; 4]) -> Written {
        let [certificate, key, roots, _] = files;
        let is_missing = |file: &io::Result<Vec<u8>>| {
            let error = file.as_ref().err();
            error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        if [certificate, key, roots].into_iter().all(is_missing) {
            return Written::Missing;
        }
        for (name, file) in [(CERTIFICATE, certificate), (KEY, key), (ROOTS, roots)] {
            if let Err(error) = file {
                return Written::Broken(format!(
                    "{name} cannot be read: {error} (all three of tls.crt, tls.key and ca.crt \
                     belong together; with none of them a new CA is made)"
                ));
            }
        }
        let mode = fs::metadata(self.path.join(KEY)).map(|file| file.permissions().mode());
        if let Ok(mode) = mode
            && mode & 0o077 != 0
        {
            let mode = mode & 0o777;
            return Written::Broken(format!(
                "{KEY} may be read by others (mode {mode:03o}): chmod 600 it"
            ));
        }
        let bytes =
            |file: &io::Result<Vec<u8>>| file.as_ref().map_or_else(|_| Vec::new(), Vec::clone);
        Written::Material(Material {
            certificate: bytes(certificate),
            key: bytes(key),
            roots: bytes(roots),
        })
    }

    /// A file that is whole from its first moment on: under another name first.
    fn whole(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(path)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::rename(self.whole(name, bytes)?, self.path.join(name))
    }
}

fn is_same(before: &[io::Result<Vec<u8>>; 4], now: &[io::Result<Vec<u8>>; 4]) -> bool {
    let pairs = before.iter().zip(now);
    pairs.into_iter().all(|pair| match pair {
        (Ok(before), Ok(now)) => before == now,
        (Err(before), Err(now)) => before.kind() == now.kind(),
        _ => false,
    })
}

#[tonic::async_trait]
impl Place for Folder {
    async fn look(&mut self, patience: Duration) -> Result<Seen, PlaceError> {
        let until = clock::now() + patience;
        loop {
            let files = self.files();
            let changed = self.last.as_ref().is_none_or(|last| !is_same(last, &files));
            let left = until.saturating_duration_since(clock::now());
            if changed || left.is_zero() {
                let record = files[3].as_ref().map(|text| String::from_utf8_lossy(text));
                let seen = Seen {
                    ca: self.written(&files),
                    record: record.map_or_else(|_| String::new(), |text| text.into_owned()),
                };
                self.last = Some(files);
                return Ok(seen);
            }
            tokio::time::sleep(LOOK.min(left)).await;
        }
    }

    /// The key comes last and is made once: of two that come at the same time
    /// one finds it there, and with it the other's certificates.
    async fn create(&mut self, material: &Material) -> Result<(), PlaceError> {
        let failed = |error: io::Error| PlaceError::Failed(error.to_string());
        let made = self.path.join(format!("{KEY}.making"));
        let lock = self.whole(KEY, &material.key).map_err(failed)?;
        // A link is made only where there is nothing yet.
        if let Err(error) = fs::hard_link(&lock, &made) {
            let _ = fs::remove_file(&lock);
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => PlaceError::Failed(format!(
                    "another one is making it (if none is, remove {})",
                    made.display()
                )),
                _ => failed(error),
            });
        }
        let _ = fs::remove_file(&lock);
        if self.path.join(KEY).exists() {
            let _ = fs::remove_file(&made);
            return Err(PlaceError::Conflict);
        }
        self.replace(ROOTS, &material.roots)
            .and_then(|()| self.replace(CERTIFICATE, &material.certificate))
            .and_then(|()| fs::rename(&made, self.path.join(KEY)))
            .map_err(failed)
    }

    async fn write_record(&mut self, text: &str) -> Result<(), PlaceError> {
        let written = self.replace(RECORD, text.as_bytes());
        written.map_err(|error| PlaceError::Failed(error.to_string()))
    }

    fn generates(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        format!("the CA in {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_ca_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca");
        let (mut one, mut two) = (Folder::new(&path).unwrap(), Folder::new(&path).unwrap());
        assert!(matches!(
            one.look(Duration::ZERO).await.unwrap().ca,
            Written::Missing
        ));
        let made = |id| Material::generate("cluster.local", [id; 16], 1_800_000_000).unwrap();
        one.create(&made(1)).await.unwrap();
        let second = two.create(&made(2)).await.unwrap_err();
        assert!(matches!(second, PlaceError::Conflict), "{second}");
        let Written::Material(read) = two.look(Duration::ZERO).await.unwrap().ca else {
            panic!("nothing was made");
        };
        let first = one.look(Duration::from_secs(9)).await.unwrap().ca;
        assert!(matches!(first, Written::Material(first) if first == read));
        assert_eq!(mode(&path), 0o700);
        one.write_record("x").await.unwrap();
        for name in [KEY, CERTIFICATE, ROOTS, RECORD] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        assert_eq!(
            fs::read_dir(&path).unwrap().count(),
            4,
            "nothing is left behind"
        );
        assert_eq!(two.look(Duration::from_secs(9)).await.unwrap().record, "x");
    }

    #[tokio::test]
    async fn what_others_may_read_or_is_half_there_is_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let mut place = Folder::new(folder.path()).unwrap();
        fs::write(folder.path().join(KEY), "x").unwrap();
        let mut broken = async || match place.look(Duration::ZERO).await.unwrap().ca {
            Written::Broken(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(broken().await.contains("tls.crt cannot be read"));
        for name in [CERTIFICATE, ROOTS] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::set_permissions(folder.path().join(KEY), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(broken().await.contains("chmod 600"));
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let open = Folder::new(folder.path()).unwrap_err();
        assert!(open.to_string().contains("chmod 700"), "{open}");
    }
}
