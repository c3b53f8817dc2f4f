//! An application that writes down every byte that it gets, and says what the
//! test tells it to whatever it hears.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

/// What it says once a connection's first head has come.
#[derive(Clone, Debug)]
pub struct Says {
    /// After so long,
    pub after: Duration,
    /// these bytes,
    pub bytes: Vec<u8>,
    /// and then it says back what it hears.
    pub echoes: bool,
}

impl Says {
    /// `bytes`, at once.
    pub fn now(bytes: impl AsRef<[u8]>) -> Self {
        Self {
            after: Duration::ZERO,
            bytes: bytes.as_ref().to_vec(),
            echoes: false,
        }
    }

    /// Only after so many milliseconds.
    pub fn after_ms(self, millis: u64) -> Self {
        let after = Duration::from_millis(millis);
        Self { after, ..self }
    }

    /// From then on it says back what it hears.
    pub fn then_echoes(self) -> Self {
        Self {
            echoes: true,
            ..self
        }
    }
}

/// What one connection brought.
#[derive(Clone, Debug, Default)]
pub struct Tapped {
    /// Everything.
    pub bytes: Vec<u8>,
    /// How much of it had come when the answer was given.
    pub before_answer: usize,
    /// The other side has closed or broken off.
    pub ended: bool,
}

impl Tapped {
    /// Everything, as text in lower case.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).to_lowercase()
    }
}

/// The application; ends on drop.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Tapped>>>,
    task: JoinHandle<()>,
}

impl Tap {
    /// Says the same on each connection.
    pub async fn start(address: SocketAddr, says: Says) -> Self {
        let listener = crate::bind(address).await;
        let connections: Arc<Mutex<Vec<Tapped>>> = Arc::default();
        let all = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut all = all.lock().unwrap();
                    all.push(Tapped::default());
                    all.len() - 1
                };
                let (all, says) = (Arc::clone(&all), says.clone());
                tasks.spawn(async move {
                    let mut stream = stream;
                    let page = Page { all, number };
                    serve(&mut stream, &says, &page).await;
                    page.write(|tapped| tapped.ended = true);
                });
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What each connection brought so far.
    pub fn connections(&self) -> Vec<Tapped> {
        self.connections.lock().unwrap().clone()
    }

    /// What all connections brought so far, in lower case.
    pub fn text(&self) -> String {
        self.connections().iter().map(Tapped::text).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where one connection is written down.
struct Page {
    all: Arc<Mutex<Vec<Tapped>>>,
    number: usize,
}

impl Page {
    fn write(&self, change: impl FnOnce(&mut Tapped)) {
        change(&mut self.all.lock().unwrap()[self.number]);
    }
}

async fn serve(stream: &mut tokio::net::TcpStream, says: &Says, page: &Page) {
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let before = head.len();
        match stream.read_buf(&mut head).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        page.write(|tapped| tapped.bytes.extend(&head[before..]));
    }
    let mut buffer = Vec::new();
    let answering = tokio::time::sleep(says.after);
    tokio::pin!(answering);
    let mut answered = false;
    loop {
        buffer.clear();
        tokio::select! {
            biased;
            () = &mut answering, if !answered => {
                answered = true;
                page.write(|tapped| tapped.before_answer = tapped.bytes.len());
                if stream.write_all(&says.bytes).await.is_err() {
                    return;
                }
            }
            read = stream.read_buf(&mut buffer) => {
                if !matches!(read, Ok(read) if read > 0) {
                    return;
                }
                page.write(|tapped| tapped.bytes.extend(&buffer));
                if answered && says.echoes && stream.write_all(&buffer).await.is_err() {
                    return;
                }
            }
        }
    }
}
