//! How the mesh's identities are run, as flags.

use std::path::PathBuf;

use remora_proto::spiffe::parse_trust_domain;
use remora_proto::well_known::TRUST_DOMAIN;

use super::service::MIN_LIFETIME_SECONDS;
use crate::policy::units::duration_ms;

/// The longest lifetime of a certificate.
const MAX_LIFETIME_SECONDS: u64 = 30 * 24 * 60 * 60;
/// The lifetime where none is set.
const LIFETIME_SECONDS: u64 = 24 * 60 * 60;

/// Flags. With neither --ca-secret nor --ca-dir the mesh has no identities, and
/// the streams are plaintext.
#[derive(Clone, Debug, clap::Args)]
// The options that these are among are a group of the same name.
#[group(skip)]
pub struct Options {
    /// The trust domain of the mesh's identities:
    /// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
    #[arg(long, value_name = "NAME", default_value = TRUST_DOMAIN, value_parser = parse_trust_domain)]
    pub trust_domain: String,
    /// The Secret of the CA, in Remora's own namespace: tls.crt, tls.key, ca.crt.
    /// With the name remora-ca one is made where there is none; with any other
    /// it is brought (for instance by cert-manager), and waited for.
    #[arg(long, value_name = "NAME", conflicts_with = "ca_dir")]
    pub ca_secret: Option<String>,
    /// The folder of the CA: tls.crt, tls.key, ca.crt, made where there are none.
    #[arg(long, value_name = "DIR")]
    pub ca_dir: Option<PathBuf>,
    /// The key by which callers' tokens are checked (64 hexadecimal digits),
    /// where no API server does it.
    #[arg(long, value_name = "FILE")]
    pub token_key: Option<PathBuf>,
    /// The file of this replica's own token (audience remora.io), by which it shows
    /// the replica that leads who it is. Without it, it does not learn what probes
    /// say of pods while another one leads.
    #[arg(long, value_name = "FILE")]
    pub own_token: Option<PathBuf>,
    /// How long certificates live, from 60s to 720h.
    #[arg(long = "identity-lifetime", value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub lifetime_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trust_domain: TRUST_DOMAIN.to_owned(),
            ca_secret: None,
            ca_dir: None,
            token_key: None,
            own_token: None,
            lifetime_seconds: LIFETIME_SECONDS,
        }
    }
}

/// Flags that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// Tokens are checked for nothing.
    #[error("--token-key without a CA: add --ca-dir (or --ca-secret in a cluster)")]
    NoCa,
    /// A Secret of nowhere.
    #[error("--ca-secret needs --source kubernetes: with folders use --ca-dir")]
    NoCluster,
    /// Nobody could show who he is.
    #[error(
        "--ca-dir without --token-key: outside of a cluster callers show who they are by tokens of a shared key"
    )]
    NoTokens,
}

impl Options {
    /// Whether there are identities at all.
    ///
    /// # Errors
    /// When the flags do not fit together.
    pub fn are_wanted(&self, in_cluster: bool) -> Result<bool, OptionsError> {
        let has_ca = self.ca_secret.is_some() || self.ca_dir.is_some();
        match (has_ca, self.token_key.is_some()) {
            (false, true) => Err(OptionsError::NoCa),
            (true, _) if self.ca_secret.is_some() && !in_cluster => Err(OptionsError::NoCluster),
            (true, false) if !in_cluster => Err(OptionsError::NoTokens),
            (has_ca, _) => Ok(has_ca),
        }
    }
}

fn lifetime(text: &str) -> Result<u64, String> {
    let seconds = duration_ms(text).map(|ms| ms / 1_000);
    let allowed = MIN_LIFETIME_SECONDS..=MAX_LIFETIME_SECONDS;
    seconds
        .filter(|seconds| allowed.contains(seconds))
        .ok_or_else(|| "must be a duration such as 24h, from 60s to 720h".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn read(arguments: &[&str]) -> Result<Options, clap::Error> {
        let line = ["x"].into_iter().chain(arguments.iter().copied());
        Line::try_parse_from(line).map(|line| line.options)
    }

    #[test]
    fn without_flags_there_are_no_identities_and_half_of_them_is_refused() {
        let wanted = |arguments: &[&str], cluster| read(arguments).unwrap().are_wanted(cluster);
        assert_eq!(
            (wanted(&[], true), wanted(&[], false)),
            (Ok(false), Ok(false))
        );
        assert_eq!(wanted(&["--ca-secret=remora-ca"], true), Ok(true));
        assert_eq!(wanted(&["--ca-dir=a", "--token-key=b"], false), Ok(true));
        assert_eq!(wanted(&["--ca-dir=a"], false), Err(OptionsError::NoTokens));
        assert_eq!(wanted(&["--token-key=a"], false), Err(OptionsError::NoCa));
        let secret = wanted(&["--ca-secret=a", "--token-key=b"], false);
        assert_eq!(secret, Err(OptionsError::NoCluster));
        read(&["--ca-secret=a", "--ca-dir=b"]).unwrap_err();
    }

    #[test]
    fn values_are_within_their_bounds() {
        let options = read(&[]).unwrap();
        assert_eq!(
            (options.lifetime_seconds, &*options.trust_domain),
            (86_400, "cluster.local")
        );
        for (text, seconds) in [("60s", 60), ("720h", 2_592_000), ("90m", 5_400)] {
            let options = read(&["--identity-lifetime", text]).unwrap();
            assert_eq!(options.lifetime_seconds, seconds);
        }
        for wrong in ["59s", "721h", "1d", "0s", "x"] {
            read(&["--identity-lifetime", wrong]).unwrap_err();
        }
        for wrong in ["", "Mesh", "a/b", "a:1"] {
            read(&["--trust-domain", wrong]).unwrap_err();
        }
    }
}
