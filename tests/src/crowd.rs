//! Processes that take part in coordination through a bad line, which are killed and stopped, some of which have a wrong
//! clock; and the API server that is killed and stopped under them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};
use quorate_coordination::Random;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, root},
    node,
    process::Process,
    programs::path_of,
};

/// What one of them is to do, as `contender` is told.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its first word.
    pub what: &'static str,
    /// What comes after its name and kubeconfig.
    pub arguments: Vec<String>,
}

/// See the module. All end when it is dropped.
pub struct Crowd {
    processes: Vec<Process>,
    jobs: Vec<Job>,
    folder: PathBuf,
    kubeconfig: PathBuf,
    library: Option<PathBuf>,
    lives: usize,
}

impl Crowd {
    /// Starts one for each job, at the first API server; with libfaketime, two of four have clocks that are an hour off.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start(cluster: &Cluster, library: Option<&Path>, jobs: &[Job]) -> Result<Self> {
        let (folder, kubeconfig) = (cluster.folder().to_owned(), cluster.kubeconfig(0));
        let library = library.map(Path::to_owned);
        let mut crowd = Self { processes: Vec::new(), jobs: jobs.to_vec(), folder, kubeconfig, library, lives: 0 };
        for job in jobs {
            let process = crowd.begin(job)?;
            crowd.processes.push(process);
        }
        Ok(crowd)
    }

    fn begin(&mut self, job: &Job) -> Result<Process> {
        let life = self.lives;
        self.lives += 1;
        let mut arguments = vec![job.what.to_owned(), format!("contender-{life}")];
        arguments.push(format!("--kubeconfig={}", self.kubeconfig.display()));
        arguments.extend(job.arguments.iter().cloned());
        let mut environment = vec![];
        if let Some(library) = &self.library
            && let Some(wrong) = ["+1h", "-1h"].get(life % 4)
        {
            environment.push(("LD_PRELOAD", library.display().to_string()));
            environment.push(("FAKETIME", (*wrong).to_owned()));
            environment.push(("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()));
        }
        Process::start(&path_of("contender")?, &arguments, &environment, &self.log(life))
    }

    fn log(&self, life: usize) -> PathBuf {
        self.folder.join(format!("contender-{life}.log"))
    }

    /// One after another in rounds: one of them is killed, and another comes; one is stopped for longer than the time `ttl`
    /// for which it may have anything, and goes on in the belief that nothing happened; the first API server is killed and
    /// started again; it is stopped for that time.
    ///
    /// # Errors
    /// When what was killed cannot be started again.
    pub async fn trouble(
        &mut self,
        round: usize,
        cluster: &mut Cluster,
        whom: usize,
        ttl: Duration,
        random: &Random,
    ) -> Result<()> {
        match round % 4 {
            0 => self.replace(whom),
            1 => {
                let Some(stopped) = self.processes.get(whom) else { bail!("there is no contender {whom}") };
                stopped.signal(Signal::STOP);
                sleep(ttl * 3 / 2).await;
                stopped.signal(Signal::CONT);
                Ok(())
            }
            2 => {
                cluster.kill_api_server(0);
                sleep(random.up_to(ttl)).await;
                cluster.restart_api_server(0).await
            }
            _ => {
                cluster.pause_api_server(0, true);
                sleep(ttl).await;
                cluster.pause_api_server(0, false);
                Ok(())
            }
        }
    }

    fn replace(&mut self, whom: usize) -> Result<()> {
        let (Some(process), Some(job)) = (self.processes.get_mut(whom), self.jobs.get(whom).cloned()) else {
            bail!("there is no contender {whom}");
        };
        process.kill();
        let next = self.begin(&job)?;
        self.processes.splice(whom..=whom, [next]);
        Ok(())
    }

    /// What all said that there ever were, each in its order. The last line of who was killed may be half a line.
    #[must_use]
    pub fn said(&self) -> Vec<String> {
        (0..self.lives).flat_map(|life| lines(&self.log(life))).collect()
    }

    /// What one of them said, in its present life.
    #[must_use]
    pub fn said_by(&self, whom: usize) -> Vec<String> {
        self.processes.get(whom).map(|process| lines(&process.log)).unwrap_or_default()
    }

    /// What they say beside: why they do not get on.
    #[must_use]
    pub fn complaints(&self) -> String {
        let lines = self.processes.iter().map(Process::output).collect::<String>();
        lines.lines().filter(|line| !line.starts_with('{')).take(5).collect::<Vec<_>>().join("\n")
    }

    /// Who ended without being killed.
    pub fn ended(&mut self) -> Vec<PathBuf> {
        self.processes.iter_mut().filter_map(|process| process.ended().map(|_| process.log.clone())).collect()
    }

    /// Kills those with these indices.
    pub fn kill(&mut self, whom: impl IntoIterator<Item = usize>) {
        for index in whom {
            if let Some(process) = self.processes.get_mut(index) {
                process.kill();
            }
        }
    }

    /// Kills all.
    pub fn kill_all(&mut self) {
        self.processes.iter_mut().for_each(Process::kill);
    }
}

fn lines(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// libfaketime; none, and a word of it, where it cannot be had.
///
/// # Errors
/// When the script that gets it cannot be run.
pub fn faketime() -> Result<Option<PathBuf>> {
    let output = Command::new(root().join("tests/faketime.sh")).output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(Some(said.into()));
    }
    node::skip(&format!("of which contenders with wrong clocks: {said}"));
    Ok(None)
}
