//! What proves that a process has ended: its kubelet's word, and nothing less.
//!
//! A pod object that is gone proves nothing. Who deletes it by force, or the pod garbage collector, does not know whether
//! the process still runs on a node that is cut off.

use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use quorate_coordination::Process;

/// Whether the pod's status, as its kubelet wrote it, says that this process has ended.
#[must_use]
pub fn has_ended(process: &Process, pod: &Pod) -> bool {
    let Some(status) = pod.status.as_ref().filter(|_| pod.metadata.uid.as_deref() == Some(&process.uid)) else {
        return false;
    };
    let statuses = || [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten();
    if let Some(name) = &process.container {
        return statuses().any(|container| container.name == *name && instance_ended(process, container));
    }
    // kubelet starts nothing any more in a pod of these phases. Others write the phase too (the garbage collector, who
    // evicts), but no container's end.
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let told = status.container_statuses.as_ref().map_or(0, Vec::len);
    over && told == containers && statuses().all(is_terminated)
}

fn is_terminated(container: &ContainerStatus) -> bool {
    let state = container.state.as_ref();
    // Without an id no container was ever started, or its kubelet does not know what became of it.
    state.and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.container_id.is_some())
}

/// Whether one of the container's instances that ended is the process's: the one that lived when it did. All times are of
/// the node's clock, in whole seconds, rounded down: of two instances of which one follows the other, at most one fits.
fn instance_ended(process: &Process, container: &ContainerStatus) -> bool {
    let states = || [&container.state, &container.last_state].into_iter().flatten();
    let running = states().find_map(|state| state.running.as_ref()?.started_at.as_ref());
    states().filter_map(|state| state.terminated.as_ref()).any(|ended| {
        let (Some(id), Some(from), Some(to)) = (&ended.container_id, &ended.started_at, &ended.finished_at) else {
            return false;
        };
        // If the clock was set back in between, the times say nothing.
        let in_order = running.is_none_or(|next| next.0 >= to.0);
        !id.is_empty() && in_order && from.0 <= process.alive && process.alive < to.0
    })
}

/// Whether the node is one whose kubelet is heard of: what it says is of now.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn process(container: Option<&str>, alive: &str) -> Process {
        let alive = format!("2026-01-01T00:00:{alive}Z").parse().unwrap();
        Process { pod: "p".into(), uid: "u".into(), container: container.map(str::to_owned), alive }
    }

    fn terminated(from: &str, to: &str) -> Value {
        let at = |second: &str| format!("2026-01-01T00:00:{second}Z");
        json!({"terminated": {"exitCode": 1, "containerID": "containerd://x", "startedAt": at(from), "finishedAt": at(to)}})
    }

    fn running(from: &str) -> Value {
        json!({"running": {"startedAt": format!("2026-01-01T00:00:{from}Z")}})
    }

    fn pod(uid: &str, phase: &str, containers: &[(&str, Value, Value)]) -> Pod {
        let status = |(name, state, last): &(&str, Value, Value)| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last});
        let spec: Vec<Value> = containers.iter().map(|(name, ..)| json!({"name": name})).collect();
        let statuses: Vec<Value> = containers.iter().map(status).collect();
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": uid}, "spec": {"containers": spec},
            "status": {"phase": phase, "containerStatuses": statuses}
        }))
        .unwrap()
    }

    #[test]
    fn only_the_instance_that_lived_then_counts() {
        let none = || json!({});
        let one = |state, last| pod("u", "Running", &[("app", state, last)]);
        let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let table = vec![
            ("it runs", one(running("10"), none()), "12", false),
            ("it ended", one(terminated("10", "20"), none()), "12", true),
            ("it ended, and waits to be started", one(waiting(), terminated("10", "20")), "12", true),
            ("it ended, and another one runs", one(running("20"), terminated("10", "20")), "12", true),
            ("another one ended before it", one(running("20"), terminated("10", "20")), "21", false),
            ("another one ended in the same second", one(running("20"), terminated("10", "20")), "20.4", false),
            ("kubelet has not told of it yet", one(waiting(), terminated("10", "20")), "25", false),
            ("one that ended before it began", one(terminated("30", "40"), none()), "12", false),
            ("the clock was set back", one(running("15"), terminated("10", "20")), "16", false),
        ];
        for (what, pod, alive, ended) in table {
            assert_eq!(has_ended(&process(Some("app"), alive), &pod), ended, "{what}");
            assert!(!has_ended(&process(Some("other"), alive), &pod), "{what}, but another container's");
            assert!(!has_ended(&process(None, alive), &pod), "{what}, but the pod may start it again");
        }
    }

    #[test]
    fn a_pod_ends_with_all_its_containers() {
        let over = |name| (name, terminated("10", "20"), json!({}));
        let lives = |name| (name, running("10"), json!({}));
        let process = process(None, "12");
        assert!(has_ended(&process, &pod("u", "Failed", &[over("a"), over("b")])));
        assert!(has_ended(&process, &pod("u", "Succeeded", &[over("a")])));
        assert!(!has_ended(&process, &pod("u", "Running", &[over("a"), over("b")])), "kubelet may start them again");
        // The garbage collector's word: the phase, and nothing of the containers.
        assert!(!has_ended(&process, &pod("u", "Failed", &[lives("a"), over("b")])));
        assert!(!has_ended(&process, &pod("another", "Failed", &[over("a")])), "another pod of this name");
    }

    #[test]
    fn a_node_is_ready_only_if_it_says_so() {
        let node = |status: &str| {
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": [
                {"type": "Ready", "status": status, "lastHeartbeatTime": null, "lastTransitionTime": null}
            ]}}))
            .unwrap()
        };
        assert!(is_ready(&node("True")) && !is_ready(&node("Unknown")) && !is_ready(&node("False")));
        assert!(!is_ready(&Node::default()));
    }
}
