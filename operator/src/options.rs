//! The command line.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use quorate_coordination::Process;

use crate::leader::Election;

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

    /// Whether one of several operators is elected to write; the others keep up with what there is to know, and wait.
    #[arg(long, env = "QUORATE_LEADER_ELECT")]
    pub leader_elect: bool,

    /// The Lease on which the leader is elected.
    #[arg(long, env = "QUORATE_LEADER_ELECT_LEASE", default_value = "quorate-operator")]
    pub leader_elect_lease: String,

    /// The namespace of that Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub leader_elect_namespace: String,

    /// For how long the leader leads without being heard of: so long do the others wait when it crashed. Seconds.
    #[arg(long, env = "QUORATE_LEADER_ELECT_SECONDS", default_value_t = 15)]
    pub leader_elect_seconds: u64,

    /// What this operator is called in the Lease: the pod's name. The machine's by default.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,

    /// The pod's uid.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,

    /// The container's name.
    #[arg(long, env = "CONTAINER_NAME")]
    pub container_name: Option<String>,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "QUORATE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,

    /// How log lines are written.
    #[arg(long, env = "QUORATE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

impl Options {
    /// How a leader is elected, if one is.
    #[must_use]
    pub fn election(&self) -> Option<Election> {
        let identity = if self.pod_name.is_empty() { machine_name() } else { self.pod_name.clone() };
        let (pod, uid, container) = (self.pod_name.clone(), self.pod_uid.clone(), self.container_name.clone());
        let process = (!uid.is_empty()).then(|| Process::of_pod(pod, uid, container));
        self.leader_elect.then(|| Election {
            namespace: self.leader_elect_namespace.clone(),
            lease: self.leader_elect_lease.clone(),
            ttl: Duration::from_secs(self.leader_elect_seconds),
            identity,
            process,
        })
    }

    /// The namespaces to serve, each once; none is all. An empty variable is none.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let named = self.namespace.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        named.map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The name of the machine; where it cannot be told, of this program.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "quorate-operator".to_owned() } else { name.trim().to_owned() }
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
