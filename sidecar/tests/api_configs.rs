//! Configuration and events through the local API, with a follower beside it and a scripted API server behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api_scene;
mod scene;

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use api_scene::{Local, Said};
use quorate_crds::{Ask, rank};
use quorate_sidecar::events::KEPT;
use scene::{Pod, Server, Trouble, asking, content, of_text};
use serde_json::json;
use tokio::time::sleep;

const FILE: &str = "/v1/configs/web/files/f";

async fn read(local: &Local, query: &str) -> Said {
    local.get(&format!("{FILE}?{query}")).await
}

/// A pod that shows revision 4, and its local API.
async fn pod() -> (Server, Pod, Local) {
    let server = Server::default();
    server.publish(&content(4));
    let pod = Pod::web(&server, &[]);
    pod.shows(4).await;
    pod.says("Applied 4").await;
    let local = Local::of(pod.shared.clone()).await;
    (server, pod, local)
}

#[tokio::test(start_paused = true)]
async fn a_file_with_what_it_is_and_how_old() {
    let (_server, pod, local) = pod().await;
    let said = local.get(FILE).await.is(200);
    assert_eq!((said.text.as_str(), said.header("quorate-revision")), ("4", "4"));
    assert_eq!(said.header("quorate-hash"), content(4).hash);
    assert_eq!(said.header("content-type"), "text/plain; charset=utf-8");
    let tag = said.header("etag").to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let same = local.call("GET", FILE, &[("if-none-match", &known)], None).await.is(304);
        assert_eq!((same.text.as_str(), same.header("etag")), ("", tag.as_str()));
    }
    local.call("GET", FILE, &[("if-none-match", "\"x\"")], None).await.is(200);

    let shown = local.get("/v1/configs/web").await.is(200).json;
    assert_eq!(
        (&shown["revision"], &shown["files"][0]["path"], &shown["stale"]),
        (&json!(4), &json!("f"), &json!(false))
    );
    assert_eq!(local.get("/v1/configs").await.is(200).json["configs"][0], shown);
    for path in ["/v1/configs/web/files/g", "/v1/configs/web/files/..%2Ff", "/v1/configs/web/files/../../etc/passwd"] {
        local.get(path).await.is(404);
    }
    let other = local.get("/v1/configs/db/files/f").await.is(404);
    assert!(other.detail().contains("mirrors web"), "{}", other.json);
    local.get("/v1/configs/db").await.is(404);
    for bad in [
        "consistency=some",
        "maxAge=5",
        "consistency=strong&maxAge=5",
        "consistency=bounded",
        "maxage=1",
        "consistency=bounded&maxAge=-1",
        "consistency=bounded&maxAge=x",
        "consistency=bounded&maxAge=NaN",
    ] {
        read(&local, bad).await.is(400);
    }
    drop(pod);
}

#[tokio::test(start_paused = true)]
async fn a_strong_read_has_what_the_head_says_when_it_is_asked() {
    let (server, pod, local) = pod().await;
    let before = server.calls("list secrets");
    assert_eq!(read(&local, "consistency=strong").await.is(200).text, "4");
    assert_eq!(server.calls("list secrets"), before + 1, "it is a quorum read");
    // Whatever the watch does, nobody reads the old after the new is decided.
    for revision in 5..30 {
        server.publish(&content(revision));
        let said = read(&local, "consistency=strong").await.is(200);
        assert_eq!((said.text.as_str(), said.header("age")), (revision.to_string().as_str(), "0"));
    }
    pod.shows(29).await;
}

#[tokio::test(start_paused = true)]
async fn without_an_api_server_strong_fails_closed_bounded_ages_and_weak_goes_on() {
    let (server, pod, local) = pod().await;
    for trouble in [Trouble::Status(500), Trouble::Ignored] {
        server.works();
        assert_eq!(read(&local, "consistency=strong").await.is(200).text, "4");
        server.fails(move |call| (call.ends_with("secrets")).then_some(trouble));
        let strong = read(&local, "consistency=strong").await.is(503);
        assert!(strong.detail().contains("cannot be known"), "{}", strong.json);
        assert_eq!(read(&local, "consistency=bounded&maxAge=60").await.is(200).text, "4");
        sleep(Duration::from_secs(61)).await;
        let bounded = read(&local, "consistency=bounded&maxAge=60").await.is(503);
        assert!(!bounded.text.contains("\"4\""));
        let weak = read(&local, "consistency=weak").await.is(200);
        assert!(weak.text == "4" && weak.header("age").parse::<u64>().unwrap() >= 60, "{:?}", weak.headers);
    }
    server.works();
    // As soon as it is back: nobody waits for the next round.
    assert_eq!(read(&local, "consistency=strong").await.is(200).text, "4");
    assert_eq!(read(&local, "consistency=bounded&maxAge=0.5").await.is(200).text, "4");
    drop(pod);
}

