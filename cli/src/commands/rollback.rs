//! `rollback` and `unpin`: spec.pin.

use kube::ResourceExt;
use quorate_crds::{DistributedConfig, HistoryEntry};
use serde_json::json;

use crate::{
    answer::{Answer, note},
    change::{Plan, change},
    cluster::Cluster,
    commands::{
        order::{tell, wait},
        watch::Goal,
    },
    exit::{Failure, Result},
    options::{Follow, Rollback},
};

/// Runs `rollback`.
///
/// # Errors
/// When the revision is not in the history, or there is none to go back to.
pub async fn rollback(cluster: &Cluster, answer: Answer, options: &Rollback) -> Result {
    let name = &options.name;
    let seen = cluster.config(name).await?;
    let revision = target(&seen, options.to)?;
    let (config, changed) = change(cluster, name, |config| plan(config, revision)).await?;
    if config.spec.suspend {
        note("spec.suspend is true: nothing is published before it is taken out");
    }
    let said = format!("pinned to revision {revision}; `kubectl quorate unpin {name}` lets the layers decide again");
    tell(cluster, answer, name, changed, Some(revision), &said, options.follow)?;
    wait(cluster, answer, name, Goal::Settled, options.follow).await
}

/// Runs `unpin`.
///
/// # Errors
/// When the config does not exist, or may not be changed.
pub async fn unpin(cluster: &Cluster, answer: Answer, name: &str, follow: Follow) -> Result {
    let (_, changed) = change(cluster, name, |config| {
        Ok(match config.spec.pin {
            Some(_) => Plan::Merge(json!({"spec": {"pin": null}})),
            None => Plan::Nothing,
        })
    })
    .await?;
    let said = if changed { "not pinned any more: the layers decide again" } else { "not pinned: the layers decide" };
    tell(cluster, answer, name, changed, None, said, follow)?;
    wait(cluster, answer, name, Goal::Settled, follow).await
}

/// The revision to go back to.
fn target(config: &DistributedConfig, wanted: Option<i64>) -> Result<i64> {
    let history = config.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
    match wanted {
        Some(revision) => in_history(config, history, revision).map(|()| revision),
        None => newest_that_differs(config, history).ok_or_else(|| {
            Failure::not_found(format!(
                "DistributedConfig {}/{} has no earlier revision with other content; its history has {}",
                config.namespace().unwrap_or_default(),
                config.name_any(),
                listed(history)
            ))
        }),
    }
}

/// The newest revision before the present one whose content is not what pods read now.
fn newest_that_differs(config: &DistributedConfig, history: &[HistoryEntry]) -> Option<i64> {
    let status = config.status.as_ref()?;
    let (current, hash) = (status.revision?, status.hash.as_ref()?);
    let older = history.iter().filter(|entry| entry.revision < current && entry.hash != *hash);
    older.map(|entry| entry.revision).max()
}

fn in_history(config: &DistributedConfig, history: &[HistoryEntry], revision: i64) -> Result<()> {
    if history.iter().any(|entry| entry.revision == revision) {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "revision {revision} is not in the history of DistributedConfig {}/{}, which has {}",
        config.namespace().unwrap_or_default(),
        config.name_any(),
        listed(history)
    )))
}

fn listed(history: &[HistoryEntry]) -> String {
    let revisions: Vec<String> = history.iter().map(|entry| entry.revision.to_string()).collect();
    if revisions.is_empty() { "none".to_owned() } else { revisions.join(", ") }
}

fn plan(config: &DistributedConfig, revision: i64) -> Result<Plan> {
    // First of all: it may have been written without an answer.
    if config.spec.pin.as_ref().is_some_and(|pin| pin.revision == revision) {
        return Ok(Plan::Nothing);
    }
    let history = config.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
    in_history(config, history, revision)?;
    Ok(Plan::Merge(json!({"spec": {"pin": {"revision": revision}}})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exit::Exit,
        testing::{config, config_with},
    };
    use quorate_crds::Pin;

    #[test]
    fn the_newest_content_that_differs_is_gone_back_to() {
        assert_eq!(target(&config(), None), Ok(2));
        // Revision 3 restored what 2 had, so 2 would change nothing.
        let restored = config_with(&|c| {
            let status = c.status.as_mut().unwrap();
            status.history[0].hash = status.history[1].hash.clone();
            status.hash = Some(status.history[1].hash.clone());
        });
        assert_eq!(target(&restored, None), Ok(1));
        let first = config_with(&|c| c.status.as_mut().unwrap().history.truncate(1));
        let failure = target(&first, None).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(
            failure.message.ends_with("has no earlier revision with other content; its history has 3"),
            "{failure}"
        );
    }

    #[test]
    fn only_what_is_in_the_history_can_be_gone_back_to() {
        assert_eq!(target(&config(), Some(1)), Ok(1));
        let failure = target(&config(), Some(9)).unwrap_err();
        assert!(
            failure.message.contains("revision 9 is not in the history") && failure.message.ends_with("has 3, 2, 1")
        );
        // It may have been pruned between looking and writing.
        let pruned = config_with(&|c| c.status.as_mut().unwrap().history.truncate(2));
        assert!(plan(&pruned, 1).is_err());
    }

    #[test]
    fn a_pin_is_written_once() {
        assert_eq!(plan(&config(), 2), Ok(Plan::Merge(json!({"spec": {"pin": {"revision": 2}}}))));
        let pinned = config_with(&|c| c.spec.pin = Some(Pin { revision: 2 }));
        assert_eq!(plan(&pinned, 2), Ok(Plan::Nothing));
        let pinned_and_gone = config_with(&|c| c.spec.pin = Some(Pin { revision: 9 }));
        assert_eq!(plan(&pinned_and_gone, 9), Ok(Plan::Nothing), "the operator says that it is gone");
    }
}
