//! The command line.
// Doc comments here are the help text, where backticks would be noise.
#![allow(clippy::doc_markdown)]

mod coordination;
mod members;
mod queue;

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use quorate_crds::Span;

use crate::exit::Exit;
pub use coordination::{
    Counter, CounterAdd, CounterNamed, CounterSet, Lock, LockList, LockNamed, LockRelease, LockRun, Permits,
};
pub use members::{Members, MembersChange, MembersForget, MembersOf};
pub use queue::{
    Queue, QueueExtend, QueueLetters, QueueNamed, QueuePeek, QueuePurge, QueueReceipt, QueueReceive, QueueRelease,
    QueueSend,
};

/// What is published, who runs it, how it came about; and taking part in it. Locks, counters and queues for scripts.
///
/// Exit codes: 0 ok, 1 wrong usage or another error, 2 not found, 3 not ready, refused or problems
/// found, 4 timed out or still in progress, 5 differences (diff --exit-code); lock run has its own.
#[derive(Parser, Clone, Debug)]
#[command(name = "kubectl-quorate", bin_name = "kubectl quorate", version, propagate_version = true)]
pub struct Options {
    /// Where the cluster is.
    #[command(flatten)]
    pub target: Target,

    /// How answers are written.
    #[arg(short, long, global = true, default_value = "table", value_enum)]
    pub output: Output,

    /// When colour is used. NO_COLOR in the environment turns it off too.
    #[arg(long, global = true, default_value = "auto", value_enum)]
    pub color: Color,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the cluster is, as for kubectl.
#[derive(Args, Clone, Debug, Default)]
pub struct Target {
    /// The namespace; by default that of the context.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,

    /// The context of the kubeconfig.
    #[arg(long, global = true)]
    pub context: Option<String>,

    /// The kubeconfig; by default KUBECONFIG, then ~/.kube/config, then the pod's service account.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
}

/// How answers are written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON document; watch writes one a line.
    Json,
    /// YAML.
    Yaml,
}

/// When colour is used.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Where configs and their rollouts stand.
    Status(Status),
    /// Follows a rollout: ends with 0 when the config is ready, 3 when it is refused or stalled.
    Watch(Watch),
    /// Which layer gave each value, and whose values it overrode.
    Explain(Explain),
    /// The revisions that are kept, newest first, with who changed what.
    History(Named),
    /// What differs between two revisions. Files with values from Secrets are never shown.
    Diff(Diff),
    /// Publishes an older revision's content again and holds it (spec.pin).
    Rollback(Rollback),
    /// Lets go of spec.pin: the layers decide again.
    Unpin(Change),
    /// Skips the rest of a candidate's steps.
    Promote(Promote),
    /// Gives a candidate up.
    Abort(Change),
    /// Proposes content again that was refused.
    Retry(Change),
    /// Holds a Quorum or Canary where it is.
    Pause(Named),
    /// Lets them go on.
    Resume(Change),
    /// Offline: resolves the configs of manifests and writes the files that pods would read.
    Render(Render),
    /// Offline: every mistake in manifests, with file and line.
    Lint(Lint),
    /// Offline: adds the sidecar to the labelled pods of manifests, as the chart's policy does.
    Inject(Inject),
    /// Locks, on Leases: run a command under one, see who holds it.
    #[command(subcommand)]
    Lock(Lock),
    /// Counters: one number that many add to, each exactly once.
    #[command(subcommand)]
    Counter(Counter),
    /// Queues: work that is handed out one by one, and again until it is acknowledged.
    #[command(subcommand)]
    Queue(Queue),
    /// Members: who decides on what a ClusterSet decides; change them, replace one that was lost.
    #[command(subcommand)]
    Members(Members),
    /// A completion script for a shell.
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// What kubectl_complete-quorate asks.
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far; the last one is being written.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// What lock run starts, and what becomes the command.
    #[command(name = "__exec", hide = true)]
    Exec {
        /// The process id of lock run, with which it ends.
        parent: i32,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// What takes the terminal back for lock run.
    #[command(name = "__foreground", hide = true)]
    Foreground {
        /// The process group that gets it.
        group: i32,
    },
}

