//! The watched folders. The kernel says at once when a file changed; a file
//! that is still open for writing is left until it is closed, and a slow look
//! at everything catches what no event told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};

use super::folder::{Change, Folder};
use crate::clock;
use crate::core::objects::Event;
use crate::problems::Problems;

/// After the first sign of a change, how long more are waited for; so that
/// what belongs together is seen together.
const SETTLE: Duration = Duration::from_millis(3);
/// How long a file may be gone before it counts: editors remove and rename.
const GONE_GRACE: Duration = Duration::from_millis(20);
/// How long a file that had content may be empty before that counts: a save that
/// truncates first is no wish that everything in it go away.
const EMPTY_GRACE: Duration = Duration::from_millis(250);
/// How long a file that is open for writing is waited for.
const OPEN_WAIT: Duration = Duration::from_secs(1);
/// How often everything is looked at, whatever the kernel said.
const RESCAN: Duration = Duration::from_secs(5);
/// Files that are read at most.
const MAX_FILES: usize = 20_000;
/// Folders within folders.
const MAX_DEPTH: usize = 8;
/// A folder within a folder that holds a file of this name is not read: what is in
/// it is applied by somebody else, one after the other.
pub const IGNORE_MARK: &str = ".remora-ignore";
/// Bytes of a file that is read.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Changed paths that are remembered; above it everything is read anew.
const MAX_HINTS: usize = 1_024;

/// Why the file source ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be watched.
    #[error(
        "cannot watch the folder {folder}: {cause} (is it there, and may it be read? is fs.inotify.max_user_watches exhausted?)"
    )]
    Watch {
        /// The folder.
        folder: String,
        /// Why.
        cause: notify::Error,
    },
    /// The receiver of events is gone.
    #[error("the core takes no more events")]
    Closed,
    /// The reading of files failed.
    #[error("reading files failed: {0}")]
    Reading(#[from] tokio::task::JoinError),
}

/// What the kernel told since the last look.
#[derive(Default)]
struct Hints {
    changed: HashSet<PathBuf>,
    /// Written to and not closed yet, since when.
    open: HashMap<PathBuf, Instant>,
    everything: bool,
}

#[derive(Default)]
struct Inbox {
    hints: Mutex<Hints>,
    notify: Notify,
}

impl Inbox {
    fn take_event(&self, event: &notify::Event, now: Instant) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        if event.need_rescan() || hints.changed.len() + hints.open.len() > MAX_HINTS {
            hints.everything = true;
            hints.changed.clear();
            hints.open.clear();
        }
        for path in &event.paths {
            match event.kind {
                // Our own reading makes such events too.
                EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => return,
                EventKind::Create(CreateKind::File) if !path.is_symlink() => {
                    hints.open.entry(path.clone()).or_insert(now);
                }
                EventKind::Modify(ModifyKind::Data(_)) => {
                    hints.open.entry(path.clone()).or_insert(now);
                }
                _ => {
                    hints.open.remove(path);
                }
            }
            hints.changed.insert(path.clone());
        }
        drop(hints);
        self.notify.notify_one();
    }

    /// What changed, and what is open for writing still.
    fn take(&self, now: Instant) -> (HashSet<PathBuf>, HashSet<PathBuf>, bool) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        hints
            .open
            .retain(|_, since| now.duration_since(*since) < OPEN_WAIT);
        let open: HashSet<PathBuf> = hints.open.keys().cloned().collect();
        // What is open stays a hint until it is closed or given up.
        let changed = std::mem::take(&mut hints.changed);
        let (later, now): (HashSet<_>, HashSet<_>) =
            changed.into_iter().partition(|path| open.contains(path));
        hints.changed = later;
        let everything = std::mem::take(&mut hints.everything);
        (now, open, everything)
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The watched folders and what is known of their files.
pub struct Files {
    folders: Vec<PathBuf>,
    stamps: BTreeMap<PathBuf, Stamp>,
    folder: Folder,
    inbox: Arc<Inbox>,
    watcher: RecommendedWatcher,
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// Folders that could not be read at the last look.
    failed: BTreeSet<PathBuf>,
    /// Files that had content and are empty, since when.
    emptied: BTreeMap<PathBuf, Instant>,
}

/// What came of one look.
struct Look {
    /// For the core.
    told: Vec<Event>,
    /// Whether any file was read anew.
    changed: bool,
    /// How soon to look again though nothing more is heard.
    again: Option<Duration>,
}

