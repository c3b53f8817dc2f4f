//! Full mutual handshakes: ECDSA P-256 both ways, X25519, TLS 1.3, never
//! resumed. The harness is every system's client ([`crate::tls`]); each
//! connection is closed once the server has taken the client's certificate,
//! and carries nothing.

use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::clock::Moment;
use crate::compare;
use crate::h2load;
use crate::machine::Machine;
use crate::proc_stat;
use crate::statistics::median;
use crate::stop;
use crate::systems::{Door, ENVOY, Ground, Running, System, remora};
use crate::tls::Client;

/// Connections at a time.
pub const AT_A_TIME: usize = 16;
/// A handshake that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the first round.
const WARM_UP: Duration = Duration::from_millis(500);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each load lasts so long.
    pub span: Duration,
    /// Rounds.
    pub rounds: u32,
    /// Systems.
    pub systems: Vec<System>,
    /// Remora's programs.
    pub remora: remora::Programs,
    /// Envoy, where it is not to be fetched.
    pub envoy: Option<PathBuf>,
}

/// What a run found.
#[derive(Debug, Serialize)]
pub struct HandshakeReport {
    /// Where it was.
    pub machine: Machine,
    /// Each load lasted so long.
    pub seconds: f64,
    /// Rounds.
    pub rounds: u32,
    /// Medians.
    pub figures: Vec<HandshakeFigures>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

/// The medians of one system.
#[derive(Debug, Serialize)]
pub struct HandshakeFigures {
    /// The system.
    pub system: &'static str,
    /// Handshakes each second, with a core for the system.
    pub per_second: f64,
    /// CPU time of the system for each, microseconds.
    pub cpu_us: f64,
    /// By how much less CPU time it makes one than Envoy: the median of the
    /// rounds' ratios. Above 1 it is faster.
    pub of_envoy: Option<f64>,
}

struct Entry {
    system: System,
    running: Running,
    door: Door,
    client: Client,
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// When a system does not start, a handshake fails, or the harness is told to end.
pub fn run(plan: &Plan) -> anyhow::Result<HandshakeReport> {
    let ground = Ground::start(&plan.remora, plan.envoy.as_deref(), h2load::DEFAULT)?;
    let stage = &ground.stage;
    let mut skipped = Vec::new();
    let mut entries = Vec::new();
    for system in compare::complete(&plan.systems, stage, &mut skipped) {
        let running = (system.start)(stage)?;
        let Some(door) = running.door else { continue };
        entries.push(Entry {
            system,
            running,
            door,
            client: Client::new(&stage.identities, door.alpn)?,
            per_second: Vec::new(),
            cpu_us: Vec::new(),
        });
    }
    for entry in &entries {
        entry
            .load(WARM_UP)
            .with_context(|| entry.system.name.to_owned())?;
    }
    for round in 0..plan.rounds {
        let mut order: Vec<&mut Entry> = entries.iter_mut().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for entry in order {
            entry.measure(plan.span)?;
        }
    }
    let envoy = entries.iter().find(|entry| entry.system.name == ENVOY);
    let envoy = envoy.map(|entry| entry.cpu_us.clone());
    let figures = entries.iter().map(|entry| entry.figures(envoy.as_deref()));
    Ok(HandshakeReport {
        machine: Machine::read(),
        seconds: plan.span.as_secs_f64(),
        rounds: plan.rounds,
        figures: figures.collect::<anyhow::Result<_>>()?,
        skipped,
    })
}

impl Entry {
    fn measure(&mut self, span: Duration) -> anyhow::Result<()> {
        let name = self.system.name;
        let before = proc_stat::cpu_time(self.door.pid)?;
        let (made, took) = self.load(span).with_context(|| name.to_owned())?;
        let spent = proc_stat::cpu_time(self.door.pid)?.since(before).total;
        self.running.check_alive()?;
        let per_second = made as f64 / took.as_secs_f64();
        let cpu_us = spent.as_secs_f64() * 1e6 / made as f64;
        eprintln!("{name}: {per_second:.0} handshakes/s, {cpu_us:.0} us CPU each");
        self.per_second.push(per_second);
        self.cpu_us.push(cpu_us);
        Ok(())
    }

    fn load(&self, span: Duration) -> anyhow::Result<(u64, Duration)> {
        let began = Moment::now();
        let until = began.after(span);
        let made = std::thread::scope(|scope| -> anyhow::Result<u64> {
            let threads: Vec<_> = (0..AT_A_TIME)
                .map(|_| scope.spawn(move || self.shake_until(until)))
                .collect();
            let mut all = 0;
            for thread in threads {
                match thread.join() {
                    Ok(made) => all += made?,
                    Err(_) => bail!("a client's thread panicked"),
                }
            }
            Ok(all)
        })?;
        if made == 0 {
            bail!("no handshake was made");
        }
        Ok((made, began.elapsed()))
    }

    fn shake_until(&self, until: Moment) -> anyhow::Result<u64> {
        let mut made = 0;
        while Moment::now() < until {
            stop::check()?;
            let socket = TcpStream::connect(self.door.address)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            self.client.shake_hands(socket)?.close()?;
            made += 1;
        }
        Ok(made)
    }

    fn figures(&self, envoy: Option<&[f64]>) -> anyhow::Result<HandshakeFigures> {
        let of_envoy = envoy.and_then(|envoy| {
            let ratios = envoy.iter().zip(&self.cpu_us);
            let ratios: Vec<f64> = ratios.map(|(envoy, own)| envoy / own).collect();
            median(&ratios)
        });
        Ok(HandshakeFigures {
            system: self.system.name,
            per_second: median(&self.per_second).context("nothing was measured")?,
            cpu_us: median(&self.cpu_us).context("nothing was measured")?,
            of_envoy,
        })
    }
}
