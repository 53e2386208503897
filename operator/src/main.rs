//! The operator's program.

use anyhow::Context;
use clap::Parser;
use quorate_operator::{
    Settings,
    options::{LogFormat, Options},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    // At WARN kube logs answers that it cannot parse, and those may be Secrets.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=error"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match options.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    // A panic's message may hold a value that was being worked on: only the place is told.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(place = panic.location().map(tracing::field::display), "a panic: this is a bug");
    }));
    // One thread for all that waits: a hop between threads costs more than what is done between two
    // calls. Resolving, which may take long, has threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(4).enable_all().build()?;
    runtime.block_on(async {
        let client =
            quorate_operator::client().await.context("no way to an API server: set KUBECONFIG, or run in a pod")?;
        let listener = tokio::net::TcpListener::bind(options.listen)
            .await
            .with_context(|| format!("--listen {}: cannot listen there", options.listen))?;
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let (namespaces, election) = (options.namespaces(), options.election());
        let settings = Settings { namespaces, nudges: options.nudge_pods, election };
        quorate_operator::run(client, settings, listener, shutdown).await
    })
}
