//! `promote`, `abort`, `retry`, `pause`, `resume`: what people say about a rollout, as annotations
//! that the operator obeys. Each but the last two names the revision it is meant for, so that one
//! which comes late does nothing to the next.

use kube::ResourceExt;
use quorate_crds::{CandidateStatus, DistributedConfig, Strategy, names};

use crate::{
    answer::{Answer, Done},
    change::{Plan, annotate, change},
    cluster::Cluster,
    commands::{status::rollout, watch},
    exit::{Exit, Failure, Result},
    options::{Follow, Promote},
    pause::{self, Pause},
    stored::{self, HeadNotes},
};

/// What is said about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Promote,
    ForcePromote,
    Abort,
}

impl Order {
    const fn annotation(self) -> &'static str {
        match self {
            Self::Promote => names::PROMOTE,
            Self::ForcePromote => names::FORCE_PROMOTE,
            Self::Abort => names::ABORT,
        }
    }

    /// What comes of it, and what it waits for before.
    fn said(self, candidate: &CandidateStatus, config: &DistributedConfig) -> String {
        let does = match self {
            Self::Promote => "the rest of its steps is skipped",
            Self::ForcePromote => "it is published whatever the pods say",
            Self::Abort => "it is given up, and what is published stays",
        };
        let what = rollout(candidate);
        let held = self == Self::Promote && Pause::of(config) == Pause::Holds;
        let resumed = held.then_some("for `resume`, since it is held");
        let waits: Vec<&str> = suspension(config).into_iter().chain(resumed).collect();
        if waits.is_empty() {
            format!("{what}: {does}")
        } else {
            format!("{what}: {does}; this waits {}", waits.join(", and "))
        }
    }
}

/// Runs `promote`.
///
/// # Errors
/// When there is no candidate, or a quorum would have to be passed over.
pub async fn promote(cluster: &Cluster, answer: Answer, options: &Promote) -> Result {
    let order = if options.force { Order::ForcePromote } else { Order::Promote };
    about_candidate(cluster, answer, &options.name, order, options.follow).await
}

/// Runs `abort`.
///
/// # Errors
/// When there is no candidate.
pub async fn abort(cluster: &Cluster, answer: Answer, name: &str, follow: Follow) -> Result {
    about_candidate(cluster, answer, name, Order::Abort, follow).await
}

async fn about_candidate(cluster: &Cluster, answer: Answer, name: &str, order: Order, follow: Follow) -> Result {
    let seen = candidate(&cluster.config(name).await?)?;
    let revision = seen.revision;
    let (config, changed) = change(cluster, name, |config| plan(config, order, &seen)).await?;
    let said = order.said(&seen, &config);
    tell(cluster, answer, name, changed, Some(revision), &said, follow)?;
    let goal = if order == Order::Abort { watch::Goal::GivenUp { revision } } else { watch::Goal::Settled };
    wait(cluster, answer, name, goal, follow).await
}

/// The candidate there is.
fn candidate(config: &DistributedConfig) -> Result<CandidateStatus> {
    let status = config.status.as_ref();
    status.and_then(|status| status.candidate.clone()).ok_or_else(|| {
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("unknown");
        Failure::not_found(format!(
            "{} has no candidate: no rollout is under way (its phase is {phase})",
            named(config)
        ))
    })
}

/// What to write for an order about a candidate that was seen.
fn plan(config: &DistributedConfig, order: Order, seen: &CandidateStatus) -> Result<Plan> {
    if order == Order::Promote && seen.strategy == Strategy::Quorum {
        return Err(Failure::error(format!(
            "{} is decided by its pods' votes ({} of {} accepted), and has no steps to skip: let them vote, or publish it \
             against them with --force",
            rollout(seen),
            seen.accepted,
            seen.asked
        )));
    }
    let plan = annotate(config, order.annotation(), Some(&seen.revision.to_string()));
    // Where it is written already, perhaps by us and without an answer, the candidate may be gone because of it.
    if plan != Plan::Nothing {
        let present = candidate(config)?.revision;
        if present != seen.revision {
            return Err(Failure::error(format!(
                "revision {} made way for revision {present} meanwhile; look at it (status), then say so again",
                seen.revision
            )));
        }
    }
    Ok(plan)
}

/// What anything but a change of spec waits for while nothing is to be published.
fn suspension(config: &DistributedConfig) -> Option<&'static str> {
    config.spec.suspend.then_some("for the end of the suspension (spec.suspend is true)")
}

