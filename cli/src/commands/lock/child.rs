//! A command that never outlives what it runs under: told to end, or killed, with its whole process group.
//!
//! It is started through this program itself (`__exec`), which first asks the kernel to kill it when its parent
//! ends: not even `kill -9` of `lock run` leaves a command behind that believes in its lock.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child as Process, Command, ExitStatus},
};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process_group, set_parent_process_death_signal, waitid,
};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::{
    answer::note,
    exit::{Exit, Failure, Result},
};

/// Shells say so of a command that there is not.
const NOT_FOUND: u8 = 127;
/// And of one that cannot be run.
const NOT_RUN: u8 = 126;

/// See the module.
pub struct Child {
    process: Process,
    group: Pid,
    /// The kernel says that something has become of it.
    changed: Stream,
}

impl Child {
    /// Starts it in a process group of its own.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn start(command: &[OsString], environment: &[(&str, String)]) -> io::Result<Self> {
        let changed = signal(SignalKind::child())?;
        let mut own = Command::new("/proc/self/exe");
        own.arg("__exec").arg(getpid().to_string()).arg("--").args(command);
        own.envs(environment.iter().map(|(name, value)| (name, value)));
        let process = own.process_group(0).spawn()?;
        let group = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| io::Error::other("the command has no process id"))?;
        Ok(Self { process, group, changed })
    }

    /// Its process group.
    #[must_use]
    pub const fn group(&self) -> Pid {
        self.group
    }

    /// Sends its group a signal, which it gets even if it is stopped.
    pub fn signal(&self, signal: Signal) {
        // All of it may have ended.
        let _ = kill_process_group(self.group, signal);
        let _ = kill_process_group(self.group, Signal::CONT);
    }

    /// Returns when it has ended. Until it is reaped, nobody else has its process group.
    pub async fn ended(&mut self) {
        loop {
            let options =
                WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(self.group), options) {
                Ok(Some(status)) if status.stopped() => self.stopped(status.stopping_signal()),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                _ => return,
            }
            if self.changed.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The lock does not stand still, so neither can what runs under it.
    fn stopped(&self, by: Option<i32>) {
        // Told of once.
        let _ = waitid(WaitId::Pid(self.group), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG);
        if by == Some(Signal::TSTP.as_raw()) {
            note("the command cannot be suspended while it holds the lock: it goes on");
            self.signal(Signal::CONT);
        } else {
            note("the command is stopped, and the lock held all the same: SIGCONT lets it go on");
        }
    }

    /// How it has ended, which [`Child::ended`] has told.
    ///
    /// # Errors
    /// When the system does not know it.
    pub fn reap(mut self) -> io::Result<ExitStatus> {
        self.process.wait()
    }
}

/// As a shell tells it.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Becomes the command, which ends with its parent.
///
/// # Errors
/// When it cannot be run.
pub fn become_command(parent: i32, command: &[OsString]) -> Result {
    let failed = |exit: Exit, why: &dyn std::fmt::Display| Failure { exit, message: why.to_string() };
    let [program, arguments @ ..] = command else { return Err(failed(Exit::WrongRun, &"no command")) };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| failed(Exit::Command(NOT_RUN), &error))?;
    // It may have ended before.
    if getppid().map(Pid::as_raw_nonzero).map(std::num::NonZeroI32::get) != Some(parent) {
        return Err(failed(Exit::Lost, &"lock run has ended before its command began"));
    }
    let error = Command::new(program).args(arguments).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
    Err(failed(Exit::Command(code), &format!("{} cannot be run: {error}", program.display())))
}
