//! Bytes in bulk: an upstream that sends without end, and who receives them.
//!
//! Both share the load's core with nothing but each other, so they are as cheap
//! as the kernel allows: the sender gives the pages of a file (`sendfile`), the
//! receiver drops what came without copying it (`MSG_TRUNC`).

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use rustix::fs::sendfile;
use rustix::net::{RecvFlags, recv};

use crate::clock::Moment;
use crate::load::Carried;
use crate::stop;

/// Connections, all of them always full.
pub const CONNECTIONS: usize = 4;
/// What the upstream's file holds; it is sent again and again.
const FILE_BYTES: usize = 1024 * 1024;
/// What is taken from the kernel at once, at most.
const RECEIVED_BYTES: usize = 1024 * 1024;
/// Nothing for so long is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves on threads of this process's core until the process ends; gives the port.
///
/// # Errors
/// When it cannot listen.
pub fn upstream(dir: &Path) -> anyhow::Result<u16> {
    let path = dir.join("bulk");
    std::fs::write(&path, vec![b'r'; FILE_BYTES])?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new()
        .name("bulk".to_owned())
        .spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Ok(file) = File::open(&path) else { return };
                std::thread::spawn(move || send(&stream, &file));
            }
        })?;
    Ok(port)
}

/// Until the receiver goes.
fn send(stream: &TcpStream, file: &File) {
    let mut offset = 0;
    while let Ok(sent) = sendfile(stream, file, Some(&mut offset), FILE_BYTES) {
        if sent == 0 {
            offset = 0;
        }
    }
}

/// Receives from `address` for `span`.
///
/// # Errors
/// A connection ends or is silent, or the harness is told to end.
pub fn receive(address: SocketAddr, span: Duration) -> anyhow::Result<Carried> {
    let streams: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
        .collect::<anyhow::Result<_>>()?;
    let began = Moment::now();
    let until = began.after(span);
    let received = std::thread::scope(|scope| -> anyhow::Result<u64> {
        let receivers: Vec<_> = streams
            .iter()
            .map(|stream| scope.spawn(move || drain(stream, until)))
            .collect();
        let mut all = 0;
        for receiver in receivers {
            match receiver.join() {
                Ok(received) => all += received?,
                Err(_) => bail!("a receiver's thread panicked"),
            }
        }
        Ok(all)
    })?;
    Ok(Carried {
        units: received as f64 / 1e9,
        span: began.elapsed(),
    })
}

fn drain(stream: &TcpStream, until: Moment) -> anyhow::Result<u64> {
    let mut dropped = vec![0; RECEIVED_BYTES];
    let mut all = 0;
    while Moment::now() < until {
        stop::check()?;
        match recv(stream, &mut dropped[..], RecvFlags::TRUNC) {
            Ok((_, 0)) => bail!("the connection was closed in the midst of it"),
            Ok((_, received)) => all += u64::try_from(received)?,
            Err(error) => bail!("nothing could be received: {error}"),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let port = upstream(dir.path()).unwrap();
        let address = crate::process::loopback(port);
        let carried = receive(address, Duration::from_millis(100)).unwrap();
        assert!(carried.units > 1e-3, "{carried:?}");
        assert!(carried.span >= Duration::from_millis(100));
    }
}
