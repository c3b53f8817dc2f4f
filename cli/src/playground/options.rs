//! What `remora playground` can be told, and the checks before anything starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};

use super::scenario::Scenario;

/// The shortest run that leaves room for a kill and a revival.
const SHORTEST_RUN: Duration = Duration::from_secs(3);
/// By this word, instead of a scenario's, all of them are told.
const LIST: &str = "list";
/// The longest run that `--for` takes.
const LONGEST_RUN: Duration = Duration::from_secs(24 * 3600);

/// Options of `remora playground`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Tell a running playground to do something.
    #[command(subcommand)]
    pub order: Option<OrderCommand>,
    /// What happens on the stage; `list` prints what there is.
    #[arg(long, value_name = "NAME", default_value = "demo", value_parser = scenarios())]
    pub scenario: Choice,
    /// Run for this long under load and end (`30s`, `2m`); the scenario's
    /// mischief happens only with a set length.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length)]
    pub length: Option<Duration>,
    /// No live view; one JSON object on standard output at the end.
    #[arg(long)]
    pub json: bool,
    /// How pods are kept apart (default: network namespaces where they can be had).
    #[arg(long, value_enum)]
    pub isolation: Option<Isolation>,
    /// The folder of Kubernetes YAML to run.
    #[arg(long, value_name = "DIR", default_value = "manifests/demo")]
    pub manifests: PathBuf,
    /// Copy the logs of every process there at the end.
    #[arg(long, value_name = "DIR")]
    pub keep_logs: Option<PathBuf>,
    /// Write what travels between pods there, for tcpdump or Wireshark (pcap, at
    /// most 256 MiB); with network namespaces only.
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
}

/// What is chosen of the scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// To be told which there are.
    List,
    /// This one.
    Of(Scenario),
}

fn scenarios() -> impl TypedValueParser<Value = Choice> {
    let words = Scenario::all().into_iter().map(Scenario::word);
    PossibleValuesParser::new(words.chain([LIST])).try_map(|word| match word.as_str() {
        LIST => Ok(Choice::List),
        _ => Scenario::try_from(word).map(Choice::Of),
    })
}

/// An order to a running playground.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum OrderCommand {
    /// SIGKILL a pod's processes; its endpoint stays listed.
    Kill(Target),
    /// Start a killed pod's processes again.
    Revive(Target),
    /// Make a pod's application slow (`--ms 0` mends it).
    Slow {
        /// Which pod of which playground.
        #[command(flatten)]
        target: Target,
        /// Milliseconds added to every answer.
        #[arg(long, default_value_t = 500)]
        ms: u32,
    },
    /// Make a pod's application answer errors (`--status 0` mends it).
    Break {
        /// Which pod of which playground.
        #[command(flatten)]
        target: Target,
        /// The status of every answer.
        #[arg(long, default_value_t = 503)]
        status: u16,
    },
}

/// Which pod of which running playground.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// The pod's name, such as `catalog-1`.
    pub pod: String,
    /// The process id of the playground, where several run.
    #[arg(long, value_name = "PID")]
    pub playground: Option<u32>,
}

/// How pods are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A network namespace for each pod, with real redirect rules.
    Netns,
    /// A loopback address for each pod, with explicit proxying.
    Loopback,
}

impl Isolation {
    /// The word for it, as typed and as reported.
    pub fn word(self) -> &'static str {
        match self {
            Self::Netns => "netns",
            Self::Loopback => "loopback",
        }
    }
}

/// Everything that the inner processes need to know; handed down as JSON in
/// the environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// How pods are kept apart.
    pub isolation: Isolation,
    /// Why not in network namespaces, where that was not chosen but found out.
    pub isolation_reason: Option<String>,
    /// The private folder (mode 0700) of this run.
    pub folder: PathBuf,
    /// The user's folder of YAML.
    pub manifests: PathBuf,
    /// What happens.
    pub scenario: Scenario,
    /// How long under load, in milliseconds; unset: until told to end.
    pub length_ms: Option<u64>,
    /// JSON at the end instead of a live view.
    pub json: bool,
    /// Where logs are copied at the end.
    pub keep_logs: Option<PathBuf>,
    /// Where what travels is written.
    pub capture: Option<PathBuf>,
}

impl Plan {
    /// The variable that carries the plan.
    pub const VARIABLE: &'static str = "REMORA_PLAYGROUND_PLAN";

    /// The plan as it was handed down.
    ///
    /// # Errors
    /// When the variable is absent or not a plan: the hidden commands are not for typing.
    pub fn handed_down() -> anyhow::Result<Self> {
        let text = std::env::var(Self::VARIABLE)
            .context("this is an inner step of `remora playground` and not for typing")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// How long under load.
    pub fn length(&self) -> Option<Duration> {
        self.length_ms.map(Duration::from_millis)
    }

    /// The folder that only this run's processes see (where there are namespaces).
    pub fn stage(&self) -> PathBuf {
        self.folder.join("stage")
    }

    /// The control socket's path.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }
}

/// The folder of YAML as an absolute path.
///
/// # Errors
/// When it is not a folder, or holds no YAML.
pub fn manifests_folder(given: &Path) -> anyhow::Result<PathBuf> {
    let folder = given.canonicalize().with_context(|| {
        format!(
            "no folder {}: run from the top of Remora's repository, or give --manifests DIR",
            given.display()
        )
    })?;
    if !folder.is_dir() {
        bail!(
            "{} is not a folder; --manifests takes a folder of Kubernetes YAML",
            given.display()
        );
    }
    if super::cluster::staging::yaml_files(&folder)?.is_empty() {
        bail!("{} holds no .yaml or .yml file", given.display());
    }
    Ok(folder)
}

/// Checks a set length against what the scenario needs.
///
/// # Errors
/// When not all of it would happen.
pub fn check_length(scenario: Scenario, length: Option<Duration>) -> anyhow::Result<()> {
    let shortest = scenario.shortest();
    if length.is_some_and(|length| length < shortest) {
        bail!(
            "--scenario {} needs --for {}s or longer: certificates have to come to be renewed",
            scenario.word(),
            shortest.as_secs()
        );
    }
    Ok(())
}

/// Parses `30s`, `2m`, `1500ms`, `1h`.
fn parse_length(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text)
        .ok_or_else(|| format!("`{text}` is not a length of time such as 30s, 1500ms, 2m"))?;
    if !(SHORTEST_RUN..=LONGEST_RUN).contains(&length) {
        return Err(format!("{text} is outside 3s to 24h"));
    }
    Ok(length)
}

/// A number with a unit `ms`, `s`, `m` or `h`.
fn parse_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_need_a_unit_and_stay_in_bounds() {
        assert_eq!(parse_length("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_length("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_length("4500ms"), Ok(Duration::from_millis(4500)));
        for wrong in [
            "30",
            "s",
            "",
            "1s",
            "25h",
            "99999999999999999999h",
            "5 s",
            "-5s",
        ] {
            assert!(parse_length(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_scenario_that_would_not_happen_whole_is_refused() {
        let short = Some(Duration::from_secs(149));
        let error = check_length(Scenario::RootRotation, short).unwrap_err();
        assert!(error.to_string().contains("150s"), "{error}");
        for (scenario, length) in [(Scenario::Demo, short), (Scenario::CaOutage, None)] {
            check_length(scenario, length).unwrap();
        }
    }

    #[test]
    fn a_missing_folder_says_what_to_do() {
        let error = manifests_folder(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("--manifests DIR"), "{error}");
    }
}
