//! `lock release`: by force, and knowingly.

use kube::ResourceExt;
use quorate_coordination::{
    Lock, LockState,
    lock::{DEFAULT_TTL, Foreign, Sign},
};

use super::{failure, read};
use crate::{
    answer::{Answer, Done},
    cluster::Cluster,
    exit::{Exit, Failure, Result},
    format::printable,
    options::LockRelease,
    participant,
};

/// What is taken.
#[derive(Debug, PartialEq)]
enum Target {
    /// A claim: its id, who made it, and whether it holds.
    Claim { id: String, identity: String, holds: bool },
    /// The hold of somebody who is none of ours.
    Foreign(Foreign),
}

/// Runs the command.
///
/// # Errors
/// When there is nothing to take, it is not clear what, or it was not said to be meant.
pub async fn run(cluster: &Cluster, answer: Answer, options: &LockRelease) -> Result {
    let (lease, state) = read(cluster, &options.lock).await?;
    let name = format!("{}/{}", cluster.namespace, options.lock);
    let target = target(&name, &state, options.claim.as_deref())?;
    if !options.force {
        return Err(Failure::error(refusal(&name, &target)));
    }
    let (client, session) = (cluster.client.clone(), participant::session()?);
    let lock = Lock::on_lease(client, &cluster.namespace, &options.lock, session, DEFAULT_TTL)
        .map_err(|error| failure(&error))?;
    let whose = match &target {
        Target::Claim { id, identity, .. } => {
            lock.force_release(id).await.map_err(|error| failure(&error))?;
            identity
        }
        Target::Foreign(foreign) => {
            if !lock.steal(&Sign::Foreign(foreign.clone())).await.map_err(|error| failure(&error))? {
                let why = "has renewed it, or given it up, since it was looked at";
                return Err(Failure::error(format!(
                    "lock {name}: {} {why}; nothing was changed",
                    printable(&foreign.identity)
                )));
            }
            &foreign.identity
        }
    };
    let what = match &target {
        Target::Claim { holds: false, .. } => "does not wait for it any more",
        _ => "does not hold it any more, and may not know yet",
    };
    let message = format!("lock {name}: {} {what}", printable(whose));
    answer.done(&Done {
        namespace: &cluster.namespace,
        name: &lease.name_any(),
        changed: true,
        revision: None,
        message,
    })?;
    Ok(Exit::Ok)
}

fn target(name: &str, state: &LockState, claim: Option<&str>) -> Result<Target> {
    let holder = |claim: &quorate_coordination::lock::Claim| Target::Claim {
        id: claim.id.clone(),
        identity: claim.identity.clone(),
        holds: state.holds(&claim.id),
    };
    if let Some(id) = claim {
        let mut claims = state.holders.iter().map(|holder| &holder.claim).chain(&state.waiters);
        return claims.find(|claim| claim.id == id).map(holder).ok_or_else(|| {
            let told = "it was given back, or its time was up; `kubectl quorate lock show` tells which there are";
            Failure::not_found(format!("lock {name}: there is no claim {}: {told}", printable(id)))
        });
    }
    match (&state.foreign, state.holders.as_slice()) {
        (Some(foreign), _) => Ok(Target::Foreign(foreign.clone())),
        (None, [only]) => Ok(holder(&only.claim)),
        (None, []) => Err(Failure::not_found(format!("lock {name}: nobody holds it"))),
        (None, several) => {
            let ids: Vec<String> = several
                .iter()
                .map(|holder| format!("{} ({})", holder.claim.id, printable(&holder.claim.identity)))
                .collect();
            Err(Failure::error(format!("lock {name} has several holders: say which with --claim: {}", ids.join(", "))))
        }
    }
}

/// What taking it risks, and what to do instead.
fn refusal(name: &str, target: &Target) -> String {
    match target {
        Target::Claim { identity, holds: false, id } => format!(
            "lock {name}: {} waits for it (claim {id}) and would wait in vain, or claim it anew at the end of the queue; \
             --force takes it out of the queue all the same",
            printable(identity)
        ),
        Target::Claim { identity, .. } | Target::Foreign(Foreign { identity, .. }) => format!(
            "lock {name} is held by {who}, which may be at work: it does not know at once that the lock is taken, and works beside \
             whoever gets it next. Only what checks fencing tokens is safe from that. End {who} instead: then the lock passes \
             on by itself, at the latest when its time is up. --force takes it all the same",
            who = printable(identity)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use quorate_coordination::{Mode, Step, lock::Claim};

    fn with(state: &LockState, id: &str, mode: Mode) -> LockState {
        let claim = Claim {
            id: id.into(),
            client: "c".into(),
            identity: format!("pod-{id}"),
            mode,
            ttl_millis: 15_000,
            process: None,
        };
        let Step::Write(next, _) = state.acquire(&claim, true, Timestamp::UNIX_EPOCH) else { panic!("not claimed") };
        next
    }

    #[test]
    fn it_is_clear_what_is_taken() {
        let claim = |id: &str, holds| Target::Claim { id: id.into(), identity: format!("pod-{id}"), holds };
        let one = with(&LockState::default(), "a", Mode::Exclusive);
        let waited = with(&one, "b", Mode::Exclusive);
        assert_eq!(target("shop/x", &waited, None), Ok(claim("a", true)));
        assert_eq!(target("shop/x", &waited, Some("b")), Ok(claim("b", false)));
        let unknown = target("shop/x", &waited, Some("z")).unwrap_err();
        assert_eq!(unknown.exit, Exit::NotFound);
        assert_eq!(target("shop/x", &LockState::default(), None).unwrap_err().exit, Exit::NotFound);
        let shared = with(&with(&LockState::default(), "a", Mode::Shared), "b", Mode::Shared);
        let several = target("shop/x", &shared, None).unwrap_err();
        assert!(several.message.ends_with("--claim: a (pod-a), b (pod-b)"), "{several}");
        assert_eq!(target("shop/x", &shared, Some("b")), Ok(claim("b", true)));
    }

    #[test]
    fn what_is_risked_is_said() {
        let foreign = Foreign { identity: "kcm\n_1".into(), ttl: DEFAULT_TTL, renewed: None };
        let said = refusal("shop/x", &Target::Foreign(foreign));
        assert!(said.contains("End kcm\u{fffd}_1 instead") && said.contains("--force"), "{said}");
    }
}
