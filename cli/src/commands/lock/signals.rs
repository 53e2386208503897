//! The signals that are passed on to a command.

use std::io;

use rustix::process::Signal;
use tokio::{
    signal::unix::{Signal as Stream, SignalKind, signal},
    sync::mpsc,
};

/// What would end this process, and leave the command behind.
const PASSED_ON: [Signal; 6] = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];

/// See the module.
pub struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    /// From now on, none of them ends this process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(16);
        let ignored = ignored();
        for passed in PASSED_ON {
            // `nohup` has told this process to ignore them, and the command with it.
            if ignored & (1 << (passed.as_raw() - 1)) == 0 {
                let stream = signal(SignalKind::from_raw(passed.as_raw()))?;
                tokio::spawn(forward(stream, passed, sender.clone()));
            }
        }
        Ok(Self(receiver))
    }

    /// The next one.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // All are ignored.
            None => std::future::pending().await,
        }
    }
}

async fn forward(mut stream: Stream, signal: Signal, sender: mpsc::Sender<Signal>) {
    while stream.recv().await.is_some() && sender.send(signal).await.is_ok() {}
}

/// A bit for each signal that this process was started to ignore.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default()
}

/// What people call it.
pub fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "SIGINT",
        Signal::TERM => "SIGTERM",
        Signal::HUP => "SIGHUP",
        Signal::QUIT => "SIGQUIT",
        Signal::USR1 => "SIGUSR1",
        Signal::USR2 => "SIGUSR2",
        _ => "a signal",
    }
}