impl Files {
    /// Watches the folders.
    ///
    /// # Errors
    /// When one of them cannot be watched.
    pub fn new(folders: Vec<PathBuf>) -> Result<Self, Error> {
        let inbox = Arc::new(Inbox::default());
        let told = inbox.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // What could not be told may have been a change: look at everything.
            let event = event.unwrap_or_else(|_| {
                notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan)
            });
            told.take_event(&event, clock::now());
        });
        let shown = folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>();
        let watcher = watcher.map_err(|cause| Error::Watch {
            folder: shown.join(", "),
            cause,
        })?;
        let (stamps, watched, folder, failed, emptied) = Default::default();
        let mut files = Self {
            folders,
            stamps,
            folder,
            inbox,
            watcher,
            watched,
            failed,
            emptied,
        };
        for folder in files.folders.clone() {
            files.watch(&folder)?;
        }
        Ok(files)
    }

    /// A folder that is another one now (a symbolic link turned) is watched anew.
    fn watch(&mut self, folder: &Path) -> Result<(), Error> {
        let failed = |cause| Error::Watch {
            folder: folder.display().to_string(),
            cause,
        };
        let metadata =
            std::fs::metadata(folder).map_err(|error| failed(notify::Error::io(error)))?;
        let identity = (metadata.dev(), metadata.ino());
        if self.watched.get(folder) != Some(&identity) {
            // Gone with what it watched, or never there.
            let _ = self.watcher.unwatch(folder);
            self.watcher
                .watch(folder, RecursiveMode::Recursive)
                .map_err(failed)?;
            self.watched.insert(folder.to_owned(), identity);
        }
        Ok(())
    }

    /// Feeds the core for as long as it takes events.
    ///
    /// # Errors
    /// Always in the end: this returns only when it can go on no more.
    pub async fn run(
        mut self,
        events: mpsc::Sender<Vec<Event>>,
        problems: Arc<Problems>,
    ) -> Result<(), Error> {
        let mut synced = false;
        loop {
            let (
                looked,
                Look {
                    mut told,
                    changed,
                    again,
                },
            ) = tokio::task::spawn_blocking(move || {
                let mut files = self;
                let look = files.look();
                (files, look)
            })
            .await?;
            self = looked;
            if changed {
                problems.set_source(self.folder.problems(), self.folder.places());
            }
            if !std::mem::replace(&mut synced, true) {
                told.push(Event::Synced);
            }
            if !told.is_empty() {
                events.send(told).await.map_err(|_| Error::Closed)?;
            }
            let patience = again.unwrap_or(RESCAN);
            // In the end everything is looked at, so running out of patience is no error.
            let _ = tokio::time::timeout(patience, self.inbox.notify.notified()).await;
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Looks at what changed.
    fn look(&mut self) -> Look {
        let (mut hinted, open, everything) = self.inbox.take(clock::now());
        let mut scan = self.scan();
        let mut gone = self.missing(&scan);
        if !gone.is_empty() {
            std::thread::sleep(GONE_GRACE);
            scan = self.scan();
            gone = self.missing(&scan);
            hinted.extend(self.inbox.take(clock::now()).0);
        }
        let mut changes: Vec<(String, Change)> = Vec::new();
        self.emptied
            .retain(|path, _| scan.found.get(path).is_some_and(|stamp| stamp.bytes == 0));
        for path in gone {
            self.stamps.remove(&path);
            changes.push((path.display().to_string(), Change::Gone));
        }
        for (path, stamp) in scan.found {
            let known =
                self.stamps.get(&path) == Some(&stamp) && !hinted.contains(&path) && !everything;
            if known || open.contains(&path) || self.is_just_emptied(&path, stamp) {
                continue;
            }
            let change = read(&path);
            self.stamps.insert(path.clone(), stamp);
            changes.push((path.display().to_string(), change));
        }
        for (folder, why) in &scan.failed {
            changes.push((
                folder.display().to_string(),
                Change::Unreadable(why.clone()),
            ));
        }
        let failed: BTreeSet<PathBuf> = scan.failed.into_iter().map(|(folder, _)| folder).collect();
        for mended in self.failed.difference(&failed) {
            changes.push((mended.display().to_string(), Change::Gone));
        }
        self.failed = failed;
        let changed = !changes.is_empty();
        let told = self.folder.update(changes);
        Look {
            told,
            changed,
            again: match (self.emptied.is_empty(), open.is_empty()) {
                (false, _) => Some(EMPTY_GRACE),
                (true, false) => Some(OPEN_WAIT),
                (true, true) => None,
            },
        }
    }

    /// Whether a file that had content has become empty so lately that its
    /// writer may still be about to fill it. Its old stamp stays, so that the
    /// next look comes to it again.
    fn is_just_emptied(&mut self, path: &Path, stamp: Stamp) -> bool {
        let had_content = self.stamps.get(path).is_some_and(|old| old.bytes > 0);
        if stamp.bytes > 0 || !had_content {
            self.emptied.remove(path);
            return false;
        }
        let now = clock::now();
        let since = *self.emptied.entry(path.to_owned()).or_insert(now);
        let waits = now.duration_since(since) < EMPTY_GRACE;
        if !waits {
            self.emptied.remove(path);
        }
        waits
    }

    /// Known files that are there no more; those of a folder that cannot be
    /// read are not known to be gone.
    fn missing(&self, scan: &Scan) -> Vec<PathBuf> {
        let known = self
            .stamps
            .keys()
            .filter(|path| !scan.found.contains_key(*path));
        let unknown = |path: &&PathBuf| {
            scan.failed
                .iter()
                .any(|(folder, _)| path.starts_with(folder))
        };
        known.filter(|path| !unknown(path)).cloned().collect()
    }

    fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        for folder in self.folders.clone() {
            if let Err(error) = self.watch(&folder) {
                scan.failed.push((folder, error.to_string()));
                continue;
            }
            scan.walk(&folder, 0);
        }
        scan
    }
}

