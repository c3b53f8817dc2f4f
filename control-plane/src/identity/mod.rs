//! Who a pod is, and how it shows it: the CA, the tokens, and TLS of the
//! streams. Whom a pod lets in is not decided here.
//!
//! # Layout
//! The CA:
//! - [`material`]: what it is written as; [`authority`]: read, and found right.
//! - [`issue`]: a leaf for a key, never for the names that are asked for.
//! - [`record`]: the roots that are trusted, former ones among them.
//! - [`rotation`]: which CA issues while one takes another's place.
//! - [`keep`]: all of it kept, in a Secret ([`secret`]) or a [`folder`].
//! - [`spread`]: whom to trust, into every namespace of the mesh.
//!
//! The streams:
//! - [`serving`]: our own certificate; [`accept`]: handshakes.
//! - [`tokens`]: whose a token is; [`gate`]: who may come in; [`layer`]: the
//!   gate before every service.
//! - [`service`]: certificates for who came in.
//!
//! - [`options`]: the flags; [`start`]: all of it started; [`figures`]: counted.

pub mod accept;
pub mod authority;
pub mod figures;
pub mod folder;
pub mod gate;
pub mod issue;
pub mod keep;
pub mod layer;
pub mod material;
pub mod options;
pub mod record;
pub mod rotation;
pub mod secret;
pub mod service;
pub mod serving;
pub mod spread;
pub mod start;
pub mod tokens;

pub use options::Options;
