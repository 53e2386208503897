//! The command line of locks and counters.

use std::{ffi::OsString, str::FromStr};

use clap::{ArgGroup, Args, Subcommand};
use quorate_coordination::Mode;
use quorate_crds::Span;

/// What to do with a lock.
#[derive(Subcommand, Clone, Debug)]
pub enum Lock {
    /// Runs a command while it holds a lock.
    ///
    /// The command's environment has QUORATE_TOKEN (the fencing token: it rises with every grant of the lock, so what the
    /// command writes to can refuse whoever was too slow), QUORATE_LOCK, QUORATE_NAMESPACE and QUORATE_CLAIM. Signals are
    /// passed on to it. When the lock is lost, or about to be as it cannot be renewed, the command is told to end
    /// (SIGTERM), and killed with its process group before the lock's validity ends. The lock is given back when the
    /// command has ended.
    ///
    /// Exit codes: the command's own, 128 + N when signal N ended it; 122 the API server cannot be asked or refuses, 123
    /// the lock was lost, 124 it was not granted in time, 125 wrong usage, 126 the command cannot be run, 127 it is not found.
    ///
    /// In a pod, POD_NAME, POD_UID and CONTAINER_NAME (from the downward API) tell others whose lock it is, and let it
    /// pass on at once when the kubelet says that the container has ended.
    Run(LockRun),
    /// The namespace's locks: who holds them, and how many wait.
    List(LockList),
    /// Who holds a lock, and who waits for it, first come first.
    Show(LockNamed),
    /// Takes a lock from its holder, or a claim out of the queue, by force.
    Release(LockRelease),
}

/// A lock.
#[derive(Args, Clone, Debug)]
pub struct LockNamed {
    /// The lock's name, which is that of its Lease.
    #[arg(value_name = "NAME")]
    pub lock: String,
}

/// Arguments of lock run.
#[derive(Args, Clone, Debug)]
pub struct LockRun {
    /// The lock's name, which is that of its Lease: the first claim creates it.
    #[arg(value_name = "NAME")]
    pub lock: String,

    /// How long to wait for it, such as 90s or 5m; then the exit code is 124. 0s: it is now or never. By default as long as it takes.
    #[arg(long)]
    pub wait: Option<Span>,

    /// How long a grant is valid without being renewed, from 1s to 1h: so long do others wait after a crash.
    #[arg(long, default_value = "15s")]
    pub ttl: Span,

    /// How long before the end of validity the command is told to end, if the lock cannot be renewed; a third of --ttl at
    /// most, a quarter by default.
    #[arg(long)]
    pub grace: Option<Span>,

    /// Hold it together with others who share it.
    #[arg(long, conflicts_with = "permits")]
    pub shared: bool,

    /// Use it as a semaphore: take K of its N permits. All who use it must say the same N.
    #[arg(long, value_name = "K/N")]
    pub permits: Option<Permits>,

    /// Lock it over the clusters of this ClusterSet, any majority of which decides, and not by a Lease of this one. All who use it must
    /// say so.
    #[arg(long, value_name = "SET")]
    pub cluster_set: Option<String>,

    /// The command and its arguments, after --.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl LockRun {
    /// How much of the lock is claimed.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        match (self.permits, self.shared) {
            (Some(Permits { take, of }), _) => Mode::Permits { take, of },
            (None, true) => Mode::Shared,
            (None, false) => Mode::Exclusive,
        }
    }
}

/// Permits of a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permits {
    /// Permits claimed.
    pub take: u32,
    /// Permits there are.
    pub of: u32,
}

impl FromStr for Permits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(take, of)| Some((take.parse().ok()?, of.parse().ok()?)));
        let (take, of) = parts.ok_or("write it as 1/3: one of three permits")?;
        Ok(Self { take, of })
    }
}

/// Arguments of lock list.
#[derive(Args, Clone, Copy, Debug)]
pub struct LockList {
    /// Of all namespaces.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Leases too that were never used as such a lock: leader elections of client-go, heartbeats of nodes.
    #[arg(long)]
    pub all: bool,
}

/// Arguments of lock release.
#[derive(Args, Clone, Debug)]
pub struct LockRelease {
    /// The lock's name, which is that of its Lease.
    #[arg(value_name = "NAME")]
    pub lock: String,

    /// Take it though its holder may be at work, and does not know at once.
    #[arg(long)]
    pub force: bool,

    /// The claim, as `lock show` tells it. By default the only one that holds it.
    #[arg(long, value_name = "ID")]
    pub claim: Option<String>,
}

/// What to do with a counter.
#[derive(Subcommand, Clone, Debug)]
pub enum Counter {
    /// Its value, by a quorum read.
    Get(CounterNamed),
    /// Adds to it, exactly once, and prints the new value.
    Add(CounterAdd),
    /// Sets it, if it is what is expected, and prints the new value.
    Set(CounterSet),
}

/// A counter.
#[derive(Args, Clone, Debug)]
pub struct CounterNamed {
    /// The counter's name.
    #[arg(value_name = "NAME")]
    pub counter: String,
}

/// Arguments of counter add.
#[derive(Args, Clone, Debug)]
pub struct CounterAdd {
    /// The counter's name.
    #[arg(value_name = "NAME")]
    pub counter: String,

    /// What to add, which may be negative.
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub delta: i64,

    /// An idempotency key: called again with the same one, within an hour, it is not done again, and prints the same.
    #[arg(long)]
    pub key: Option<String>,
}

/// Arguments of counter set.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("condition").required(true).args(["expect", "force"]))]
pub struct CounterSet {
    /// The counter's name.
    #[arg(value_name = "NAME")]
    pub counter: String,

    /// What to set it to.
    #[arg(allow_negative_numbers = true)]
    pub value: i64,

    /// What it must be; else the exit code is 3, and nothing is changed.
    #[arg(long, allow_negative_numbers = true, value_name = "VALUE")]
    pub expect: Option<i64>,

    /// Set it whatever it is. The value that is overwritten is told.
    #[arg(long)]
    pub force: bool,

    /// An idempotency key: called again with the same one, within an hour, it is not done again, and prints the same.
    #[arg(long, conflicts_with = "force")]
    pub key: Option<String>,
}