/// Runs `retry`.
///
/// # Errors
/// When nothing was refused.
pub async fn retry(cluster: &Cluster, answer: Answer, name: &str, follow: Follow) -> Result {
    let config = cluster.config(name).await?;
    let revision = refused(&config, &stored::notes(cluster, name).await?.unwrap_or_default())?;
    let set = |config: &DistributedConfig| again(config, revision);
    let (config, changed) = change(cluster, name, set).await?;
    let waits = suspension(&config).map(|end| format!("; this waits {end}")).unwrap_or_default();
    let said = format!("the content of revision {revision} is proposed again{waits}");
    tell(cluster, answer, name, changed, Some(revision), &said, follow)?;
    let published = config.status.and_then(|status| status.revision);
    wait(cluster, answer, name, watch::Goal::Retried { refused: revision, published }, follow).await
}

/// What to write to have a refused revision's content proposed again.
fn again(config: &DistributedConfig, revision: i64) -> Result<Plan> {
    if let Some(pin) = &config.spec.pin {
        return Err(Failure::error(format!(
            "{} is held at revision {} by spec.pin, so that nothing is proposed: `unpin` it first",
            named(config),
            pin.revision
        )));
    }
    Ok(annotate(config, names::RETRY, Some(&revision.to_string())))
}

/// The revision that was refused.
fn refused(config: &DistributedConfig, notes: &HeadNotes) -> Result<i64> {
    let refused = notes.standing.refused.as_ref().map(|refused| refused.revision);
    refused.ok_or_else(|| {
        Failure::not_found(format!("{}: nothing was refused, so there is nothing to retry", named(config)))
    })
}

/// Runs `pause`.
///
/// # Errors
/// When there is nothing that a pause holds, or the config does not exist or may not be changed.
pub async fn pause(cluster: &Cluster, answer: Answer, name: &str) -> Result {
    let (config, changed) = change(cluster, name, hold).await?;
    let said = match candidate(&config) {
        Ok(candidate) => format!("{} is held where it is; `resume` lets it go on", rollout(&candidate)),
        Err(_) => "the next rollout is held as it begins; `resume` lets it go on".to_owned(),
    };
    tell(cluster, answer, name, changed, None, &said, Follow::default())?;
    Ok(Exit::Ok)
}

/// What to write for a pause.
fn hold(config: &DistributedConfig) -> Result<Plan> {
    if !pause::possible(config) {
        return Err(Failure::error(format!(
            "{} cannot be paused: with strategy Immediate every pod reads a change at once, so that no rollout can be held; \
             spec.suspend: true keeps changes from being published",
            named(config)
        )));
    }
    Ok(annotate(config, names::PAUSED, Some("true")))
}

/// Runs `resume`.
///
/// # Errors
/// When the config does not exist, or may not be changed.
pub async fn resume(cluster: &Cluster, answer: Answer, name: &str, follow: Follow) -> Result {
    let (_, changed) = change(cluster, name, |config| Ok(annotate(config, names::PAUSED, None))).await?;
    tell(cluster, answer, name, changed, None, "rollouts go on", follow)?;
    wait(cluster, answer, name, watch::Goal::Settled, follow).await
}

/// Says what was done; not to a script that gets what comes of it instead.
pub fn tell(
    cluster: &Cluster,
    answer: Answer,
    name: &str,
    changed: bool,
    revision: Option<i64>,
    said: &str,
    follow: Follow,
) -> Result<()> {
    if follow.wait && answer.output != crate::options::Output::Table {
        return Ok(());
    }
    let already = if changed { "" } else { " (the config says so already)" };
    let message = format!("{}/{name}: {said}{already}", cluster.namespace);
    answer.done(&Done { namespace: &cluster.namespace, name, changed, revision, message })
}

/// Follows what comes of it, if asked to.
pub async fn wait(cluster: &Cluster, answer: Answer, name: &str, goal: watch::Goal, follow: Follow) -> Result {
    if follow.wait { watch::follow(cluster, answer, name, follow.patience, goal).await } else { Ok(Exit::Ok) }
}

