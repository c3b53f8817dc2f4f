//! `remora playground kill POD` and its like: one JSON line each way through a
//! socket in the private folder of the running playground.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::folder;
use super::options::OrderCommand;

/// The longest request.
const LONGEST_REQUEST_BYTES: u64 = 4096;
/// How long either side waits for the other.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a pod is to suffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// SIGKILL its processes.
    Kill,
    /// Start them again.
    Revive,
    /// Answer this many milliseconds later.
    Slow(u32),
    /// Answer with this status; 0 mends.
    Break(u16),
}

/// A request through the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The pod.
    pub pod: String,
    /// What to do.
    pub deed: Deed,
}

/// The answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// What was done, or why not.
    pub message: String,
}

/// A request and where its answer goes.
pub type Asked = (Request, oneshot::Sender<Answer>);

/// Tells a running playground.
///
/// # Errors
/// When none runs, several do and none was named, or it refuses.
pub fn tell(command: OrderCommand) -> anyhow::Result<()> {
    let (target, deed) = match command {
        OrderCommand::Kill(target) => (target, Deed::Kill),
        OrderCommand::Revive(target) => (target, Deed::Revive),
        OrderCommand::Slow { target, ms } => (target, Deed::Slow(ms)),
        OrderCommand::Break { target, status } => (target, Deed::Break(status)),
    };
    let socket = running(target.playground)?.join("control.sock");
    let answer = ask(
        &socket,
        &Request {
            pod: target.pod,
            deed,
        },
    )?;
    if !answer.ok {
        bail!("{}", answer.message);
    }
    println!("{}", answer.message);
    Ok(())
}

/// The folder of the playground that is meant.
fn running(named: Option<u32>) -> anyhow::Result<PathBuf> {
    let mut running = folder::running();
    if let Some(named) = named {
        running.retain(|(pid, _)| *pid == named);
    }
    match running.as_slice() {
        [] => bail!("no playground of this user runs here; start one with `remora playground`"),
        [(_, folder)] => Ok(folder.clone()),
        several => {
            let pids: Vec<_> = several.iter().map(|(pid, _)| pid.to_string()).collect();
            bail!(
                "several playgrounds run; say which with --playground PID (one of {})",
                pids.join(", ")
            )
        }
    }
}

fn ask(socket: &Path, request: &Request) -> anyhow::Result<Answer> {
    let connecting = UnixStream::connect(socket);
    let mut stream = connecting
        .with_context(|| format!("the playground at {} does not answer", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    writeln!(stream, "{}", serde_json::to_string(request)?)?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .context("the playground gave no answer")?;
    serde_json::from_str(&line).context("the playground's answer cannot be read")
}

/// Listens at `path`; requests go to `asked`.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(path: &Path, asked: mpsc::Sender<Asked>) -> anyhow::Result<()> {
    let listener = UnixListener::bind(path)
        .with_context(|| format!("no control socket at {}", path.display()))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = tokio::time::timeout(TIMEOUT, serve(stream, &asked));
            // One at a time; whoever went away needs no answer.
            let _ = served.await;
        }
    });
    Ok(())
}

async fn serve(stream: tokio::net::UnixStream, asked: &mpsc::Sender<Asked>) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(LONGEST_REQUEST_BYTES))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (reply, answered) = oneshot::channel();
            asked.send((request, reply)).await?;
            answered.await?
        }
        Err(error) => Answer {
            ok: false,
            message: format!("not a request: {error}"),
        },
    };
    writer
        .write_all(serde_json::to_string(&answer)?.as_bytes())
        .await?;
    Ok(writer.write_all(b"\n").await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_reach_the_stage_and_answers_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let (sender, mut asked) = mpsc::channel::<Asked>(1);
        listen(&socket, sender).unwrap();
        let request = Request {
            pod: "catalog-1".to_owned(),
            deed: Deed::Slow(300),
        };
        let sent = request.clone();
        let asking = tokio::task::spawn_blocking(move || ask(&socket, &sent));
        let (received, reply) = asked.recv().await.unwrap();
        assert_eq!(received, request);
        reply
            .send(Answer {
                ok: false,
                message: "no pod".to_owned(),
            })
            .unwrap();
        let answer = asking.await.unwrap().unwrap();
        assert_eq!((answer.ok, answer.message.as_str()), (false, "no pod"));
    }
}