/// How a command line ends that is wrong: those who read the exit code of lock run are to tell it from their command's.
#[must_use]
pub fn wrong_usage(words: impl IntoIterator<Item = OsString>) -> Exit {
    let read = Options::command().ignore_errors(true).try_get_matches_from(words);
    let runs = read
        .is_ok_and(|read| read.subcommand_matches("lock").is_some_and(|lock| lock.subcommand_name() == Some("run")));
    if runs { Exit::WrongRun } else { Exit::Error }
}

/// A config.
#[derive(Args, Clone, Debug)]
pub struct Named {
    /// The config's name.
    pub name: String,
}

/// Arguments of status.
#[derive(Args, Clone, Debug)]
pub struct Status {
    /// A config, in detail; all of the namespace otherwise.
    pub name: Option<String>,

    /// Of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub all_namespaces: bool,

    /// End with 3 if a config is refused or not ready, with 4 if a rollout is under way.
    #[arg(long)]
    pub exit_code: bool,
}

/// How long to follow.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Patience {
    /// How long to wait, such as 90s or 5m; then the exit code is 4. By default without end.
    #[arg(long)]
    pub timeout: Option<Span>,
}

/// Arguments of watch.
#[derive(Args, Clone, Debug)]
pub struct Watch {
    /// The config's name.
    pub name: String,

    /// How long.
    #[command(flatten)]
    pub patience: Patience,
}

/// Arguments of explain.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// The config's name.
    pub name: String,

    /// A key, as /server/port or server.port; everything below it is listed. All keys otherwise.
    pub key: Option<String>,
}

/// Arguments of diff.
#[derive(Args, Clone, Debug)]
pub struct Diff {
    /// The config's name.
    pub name: String,

    /// The older side: a revision, previous, current or candidate. By default previous, or current
    /// if the other side is the candidate.
    #[arg(long)]
    pub from: Option<Side>,

    /// The newer side: a revision, previous, current or candidate. By default current.
    #[arg(long)]
    pub to: Option<Side>,

    /// End with 5 if there are differences.
    #[arg(long)]
    pub exit_code: bool,
}

/// One side of a diff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What pods read.
    Current,
    /// The revision before.
    Previous,
    /// What a rollout proposes.
    Candidate,
    /// A revision.
    Revision(i64),
}

impl std::str::FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "current" => Ok(Self::Current),
            "previous" => Ok(Self::Previous),
            "candidate" => Ok(Self::Candidate),
            number => match number.trim_start_matches('r').parse() {
                Ok(revision) if revision > 0 => Ok(Self::Revision(revision)),
                _ => Err("it is neither a revision such as 7, nor current, previous or candidate".into()),
            },
        }
    }
}

/// A config, and whether to follow what a command does to it.
#[derive(Args, Clone, Debug)]
pub struct Change {
    /// The config's name.
    pub name: String,

    /// Follow it to its end, as watch does.
    #[command(flatten)]
    pub follow: Follow,
}

/// Whether to follow what a command does.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Follow {
    /// Follow what comes of it to the end, as watch does, with its exit codes.
    #[arg(long)]
    pub wait: bool,

    /// How long.
    #[command(flatten)]
    pub patience: Patience,
}

/// Arguments of rollback.
#[derive(Args, Clone, Debug)]
pub struct Rollback {
    /// The config's name.
    pub name: String,

    /// The revision to go back to; by default the newest before the present one that differs.
    #[arg(long)]
    pub to: Option<i64>,

    /// Follow it to its end, as watch does.
    #[command(flatten)]
    pub follow: Follow,
}

/// Arguments of promote.
#[derive(Args, Clone, Debug)]
pub struct Promote {
    /// The config's name.
    pub name: String,

