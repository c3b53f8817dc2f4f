//! AuthorizationPolicy: the custom resource, and its reading.
//!
//! # Layout
//! - [`schema`]: the object as users write it, and its schema.
//! - [`words`]: the forms of its words, for the schema and for files.
//! - [`parse`]: from the object to [`crate::core::authorizations`], once.
//!
//! What several policies together mean for a pod is in
//! [`crate::core::authorizations`], and what a rule means for a request is the
//! sidecar's.

pub mod parse;
pub mod schema;
pub mod words;

#[cfg(test)]
mod tests;
