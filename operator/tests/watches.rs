//! The watches against an API server in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::{sync::Arc, time::Duration};

use quorate_operator::{Key, Operator, reconcile::run, watch};
use serde_json::{Value, json};
use support::Server;

fn config(name: &str, layers: &Value) -> Value {
    json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
        "metadata": {"name": name, "namespace": "shop", "generation": 1},
        "spec": {"layers": layers, "files": [{"path": "a.yaml"}]}
    })
}

const CONFIGS: &str = "/apis/quorate.io/v1alpha1/namespaces/shop/distributedconfigs";

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..6_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within a minute");
}

fn missing(operator: &Operator, part: &str) -> bool {
    operator.health.missing().iter().any(|line| line.contains(part))
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_resumed_in_silence_is_ready_again() {
    let server = Server::default();
    server.watches_fail(true);
    let operator = server.operator(&[]);
    assert!(missing(&operator, "its first listing has not ended"));
    tokio::spawn(watch::follow(Arc::clone(&operator)));
    for kind in ["DistributedConfigs", "ConfigMaps", "Secrets", "Acceptors"] {
        let broken = format!("watch on {kind}: ");
        until("unready", || {
            operator.health.missing().iter().any(|l| l.starts_with(&broken) && l.contains("connection refused"))
        })
        .await;
    }
    // Nothing changes in the cluster: no event says that the watches are up.
    server.watches_fail(false);
    until("ready", || operator.health.missing().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_refused_does_not_hold_up_the_others_and_nothing_in_it_counts_as_missing() {
    let server = Server::default();
    let layers = json!([
        {"name": "own", "inline": {"a": 1}},
        {"name": "refused", "configRef": {"name": "base", "namespace": "infra", "optional": true}},
        {"name": "unserved", "configRef": {"name": "base", "namespace": "else"}}
    ]);
    server.put(CONFIGS, config("web", &layers));
    server.put(CONFIGS, config("alone", &json!([{"name": "own", "inline": {"a": 1}}])));
    server.forbid("/apis/quorate.io/v1alpha1/namespaces/infra/");
    let operator = server.operator(&["infra", "shop"]);
    tokio::spawn(watch::follow(Arc::clone(&operator)));
    until("listed", || operator.state.is_listed("shop")).await;
    let due = [operator.state.queue.next().await.name, operator.state.queue.next().await.name];
    assert!(due.contains(&"web".to_owned()) && due.contains(&"alone".to_owned()), "{due:?}");

    for name in due {
        run(&operator, &Key { namespace: "shop".into(), name }).await.unwrap();
    }
    let ready = |name: &str| {
        let conditions = server.get(&format!("{CONFIGS}/{name}")).unwrap()["status"]["conditions"].clone();
        conditions.as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone()
    };
    assert_eq!(ready("alone")["status"], "True");
    let message = ready("web")["message"].as_str().unwrap().to_owned();
    for part in [
        "layer refused: DistributedConfig infra/base: the configs of namespace infra cannot be listed",
        "layer unserved: DistributedConfig else/base: the operator does not serve namespace else",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(missing(&operator, "in infra: "));
}
