//! What is asked of each system.

use std::str::FromStr;

use anyhow::{Context, bail};

/// A way in which traffic goes through a system.
///
/// Every system names those that it can do ([`crate::systems::Running`]);
/// a new one is added here, in [`Scenario::ALL`], and to the systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// HTTP/1.1 in and out, nothing else asked for.
    Http1,
    /// The same with circuit breaker, retries, rate limit and timeouts on, none
    /// of which is ever reached.
    Http1Features,
}

impl Scenario {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http1Features];

    /// Its word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http1Features => "http1-features",
        }
    }

    /// What its load is counted in.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Http1 | Self::Http1Features => "request",
        }
    }

    /// Its words in the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1, no policy",
            Self::Http1Features => {
                "HTTP/1.1 with circuit breaker, retries, rate limit and timeouts"
            }
        }
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        let known = Self::ALL.map(Self::word).join(", ");
        match Self::ALL
            .into_iter()
            .find(|scenario| scenario.word() == word)
        {
            Some(scenario) => Ok(scenario),
            None => bail!("{word:?} is no scenario; there are {known}"),
        }
    }
}

/// Scenarios from the command line: `http1,http1-features`.
///
/// # Errors
/// Where a word is no scenario.
pub fn parse_list(words: &str) -> anyhow::Result<Vec<Scenario>> {
    let mut chosen: Vec<Scenario> = words
        .split(',')
        .map(|word| word.trim().parse())
        .collect::<anyhow::Result<_>>()
        .context("--scenarios takes scenarios, comma separated")?;
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_scenarios_and_others_are_named() {
        let both = parse_list("http1-features, http1,http1").unwrap();
        assert_eq!(both, Scenario::ALL);
        let error = format!("{:#}", parse_list("http1,http9").unwrap_err());
        assert!(
            error.contains("http9") && error.contains("http1-features"),
            "{error}"
        );
    }
}
