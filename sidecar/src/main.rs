//! The sidecar's program.

use anyhow::Context;
use quorate_sidecar::options::{LogFormat, Options};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let options = Options::of_process();
    // kube's client warns of answers it cannot read by showing them, Secrets included.
    let quiet = "info,kube_client=error";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(quiet));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match options.log_format {
        LogFormat::Text => log.with_ansi(false).init(),
        LogFormat::Json => log.json().init(),
    }
    // The message of a panic may hold what was worked on, Secrets included: only its place is told.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a defect in quorate-sidecar: please report it");
    }));
    // One thread, and one more for the disk: it lives in every pod.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let client =
            quorate_sidecar::client().await.context("no way to an API server: set KUBECONFIG, or run in a pod")?;
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
        quorate_sidecar::run(client, options, listener, shutdown).await
    })
}
