//! What a pod says of itself, and when: against an API server in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scene;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kube::ResourceExt;
use quorate_crds::{Ask, ConfigReplica, Freshness, OnStale, ReplicaState, Span, head::Head, names};
use tokio::time::sleep;

use scene::{Pod, Server, Trouble, asking, content};

#[tokio::test(start_paused = true)]
async fn what_a_pod_runs_is_written_once_and_on_change() {
    let server = Server::default();
    server.publish(&content(4));
    let pod = Pod::web(&server, &[]);
    pod.says("Applied 4").await;
    let replica = server.replica().unwrap();
    assert_eq!(replica.name_any(), ConfigReplica::name_for("web", "web-1", "p"));
    assert_eq!(replica.metadata.owner_references.as_ref().unwrap()[0].uid, "p");
    let spec = &replica.spec;
    assert_eq!((spec.runs, spec.node.as_deref(), &spec.message), (Some(4), Some("n"), &None));
    assert_eq!((spec.hash.as_ref(), spec.state), (Some(&content(4).hash), ReplicaState::Applied));
    assert!(spec.lamport > 40, "above the head's stamp");
    pod.settles().await;
    // What the head says beside its content is no change of what the pod runs.
    server.publish(&Head { lamport: 99, ..content(4) });
    pod.settles().await;
    assert_eq!((server.writes(), server.calls("post")), (1, 1));
    server.publish(&content(5));
    pod.says("Applied 5").await;
    let later = server.replica().unwrap();
    assert!(later.spec.lamport > 99 && later.spec.since > replica.spec.since);
    assert_eq!(server.writes(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_changed_is_read_and_written_again() {
    let server = Server::default();
    server.publish(&content(4));
    let pod = Pod::web(&server, &[]);
    pod.says("Applied 4").await;
    server.change_replica(|replica| drop(replica.labels_mut().insert("mine".into(), "yes".into())));
    server.publish(&content(5));
    pod.says("Applied 5").await;
    let labels = server.replica().unwrap().labels().clone();
    assert_eq!((labels["mine"].as_str(), labels[names::LABEL_CONFIG].as_str()), ("yes", "web"));
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_is_lost_is_settled_by_reading() {
    let server = Server::default();
    server.publish(&content(4));
    let first = AtomicBool::new(true);
    server
        .fails(move |call| (call.starts_with("post") && first.swap(false, Ordering::Relaxed)).then_some(Trouble::Lost));
    let pod = Pod::web(&server, &[]);
    pod.says("Applied 4").await;
    let name = ConfigReplica::name_for("web", "web-1", "p");
    pod.until("a second POST, and a reading", || server.calls(&format!("get {name}")) >= 2).await;
    pod.settles().await;
    assert_eq!((server.calls("post"), server.calls("put"), server.replicas().len()), (2, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_starts_again_goes_on_with_its_own_report() {
    let server = Server::default();
    server.publish(&content(4));
    let pod = Pod::web(&server, &[]);
    pod.says("Applied 4").await;
    let lamport = server.replica().unwrap().spec.lamport;
    let pod = pod.restart();
    pod.shows(4).await;
    pod.settles().await;
    assert_eq!(server.writes(), 1, "nothing changed");
    server.publish(&content(5));
    pod.says("Applied 5").await;
    assert!(server.replica().unwrap().spec.lamport > lamport);
}

#[tokio::test(start_paused = true)]
async fn a_pod_made_again_under_the_same_name_has_a_report_of_its_own() {
    let server = Server::default();
    server.publish(&content(4));
    let old = Pod::web(&server, &[]);
    old.says("Applied 4").await;
    let before = server.replica().unwrap();
    drop(old);
    let new = Pod::start(&server, &["--pod-name", "web-1", "--pod-uid", "q"]);
    new.until("two reports", || server.replicas().len() == 2).await;
    server.publish(&content(5));
    let says = |uid: &str| server.replicas().into_iter().find(|replica| replica.spec.pod_uid == uid).unwrap();
    new.until("the new one", || says("q").spec.revision == Some(5)).await;
    assert_eq!(says("p").resource_version(), before.resource_version(), "the old one is not touched");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_head_is_told_of_after_a_quorum_read_and_so_is_its_return() {
    let server = Server::default();
    server.publish(&content(4));
    let pod = Pod::web(&server, &[]);
    pod.says("Applied 4").await;
    // A watch alone is not believed.
    server.fails(|call| (call == "list secrets").then_some(Trouble::Status(500)));
    server.delete_secret(&names::head_name("web"));
    sleep(Duration::from_secs(30)).await;
    assert_eq!(pod.word(), "Applied 4");
    server.works();
    pod.says("Orphaned 4").await;
    assert_eq!((pod.text().as_str(), server.replica().unwrap().spec.runs), ("4", Some(4)));
    server.publish(&content(4));
    pod.says("Applied 4").await;
    assert_eq!(server.writes(), 3);
}

#[tokio::test(start_paused = true)]
async fn reports_that_are_refused_do_not_keep_files_from_being_published() {
    for (call, code) in [("post", 403), ("get web.web", 403), ("post", 404), ("post", 500), ("get web.web", 429)] {
        let server = Server::default();
        server.publish(&content(1));
        server.fails(move |what| what.starts_with(call).then_some(Trouble::Status(code)));
        let pod = Pod::web(&server, &[]);
        pod.shows(1).await;
        pod.until("some attempts", || server.calls(call) >= 3).await;
        server.publish(&content(2));
        pod.shows(2).await;
        assert!(pod.shared.health.missing().is_empty() && server.replicas().is_empty());
        assert!(pod.shared.metrics().contains(r#"errors_total{category="report"}"#));
        server.works();
        pod.says("Applied 2").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_twice_a_minute_only() {
    let server = Server::default();
    server.publish(&content(1));
    server.fails(|call| call.starts_with("post").then_some(Trouble::Status(403)));
    let pod = Pod::web(&server, &[]);
    pod.shows(1).await;
    for revision in 2..=20 {
        server.publish(&content(revision));
        sleep(Duration::from_secs(6)).await;
    }
    assert!((3..=6).contains(&server.calls("post")), "{}", server.calls("post"));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_is_no_pod_says_nothing_and_has_no_vote() {
    let server = Server::default();
    let proposal = server.propose(&content(5));
    server.publish(&asking(content(4), &proposal, Ask::Vote));
    let pod = Pod::start(&server, &[]);
    pod.shows(4).await;
    pod.settles().await;
    assert_eq!((server.writes(), server.calls("get")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn once_ends_with_the_first_set_and_says_nothing() {
    let server = Server::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let fixed = ["quorate-sidecar", "--config", "web", "--namespace", "shop", "--directory", &path];
    let words = [&fixed[..], &["--once", "--pod-name", "web-1", "--pod-uid", "p", "--notify-exec", "true"]].concat();
    let options = clap::Parser::parse_from(words);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let program = tokio::spawn(quorate_sidecar::run(server.client(), options, listener, std::future::pending()));
    sleep(Duration::from_secs(60)).await;
    assert!(!program.is_finished(), "there is nothing to show yet");
    server.publish(&content(1));
    program.await.unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(directory.path().join("web/f")).unwrap(), "1");
    assert_eq!(server.writes(), 0);
}

/// A head that demands a confirmation within 30 seconds.
fn demanding(revision: i64, on_stale: OnStale) -> Head {
    Head { freshness: Freshness { max_age: Span::of_seconds(30), on_stale }, ..content(revision) }
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_in_time_stays_fresh_under_a_silent_watch() {
    let server = Server::default();
    server.publish(&demanding(4, OnStale::Unready));
    let pod = Pod::web(&server, &[]);
    pod.says("Applied 4").await;
    for _ in 0..600 {
        sleep(Duration::from_millis(500)).await;
        assert!(pod.shared.health.missing().is_empty() && pod.metric(r#"quorate_sidecar_stale{config="web"} 0"#));
    }
    let lists = server.calls("list");
    assert!((26..=36).contains(&lists), "every third of maxAge, give or take: {lists}");
    assert!(server.calls("watch") <= 5, "the watch is kept in the meantime");
    assert_eq!(server.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_confirmed_is_stale_until_it_is() {
    for on_stale in [OnStale::Keep, OnStale::Unready] {
        let server = Server::default();
        server.publish(&demanding(4, on_stale));
        let pod = Pod::web(&server, &[]);
        pod.says("Applied 4").await;
        // The watch goes on, in silence; reading hangs.
        server.fails(|call| (call == "list secrets").then_some(Trouble::Ignored));
        sleep(Duration::from_secs(18)).await;
        assert!(pod.shared.health.missing().is_empty() && pod.word() == "Applied 4");
        pod.says("Stale 4").await;
        let message = server.replica().unwrap().spec.message.unwrap();
        assert!(message.contains("spec.freshness.maxAge"), "{message}");
        assert!(pod.metric(r#"quorate_sidecar_stale{config="web"} 1"#));
        sleep(Duration::from_secs(200)).await;
        let age = pod.shared.metrics();
        let age = age.lines().find_map(|line| line.strip_prefix(r#"quorate_sidecar_age_seconds{config="web"} "#));
        assert!(age.unwrap().parse::<f64>().unwrap() > 200.0);
        let missing = pod.shared.health.missing().join("");
        assert_eq!(missing.contains("spec.freshness.maxAge is 30s"), on_stale == OnStale::Unready, "{missing}");
        assert!(pod.shared.health.stuck().is_empty() && pod.text() == "4");
        assert_eq!(server.writes(), 2, "told once");
        server.works();
        pod.says("Applied 4").await;
        assert!(pod.shared.health.missing().is_empty() && pod.metric(r#"quorate_sidecar_stale{config="web"} 0"#));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_pod_does_not_become_ready_by_starting_again() {
    let server = Server::default();
    server.publish(&demanding(4, OnStale::Unready));
    let pod = Pod::web(&server, &[]);
    pod.says("Applied 4").await;
    server.fails(|_| Some(Trouble::Status(503)));
    let pod = pod.restart();
    sleep(Duration::from_secs(31)).await;
    assert!(pod.shared.health.missing().join("").contains("maxAge"));
    server.works();
    pod.until("ready", || pod.shared.health.missing().is_empty()).await;
}
