//! The command line.
// Doc comments here are the help text, where backticks would be noise.
#![allow(clippy::doc_markdown)]

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{CommandFactory, FromArgMatches, builder::Resettable};

use crate::api::{is_label, listen::Address};

/// Mirrors the heads of DistributedConfigs into files. Connects as KUBECONFIG says, or in-cluster.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "quorate-sidecar", version)]
pub struct Options {
    /// A config to mirror; repeatable. Its files go to DIRECTORY/CONFIG.
    #[arg(long, env = "QUORATE_CONFIG", value_delimiter = ',', required = true, value_parser = config_name)]
    pub config: Vec<String>,

    /// The configs' namespace.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// Where the files go.
    #[arg(long, env = "QUORATE_DIRECTORY")]
    pub directory: PathBuf,

    /// End after the first publication of each config, as an init container does.
    #[arg(long, env = "QUORATE_ONCE")]
    pub once: bool,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "QUORATE_LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,

    /// Where the local API is served: 127.0.0.1:8082 or unix:/run/quorate/api.sock; by default nowhere.
    /// Whoever can reach it can take the pod's locks and read its configuration: loopback only.
    #[arg(long, env = "QUORATE_API", value_name = "ADDRESS")]
    pub api: Option<Address>,

    /// The container that asks the local API when a request does not say which.
    #[arg(long, env = "QUORATE_CONTAINER", value_parser = container)]
    pub container: Option<String>,

    /// A program (with arguments, separated by blanks) that must end with 0 before a set is shown;
    /// its environment has QUORATE_CONFIG, QUORATE_REVISION and QUORATE_STAGED, the folder of the set.
    /// Its output is not shown, as it may hold secrets.
    #[arg(long, env = "QUORATE_CHECK_EXEC")]
    pub check_exec: Option<String>,

    /// An http:// address that must answer 2xx to a POST before a set is shown.
    #[arg(long, env = "QUORATE_CHECK_HTTP")]
    pub check_http: Option<http::Uri>,

    /// An http:// address that is told of each change by a POST.
    #[arg(long, env = "QUORATE_NOTIFY_HTTP")]
    pub notify_http: Option<http::Uri>,

    /// A signal to send on each change, and to which program: HUP:nginx. The pod must share its
    /// process namespace.
    #[arg(long, env = "QUORATE_NOTIFY_SIGNAL")]
    pub notify_signal: Option<SignalTo>,

    /// A program to run on each change; its environment has QUORATE_CONFIG and QUORATE_REVISION.
    #[arg(long, env = "QUORATE_NOTIFY_EXEC")]
    pub notify_exec: Option<String>,

    /// How long a check or notification may take, in seconds: 1 to 45.
    #[arg(long, env = "QUORATE_HOOK_SECONDS", default_value = "10", value_parser = seconds)]
    pub hook_seconds: Duration,

    /// This pod's name. It reports what it runs as a ConfigReplica; without name and uid it does not.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,

    /// This pod's uid.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,

    /// The node's name, for the report.
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,

    /// How log lines are written.
    #[arg(long, env = "QUORATE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

impl Options {
    /// Of this process. A variable that is set to nothing counts as not set: that is how pod templates
    /// leave one out. Ends the process when they are not as they should be, or for --help.
    #[must_use]
    pub fn of_process() -> Self {
        let command = Self::command().mut_args(|arg| match arg.get_env().and_then(env::var_os) {
            Some(value) if value.is_empty() => arg.env(Resettable::Reset),
            _ => arg,
        });
        let matches = command.get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
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

/// A signal, and the program that gets it.
#[derive(Clone, Debug)]
pub struct SignalTo {
    /// The signal.
    pub signal: rustix::process::Signal,
    /// The program's name, as in /proc/PID/comm.
    pub program: String,
}

impl std::str::FromStr for SignalTo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use rustix::process::Signal;
        let (name, program) = text.split_once(':').ok_or("write SIGNAL:PROGRAM, such as HUP:nginx")?;
        let signal = match name.trim_start_matches("SIG") {
            "HUP" => Signal::HUP,
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            "TERM" => Signal::TERM,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            "WINCH" => Signal::WINCH,
            other => return Err(format!("{other} is none of HUP, INT, QUIT, TERM, USR1, USR2, WINCH")),
        };
        if program.is_empty() {
            return Err("the program's name is missing: write SIGNAL:PROGRAM, such as HUP:nginx".into());
        }
        // The kernel keeps 15 bytes of a name.
        Ok(Self { signal, program: program.chars().take(15).collect() })
    }
}

fn config_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let inner = text.chars().all(good) && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if inner && text.len() <= 63 { Ok(text.to_owned()) } else { Err("it is no name of a DistributedConfig".into()) }
}

fn container(text: &str) -> Result<String, String> {
    if is_label(text) { Ok(text.to_owned()) } else { Err("it is no container's name, which is a DNS label".into()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.parse().map_err(|_| "it is no whole number of seconds")?;
    // Both checks together must end well before /livez takes the follow loop for stuck.
    if (1..=45).contains(&seconds) { Ok(Duration::from_secs(seconds)) } else { Err("it must be 1 to 45".into()) }
}
