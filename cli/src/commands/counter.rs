//! `counter`: one number that many add to, each exactly once.

use std::time::Duration;

use quorate_coordination::{
    Answer as Given, Counter, CounterError,
    counter::{CounterOpenError, Key, Operation, Refusal},
    lock::object_name,
};
use quorate_crds::DistributedCounter;
use serde::Serialize;
use tokio::{
    runtime::Handle,
    time::{sleep, timeout},
};

use crate::{
    answer::Answer,
    cluster::Cluster,
    exit::{Exit, Failure, Result},
    options, participant,
};

/// The time of an operation.
const LIMIT: Duration = Duration::from_secs(15);
/// For how long this process stays to be forgotten by the counter.
const LEAVING: Duration = Duration::from_secs(5);
/// Between two looks whether it is.
const LOOK: Duration = Duration::from_millis(5);

/// What an operation gave.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    namespace: String,
    name: String,
    /// The value after it.
    value: i64,
    /// The value before it.
    before: i64,
    /// A version of the counter that has it; what comes later has a higher one.
    token: u64,
    /// The Lamport stamp of that version.
    lamport: i64,
    /// Its stamp by the hybrid logical clock.
    hlc: String,
}

/// Runs the command.
///
/// # Errors
/// When there is no such counter, or it does not allow it.
pub async fn run(cluster: &Cluster, answer: Answer, command: &options::Counter) -> Result {
    let (name, operation, key) = match command {
        options::Counter::Get(options) => (&options.counter, Some(Operation::Get), None),
        options::Counter::Add(options) => (&options.counter, Some(Operation::Add(options.delta)), options.key.as_ref()),
        options::Counter::Set(options) => {
            let set = |expected| Operation::CompareAndSet { expected, new: options.value };
            (&options.counter, options.expect.map(set), options.key.as_ref())
        }
    };
    let key = key.map(|key| Key::new(key)).transpose().map_err(|error| failure(&error.into()))?;
    object_name(name).map_err(|error| Failure::error(error.to_string()))?;
    cluster.must_have::<DistributedCounter>(name).await?;
    let (client, session) = (cluster.client.clone(), participant::session()?);
    let tasks = Handle::current().metrics().num_alive_tasks();
    let counter =
        Counter::open(client, &cluster.namespace, name, session, LIMIT).await.map_err(|error| match &error {
            CounterOpenError::Counter(error) => failure(error),
            error => Failure::error(error.to_string()),
        })?;
    let given = match (operation, command) {
        (Some(operation), _) => counter.perform(operation, key).await,
        (None, options::Counter::Set(options)) => overwrite(&counter, options.value).await,
        (None, _) => counter.get().await,
    };
    drop(counter);
    left(tasks).await;
    let view = View::of(cluster, name, given.map_err(|error| failure(&error))?);
    answer.give(&view, |_| format!("{}\n", view.value))?;
    Ok(Exit::Ok)
}

/// Sets it whatever it is: what it was is told, and no operation in between is lost unseen.
async fn overwrite(counter: &Counter, new: i64) -> std::result::Result<Given, CounterError> {
    let mut expected = counter.get().await?.after;
    loop {
        match counter.compare_and_set(expected, new).await {
            Err(CounterError::Refused { why: Refusal::Mismatch { value, .. }, .. }) => expected = value,
            given => return given,
        }
    }
}

/// Waits until the handle's task, which ends with this process, has told the counter to forget this writer: a counter can tell
/// only so many apart.
async fn left(tasks: usize) {
    let gone = async {
        while Handle::current().metrics().num_alive_tasks() > tasks {
            sleep(LOOK).await;
        }
    };
    // At the worst it is forgotten in time.
    let _ = timeout(LEAVING, gone).await;
}

impl View {
    fn of(cluster: &Cluster, name: &str, given: Given) -> Self {
        let Given { before, after, token, lamport, hlc } = given;
        let (namespace, name) = (cluster.namespace.clone(), name.to_owned());
        Self { namespace, name, value: after, before, token, lamport, hlc: hlc.to_string() }
    }
}

fn failure(error: &CounterError) -> Failure {
    let exit = match error {
        error if error.is_unknown() => Exit::InProgress,
        CounterError::Refused { .. } => Exit::Failed,
        _ => Exit::Error,
    };
    Failure { exit, message: error.to_string() }
}
