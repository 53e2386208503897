//! `lock`: a command under a lock, who holds one, and taking it by force.

pub mod child;
mod notice;
mod release;
pub mod run;
mod show;
mod signals;
pub mod terminal;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use quorate_coordination::{LockError, LockState, Stored, lock::object_name};

use crate::{
    answer::Answer,
    cluster::{Cluster, call},
    exit::{Exit, Failure, Result},
    options,
};

/// Runs a command that is done with one answer.
///
/// # Errors
/// When the API server fails or refuses.
pub async fn run_command(cluster: &Cluster, answer: Answer, command: &options::Lock) -> Result {
    match command {
        options::Lock::List(options) => show::list(cluster, answer, *options).await,
        options::Lock::Show(options) => show::one(cluster, answer, &options.lock).await,
        options::Lock::Release(options) => release::run(cluster, answer, options).await,
        // `run` makes its own way to the API server.
        options::Lock::Run(_) => Ok(Exit::Ok),
    }
}

fn leases(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.client.clone(), &cluster.namespace)
}

/// The lock's Lease, and what it says.
async fn read(cluster: &Cluster, name: &str) -> Result<(Lease, LockState)> {
    object_name(name).map_err(|error| Failure::error(error.to_string()))?;
    let what = format!("Lease {}/{name}", cluster.namespace);
    let lease = call(&format!("get {what}"), leases(cluster).get_opt(name)).await?;
    let Some(lease) = lease else {
        return Err(Failure::not_found(format!("{what} does not exist: nobody has claimed this lock yet")));
    };
    let state = LockState::of_object(&lease).map_err(|why| Failure::error(format!("{what}: {why}")))?;
    Ok((lease, state))
}

fn failure(error: &LockError) -> Failure {
    let exit = if matches!(error, LockError::NoSuchClaim { .. }) { Exit::NotFound } else { Exit::Error };
    Failure { exit, message: error.to_string() }
}
