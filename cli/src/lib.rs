//! `kubectl quorate`: what is published, who runs it, how it came about; and taking part in it.
//!
//! A file a command ([`commands`]), most of it pure functions from objects to a view and from a view
//! to text. How things look is [`mod@format`]'s, where answers go [`answer`]'s, how they end [`exit`]'s.
//! Only [`cluster`] and what takes one touches the API.

pub mod answer;
pub mod change;
pub mod cluster;
pub mod commands;
pub mod exit;
pub mod format;
pub mod inject;
pub mod manifest;
pub mod options;
pub mod outcome;
pub mod participant;
pub mod pause;
pub mod pointer;
pub mod snapshot;
pub mod stored;
#[cfg(test)]
mod testing;

use answer::Answer;
use cluster::Cluster;
use commands::{
    completions, counter, diff, explain, history, inject as injection, lint, lock, members, order, queue, render,
    rollback, status, watch,
};
use exit::Result;
use format::Style;
use options::{Command, Options};

/// Runs a command.
///
/// # Errors
/// What a person is to be told, and how the process ends.
pub async fn run(options: Options) -> Result {
    let answer = Answer { output: options.output, style: Style::of(options.color) };
    let target = &options.target;
    // Offline, a manifest that names no namespace is where kubectl would put it at most by chance.
    let offline = target.namespace.clone().unwrap_or_else(|| "default".to_owned());
    match &options.command {
        Command::Render(options) => return render::run(answer, &offline, options),
        Command::Lint(options) => return lint::run(answer, &offline, options),
        Command::Inject(options) => return injection::run(answer, options),
        Command::Completions { shell } => return completions::script(*shell),
        Command::Complete { words } => return completions::answer(words, target).await,
        // It has exit codes of its own, also for having no way to an API server.
        Command::Lock(options::Lock::Run(options)) => return lock::run::run(target, options).await,
        Command::Exec { parent, command } => return lock::child::become_command(*parent, command),
        Command::Foreground { group } => return lock::terminal::take_back(*group),
        _ => {}
    }
    let cluster = &Cluster::of(target).await?;
    match &options.command {
        Command::Status(options) => status::run(cluster, answer, options).await,
        Command::Watch(options) => watch::run(cluster, answer, &options.name, options.patience).await,
        Command::Explain(options) => explain::run(cluster, answer, options).await,
        Command::History(options) => history::run(cluster, answer, &options.name).await,
        Command::Diff(options) => diff::run(cluster, answer, options).await,
        Command::Rollback(options) => rollback::rollback(cluster, answer, options).await,
        Command::Unpin(options) => rollback::unpin(cluster, answer, &options.name, options.follow).await,
        Command::Promote(options) => order::promote(cluster, answer, options).await,
        Command::Abort(options) => order::abort(cluster, answer, &options.name, options.follow).await,
        Command::Retry(options) => order::retry(cluster, answer, &options.name, options.follow).await,
        Command::Pause(options) => order::pause(cluster, answer, &options.name).await,
        Command::Resume(options) => order::resume(cluster, answer, &options.name, options.follow).await,
        Command::Lock(command) => lock::run_command(cluster, answer, command).await,
        Command::Counter(command) => counter::run(cluster, answer, command).await,
        Command::Queue(command) => queue::run(cluster, answer, command).await,
        Command::Members(command) => members::run(cluster, answer, command).await,
        Command::Render(_)
        | Command::Lint(_)
        | Command::Inject(_)
        | Command::Completions { .. }
        | Command::Complete { .. }
        | Command::Exec { .. }
        | Command::Foreground { .. } => Ok(exit::Exit::Ok),
    }
}
