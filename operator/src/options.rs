//! The command line.

use std::{collections::BTreeSet, net::SocketAddr};

/// Resolves DistributedConfigs into heads. Connects as KUBECONFIG says, or in-cluster.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "quorate-operator", version)]
pub struct Options {
    /// A namespace to serve; repeatable, or several with commas. All by default.
    #[arg(long, env = "QUORATE_NAMESPACES", value_delimiter = ',')]
    namespace: Vec<String>,

    /// Whether pods of spec.selector that mount the head as a plain volume, and have no sidecar, are told
    /// when it moved: kubelet then looks at once. Needs the right to patch pods.
    #[arg(long, env = "QUORATE_NUDGE_PODS")]
    pub nudge_pods: bool,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "QUORATE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// How log lines are written.
    #[arg(long, env = "QUORATE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

impl Options {
    /// The namespaces to serve, each once; none is all. An empty variable is none.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let named = self.namespace.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        named.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// How log lines are written.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn namespaces_may_be_repeated_or_listed_and_an_empty_one_is_none() {
        let namespaces = |words: &[&str]| Options::parse_from([&["quorate-operator"], words].concat()).namespaces();
        assert_eq!(namespaces(&["--namespace", "b", "--namespace", "a, c", "--namespace", "b"]), ["a", "b", "c"]);
        assert_eq!(namespaces(&["--namespace="]), [""; 0]);
    }
}
