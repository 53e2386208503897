//! Checks before a set is shown, and notifications after.

use std::{collections::BTreeSet, fmt::Display, fs, path::Path, process::Stdio, time::Duration};

use http::{Request, Uri};
use http_body_util::Full;
use hyper::body::Bytes;
use rustix::process::{Pid, kill_process};
use tokio::{
    net::TcpStream,
    process::Command,
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

use crate::{options::SignalTo, publish::Published};

/// What a hook is told.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    /// The config.
    pub config: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The revision.
    pub revision: i64,
    /// The content's hash.
    pub hash: &'a str,
    /// The paths whose content is other than before.
    pub changed: &'a BTreeSet<String>,
    /// The folder of a set that is to be checked.
    pub staged: Option<&'a Path>,
}

/// Why a hook did not succeed. They are told apart because only an answer speaks against content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// It was asked, and this was its answer.
    #[error("{0}")]
    Refused(String),
    /// It was asked, and gave no answer: it hung, or ended in the middle.
    #[error("{0}")]
    Silent(String),
    /// It could not be asked: it may not be there yet, or be starting again.
    #[error("{0}")]
    Unasked(String),
}

/// Runs a program; it must end with 0. Its output is dropped: it may hold secrets.
///
/// # Errors
/// How it ended instead.
pub async fn exec(command: &str, told: &Told<'_>, limit: Duration) -> Result<(), HookError> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| HookError::Unasked("the command is empty".into()))?;
    let mut child = Command::new(program);
    child.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    child.env("QUORATE_CONFIG", told.config).env("QUORATE_REVISION", told.revision.to_string());
    if let Some(staged) = told.staged {
        child.env("QUORATE_STAGED", staged);
    }
    let mut child = child.spawn().map_err(|error| HookError::Unasked(format!("{program} cannot be run: {error}")))?;
    let status = timeout(limit, child.wait())
        .await
        .map_err(|_| HookError::Silent(format!("{program} did not end within {} s", limit.as_secs())))?
        .map_err(|error| HookError::Silent(format!("how {program} ended is not known: {error}")))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(_) => Err(HookError::Refused(format!("{program} ended with {status}"))),
        // By a signal: it crashed, or somebody killed it.
        None => Err(HookError::Silent(format!("{program} ended with {status}"))),
    }
}

/// Posts JSON to an http:// address of this pod; it must answer 2xx.
///
/// # Errors
/// What it answered, or why it did not.
pub async fn post(uri: &Uri, told: &Told<'_>, limit: Duration) -> Result<(), HookError> {
    let end = Instant::now() + limit;
    let unreached = |why: &dyn Display| HookError::Unasked(format!("{uri} cannot be reached: {why}"));
    let connected = timeout_at(end, connect(uri)).await;
    let stream = connected
        .map_err(|_| unreached(&format!("no connection within {} s", limit.as_secs())))?
        .map_err(|error| unreached(&error))?;
    let answered = timeout_at(end, exchange(stream, uri, told)).await;
    let status = answered
        .map_err(|_| HookError::Silent(format!("{uri} did not answer within {} s", limit.as_secs())))?
        .map_err(|error| HookError::Silent(format!("{uri} gave no answer: {error}")))?;
    if status.is_success() { Ok(()) } else { Err(HookError::Refused(format!("{uri} answered {status}"))) }
}

async fn connect(uri: &Uri) -> anyhow::Result<TcpStream> {
    anyhow::ensure!(uri.scheme_str() == Some("http"), "only http:// is possible");
    let authority = uri.authority().ok_or_else(|| anyhow::anyhow!("the address has no host"))?;
    // An IPv6 address has brackets in an address of HTTP, and none elsewhere.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    Ok(TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?)
}

async fn exchange(stream: TcpStream, uri: &Uri, told: &Told<'_>) -> anyhow::Result<http::StatusCode> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    let body = serde_json::json!({
        "config": told.config, "namespace": told.namespace, "revision": told.revision, "hash": told.hash,
        "changed": told.changed, "staged": told.staged,
    });
    let request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", uri.authority().map_or("", |authority| authority.as_str()))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    // The sender is dropped with the answer, which ends the connection.
    let exchange = async move { sender.send_request(request).await.map(|answer| answer.status()) };
    let (status, _) = tokio::join!(exchange, connection);
    Ok(status?)
}

/// Signals every process of the program's name.
///
/// # Errors
/// When there is none, or none may be signalled.
pub async fn signal(to: SignalTo) -> Result<(), HookError> {
    let signalled = spawn_blocking(move || signal_all(&to)).await;
    signalled.unwrap_or_else(|_| Err("the search for the program failed".into())).map_err(HookError::Unasked)
}

fn signal_all(to: &SignalTo) -> Result<(), String> {
    let pids = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?.filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim_end() == to.program).then_some(pid)
    });
    let (mut signalled, mut refused) = (0, None);
    // One that may not be signalled (nginx's master may be root's) keeps nobody else from it.
    for pid in pids {
        match kill_process(pid, to.signal) {
            Ok(()) => signalled += 1,
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) if signalled == 0 => Err(format!("{} cannot be signalled: {error}", to.program)),
        None if signalled == 0 => {
            Err(format!("no process {} is seen: does the pod set shareProcessNamespace?", to.program))
        }
        _ => Ok(()),
    }
}

/// The paths that differ between two sets.
#[must_use]
pub fn changed(old: &Published, new: &Published) -> BTreeSet<String> {
    let differs = |a: &Published, b: &Published| -> BTreeSet<String> {
        a.files.iter().filter(|file| !b.files.contains(file)).map(|file| file.path.clone()).collect()
    };
    &differs(new, old) | &differs(old, new)
}
