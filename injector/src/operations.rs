//! The patch, one operation at a time.
//!
//! Not computed as the difference of two documents: such a difference goes by
//! position, so that a container put in front would rewrite all others field by
//! field, and fields that the types here do not know would end up in the wrong
//! container.

use json_patch::jsonptr::{PointerBuf, Token};
use json_patch::{
    AddOperation, MoveOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// Operations in the order in which they are applied.
#[derive(Debug, Default)]
pub struct Operations(Vec<PatchOperation>);

/// The place in the document to which these names and numbers lead.
pub fn at<const N: usize>(parts: [&str; N]) -> PointerBuf {
    PointerBuf::from_tokens(parts.map(Token::new))
}

impl Operations {
    /// None yet.
    pub fn new() -> Self {
        Operations::default()
    }

    /// Puts a value where there was none, or in front of an array's element.
    pub fn add(&mut self, path: PointerBuf, value: Value) {
        self.0
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Puts a value in the place of another.
    pub fn replace(&mut self, path: PointerBuf, value: Value) {
        self.0
            .push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }

    /// Takes a value away.
    pub fn remove(&mut self, path: PointerBuf) {
        self.0
            .push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// Takes a value from one place to another.
    pub fn shift(&mut self, from: PointerBuf, path: PointerBuf) {
        self.0
            .push(PatchOperation::Move(MoveOperation { from, path }));
    }

    /// Gives the pod annotations, of which those that it has already stay.
    /// At most once for each pod: where it has none at all, this makes the map.
    pub fn annotate(&mut self, pod: &Pod, wanted: &[(&str, String)]) {
        let Some(annotations) = &pod.metadata.annotations else {
            self.add(
                at(["metadata", "annotations"]),
                wanted
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), json!(value)))
                    .collect(),
            );
            return;
        };
        for (name, value) in wanted {
            let path = at(["metadata", "annotations", name]);
            match annotations.get(*name) {
                Some(now) if now == value => {}
                Some(_) => self.replace(path, json!(value)),
                None => self.add(path, json!(value)),
            }
        }
    }

    /// All of them.
    pub fn into_patch(self) -> Patch {
        Patch(self.0)
    }
}
