//! Child processes that end with this one, even when it is killed.
//!
//! `setpriv --pdeathsig` asks the kernel to kill the child when the thread that started it ends; so
//! one thread that lives as long as the process starts them all.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Where that is noted which may outlive this process: `make demo KEEP=1`.
static NOTES: OnceLock<PathBuf> = OnceLock::new();

/// From now on, what is started may outlive this process: it does unless it is dropped. A line
/// `PID PROGRAM` for each tells `make demo-stop`, however this process ends.
pub fn detach(notes: PathBuf) {
    // The first call decides.
    let _ = NOTES.set(notes);
}

/// Whether [`detach`] was called.
#[must_use]
pub fn is_detached() -> bool {
    NOTES.get().is_some()
}

fn note(pid: u32, program: &Path) -> Result<()> {
    let Some(notes) = NOTES.get() else { return Ok(()) };
    let mut notes = File::options().create(true).append(true).open(notes)?;
    writeln!(notes, "{pid} {}", fs::canonicalize(program)?.display())?;
    Ok(())
}

type Start = Box<dyn FnOnce() + Send>;

fn starter() -> &'static mpsc::SyncSender<Start> {
    static STARTER: OnceLock<mpsc::SyncSender<Start>> = OnceLock::new();
    STARTER.get_or_init(|| {
        let (sender, receiver) = mpsc::sync_channel::<Start>(16);
        thread::spawn(move || receiver.into_iter().for_each(|start| start()));
        sender
    })
}

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Process {
    /// Starts a program with arguments and environment, its output going to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[String], environment: &[(&str, String)], log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let mut command = if is_detached() {
            Command::new("setsid")
        } else {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]);
            command
        };
        command.arg(program).args(arguments);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let (sender, receiver) = mpsc::sync_channel(1);
        let start: Start = Box::new(move || drop(sender.send(command.spawn())));
        starter().send(start).map_err(|_| anyhow::anyhow!("the starting thread has ended"))?;
        let child = receiver.recv()?.with_context(|| format!("cannot start {}", program.display()))?;
        let process = Self { child, log: log.to_owned() };
        note(process.pid(), program)?;
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.wait();
    }

    /// Waits for its end.
    pub fn wait(&mut self) {
        let _ = self.child.wait();
    }

    /// Its output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The CPU time it has used, in seconds (to a hundredth).
    #[must_use]
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        // The name, in brackets, may hold anything; after it, utime and stime are the 12th and 13th field.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<f64>().ok();
        // USER_HZ is 100 on all that Linux runs on here.
        Some((ticks()? + ticks()?) / 100.0)
    }

    /// Resident memory in MiB (`VmRSS`).
    #[must_use]
    pub fn resident_mib(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
