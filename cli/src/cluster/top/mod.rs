//! `remora top`: what each pod does, live.
//!
//! - [`poll`]: the sidecars, asked again and again.
//! - [`rows`]: counters to rates.
//! - [`scene`]: what is shown, and how keys change it; [`mod@draw`]: how it is
//!   drawn; [`screen`]: the terminal.

pub mod draw;
pub mod poll;
pub mod rows;
pub mod scene;
pub mod screen;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::poll::{Look, Poller};
use self::rows::Meters;
use self::scene::{Scene, Wish};
use self::screen::{Screen, Seen};
use super::api::Api;
use super::error::Error;
use super::mesh;
use super::options::{Connection, Format, Output, Scope};
use super::output::{self, Cell, Paint, Table, Tone};
use crate::playground::measure::routes::{Taken, Way, taken};

/// How often the sidecars are asked.
const INTERVAL: Duration = Duration::from_secs(2);

/// Options of `remora top`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Rates are of the last 2 s. req/s, ok, p50 and p99 are of the requests to a pod, \
    or, for a pod that is rarely called, of those from it. At most 500 pods are asked.\n\
    Keys: arrows, PgUp, PgDn, Home, End scroll; s sorts by another column; q or Ctrl-C ends.\n\n\
    Exit status: 0; 1 (with --once or -o) not one sidecar answered; 2 wrong usage, or the cluster cannot be asked.\n\
    Needs: list pods and get pods/proxy in the namespace (all: in the whole cluster); get namespaces \
    to tell an empty namespace from none."
)]
pub struct Options {
    #[command(flatten)]
    scope: Scope,
    /// Look once (two reads, 2 s apart), print, and end; so do -o json and yaml.
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be asked, or there is no terminal to draw on.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    let is_once = options.once || options.output.format != Format::Table;
    let has_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if !is_once && !has_terminal {
        return Err(Error::Usage(
            "the live view needs a terminal: use --once or -o json".to_owned(),
        ));
    }
    let api = Api::connect(&options.connection).await?;
    let namespace = options.scope.namespace(&api.default_namespace);
    mesh::checked_namespace(&api, namespace).await?;
    let poller = Poller::new(api.clone(), namespace.map(str::to_owned));
    if is_once {
        return once(poller, options.output.format).await;
    }
    let title = match namespace {
        Some(namespace) => format!("namespace {namespace}"),
        None => "all namespaces".to_owned(),
    };
    live(poller, title).await?;
    Ok(ExitCode::SUCCESS)
}

async fn once(mut poller: Poller, format: Format) -> Result<ExitCode, Error> {
    let mut meters = Meters::default();
    let first = poller.look().await?;
    meters.take(&first);
    tokio::time::sleep(INTERVAL).await;
    let second = poller.look().await?;
    let rows = meters.take(&second);
    for doubt in second.doubts() {
        output::warn(&doubt);
    }
    let text = output::structured(format, &rows)?;
    output::print(&text.unwrap_or_else(|| table(&rows, Paint::of_stdout())))?;
    let is_silent = !rows.is_empty() && rows.iter().all(|row| row.error.is_some());
    Ok(if is_silent {
        super::FOUND
    } else {
        ExitCode::SUCCESS
    })
}

/// The rows for people who look once.
fn table(rows: &[rows::Row], paint: Paint) -> String {
    if rows.is_empty() {
        return "No pods with a sidecar here (-A shows all namespaces).\n".to_owned();
    }
    let columns = [
        "NAMESPACE",
        "POD",
        "REQ/S",
        "OK",
        "P50 MS",
        "P99 MS",
        "RETRY/S",
        "LIMIT/S",
        "OPEN",
    ];
    let mut table = Table::new(&columns);
    for row in rows {
        let name = [Cell::plain(&row.namespace), Cell::plain(&row.pod)];
        match &row.error {
            Some(error) => table.row(name.into_iter().chain([Cell::toned(Tone::Bad, error)])),
            None => {
                let numbers = draw::numbers(row).map(Cell::plain);
                table.row(name.into_iter().chain(numbers));
            }
        }
    }
    let routes = routes(rows);
    let mut ways = Table::new(&["ROUTE", "BACKEND", "SHARE", "REQ/S"]);
    for way in &routes {
        ways.row([
            Cell::plain(way.rule()),
            Cell::plain(way.backend()),
            Cell::plain(format!("{:.1} %", way.share * 100.0)),
            Cell::plain(format!("{:.1}", way.requests_per_second)),
        ]);
    }
    let ways = if routes.is_empty() {
        String::new()
    } else {
        format!("\n{}", ways.text(paint))
    };
    format!("{}{ways}", table.text(paint))
}

/// Where the requests of all these pods together go by routes.
fn routes(rows: &[rows::Row]) -> Vec<Taken> {
    let rates: Vec<BTreeMap<Way, f64>> = rows
        .iter()
        .map(|row| {
            let routes = row.routes.iter();
            let rates = routes.map(|one| (one.way.clone(), one.requests_per_second));
            rates.collect()
        })
        .collect();
    taken(rates.iter())
}

async fn live(mut poller: Poller, title: String) -> Result<(), Error> {
    // The first look tells whether there is anything to show, before the
    // terminal is taken over.
    let first = poller.look().await?;
    let (looks, mut looked) = mpsc::channel::<Result<Look, Error>>(1);
    let asking = tokio::spawn(ask(poller, looks));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut meters = Meters::default();
    let mut scene = Scene::new(title);
    scene.take(meters.take(&first), first.doubts());
    let mut screen = Screen::open()?;
    loop {
        screen.draw(&mut scene);
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
            seen = screen.next() => match seen {
                Seen::Key(key) => if scene.key(key) == Wish::Quit { break },
                Seen::Resized => {}
                Seen::Gone => break,
            },
            Some(look) = looked.recv() => match look {
                Ok(look) => scene.take(meters.take(&look), look.doubts()),
                Err(error) => scene.trouble(error.to_string()),
            },
        }
    }
    asking.abort();
    Ok(())
}

async fn ask(mut poller: Poller, looks: mpsc::Sender<Result<Look, Error>>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if looks.send(poller.look().await).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
