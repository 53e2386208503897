//! The command line.
// Doc comments here are the help text, where backticks would be noise.
#![allow(clippy::doc_markdown)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use quorate_crds::Span;

/// What is published, who runs it, how it came about; and taking part in it.
///
/// Exit codes: 0 ok, 1 wrong usage or another error, 2 not found, 3 not ready, refused or problems
/// found, 4 timed out or still in progress, 5 differences (diff --exit-code).
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
