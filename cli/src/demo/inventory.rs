//! The plain TCP role: the server speaks first, then answers lines.
//!
//! ```text
//! server: inventory ready
//! client: stock 7
//! server: stock 7 93
//! client: anything else
//! server: error: say `stock N`
//! client: quit                     (the server closes)
//! ```

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::Authority;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::dial::{self, Dialer};
use super::door::Door;
use super::server;
use super::tally::Tally;
use super::trouble::Switches;

/// Where the inventory listens.
pub const DEFAULT_PORT: u16 = 7000;

const GREETING: &str = "inventory ready";
/// The longest line of either side.
const MAX_LINE_BYTES: u64 = 256;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 1024;
/// A client that says nothing for so long is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the client waits for the greeting, and for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle connections that a client keeps.
const MAX_IDLE: usize = 16;

/// Serves until `stopped` turns true; then answers what was asked, and returns.
pub async fn serve(
    listener: TcpListener,
    switches: Arc<Switches>,
    tally: Arc<Tally>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut door = Door::new(listener, Some(Arc::clone(&switches)));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            accepted = door.accept() => accepted,
            () = server::until(&mut stopped) => break,
        };
        match stream {
            Ok(stream) => {
                let (switches, stopped) = (Arc::clone(&switches), stopped.clone());
                let (tally, cut) = (Arc::clone(&tally), door.cut());
                tokio::spawn(async move {
                    let _here = tally.connection();
                    // A broken connection is the client's business.
                    tokio::select! {
                        _ = connection(stream, &switches, stopped) => {}
                        () = cut => {}
                    }
                    drop(place);
                });
            }
            Err(error) => {
                eprintln!("inventory: accepting a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(door);
    // Nothing under way lasts longer than one answer.
    let all = places.acquire_many(MAX_CONNECTIONS as u32);
    let _ = tokio::time::timeout(ANSWER_TIMEOUT, all).await;
}

async fn connection(
    stream: TcpStream,
    switches: &Switches,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{GREETING}\n").as_bytes()).await?;
    loop {
        let line = tokio::select! {
            line = read_line(&mut stream, IDLE_TIMEOUT) => line?,
            () = server::until(&mut stopped) => return Ok(()),
        };
        if let Some(delay) = switches.delay() {
            tokio::time::sleep(delay).await;
        }
        if switches.broken().is_some() || line == "quit" {
            return Ok(());
        }
        stream.write_all(answer(&line).as_bytes()).await?;
    }
}

/// The answer to one line.
fn answer(line: &str) -> String {
    let asked = line.strip_prefix("stock ").and_then(|id| id.parse().ok());
    match asked {
        Some(id) => format!("stock {id} {}\n", stock(id)),
        None => "error: say `stock N`\n".to_owned(),
    }
}

/// As many as it pleases the demo.
fn stock(id: u32) -> u32 {
    100 - id % 100
}

/// One line without its end; the end of the connection is an error.
async fn read_line(stream: &mut BufReader<TcpStream>, timeout: Duration) -> io::Result<String> {
    let mut line = String::new();
    let mut limited = stream.take(MAX_LINE_BYTES);
    tokio::time::timeout(timeout, limited.read_line(&mut line))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
        None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(io::Error::other("a line too long or cut short")),
    }
}

type Connection = BufReader<TcpStream>;

/// Asks the inventory over a few kept connections.
#[derive(Debug)]
pub struct Client {
    dialer: Dialer,
    authority: Authority,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    /// Asks `authority`, which is `host:port`; nothing is connected yet.
    ///
    /// # Errors
    /// When it is something else.
    pub fn new(dialer: Dialer, authority: &str) -> anyhow::Result<Self> {
        Ok(Client {
            dialer,
            authority: dial::authority(authority)?,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// How many there are of a product.
    ///
    /// # Errors
    /// When the inventory cannot be asked, or answers something else. A kept
    /// connection that turns out to be closed is replaced once.
    pub async fn stock(&self, id: u32) -> io::Result<u32> {
        let kept = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(connection) = kept
            && let Ok(stock) = self.ask(connection, id).await
        {
            return Ok(stock);
        }
        let mut connection = self.dialer.tcp(&self.authority).await?;
        let greeting = read_line(&mut connection, ANSWER_TIMEOUT).await?;
        if greeting != GREETING {
            return Err(io::Error::other(format!("greeted with `{greeting}`")));
        }
        self.ask(connection, id).await
    }

    /// A connection of its own: asks, holds it for so long, asks again.
    ///
    /// # Errors
    /// When it cannot be had, or ends before.
    pub async fn visit(&self, hold: Duration) -> io::Result<()> {
        let mut connection = self.dialer.tcp(&self.authority).await?;
        read_line(&mut connection, ANSWER_TIMEOUT).await?;
        connection.write_all(b"stock 7\n").await?;
        read_line(&mut connection, ANSWER_TIMEOUT).await?;
        tokio::time::sleep(hold).await;
        connection.write_all(b"stock 8\n").await?;
        read_line(&mut connection, ANSWER_TIMEOUT).await?;
        Ok(())
    }

    async fn ask(&self, mut connection: Connection, id: u32) -> io::Result<u32> {
        connection
            .write_all(format!("stock {id}\n").as_bytes())
            .await?;
        let line = read_line(&mut connection, ANSWER_TIMEOUT).await?;
        let stock = line
            .strip_prefix(&format!("stock {id} "))
            .and_then(|stock| stock.parse().ok())
            .ok_or_else(|| io::Error::other(format!("answered `{line}`")))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
        Ok(stock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_server_greets_answers_and_survives_a_closed_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = watch::channel(false);
        let server = serve(listener, Arc::default(), Arc::default(), stopped);
        let server = tokio::spawn(server);
        let client = Client::new(Dialer::new("").unwrap(), &address).unwrap();
        assert_eq!(client.stock(7).await.unwrap(), 93);
        assert_eq!(client.stock(8).await.unwrap(), 92);
        assert_eq!(
            client.idle.lock().unwrap().len(),
            1,
            "one connection is enough"
        );

        // The kept connection ends; the next question finds a new one.
        let mut kept = client.idle.lock().unwrap().pop().unwrap();
        kept.write_all(b"quit\n").await.unwrap();
        client.idle.lock().unwrap().push(kept);
        assert_eq!(client.stock(7).await.unwrap(), 93);

        stop.send_replace(true);
        server.await.unwrap();
        assert!(client.stock(7).await.is_err());
    }

    #[test]
    fn nonsense_is_answered_with_what_to_say() {
        for line in ["", "stock", "stock x", "GET / HTTP/1.1", "stock -1"] {
            assert!(answer(line).starts_with("error"), "{line}");
        }
    }
}
