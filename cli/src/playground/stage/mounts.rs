//! The mounts of the enclosing namespace: a `/proc` that shows only our own
//! processes, a file system in memory for everything we write, and an
//! `/etc/hosts` that knows the services.

use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where names are looked up.
const HOSTS: &str = "/etc/hosts";

/// A mount namespace of our own, with a fresh `/proc`.
///
/// # Errors
/// Where the kernel or a container around us forbids it.
pub fn make_private() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace (unshare)")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("mounts cannot be made private")?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .context("/proc cannot be mounted (is this a container that masks it?)")
}

/// A file system in memory over `folder`: gone with the namespace.
///
/// # Errors
/// When it cannot be mounted.
pub fn in_memory(folder: &Path) -> anyhow::Result<()> {
    mount(
        Some("remora"),
        folder,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0700,size=256m"),
    )
    .with_context(|| format!("no file system in memory at {}", folder.display()))
}

/// Puts `file` in the place of `/etc/hosts`.
///
/// # Errors
/// When there is none to cover, or it cannot be covered.
pub fn cover_hosts(file: &Path) -> anyhow::Result<()> {
    mount(
        Some(file),
        HOSTS,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .context("/etc/hosts cannot be covered by a file of our own")
}

/// Whether `/etc/hosts` can be covered.
///
/// # Errors
/// As [`cover_hosts`].
pub fn check_hosts() -> anyhow::Result<()> {
    cover_hosts(Path::new(HOSTS))
}
