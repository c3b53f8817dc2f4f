//! Waiting for signals without a runtime.

use nix::sys::signal::{SigSet, Signal};

/// The signals that the outer processes wait for, blocked so that none is lost.
pub fn block() -> nix::Result<SigSet> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
        Signal::SIGALRM,
    ] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(set)
}

/// Undoes what a parent blocked: the mask is inherited by new programs.
pub fn unblock() -> nix::Result<()> {
    SigSet::all().thread_unblock()
}
