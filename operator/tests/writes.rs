//! The write path against an API server in memory, in virtual time: every write of a publication
//! fails once in every way, and people and pods see no difference in the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::{sync::Arc, time::Duration};

use http::Method;
use k8s_openapi::api::core::v1::Secret;
use quorate_crds::{head::Head, names};
use quorate_operator::{
    Key, Operator,
    reconcile::{RunError, run},
};
use quorate_resolve::{SourceKind, SourceRef};
use serde_json::{Value, json};
use support::{Fault, Server};

const CONFIGS: &str = "/apis/quorate.io/v1alpha1/namespaces/shop/distributedconfigs";
const MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
const FAULTS: [Fault; 5] = [Fault::Broken, Fault::Lost, Fault::Silent, Fault::EndBefore, Fault::EndAfter];

fn key() -> Key {
    Key { namespace: "shop".into(), name: "web".into() }
}

/// A config of one layer, a ConfigMap.
fn server() -> Server {
    let server = Server::default();
    server.put(
        CONFIGS,
        json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
            "metadata": {"name": "web", "namespace": "shop", "generation": 1},
            "spec": {
                "layers": [{"name": "region", "configMapRef": {"name": "region"}}],
                "files": [{"path": "a.yaml"}],
                "revisionHistoryLimit": 5
            }
        }),
    );
    source(&server, "1");
    server
}

fn source(server: &Server, port: &str) {
    let metadata = json!({"name": "region", "namespace": "shop"});
    server.put(MAPS, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"port": port}}));
}

/// As the watch would tell of it.
fn source_event(operator: &Operator) {
    let source = SourceRef { kind: SourceKind::ConfigMap, namespace: "shop".into(), name: "region".into() };
    operator.state.source_changed(&source, Some("of an event"));
}

fn config_event(operator: &Operator, server: &Server) {
    let config = serde_json::from_value(server.get(&format!("{CONFIGS}/web")).unwrap()).unwrap();
    operator.state.config_applied(config);
}

fn status(server: &Server) -> Value {
    server.get(&format!("{CONFIGS}/web")).unwrap()["status"].clone()
}

fn ready(server: &Server) -> (String, String, String) {
    let status = status(server);
    let condition = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone();
    let text = |field: &str| condition[field].as_str().unwrap().to_owned();
    (text("status"), text("reason"), text("message"))
}

fn head_at(server: &Server, name: &str) -> Head {
    let secret: Secret = serde_json::from_value(server.get(&format!("{SECRETS}/{name}")).unwrap()).unwrap();
    Head::from_secret(&secret).unwrap()
}

fn head(server: &Server) -> Head {
    head_at(server, &names::head_name("web"))
}