    /// Publish it whatever the pods say: past a quorum, gates and refusals.
    #[arg(long)]
    pub force: bool,

    /// Follow it to its end, as watch does.
    #[command(flatten)]
    pub follow: Follow,
}

/// Where manifests are.
#[derive(Args, Clone, Debug)]
pub struct Manifests {
    /// A file of YAML or JSON, a folder of such files, or - for the standard input; repeatable.
    #[arg(short, long = "filename", required = true, num_args = 1..)]
    pub filename: Vec<PathBuf>,
}

/// Arguments of render.
#[derive(Args, Clone, Debug)]
pub struct Render {
    /// Where manifests are.
    #[command(flatten)]
    pub manifests: Manifests,

    /// Write the files below this folder, each config's into one of its name, instead of showing
    /// them. Those that hold values from Secrets are left out without --show-secrets.
    #[arg(long)]
    pub directory: Option<PathBuf>,

    /// Show (or write, for you alone to read) files that hold values from Secrets too.
    #[arg(long)]
    pub show_secrets: bool,
}

/// Arguments of lint.
#[derive(Args, Clone, Debug)]
pub struct Lint {
    /// Where manifests are.
    #[command(flatten)]
    pub manifests: Manifests,

    /// Do not count a ConfigMap, Secret or DistributedConfig that is not among the manifests as a
    /// problem: what depends on it is not checked.
    #[arg(long)]
    pub allow_missing: bool,
}

/// Arguments of inject.
#[derive(Args, Clone, Debug)]
pub struct Inject {
    /// Where manifests are.
    #[command(flatten)]
    pub manifests: Manifests,

    /// A file with the chart's ConfigMap RELEASE-injection-…: the image and the defaults. Those of
    /// the chart's own values otherwise.
    #[arg(long = "params")]
    pub parameters: Option<PathBuf>,

    /// The sidecar's image.
    #[arg(long)]
    pub image: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_run_can_be_told_from_its_command() {
        let ends = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(Options::try_parse_from(&words).is_err(), "{line}");
            wrong_usage(words)
        };
        for line in
            ["q lock run", "q lock run x", "q -n shop lock run x --ttl never -- true", "q lock run x --nope -- a"]
        {
            assert_eq!(ends(line), Exit::WrongRun, "{line}");
        }
        for line in ["q lock", "q lock show", "q stauts", "q counter set x 1"] {
            assert_eq!(ends(line), Exit::Error, "{line}");
        }
    }

    #[test]
    fn the_command_is_what_follows_the_dashes() {
        let read = |line: &str| match Options::try_parse_from(line.split(' ')).unwrap().command {
            Command::Lock(Lock::Run(run)) => run,
            other => panic!("{other:?}"),
        };
        let run = read("q lock run x --permits 2/3 -- make -j --wait 3 -- x");
        assert_eq!(run.command, ["make", "-j", "--wait", "3", "--", "x"].map(OsString::from));
        assert_eq!((run.permits, run.wait), (Some(Permits { take: 2, of: 3 }), None));
        assert_eq!(read("q lock run x --wait 0s -- true").wait, Some(Span::of_seconds(0)));
        for line in ["q lock run x --shared --permits 1/2 -- true", "q lock run x --permits 3 -- true"] {
            assert!(Options::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn a_counter_is_set_only_knowingly() {
        let read = |line: &str| Options::try_parse_from(line.split(' ')).map(|options| options.command);
        assert!(read("q counter set x -1 --expect -2").is_ok() && read("q counter set x 1 --force").is_ok());
        assert!(read("q counter set x 1").is_err() && read("q counter set x 1 --expect 2 --force").is_err());
        assert!(matches!(read("q counter add x -5"), Ok(Command::Counter(Counter::Add(CounterAdd { delta: -5, .. })))));
        assert!(read("q counter add x 9223372036854775808").is_err());
    }
}
