//! The copy of the user's folder that the control plane watches.
//!
//! It is the user's folder file for file and line for line, so that what the
//! control plane finds wrong carries the user's file and line; but Services
//! that parse are blanked there, because they get a cluster IP and are written
//! to the generated folder instead: one object, one place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Service;
use remora_control_plane::source::files::IGNORE_MARK;
use serde_json::Value;

use super::catalogue::Key;
use super::yaml;

/// Deeper folders are not looked into: a link in a circle ends here.
const DEEPEST_FOLDER: usize = 8;
/// More files are not taken.
const MOST_FILES: usize = 1000;
/// A larger file is not YAML of ours.
const LARGEST_FILE_BYTES: u64 = 4 << 20;

/// The folder of the copy in which files from elsewhere are.
const SCENARIO: &str = "scenario";

/// The YAML files under a folder, sorted, relative to it.
///
/// # Errors
/// When the folder cannot be read.
pub fn yaml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((here, depth)) = open.pop() {
        for entry in fs::read_dir(&here)? {
            let path = entry?.path();
            let Ok(about) = fs::metadata(&path) else {
                continue;
            };
            if about.is_dir() && path.join(IGNORE_MARK).exists() {
                continue;
            }
            if about.is_dir() && depth < DEEPEST_FOLDER {
                open.push((path, depth + 1));
            } else if about.is_file()
                && about.len() <= LARGEST_FILE_BYTES
                && is_yaml(&path)
                && found.len() < MOST_FILES
            {
                found.push(path.strip_prefix(folder).unwrap_or(&path).to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_yaml(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml"))
}

/// Keeps the copy in step.
#[derive(Debug)]
pub struct Mirror {
    user: PathBuf,
    copy: PathBuf,
    texts: BTreeMap<PathBuf, String>,
    taken_over: Option<Key>,
    overlay: Vec<PathBuf>,
}

/// What changed in one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files that are new or different, relative to the folder.
    pub changed: Vec<PathBuf>,
    /// Files that are gone.
    pub removed: Vec<PathBuf>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

impl Mirror {
    /// A mirror of `user` in `copy`, which is made.
    ///
    /// # Errors
    /// When the copy's folder cannot be made.
    pub fn new(user: &Path, copy: &Path) -> io::Result<Self> {
        fs::create_dir_all(copy)?;
        Ok(Self {
            user: user.to_owned(),
            copy: copy.to_owned(),
            texts: BTreeMap::new(),
            taken_over: None,
            overlay: Vec::new(),
        })
    }

    /// These files too from the next [`Self::sync`] on, each under its name in the
    /// folder `scenario`; those of an earlier call are no more.
    pub fn overlay(&mut self, files: Vec<PathBuf>) {
        self.overlay = files;
    }

    /// Leaves this TrafficPolicy out of the copy from now on: somebody else
    /// writes it.
    ///
    /// # Errors
    /// When the copy cannot be written.
    pub fn take_over(&mut self, policy: &Key) -> io::Result<()> {
        self.taken_over = Some(policy.clone());
        for (file, text) in &self.texts {
            write_atomically(&self.copy.join(file), &self.staged(text))?;
        }
        Ok(())
    }

    fn staged(&self, text: &str) -> String {
        blank(text, |document, value| match yaml::kind(value) {
            "Service" => document.parse::<Service>().is_ok(),
            "TrafficPolicy" => self.taken_over.as_ref() == Some(&yaml::key(value)),
            _ => false,
        })
    }

    /// The user's text of each file, as last seen.
    pub fn texts(&self) -> &BTreeMap<PathBuf, String> {
        &self.texts
    }

    /// Brings the copy in step.
    ///
    /// # Errors
    /// When the user's folder cannot be read or the copy not be written; a
    /// single file that vanishes meanwhile counts as removed.
    pub fn sync(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        let mut seen = BTreeMap::new();
        let mut all: Vec<_> = yaml_files(&self.user)?
            .into_iter()
            .map(|file| (self.user.join(&file), file))
            .collect();
        all.extend(self.overlay.iter().filter_map(|file| {
            let name = Path::new(SCENARIO).join(file.file_name()?);
            Some((file.clone(), name))
        }));
        for (place, file) in all {
            match fs::read(place) {
                Ok(bytes) => {
                    seen.insert(file, String::from_utf8_lossy(&bytes).into_owned());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for (file, text) in &seen {
            if self.texts.get(file) != Some(text) {
                write_atomically(&self.copy.join(file), &self.staged(text))?;
                changes.changed.push(file.clone());
            }
        }
        for file in self.texts.keys().filter(|file| !seen.contains_key(*file)) {
            let _ = fs::remove_file(self.copy.join(file));
            changes.removed.push(file.clone());
        }
        self.texts = seen;
        Ok(changes)
    }
}

/// The text with some of its documents blanked, line for line.
fn blank(text: &str, is_blanked: impl Fn(&yaml::Document<'_>, &Value) -> bool) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = 0;
    for document in yaml::documents(text) {
        if !document
            .parse::<Value>()
            .is_ok_and(|value| is_blanked(&document, &value))
        {
            continue;
        }
        let start = document.text.as_ptr() as usize - text.as_ptr() as usize;
        result.push_str(&text[rest..start]);
        result.extend(document.text.matches('\n'));
        rest = start + document.text.len();
    }
    result.push_str(&text[rest..]);
    result
}

/// Writes a file so that a reader sees the old or the new one, never half.
///
/// # Errors
/// What the file system says.
pub fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  ports: [{port: 80}]\n";

    fn mirror() -> Mirror {
        Mirror {
            user: PathBuf::new(),
            copy: PathBuf::new(),
            texts: BTreeMap::new(),
            taken_over: None,
            overlay: Vec::new(),
        }
    }

    #[test]
    fn a_policy_that_was_taken_over_is_left_out() {
        let mut mirror = mirror();
        mirror.taken_over = Some(("shop".to_owned(), "a".to_owned()));
        let text = "kind: TrafficPolicy\nmetadata: {name: a, namespace: shop}\n---\nkind: TrafficPolicy\nmetadata: {name: b, namespace: shop}\n";
        assert_eq!(
            mirror.staged(text),
            "\n\n---\nkind: TrafficPolicy\nmetadata: {name: b, namespace: shop}\n"
        );
    }

    #[test]
    fn good_services_are_blanked_and_lines_stay() {
        let text = format!("{SERVICE}---\nkind: Namespace\n---\n{SERVICE}");
        let staged = mirror().staged(&text);
        assert_eq!(staged.lines().count(), text.lines().count());
        assert!(!staged.contains("Service"));
        assert_eq!(staged.lines().nth(6), Some("kind: Namespace"));
    }

    #[test]
    fn broken_services_stay_for_the_control_plane_to_name() {
        let text =
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: eighty}]}\n";
        assert_eq!(mirror().staged(text), text);
    }

    #[test]
    fn files_from_elsewhere_stand_beside_the_folders_own_until_others_do() {
        let (user, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let elsewhere = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::new(user.path(), copy.path()).unwrap();
        for name in ["a.yaml", "b.yaml"] {
            let file = elsewhere.path().join(name);
            fs::write(&file, "kind: HTTPRoute\n").unwrap();
            mirror.overlay(vec![file]);
            let changed = mirror.sync().unwrap().changed;
            assert_eq!(changed, [Path::new("scenario").join(name)]);
        }
        assert!(!copy.path().join("scenario/a.yaml").exists());
        assert!(copy.path().join("scenario/b.yaml").exists());
    }

    #[test]
    fn the_mirror_follows_changes_and_removals() {
        let user = tempfile::tempdir().unwrap();
        let copy = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::new(user.path(), copy.path()).unwrap();
        fs::create_dir(user.path().join("sub")).unwrap();
        fs::write(user.path().join("sub/a.yaml"), "kind: Namespace\n").unwrap();
        fs::write(user.path().join("notes.txt"), "no").unwrap();
        assert_eq!(
            mirror.sync().unwrap().changed,
            [PathBuf::from("sub/a.yaml")]
        );
        assert!(mirror.sync().unwrap().is_empty());
        fs::remove_file(user.path().join("sub/a.yaml")).unwrap();
        assert_eq!(
            mirror.sync().unwrap().removed,
            [PathBuf::from("sub/a.yaml")]
        );
        assert!(!copy.path().join("sub/a.yaml").exists());
    }
}