#[tokio::test(start_paused = true)]
async fn a_bounded_read_that_is_too_old_asks_anew() {
    let (server, _pod, local) = pod().await;
    sleep(Duration::from_secs(20)).await;
    let before = server.calls("list secrets");
    read(&local, "consistency=bounded&maxAge=60").await.is(200);
    assert_eq!(server.calls("list secrets"), before, "it is known");
    let said = read(&local, "consistency=bounded&maxAge=5").await.is(200);
    assert_eq!((said.header("age"), server.calls("list secrets")), ("0", before + 1));
}

// Not in virtual time, as a program runs.
#[tokio::test]
async fn what_the_pod_refuses_is_not_read_and_not_passed_over() {
    let server = Server::default();
    server.publish(&content(4));
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("check");
    fs::write(&script, "#!/bin/sh\n! grep -q bad \"$QUORATE_STAGED/f\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let pod = Pod::web(&server, &["--check-exec", &script.display().to_string()]);
    pod.shows(4).await;
    let local = Local::of(pod.shared.clone()).await;
    server.publish(&of_text(5, "bad"));
    let strong = read(&local, "consistency=strong").await.is(503);
    assert!(strong.detail().contains("revision 5 is due, and this pod shows 4"), "{}", strong.json);
    read(&local, "consistency=bounded&maxAge=60").await.is(503);
    assert_eq!(read(&local, "").await.is(200).text, "4");
}

#[tokio::test(start_paused = true)]
async fn for_a_pod_that_a_canary_chose_strong_is_the_candidate() {
    let (server, pod, local) = pod().await;
    let proposal = server.propose(&content(5));
    let ask = |threshold| Ask::Try { step: 0, threshold, born_by: jiff::Timestamp::from_second(1_000).unwrap() };
    let chosen = rank(&proposal.uid, "p");
    server.publish(&asking(content(4), &proposal, ask(chosen - 1)));
    assert_eq!(read(&local, "consistency=strong").await.is(200).text, "4", "not chosen");
    server.publish(&asking(content(4), &proposal, ask(chosen)));
    let said = read(&local, "consistency=strong").await.is(200);
    assert_eq!((said.text.as_str(), said.header("quorate-revision")), ("5", "5"));
    assert_eq!(local.get("/v1/configs/web").await.is(200).json["candidate"], true);
    // Aborted.
    server.publish(&content(4));
    assert_eq!(read(&local, "consistency=strong").await.is(200).text, "4");
    drop(pod);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_gone_or_forged_is_no_answer() {
    let (server, pod, local) = pod().await;
    server.delete_secret("web.quorate");
    let gone = read(&local, "consistency=strong").await.is(503);
    assert!(gone.detail().contains("does not exist"), "{}", gone.json);
    let mut forged = content(5).to_head_secret(&scene::config());
    forged.data.as_mut().unwrap().get_mut("f").unwrap().0 = b"x".to_vec();
    server.put_secret(forged);
    let forged = read(&local, "consistency=strong").await.is(503);
    assert!(forged.detail().contains("no good head"), "{}", forged.json);
    assert_eq!(read(&local, "").await.is(200).text, "4");
    drop(pod);
}

#[tokio::test(start_paused = true)]
async fn before_the_first_revision_there_is_nothing_to_read() {
    let server = Server::default();
    let pod = Pod::web(&server, &[]);
    let local = Local::of(pod.shared.clone()).await;
    pod.settles().await;
    for query in ["", "consistency=strong", "consistency=bounded&maxAge=60"] {
        let said = read(&local, query).await.is(503);
        assert!(said.detail().contains("does not exist"), "{}", said.json);
    }
    assert_eq!(local.get("/v1/configs/web").await.is(200).json["files"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_each_change_from_where_the_listener_was() {
    let (server, pod, local) = pod().await;
    let mut events = local.events(None).await;
    assert_eq!(events.first.len(), 1);
    assert_eq!((events.first[0].0.as_str(), &events.first[0].1["revision"]), ("config", &json!(4)));
    server.publish(&content(5));
    assert_eq!(events.next("config").await["revision"], 5);
    let last = events.id.clone();
    drop(events);
    for revision in 6..9 {
        server.publish(&content(revision));
        pod.shows(revision).await;
    }
    let mut again = local.events(Some(&last)).await;
    let missed: Vec<_> = again.first.iter().map(|(_, event)| event["revision"].as_i64().unwrap()).collect();
    assert_eq!(missed, [6, 7, 8]);
    server.publish(&content(9));
    assert_eq!(again.next("config").await["revision"], 9);

    // One that read nothing for too long is told so, and goes on from the present.
    let revisions = i64::try_from(KEPT).unwrap() + 20;
    for revision in 10..10 + revisions {
        server.publish(&content(revision));
        pod.shows(revision).await;
    }
    again.next("lagged").await;
    assert_eq!(again.next("config").await["revision"], 9 + revisions);
    for id in [last.as_str(), "another-7", "x"] {
        let events = local.events(Some(id)).await;
        let kinds: Vec<&str> = events.first.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["lagged", "config"], "{id}");
    }
}