/// Runs until the config is told of, restarting the operator when it ended.
async fn settle(server: &Server, operator: &mut Arc<Operator>) {
    for _ in 0..50 {
        let result = tokio::time::timeout(Duration::from_secs(300), run(operator, &key())).await;
        if server.restart() {
            *operator = server.operator(&[]);
            continue;
        }
        config_event(operator, server);
        // Within a second there is something left to do, such as a status that may be written later.
        match result.unwrap() {
            Ok(Some(wait)) if wait > Duration::from_secs(1) => return,
            Ok(wait) => tokio::time::sleep(wait.unwrap_or_default()).await,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    panic!("it does not settle: {}", status(server));
}

/// What holds after all went well, whatever happened on the way.
fn check(server: &Server, port: &str, what: &str) {
    let head = head(server);
    let text = String::from_utf8(head.bundle.files["a.yaml"].bytes.clone()).unwrap();
    assert_eq!(text, format!("port: '{port}'\n"), "{what}");
    let events = server.under("/events/");
    for revision in 1..=head.revision {
        let entry = head_at(server, &names::revision_name("web", revision));
        assert_eq!(entry.revision, revision, "{what}");
        let told =
            |event: &&Value| event["note"].as_str().unwrap().starts_with(&format!("revision {revision} is published"));
        assert_eq!(events.iter().filter(told).count(), 1, "{what}: revision {revision}");
    }
    let status = status(server);
    assert_eq!((&status["revision"], &status["hash"]), (&json!(head.revision), &json!(head.hash)), "{what}");
    assert_eq!(status["history"].as_array().unwrap().len(), usize::try_from(head.revision).unwrap(), "{what}");
    assert_eq!(ready(server).0, "True", "{what}");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_in_any_way_leaves_no_trace() {
    for fault in FAULTS {
        for write in 0.. {
            let what = format!("{fault:?} at write {write}");
            let server = server();
            let mut operator = server.operator(&[]);
            server.fail(write, fault);
            settle(&server, &mut operator).await;
            source(&server, "2");
            source_event(&operator);
            settle(&server, &mut operator).await;
            check(&server, "2", &what);
            assert_eq!(head(&server).revision, 2, "{what}: published twice, or once too few");
            if server.fault_is_due() {
                assert!(write >= 8, "two publications are a head, a log entry, an event and a status each");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_was_not_told_of_is_told_after_the_next() {
    for fault in [Fault::EndBefore, Fault::EndAfter] {
        for write in 0..4 {
            let what = format!("{fault:?} at write {write}");
            let server = server();
            let operator = server.operator(&[]);
            server.fail(write, fault);
            let ended = tokio::time::timeout(Duration::from_secs(300), run(&operator, &key())).await;
            assert!(server.restart() || ended.is_err(), "{what}");
            source(&server, "2");
            settle(&server, &mut server.operator(&[])).await;
            check(&server, "2", &what);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_fails_keeps_the_status_back() {
    let server = server();
    let operator = server.operator(&[]);
    server.fail(2, Fault::Broken);
    assert!(matches!(run(&operator, &key()).await, Err(RunError::Report(_))));
    assert!(status(&server).is_null() && server.under("/events/").is_empty());
    run(&operator, &key()).await.unwrap();
    check(&server, "1", "after the second run");
}

#[tokio::test(start_paused = true)]
async fn a_log_entry_that_is_there_is_the_same_or_somebody_elses() {
    let server = server();
    run(&server.operator(&[]), &key()).await.unwrap();
    let entry = format!("{SECRETS}/{}", names::revision_name("web", 1));
    // The listing does not show it: it is written, found there, and compared.
    server.edit(&entry, |entry| entry["metadata"]["labels"] = json!({}));
    run(&server.operator(&[]), &key()).await.unwrap();
    check(&server, "1", "the same");

    server.edit(&entry, |entry| entry["metadata"]["ownerReferences"] = json!([]));
    let error = run(&server.operator(&[]), &key()).await.unwrap_err().to_string();
    assert_eq!(error, "Secret shop/web.quorate-r1 is not the log entry of this revision: delete or rename it");
    let (ready, reason, message) = ready(&server);
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "WriteRefused"));
    assert!(message.starts_with("revision 1 stays: "), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_not_told_of_a_request_it_does_not_answer() {
    let server = server();
    let operator = server.operator(&[]);
    let (seen, other) = (server.clone(), Arc::clone(&operator));
    // Somebody changes the spec while the head is written.
    let mut changed = false;
    server.before_writes(move |method, path| {
        if *method == Method::POST && path == SECRETS && !std::mem::replace(&mut changed, true) {
            seen.edit(&format!("{CONFIGS}/web"), |config| {
                config["metadata"]["generation"] = json!(2);
                config["spec"]["suspend"] = json!(true);
            });
            config_event(&other, &seen);
        }
    });
    run(&operator, &key()).await.unwrap();
    assert!(status(&server).is_null(), "{}", status(&server));
    assert_eq!(server.under("/events/").len(), 1);
    run(&operator, &key()).await.unwrap();
    assert_eq!((status(&server)["observedGeneration"].clone(), ready(&server).1), (json!(2), "Suspended".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_refused_names_the_layer_and_what_stays() {
    let server = server();
    let mut operator = server.operator(&[]);
    settle(&server, &mut operator).await;
    server.forbid(MAPS);
    source_event(&operator);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(run(&operator, &key()).await.is_err());
    let (ready, reason, message) = ready(&server);
    assert_eq!((ready.as_str(), reason.as_str()), ("False", "ReadRefused"));
    assert!(message.starts_with("revision 1 stays: layer region: get ConfigMap shop/region: "), "{message}");
}

#[tokio::test(start_paused = true)]
async fn the_newest_entry_that_verifies_is_the_last_good() {
    let server = server();
    let mut operator = server.operator(&[]);
    settle(&server, &mut operator).await;
    source(&server, "2");
    source_event(&operator);
    settle(&server, &mut operator).await;

    server.remove(&format!("{SECRETS}/{}", names::head_name("web")));
    server.remove(&format!("{MAPS}/region"));
    server.edit(&format!("{SECRETS}/{}", names::revision_name("web", 2)), |entry| entry["data"] = json!({}));
    settle(&server, &mut server.operator(&[])).await;
    let restored = head(&server);
    assert_eq!((restored.revision, restored.restored), (3, Some(1)));
    assert_eq!(restored.bundle.files["a.yaml"].bytes, b"port: '1'\n");

    // None verifies: what is wrong is the layer, not a pin.
    server.remove(&format!("{SECRETS}/{}", names::head_name("web")));
    for revision in [1, 3] {
        server.edit(&format!("{SECRETS}/{}", names::revision_name("web", revision)), |entry| entry["data"] = json!({}));
    }
    settle(&server, &mut server.operator(&[])).await;
    let (_, reason, message) = ready(&server);
    assert_eq!(reason, "SourceMissing");
    assert!(message.starts_with("nothing is published yet: layer region"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_prunes_without_a_publication() {
    let server = server();
    let mut operator = server.operator(&[]);
    for port in ["1", "2", "3", "4"] {
        source(&server, port);
        source_event(&operator);
        settle(&server, &mut operator).await;
    }
    server.edit(&format!("{CONFIGS}/web"), |config| {
        config["spec"]["revisionHistoryLimit"] = json!(2);
        config["metadata"]["generation"] = json!(2);
    });
    config_event(&operator, &server);
    settle(&server, &mut operator).await;
    let names: Vec<Value> = server.under("quorate-r").iter().map(|entry| entry["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["web.quorate-r3", "web.quorate-r4"]);
    let history: Vec<Value> =
        status(&server)["history"].as_array().unwrap().iter().map(|e| e["revision"].clone()).collect();
    assert_eq!(history, [4, 3]);
}

#[tokio::test(start_paused = true)]
async fn metrics_count_publications_only_and_measure_from_the_first_event_to_the_head() {
    let server = server();
    let operator = server.operator(&[]);
    let value = |name: &str| -> f64 {
        let text = operator.metrics.text();
        let line = text.lines().find(|line| line.starts_with(&format!("quorate_operator_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    // A run that fails does not answer the change: the next one does, and the whole time counts.
    server.forbid(MAPS);
    assert!(run(&operator, &key()).await.is_err());
    assert!((value("propagation_seconds_count"), value("publications_total")) == (0.0, 0.0));
    tokio::time::sleep(Duration::from_secs(7)).await;
    server.allow(MAPS);
    run(&operator, &key()).await.unwrap();
    assert!((value("propagation_seconds_count"), value("publications_total")) == (1.0, 1.0));
    assert!(value("propagation_seconds_sum") >= 7.0, "{}", value("propagation_seconds_sum"));

    // The same bytes from another layer: the head's provenance is renewed, and nothing is published.
    server.edit(&format!("{CONFIGS}/web"), |config| {
        config["spec"]["layers"][0]["name"] = json!("renamed");
        config["metadata"]["generation"] = json!(2);
    });
    config_event(&operator, &server);
    let before = server.get(&format!("{SECRETS}/{}", names::head_name("web"))).unwrap();
    run(&operator, &key()).await.unwrap();
    let after = server.get(&format!("{SECRETS}/{}", names::head_name("web"))).unwrap();
    assert_ne!(before["data"], after["data"]);
    assert!((head(&server).revision, value("publications_total")) == (1, 1.0));
}
