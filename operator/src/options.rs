//! The command line.

use std::net::SocketAddr;

/// Resolves DistributedConfigs into heads. Connects as KUBECONFIG says, or in-cluster.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "quorate-operator", version)]
pub struct Options {
    /// A namespace to serve; repeatable. All by default.
    #[arg(long, env = "QUORATE_NAMESPACES", value_delimiter = ',')]
    pub namespace: Vec<String>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "QUORATE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// How log lines are written.
    #[arg(long, env = "QUORATE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How log lines are written.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
