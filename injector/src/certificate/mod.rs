//! The webhook's own certificate.
//!
//! Owns how it is made, kept, renewed and put to use; not the TLS that it is
//! used for.
//!
//! # Layout
//! - [`pem`]: certificates as they are written, checked as an API server checks.
//! - [`make`]: new authorities and new certificates.
//! - [`plan`]: what is to be made anew, and when; pure.
//! - [`secret`]: the Secret in which all replicas keep one.
//! - [`configuration`]: `caBundle` of the webhook configuration.
//! - [`handover`]: when a new certificate takes the place of the old.
//! - [`files`]: a folder in which somebody else keeps one.
//!
//! # How long
//! The authority lives a year, a certificate 90 days, and both are renewed
//! after two thirds of it. The authority signs nothing but this certificate
//! and its key lies beside the certificate's own, so a long life would protect
//! nothing that is not lost with the Secret; a year keeps a key that did leak
//! from being good for ten. A certificate's life is short because nobody can
//! revoke it. A third of 90 days is what an operator has to notice that
//! renewal fails (it is in the log every few seconds, and in the metrics).
//!
//! # A change that nobody notices
//! A new authority joins the old one in the bundle; the certificate stays
//! until it is due itself. An API server that has not heard of a bundle would
//! refuse what is signed by it, so a replica goes on serving what it has until
//! `caBundle` has been in place for a few seconds.

pub mod configuration;
pub mod files;
pub mod handover;
pub mod make;
pub mod pem;
pub mod plan;
pub mod secret;

use std::sync::Arc;

use pem::Certificate;

/// What is offered for serving.
#[derive(Debug, Clone)]
pub struct Offered {
    /// The certificate.
    pub certificate: Arc<Certificate>,
    /// By what it is trusted, PEM; empty where that is not our affair.
    pub bundle: Arc<Vec<u8>>,
}
