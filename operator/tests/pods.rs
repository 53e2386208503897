//! What the operator does for pods besides the head, against an API server in memory: their rights
//! (spec.access), and telling those without a sidecar (`--nudge-pods`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Method;
use quorate_operator::{Key, Operator, reconcile::run};
use serde_json::{Value, json};
use support::Server;

const CONFIGS: &str = "/apis/quorate.io/v1alpha1/namespaces/shop/distributedconfigs";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

fn key() -> Key {
    Key { namespace: "shop".into(), name: "web".into() }
}

fn role() -> String {
    format!("{RBAC}/roles/web.quorate")
}

fn binding() -> String {
    format!("{RBAC}/rolebindings/web.quorate")
}

/// A config of one value, with more fields in its spec.
fn server(more: &Value) -> Server {
    let server = Server::default();
    let mut spec = json!({"layers": [{"name": "a", "inline": {"x": 1}}], "files": [{"path": "a.yaml"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metadata = json!({"name": "web", "namespace": "shop", "generation": 1});
    let kind = ("quorate.io/v1alpha1", "DistributedConfig");
    server.put(CONFIGS, json!({"apiVersion": kind.0, "kind": kind.1, "metadata": metadata, "spec": spec}));
    server
}

fn config(server: &Server) -> Value {
    server.get(&format!("{CONFIGS}/web")).unwrap()
}

/// Changes the spec, as its user.
fn change(server: &Server, edit: impl FnOnce(&mut Value)) {
    server.edit(&format!("{CONFIGS}/web"), |config| {
        config["metadata"]["generation"] = json!(config["metadata"]["generation"].as_i64().unwrap() + 1);
        edit(&mut config["spec"]);
    });
}

/// Runs until there is no more to do at once.
async fn settle(server: &Server, operator: &Arc<Operator>) {
    for _ in 0..20 {
        operator.state.config_applied(serde_json::from_value(config(server)).unwrap());
        match run(operator, &key()).await.unwrap() {
            Some(wait) if wait > Duration::from_secs(2) => return,
            wait => tokio::time::sleep(wait.unwrap_or_default()).await,
        }
    }
    panic!("it does not settle: {}", config(server)["status"]);
}

fn condition(server: &Server, type_: &str) -> Value {
    let conditions = config(server)["status"]["conditions"].as_array().unwrap().clone();
    conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
}

fn events(server: &Server, reason: &str) -> usize {
    server.under("/events/").iter().filter(|event| event["reason"] == reason).count()
}

/// Notes every write from now on.
fn watched(server: &Server) -> Arc<Mutex<Vec<String>>> {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&writes);
    server.before_writes(move |method: &Method, path: &str| seen.lock().unwrap().push(format!("{method} {path}")));
    writes
}

#[tokio::test(start_paused = true)]
async fn rights_come_after_the_head_cost_nothing_while_they_hold_and_go_with_the_last_account() {
    let server = server(&json!({"access": {"serviceAccounts": ["web"]}}));
    let operator = server.operator(&[]);
    let writes = watched(&server);
    settle(&server, &operator).await;
    let order = writes.lock().unwrap().clone();
    let place = |part: &str| order.iter().position(|write| write.contains(part)).unwrap_or_else(|| panic!("{part}"));
    assert!(place("/secrets") < place("/roles") && place("/roles") < place("/rolebindings"), "{order:?}");
    let there = server.get(&binding()).unwrap();
    assert_eq!(there["subjects"], json!([{"kind": "ServiceAccount", "name": "web", "namespace": "shop"}]));
    assert_eq!(there["metadata"]["ownerReferences"][0]["uid"], config(&server)["metadata"]["uid"]);
    assert_eq!(condition(&server, "AccessGranted")["status"], "True");

    // Nothing is written as long as nothing changed, also by an operator that starts anew.
    writes.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(600)).await;
    settle(&server, &operator).await;
    settle(&server, &server.operator(&[])).await;
    assert_eq!(*writes.lock().unwrap(), [""; 0]);

    // What somebody else changed is put right.
    server.edit(&binding(), |binding| binding["subjects"][0]["name"] = json!("evil"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    settle(&server, &operator).await;
    assert_eq!(server.get(&binding()).unwrap()["subjects"], there["subjects"]);

    change(&server, |spec| spec["access"] = json!({}));
    writes.lock().unwrap().clear();
    settle(&server, &operator).await;
    assert!(server.get(&role()).is_none() && server.get(&binding()).is_none());
    assert!(condition(&server, "AccessGranted").is_null());
    // If it ends between the two, the binding tells the next one that there is more to delete.
    assert!(writes.lock().unwrap()[0].starts_with("DELETE") && writes.lock().unwrap()[0].contains("/roles/"));
}

#[tokio::test(start_paused = true)]
async fn an_account_that_was_taken_off_while_no_operator_ran_loses_its_rights() {
    let server = server(&json!({"access": {"serviceAccounts": ["web"]}}));
    settle(&server, &server.operator(&[])).await;
    change(&server, |spec| spec["access"] = json!(null));
    // The status does not even tell that there is anything.
    server.edit(&format!("{CONFIGS}/web"), |config| config["status"] = json!(null));
    settle(&server, &server.operator(&[])).await;
    assert!(server.get(&role()).is_none() && server.get(&binding()).is_none());
}

#[tokio::test(start_paused = true)]
async fn rights_are_taken_away_also_when_nothing_can_be_published() {
    let server = server(&json!({"access": {"serviceAccounts": ["web"]}}));
    let operator = server.operator(&[]);
    settle(&server, &operator).await;
    change(&server, |spec| {
        spec["access"] = json!({"serviceAccounts": []});
        spec["layers"] = json!([{"name": "a", "secretRef": {"name": "db"}}]);
    });
    server.forbid(&format!("{SECRETS}/db"));
    operator.state.config_applied(serde_json::from_value(config(&server)).unwrap());
    run(&operator, &key()).await.unwrap_err();
    assert!(server.get(&binding()).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_role_of_somebody_elses_is_left_alone_and_told() {
    let server = server(&json!({"access": {"serviceAccounts": ["web"]}}));
    let theirs = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": [],
        "metadata": {"name": "web.quorate", "namespace": "shop"}});
    server.put(&format!("{RBAC}/roles"), theirs);
    let before = server.get(&role());
    let operator = server.operator(&[]);
    settle(&server, &operator).await;
    assert_eq!(server.get(&role()), before);
    assert!(server.get(&binding()).is_none());
    let told = condition(&server, "AccessGranted");
    assert_eq!((&told["status"], &told["reason"]), (&json!("False"), &json!("AccessNameTaken")));
    assert_eq!((condition(&server, "Ready")["status"].as_str(), events(&server, "AccessNameTaken")), (Some("True"), 1));

    // With the way out.
    assert!(told["message"].as_str().unwrap().contains("Role shop/web.quorate"), "{told}");
    server.remove(&role());
    tokio::time::sleep(Duration::from_secs(600)).await;
    settle(&server, &operator).await;
    assert_eq!(condition(&server, "AccessGranted")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_may_not_manage_roles_publishes_and_says_what_it_lacks() {
    let server = server(&json!({"access": {"serviceAccounts": ["web"]}}));
    server.forbid(RBAC);
    let operator = server.operator(&[]);
    settle(&server, &operator).await;
    assert_eq!(condition(&server, "Ready")["status"], "True");
    let told = condition(&server, "AccessGranted");
    assert_eq!((&told["status"], &told["reason"]), (&json!("False"), &json!("AccessRefused")));
    assert!(told["message"].as_str().unwrap().contains("rbac.podAccess"), "{told}");
    assert_eq!(events(&server, "AccessRefused"), 1);
    server.allow(RBAC);
    tokio::time::sleep(Duration::from_secs(600)).await;
    settle(&server, &operator).await;
    assert_eq!(condition(&server, "AccessGranted")["status"], "True");

    // A config that asks for nothing is not told of what it does not need.
    let server = self::server(&json!({}));
    server.forbid(RBAC);
    settle(&server, &server.operator(&[])).await;
    assert!(condition(&server, "AccessGranted").is_null());
}

fn pod(server: &Server, name: &str, volumes: &Value) {
    server.put(
        PODS,
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"volumes": volumes, "containers": []},
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
    );
}

/// Three pods: one that mounts the head, one that mounts it beside others, and one that does not.
fn mounting() -> Server {
    let server = server(&json!({"selector": {"matchLabels": {"app": "web"}}}));
    pod(&server, "plain", &json!([{"name": "c", "secret": {"secretName": "web.quorate"}}]));
    let sources = json!([{"secret": {"name": "other"}}, {"secret": {"name": "web.quorate"}}]);
    pod(&server, "projected", &json!([{"name": "c", "projected": {"sources": sources}}]));
    pod(&server, "none", &json!([{"name": "c", "secret": {"secretName": "other"}}]));
    server
}

fn nudging(server: &Server) -> Arc<Operator> {
    let mut operator = server.operator(&[]);
    Arc::get_mut(&mut operator).unwrap().nudges = true;
    operator
}

fn told(server: &Server, pod: &str) -> Value {
    server.get(&format!("{PODS}/{pod}")).unwrap()["metadata"]["annotations"]["quorate.io/revision"].clone()
}

#[tokio::test(start_paused = true)]
async fn pods_that_mount_the_head_are_told_once_a_revision_and_count_as_delivered() {
    let server = mounting();
    let writes = watched(&server);
    let operator = nudging(&server);
    settle(&server, &operator).await;
    assert_eq!((told(&server, "plain"), told(&server, "projected")), (json!("web=1"), json!("web=1")));
    assert!(told(&server, "none").is_null());
    let counts = config(&server)["status"]["pods"].clone();
    assert_eq!(counts["summary"], "0/3 (2 delivered)", "{counts}");
    assert_eq!((&counts["applied"], &counts["delivered"]), (&json!(0), &json!(2)));
    let order = writes.lock().unwrap().clone();
    let place = |part: &str| order.iter().position(|write| write.contains(part)).unwrap();
    assert!(place("/secrets") < place("/pods"), "{order:?}");

    // Not again, also after a restart; and those that were told are not late.
    writes.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(600)).await;
    settle(&server, &operator).await;
    settle(&server, &nudging(&server)).await;
    let to_pods = |writes: &Mutex<Vec<String>>| writes.lock().unwrap().iter().filter(|w| w.contains("/pods")).count();
    assert_eq!(to_pods(&writes), 0);

    // Kubelet writes a pod while it is told: that change stays.
    let (kubelet, changed) = (server.clone(), Mutex::new(false));
    server.before_writes(move |_, path| {
        if path.ends_with("/pods/plain") && !std::mem::replace(&mut *changed.lock().unwrap(), true) {
            kubelet.edit(&format!("{PODS}/plain"), |pod| pod["status"]["hostIP"] = json!("10.0.0.1"));
        }
    });
    change(&server, |spec| spec["layers"][0]["inline"]["x"] = json!(2));
    settle(&server, &operator).await;
    assert_eq!((told(&server, "plain"), told(&server, "projected")), (json!("web=2"), json!("web=2")));
    assert_eq!(server.get(&format!("{PODS}/plain")).unwrap()["status"]["hostIP"], "10.0.0.1");
}

#[tokio::test(start_paused = true)]
async fn pods_are_left_alone_unless_it_is_asked_for_and_those_with_a_sidecar_always() {
    let server = mounting();
    settle(&server, &server.operator(&[])).await;
    assert!(told(&server, "plain").is_null());

    let uid = server.get(&format!("{PODS}/plain")).unwrap()["metadata"]["uid"].clone();
    let replica = json!({"apiVersion": "quorate.io/v1alpha1", "kind": "ConfigReplica",
        "metadata": {"name": "r", "namespace": "shop", "labels": {"quorate.io/config": "web"}},
        "spec": {"config": "web", "pod": "plain", "podUid": uid, "state": "Applied", "since": "2026-01-01T00:00:00Z"}});
    let operator = nudging(&server);
    let (key, replica) = quorate_operator::watch::replica(&serde_json::from_value(replica).unwrap());
    operator.state.replica_said(&key, replica);
    settle(&server, &operator).await;
    assert!(told(&server, "plain").is_null());
    assert_eq!(told(&server, "projected"), json!("web=1"));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_pods_is_told_in_turns() {
    let server = server(&json!({"selector": {"matchLabels": {"app": "web"}}}));
    for n in 0..150 {
        pod(&server, &format!("p{n:03}"), &json!([{"name": "c", "secret": {"secretName": "web.quorate"}}]));
    }
    let (writes, start) = (watched(&server), tokio::time::Instant::now());
    settle(&server, &nudging(&server)).await;
    assert_eq!(config(&server)["status"]["pods"]["delivered"], 150);
    assert_eq!(writes.lock().unwrap().iter().filter(|write| write.starts_with("PATCH")).count(), 150);
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_may_not_patch_pods_publishes_and_says_so_once() {
    let server = mounting();
    server.forbid(&format!("{PODS}/"));
    let operator = nudging(&server);
    settle(&server, &operator).await;
    settle(&server, &operator).await;
    assert_eq!(condition(&server, "Ready")["status"], "True");
    assert_eq!(events(&server, "NudgeRefused"), 1);
}
