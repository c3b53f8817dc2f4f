//! Bytes in bulk: an upstream that sends without end, and who receives them.
//!
//! Both share the load's core with nothing but each other, so they are as cheap
//! as the kernel allows: the sender gives the pages of a file (`sendfile`), the
//! receiver drops what came without copying it (`MSG_TRUNC`).

use std::fs::File;
use std::io::{Read, Write};
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
/// What the upstream reads of a request before it answers, at most.
const REQUEST_BYTES: usize = 16 * 1024;
/// Before the bytes, where they are an answer: more than any load takes.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1125899906842624\r\n\r\n";
/// Nothing for so long is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// When the upstream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// As soon as one connects.
    AtOnce,
    /// With an answer's head, when an HTTP/1.1 request has come.
    AsAnswer,
}

/// Serves on threads of this process's core until the process ends; gives the port.
///
/// # Errors
/// When it cannot listen.
pub fn upstream(dir: &Path, begins: Begins) -> anyhow::Result<u16> {
    let path = dir.join("bulk");
    std::fs::write(&path, vec![b'r'; FILE_BYTES])?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new()
        .name("bulk".to_owned())
        .spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Ok(file) = File::open(&path) else { return };
                std::thread::spawn(move || {
                    if begins == Begins::AtOnce || answer(&stream).is_ok() {
                        send(&stream, &file);
                    }
                });
            }
        })?;
    Ok(port)
}

/// Reads a request without a body, and begins to answer it.
fn answer(mut stream: &TcpStream) -> anyhow::Result<()> {
    let mut request = vec![0; REQUEST_BYTES];
    let mut filled = 0;
    while !request[..filled].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut request[filled..])?;
        if read == 0 {
            bail!("no whole request");
        }
        filled += read;
    }
    stream.write_all(HEAD)?;
    Ok(())
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

/// Receives from `address` for `span`: what comes at once, or the answer to a
/// GET that names `host`.
///
/// # Errors
/// A connection ends or is silent, or the harness is told to end.
pub fn receive(address: SocketAddr, host: Option<&str>, span: Duration) -> anyhow::Result<Carried> {
    let streams: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            if let Some(host) = host {
                write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
            }
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
        for (begins, host) in [(Begins::AtOnce, None), (Begins::AsAnswer, Some("bulk"))] {
            let port = upstream(dir.path(), begins).unwrap();
            let address = crate::process::loopback(port);
            let carried = receive(address, host, Duration::from_millis(100)).unwrap();
            assert!(carried.units > 1e-3, "{carried:?}");
            assert!(carried.span >= Duration::from_millis(100));
        }
    }
}