fn named(config: &DistributedConfig) -> String {
    format!("DistributedConfig {}/{}", config.namespace().unwrap_or_default(), config.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, candidate as canary, config, config_with};
    use quorate_crds::{Orders, Refused, Rollout, Standing};
    use serde_json::json;

    fn rolling(strategy: Strategy) -> DistributedConfig {
        config_with(&|c| c.status.as_mut().unwrap().candidate = Some(CandidateStatus { strategy, ..canary() }))
    }

    #[test]
    fn orders_name_the_candidate_they_are_meant_for() {
        let config = rolling(Strategy::Canary);
        for (order, annotation) in [
            (Order::Promote, names::PROMOTE),
            (Order::ForcePromote, names::FORCE_PROMOTE),
            (Order::Abort, names::ABORT),
        ] {
            let expected = json!({"metadata": {"annotations": {annotation: "4"}}});
            assert_eq!(plan(&config, order, &canary()), Ok(Plan::Merge(expected)));
        }
        // The operator reads what is written here.
        let annotations = [(names::ABORT.to_owned(), "4".to_owned())].into();
        assert_eq!(Orders::of(&annotations).abort, Some(4));
    }

    #[test]
    fn an_order_does_nothing_to_another_candidate_than_was_seen() {
        let seen = CandidateStatus { revision: 3, ..canary() };
        let failure = plan(&rolling(Strategy::Canary), Order::Abort, &seen).unwrap_err();
        assert_eq!(failure.exit, Exit::Error);
        assert!(failure.message.contains("revision 3 made way for revision 4"), "{failure}");
    }

    #[test]
    fn without_a_candidate_there_is_nothing_to_say() {
        let failure = candidate(&config()).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(
            failure.message,
            "DistributedConfig shop/web has no candidate: no rollout is under way (its phase is Published)"
        );
    }

    #[test]
    fn a_quorum_is_passed_over_only_by_force() {
        let config = rolling(Strategy::Quorum);
        let seen = candidate(&config).unwrap();
        let failure = plan(&config, Order::Promote, &seen).unwrap_err();
        assert!(
            failure.message.contains("votes (7 of 10 accepted)") && failure.message.contains("--force"),
            "{failure}"
        );
        assert!(plan(&config, Order::ForcePromote, &seen).is_ok());
        assert!(plan(&config, Order::Abort, &seen).is_ok());
    }

    #[test]
    fn what_an_order_waits_for_is_said() {
        let said = |order: Order, suspend: bool, paused: bool| {
            let config = config_with(&|c| {
                c.spec.suspend = suspend;
                c.spec.rollout = Some(Rollout { strategy: Strategy::Canary, ..Rollout::default() });
                c.metadata.annotations = paused.then(|| [(names::PAUSED.to_owned(), "true".to_owned())].into());
            });
            order.said(&canary(), &config)
        };
        let (given_up, skipped) = ("it is given up, and what is published stays", "the rest of its steps is skipped");
        let suspended = "for the end of the suspension (spec.suspend is true)";
        let held = "for `resume`, since it is held";
        // A pause holds up neither a person who gives up nor one who forces.
        for (order, suspend, paused, expected) in [
            (Order::Abort, false, true, given_up.to_owned()),
            (Order::Abort, true, false, format!("{given_up}; this waits {suspended}")),
            (Order::Promote, false, false, skipped.to_owned()),
            (Order::Promote, false, true, format!("{skipped}; this waits {held}")),
            (Order::Promote, true, true, format!("{skipped}; this waits {suspended}, and {held}")),
            (Order::ForcePromote, false, true, "it is published whatever the pods say".to_owned()),
        ] {
            let expected = format!("revision 4, Canary step 2 of 4: {expected}");
            assert_eq!(said(order, suspend, paused), expected, "{order:?}");
        }
    }

    #[test]
    fn immediate_cannot_be_paused_and_what_can_is_named() {
        let of = |strategy: Option<Strategy>| {
            hold(&config_with(&|c| c.spec.rollout = strategy.map(|s| Rollout { strategy: s, ..Rollout::default() })))
        };
        for immediate in [None, Some(Strategy::Immediate)] {
            let failure = of(immediate).unwrap_err();
            assert_eq!(failure.exit, Exit::Error);
            assert!(failure.message.starts_with("DistributedConfig shop/web cannot be paused"), "{failure}");
            assert!(failure.message.contains("spec.suspend: true"), "{failure}");
        }
        for asks in [Strategy::Quorum, Strategy::Canary] {
            assert!(matches!(of(Some(asks)), Ok(Plan::Merge(_))), "{asks}");
        }
    }

    #[test]
    fn what_was_refused_can_be_retried() {
        let entry = Refused { revision: 4, hash: "h".into(), reason: "r".into(), at: at(0) };
        let notes = HeadNotes { standing: Standing { refused: Some(entry), ..Standing::default() }, good: None };
        assert_eq!(refused(&config(), &notes), Ok(4));
        let failure = refused(&config(), &HeadNotes::default()).unwrap_err();
        assert!(failure.message.contains("nothing was refused"), "{failure}");
    }
}