/// What stands in the folders.
#[derive(Default)]
struct Scan {
    found: BTreeMap<PathBuf, Stamp>,
    failed: Vec<(PathBuf, String)>,
}

impl Scan {
    fn walk(&mut self, folder: &Path, depth: usize) {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // Gone since its parent was read: its files are gone too.
            Err(error) if depth > 0 && error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                self.failed.push((
                    folder.to_owned(),
                    format!("the folder cannot be read: {error}"),
                ));
                return;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Hidden ones are editors' swap files, and `..data` of a ConfigMap,
            // whose files are reached by the links beside it.
            if name.starts_with(['.', '#']) || name.ends_with('~') {
                continue;
            }
            // Follows links; a dangling one is no file.
            let Ok(metadata) = std::fs::metadata(&path) else {
                continue;
            };
            if metadata.is_dir() && depth < MAX_DEPTH {
                if !path.join(IGNORE_MARK).exists() {
                    self.walk(&path, depth + 1);
                }
            } else if metadata.is_file() && is_ours(&path) {
                if self.found.len() >= MAX_FILES {
                    let why = format!("has more than {MAX_FILES} files: the rest is not read");
                    self.failed.push((folder.to_owned(), why));
                    return;
                }
                self.found.insert(path, Stamp::of(&metadata));
            }
        }
    }
}

fn is_ours(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|ours| ending == *ours))
}

fn read(path: &Path) -> Change {
    let read = std::fs::File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    match read.map(|bytes| {
        (
            bytes.len() as u64 > MAX_FILE_BYTES,
            String::from_utf8(bytes),
        )
    }) {
        Ok((true, _)) => Change::Unreadable(format!("is larger than {MAX_FILE_BYTES} bytes")),
        Ok((false, Ok(text))) => Change::Text(text),
        Ok((false, Err(_))) => Change::Unreadable("is not UTF-8".to_owned()),
        Err(error) => Change::Unreadable(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_emptied_and_filled_again_never_counts_as_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.yaml");
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        std::fs::write(&path, text).unwrap();
        let mut files = Files::new(vec![folder.path().to_owned()]).unwrap();
        assert_eq!(files.look().told.len(), 1);

        std::fs::File::create(&path).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let look = files.look();
        assert!(look.told.is_empty(), "{:?}", look.told);
        assert!(look.again.is_some(), "it is looked at again soon");
        std::fs::write(&path, text).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(files.look().told.is_empty(), "nothing has changed");

        std::fs::File::create(&path).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(files.look().told.is_empty());
        std::thread::sleep(EMPTY_GRACE);
        assert_eq!(files.look().told.len(), 1, "it stays empty: that is meant");
    }

    #[test]
    fn a_folder_that_is_marked_is_not_read_for_as_long_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let sub = folder.path().join("stages");
        std::fs::create_dir_all(sub.join("deeper")).unwrap();
        let namespace =
            |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
        // The mark on the source's own folder means nothing: it was named.
        std::fs::write(folder.path().join(IGNORE_MARK), "").unwrap();
        std::fs::write(folder.path().join("a.yaml"), namespace("a")).unwrap();
        std::fs::write(sub.join("b.yaml"), namespace("b")).unwrap();
        std::fs::write(sub.join("deeper/c.yaml"), namespace("c")).unwrap();
        std::fs::write(sub.join(IGNORE_MARK), "").unwrap();
        let mut files = Files::new(vec![folder.path().to_owned()]).unwrap();
        let told = |files: &mut Files| -> Vec<String> {
            std::thread::sleep(Duration::from_millis(20));
            let told = files.look().told;
            told.iter().map(|event| format!("{event:?}")).collect()
        };
        let about = |told: &[String], names: &[&str]| {
            let all = names.iter().all(|name| {
                let name = format!("{name:?}");
                told.iter().any(|event| event.contains(&name))
            });
            assert!(told.len() == names.len() && all, "{told:?}, not {names:?}");
        };
        about(&told(&mut files), &["a"]);
        std::fs::remove_file(sub.join(IGNORE_MARK)).unwrap();
        about(&told(&mut files), &["b", "c"]);
        // Marked again, what is in it is gone.
        std::fs::write(sub.join(IGNORE_MARK), "").unwrap();
        about(&told(&mut files), &["b", "c"]);
        assert!(told(&mut files).is_empty());
    }
}
