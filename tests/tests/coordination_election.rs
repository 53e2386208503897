//! Our elections and client-go's leader election, as everybody uses it, for one Lease: never two leaders, whoever is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use quorate_coordination::Random;
use quorate_tests::{Cluster, cluster::root, process::Process, programs::path_of, wait::wait_for};
use rustix::process::Signal;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(3);
/// Who says nothing for so long is taken not to have led in between.
const SILENCE: u64 = 100_000_000;

/// For how long: longer with `QUORATE_SOAK`, in seconds.
fn time() -> Duration {
    let soak = std::env::var("QUORATE_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(soak.unwrap_or(60))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    ClientGo,
}

impl Kind {
    fn other(self) -> Self {
        if self == Self::Ours { Self::ClientGo } else { Self::Ours }
    }
}

/// A line of a candidate: it led at this time, in nanoseconds since boot.
#[derive(Debug, Deserialize)]
struct Belief {
    who: String,
    at: u64,
}

/// A time for which one candidate led, as it says.
#[derive(Clone, Debug)]
struct Leadership {
    who: String,
    from: u64,
    until: u64,
}

struct Candidate {
    kind: Kind,
    who: String,
    process: Process,
}

struct Race {
    folder: PathBuf,
    kubeconfig: PathBuf,
    elect: PathBuf,
    candidates: Vec<Candidate>,
    logs: Vec<PathBuf>,
}

impl Race {
    fn enter(&mut self, kind: Kind, more: &[&str]) -> Candidate {
        let number = self.logs.len();
        let log = self.folder.join(format!("candidate-{number}.log"));
        let who = format!("{}-{number}", if kind == Kind::Ours { "ours" } else { "go" });
        let process = match kind {
            Kind::Ours => {
                let arguments = [
                    "lead".to_owned(),
                    who.clone(),
                    "--object=led".to_owned(),
                    format!("--kubeconfig={}", self.kubeconfig.display()),
                    format!("--ttl-millis={}", TTL.as_millis()),
                ];
                Process::start(&path_of("contender").unwrap(), &arguments, &[], &log)
            }
            Kind::ClientGo => {
                let mut arguments = vec!["candidate".to_owned(), "-lease=led".to_owned(), format!("-identity={who}")];
                arguments.push(format!("-duration={}ms", TTL.as_millis()));
                arguments.extend(more.iter().map(|word| (*word).to_owned()));
                let environment = [("KUBECONFIG", self.kubeconfig.display().to_string())];
                Process::start(&self.elect, &arguments, &environment, &log)
            }
        };
        self.logs.push(log);
        Candidate { kind, who, process: process.unwrap() }
    }

    fn beliefs(&self) -> Vec<Belief> {
        let lines = |log: &PathBuf| std::fs::read_to_string(log).unwrap_or_default();
        let text: String = self.logs.iter().map(lines).collect();
        let mut beliefs: Vec<Belief> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        beliefs.sort_by_key(|belief| belief.at);
        beliefs
    }

    /// Who led last, if it takes part still.
    fn leader(&self) -> Option<usize> {
        let last = self.beliefs().pop()?;
        self.candidates.iter().position(|candidate| candidate.who == last.who)
    }
}

fn leaderships(beliefs: &[Belief]) -> Vec<Leadership> {
    let (mut all, mut latest): (Vec<Leadership>, HashMap<&str, usize>) = (Vec::new(), HashMap::new());
    for Belief { who, at } in beliefs {
        match latest.get(who.as_str()).map(|index| &mut all[*index]) {
            Some(present) if at - present.until < SILENCE => present.until = *at,
            _ => {
                latest.insert(who, all.len());
                all.push(Leadership { who: who.clone(), from: *at, until: *at });
            }
        }
    }
    all
}

/// Two who led at the same time.
fn overlap(leaderships: &[Leadership]) -> Option<[Leadership; 2]> {
    leaderships.iter().enumerate().find_map(|(index, one)| {
        let other = leaderships[index + 1..].iter().find(|other| other.from <= one.until && one.from <= other.until)?;
        Some([one.clone(), other.clone()])
    })
}

/// How often it passed from us to client-go, and back.
fn passed(leaderships: &[Leadership]) -> (usize, usize) {
    let times =
        |from, to| leaderships.windows(2).filter(|pair| kind(&pair[0].who) == from && kind(&pair[1].who) == to).count();
    (times(Kind::Ours, Kind::ClientGo), times(Kind::ClientGo, Kind::Ours))
}

fn kind(who: &str) -> Kind {
    if who.starts_with("ours") { Kind::Ours } else { Kind::ClientGo }
}

fn built() -> PathBuf {
    let output = Command::new(root().join("tests/elect/build.sh")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn we_and_client_go_never_lead_at_the_same_time() {
    let cluster = Cluster::start().await.unwrap();
    let (folder, kubeconfig) = (cluster.folder().to_owned(), cluster.kubeconfig(0));
    let mut race = Race { folder, kubeconfig, elect: built(), candidates: Vec::new(), logs: Vec::new() };
    for kind in [Kind::Ours, Kind::ClientGo, Kind::Ours, Kind::ClientGo] {
        let candidate = race.enter(kind, &[]);
        race.candidates.push(candidate);
    }
    let (random, began) = (Random::from_system().unwrap(), Instant::now());
    let mut round = 0;
    // As long as it takes until it went both ways: who is killed when, and who comes next, is left to chance.
    let is_enough = |all: &[Leadership]| all.len() > 5 && passed(all).0 > 0 && passed(all).1 > 0;
    while began.elapsed() < time() || (!is_enough(&leaderships(&race.beliefs())) && began.elapsed() < time() * 4) {
        sleep(TTL / 2 + random.up_to(TTL)).await;
        let Some(leader) = race.leader() else { continue };
        round += 1;
        let kind = race.candidates[leader].kind;
        match round % 3 {
            // It gives it up, and tells the others, each in its way.
            1 => race.candidates[leader].process.signal(Signal::TERM),
            2 if kind == Kind::Ours => {
                // client-go's own would lead on for a moment when it wakes, since nothing tells it that it slept.
                race.candidates[leader].process.signal(Signal::STOP);
                sleep(TTL * 2).await;
                race.candidates[leader].process.signal(Signal::CONT);
            }
            _ => race.candidates[leader].process.kill(),
        }
        // client-go's candidate ends when it resigns. One of the other kind takes the place of whoever ends: ours, which
        // watch, are quicker than theirs, which ask from time to time, and would pass the Lease among themselves for ever.
        if race.candidates[leader].process.ended().is_some() || (round % 3 == 1 && kind == Kind::ClientGo) {
            race.candidates[leader].process.wait();
            race.candidates[leader] = race.enter(kind.other(), &[]);
        }
    }
    let all = leaderships(&race.beliefs());
    let (to_go, to_ours) = passed(&all);
    println!("{} leaderships; from us to client-go {to_go} times, and back {to_ours} times", all.len());
    assert!(overlap(&all).is_none(), "{:?}", overlap(&all));
    assert!(is_enough(&all), "{all:?}");

    // One who asks nobody is noticed.
    let deaf = race.enter(Kind::ClientGo, &["-deaf"]);
    race.candidates.push(deaf);
    wait_for("two leaders to be noticed", || async {
        overlap(&leaderships(&race.beliefs())).map(|_| ()).ok_or("not yet".to_owned())
    })
    .await
    .unwrap();
}
