//! A machine within this one, for a node: namespaces of its own for processes, mounts and the network.
//! When its first process ends, the kernel ends and removes all that is in them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{cluster::root, process::Process, wait::wait_for};

/// Where the kernel shows cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";
/// What the names of our cgroups begin with; the process they belong to follows.
const PREFIX: &str = "quorate-";

/// A machine. Gone when dropped, or when this process ends in any way.
pub struct Machine {
    /// `unshare`, which waits for the first process and ends it when it ends itself.
    outside: Process,
    /// The first process.
    first: u32,
    number: String,
    cgroup: String,
}

impl Machine {
    /// A new one. The name, which begins with this process's id, is its cgroup's.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start(name: &str, log: &Path) -> Result<Self> {
        sweep();
        let cgroup = format!("{PREFIX}{name}");
        let path = script().display().to_string();
        let words = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", &path, "init", &cgroup];
        let mut outside = Process::start(Path::new("unshare"), &words.map(str::to_owned), &[], log)?;
        let first = wait_for("the node's machine to be up", || {
            let first = child(outside.pid()).filter(|pid| is_called(*pid, "catatonit"));
            let ended = outside.ended().map(|status| format!("it ended with {status}: {}", outside.output()));
            async move {
                match (first, ended) {
                    (_, Some(why)) => Ok(Err(why)),
                    (Some(first), None) => Ok(Ok(first)),
                    (None, None) => Err("it is being set up".to_owned()),
                }
            }
        });
        let first = first.await?.map_err(anyhow::Error::msg)?;
        // From here on, dropping it cleans up.
        let mut machine = Self { outside, first, number: String::new(), cgroup };
        let connected = output(Command::new(script()).args(["connect", &first.to_string()]))?;
        connected.trim().clone_into(&mut machine.number);
        Ok(machine)
    }

    /// Our side's address.
    #[must_use]
    pub fn host_address(&self) -> String {
        format!("198.18.{}.1", self.number)
    }

    /// Its own address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("198.18.{}.2", self.number)
    }

    /// The addresses of its pods.
    #[must_use]
    pub fn pod_network(&self) -> String {
        format!("198.19.{}.0/24", self.number)
    }

    /// The cgroup below which its pods are.
    #[must_use]
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// What it has at a path, as a path of ours.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first))
    }

    /// Runs a program in it; what it printed.
    ///
    /// # Errors
    /// With what it said, when it fails.
    pub fn run(&self, words: &[&str], input: Stdio) -> Result<String> {
        output(Command::new("nsenter").args(self.entry()).args(words).stdin(input))
    }

    /// Starts a program in it, its output going to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&self, program: &Path, arguments: &[String], log: &Path) -> Result<Inside> {
        // nsenter stays as the program's parent, so that must not outlive it.
        let tied = ["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned);
        let words = [&self.entry()[..], &tied, &[program.display().to_string()], arguments].concat();
        Ok(Inside(Process::start(Path::new("nsenter"), &words, &[], log)?))
    }

    fn entry(&self) -> [String; 6] {
        ["--target", &self.first.to_string(), "--mount", "--net", "--pid", "--"].map(str::to_owned)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The kernel lets it end when all others in its namespace have ended.
        signal(self.first, Signal::KILL);
        self.outside.wait();
        remove_cgroups(&self.cgroup);
    }
}

/// A program in a machine. Killed when dropped.
#[derive(Debug)]
pub struct Inside(Process);

impl Inside {
    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        match child(self.0.pid()) {
            Some(program) => {
                signal(program, Signal::KILL);
                self.0.wait();
            }
            None => self.0.kill(),
        }
    }

    /// Its output so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.0.output()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The folder of the network plugins, where this machine can have a node; what is missing is installed.
///
/// # Errors
/// Why there can be no node.
pub fn check() -> Result<PathBuf, String> {
    let run =
        Command::new(script()).arg("check").stderr(Stdio::inherit()).output().map_err(|error| error.to_string())?;
    let told = String::from_utf8_lossy(&run.stdout).trim().to_owned();
    if run.status.success() { Ok(PathBuf::from(told)) } else { Err(told) }
}

fn script() -> PathBuf {
    root().join("tests/cluster/node.sh")
}

fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } = command.output().with_context(|| format!("{command:?}"))?;
    let told = String::from_utf8_lossy(&stdout).into_owned();
    ensure!(status.success(), "{command:?}: {}{told}", String::from_utf8_lossy(&stderr));
    Ok(told)
}

/// The only child of a process.
fn child(pid: u32) -> Option<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

fn is_called(pid: u32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended already.
        let _ = kill_process(pid, signal);
    }
}

/// Removes the cgroups that killed processes left behind: nothing else of a machine outlives it.
fn sweep() {
    for name in cgroup_folders().iter().flat_map(|folder| names(folder)) {
        let pid: Option<u32> = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove_cgroups(&name);
        }
    }
}

fn remove_cgroups(name: &str) {
    fn remove(folder: &Path) {
        for name in names(folder) {
            remove(&folder.join(name));
        }
        // It has files, which are no files, and goes as if it were empty. Somebody else may be sweeping too.
        let _ = fs::remove_dir(folder);
    }
    for folder in cgroup_folders() {
        remove(&folder.join(name));
    }
}

/// The root of each hierarchy: one, or, in version 1, one for each controller.
fn cgroup_folders() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    names(&root).iter().map(|name| root.join(name)).collect()
}

/// The names of the folders in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
