//! The private folder of a run: where it is made, found and swept.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// What the folders' names begin with; the process id follows.
const PREFIX: &str = "remora-playground-";

/// Where private folders go: the user's runtime folder, or else `/tmp`.
fn base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(folder) if folder.is_dir() => folder,
        _ => PathBuf::from("/tmp"),
    }
}

/// Makes this process's private folder, readable by its user alone.
///
/// # Errors
/// When it cannot be made; one that is already there is somebody else's.
pub fn create() -> anyhow::Result<PathBuf> {
    let folder = base().join(format!("{PREFIX}{}", std::process::id()));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot make the private folder {}", folder.display()))?;
    Ok(folder)
}

/// The running playgrounds of this user: process id and folder.
pub fn running() -> Vec<(u32, PathBuf)> {
    mine()
        .into_iter()
        .filter(|(pid, _)| is_alive(*pid))
        .collect()
}

/// Removes what runs left that were ended with no chance to tidy up.
pub fn sweep_abandoned() {
    for (pid, folder) in mine() {
        if !is_alive(pid) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn mine() -> Vec<(u32, PathBuf)> {
    let user = nix::unistd::geteuid().as_raw();
    let Ok(entries) = fs::read_dir(base()) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry
                .file_name()
                .to_str()?
                .strip_prefix(PREFIX)?
                .parse()
                .ok()?;
            // Anyone may put a name into /tmp: only a folder of ours counts.
            let about = fs::symlink_metadata(entry.path()).ok()?;
            (about.is_dir() && about.uid() == user).then(|| (pid, entry.path()))
        })
        .collect();
    found.sort();
    found
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
