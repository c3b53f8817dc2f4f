//! Ctrl-C and SIGTERM: every wait of the harness asks here, so that it unwinds
//! and ends its children.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::Moment;

static STOPPED: AtomicBool = AtomicBool::new(false);

/// No wait is longer than this without asking.
const GLANCE: Duration = Duration::from_millis(10);

/// Listens for the signals on a thread of its own.
///
/// # Errors
/// When the thread cannot be started.
pub fn listen() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let (Ok(mut interrupt), Ok(mut terminate)) = (
                    signal(SignalKind::interrupt()),
                    signal(SignalKind::terminate()),
                ) else {
                    return;
                };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                STOPPED.store(true, Relaxed);
            });
        })?;
    Ok(())
}

/// # Errors
/// When the harness has been told to end.
pub fn check() -> anyhow::Result<()> {
    if STOPPED.load(Relaxed) {
        bail!("told to end");
    }
    Ok(())
}

/// Whether the harness has been told to end.
pub fn is_told() -> bool {
    STOPPED.load(Relaxed)
}

/// Sleeps.
///
/// # Errors
/// When the harness is told to end.
pub fn sleep(span: Duration) -> anyhow::Result<()> {
    let until = Moment::now().after(span);
    loop {
        check()?;
        let left = until.since(Moment::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(GLANCE));
    }
}
