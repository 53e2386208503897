//! What a pod does about a proposal, against an API server in memory. Those without a check run in
//! virtual time; a check is a real program, and takes real time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod scene;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use jiff::Timestamp;
use kube::ResourceExt;
use quorate_crds::{
    Ask, ConfigReplica, Freshness, OnStale, Proposal, Span,
    head::{Bundle, Head},
    names, rank,
};
use tokio::time::sleep;

use scene::{Pod, Server, Trouble, asking, content, of_text};

/// Asks the pods whose rank is at most that of the pod, if they were born by then.
fn try_out(proposal: &Proposal, pod_uid: &str, born_by: i64) -> Ask {
    let born_by = Timestamp::from_second(born_by).unwrap();
    Ask::Try { step: 0, threshold: rank(&proposal.uid, pod_uid), born_by }
}

/// Tries nobody out.
fn try_nobody() -> Ask {
    Ask::Try { step: 0, threshold: 0, born_by: Timestamp::from_second(1_000).unwrap() }
}

/// The head at revision 4, and a pod that runs it and was born at second 10.
async fn at_four(words: &[&str]) -> (Server, Pod) {
    let server = Server::default();
    server.is_at(10);
    server.publish(&often(content(4)));
    let pod = Pod::web(&server, words);
    pod.says("Applied 4").await;
    (server, pod)
}

/// A head that is read every second, so that tests in real time are quick.
fn often(head: Head) -> Head {
    Head { freshness: Freshness { max_age: Span::of_seconds(3), on_stale: OnStale::Keep }, ..head }
}

/// A program that logs what it checks and refuses all that holds `bad`.
struct Check {
    directory: tempfile::TempDir,
}

impl Check {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (path, log) = (directory.path().join("check"), directory.path().join("log"));
        let script =
            format!("#!/bin/sh\necho $QUORATE_REVISION >>{}\n! grep -q bad $QUORATE_STAGED/f\n", log.display());
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    /// One that gives no answer on revisions above 4: it hangs, or crashes.
    fn silent(last_words: &str) -> Self {
        let check = Self::new();
        let log = check.directory.path().join("log");
        let script = format!(
            "#!/bin/sh\necho $QUORATE_REVISION >>{}\n[ $QUORATE_REVISION = 4 ] || {last_words}\n",
            log.display()
        );
        fs::write(check.path(), script).unwrap();
        check
    }

    fn path(&self) -> String {
        self.directory.path().join("check").display().to_string()
    }

    /// Whether it is there to be asked.
    fn is_there(&self, is_there: bool) {
        let mode = if is_there { 0o755 } else { 0o644 };
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn checked(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        log.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// How many sets lie in the directory.
fn sets(pod: &Pod) -> usize {
    let names = fs::read_dir(pod.directory.path().join("web")).unwrap();
    names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().starts_with("..r")).count()
}

fn spec(server: &Server) -> quorate_crds::ConfigReplicaSpec {
    server.replica().unwrap().spec
}

#[tokio::test]
async fn a_vote_is_for_what_was_fetched_and_checked_and_shows_nothing() {
    let check = Check::new();
    let (server, pod) = at_four(&["--check-exec", &check.path()]).await;
    let five = Head { lamport: 777, ..content(5) };
    let proposal = server.propose(&five);
    server.publish(&asking(often(content(4)), &proposal, Ask::Vote));
    pod.says("Staged 5").await;
    let vote = spec(&server);
    assert_eq!((vote.proposal, vote.hash), (Some(proposal.uid.clone()), Some(proposal.hash.clone())));
    assert_eq!((vote.runs, vote.message), (Some(4), None));
    assert!(vote.lamport > 777, "above the candidate's stamp");
    assert_eq!(pod.text(), "4");
    pod.settles().await;
    assert_eq!((server.writes(), check.checked().as_str()), (2, "4 5"), "neither told nor checked again");

    // The head moves to it: it is only switched.
    server.publish(&often(five));
    pod.says("Applied 5").await;
    pod.settles().await;
    assert_eq!((pod.text().as_str(), check.checked().as_str(), server.writes()), ("5", "4 5", 3));
}

#[tokio::test]
async fn a_refusal_is_a_vote_with_its_reason_which_outlives_the_rollout() {
    let check = Check::new();
    let (server, pod) = at_four(&["--check-exec", &check.path()]).await;
    let proposal = server.propose(&of_text(5, "bad"));
    server.publish(&asking(often(content(4)), &proposal, Ask::Vote));
    pod.says("Rejected 5").await;
    let vote = spec(&server);
    assert_eq!((vote.proposal, vote.runs), (Some(proposal.uid), Some(4)));
    assert!(vote.message.unwrap().contains("exit status: 1"));
    // Aborted.
    server.publish(&often(content(4)));
    pod.settles().await;
    assert_eq!((pod.word().as_str(), server.writes(), check.checked().as_str()), ("Rejected 5", 2, "4 5"));
    // And over a start of the container.
    let pod = pod.restart();
    pod.settles().await;
    assert_eq!((pod.word().as_str(), server.writes()), ("Rejected 5", 2));
    // Another proposal, of the same content: another vote.
    let again = server.propose(&of_text(6, "bad"));
    server.publish(&asking(often(content(4)), &again, Ask::Vote));
    pod.says("Rejected 6").await;
    assert_eq!(spec(&server).proposal, Some(again.uid));
    // A newer head.
    server.publish(&often(content(7)));
    pod.says("Applied 7").await;
    assert_eq!(spec(&server).message, None);
}

#[tokio::test]
async fn a_refused_head_is_told_of_once_and_checked_once() {
    let check = Check::new();
    let (server, pod) = at_four(&["--check-exec", &check.path()]).await;
    let uid = server.publish(&often(of_text(5, "bad"))).uid();
    pod.says("Rejected 5").await;
    let said = spec(&server);
    assert_eq!((said.runs, said.proposal), (Some(4), uid));
    pod.settles().await;
    assert_eq!((pod.text().as_str(), check.checked().as_str(), sets(&pod)), ("4", "4 5", 1));
    server.publish(&often(content(6)));
    pod.says("Applied 6").await;
    assert_eq!(server.writes(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_not_the_one_spoken_of_counts_for_nothing() {
    let wrong_uid = |proposal: &Proposal| Proposal { uid: "another".into(), ..proposal.clone() };
    let wrong_hash = |proposal: &Proposal| Proposal { hash: "another".into(), ..proposal.clone() };
    let wrong_revision = |proposal: &Proposal| Proposal { revision: 6, ..proposal.clone() };
    let wrong: [&dyn Fn(&Proposal) -> Proposal; 3] = [&wrong_uid, &wrong_hash, &wrong_revision];
    for wrong in wrong {
        let (server, pod) = at_four(&[]).await;
        let proposal = server.propose(&content(5));
        server.publish(&asking(often(content(4)), &wrong(&proposal), Ask::Vote));
        pod.settles().await;
        assert_eq!((pod.word().as_str(), server.writes(), pod.text().as_str()), ("Applied 4", 1, "4"));
        assert!(pod.shared.metrics().contains(r#"errors_total{category="candidate"}"#));
        // It still follows the head, and votes when it is the one.
        server.publish(&asking(often(content(4)), &proposal, Ask::Vote));
        pod.says("Staged 5").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_cannot_be_read_is_tried_again_while_the_head_is_followed() {
    for trouble in [Trouble::Status(403), Trouble::Status(404), Trouble::Status(500), Trouble::Ignored] {
        let (server, pod) = at_four(&[]).await;
        let proposal = server.propose(&content(5));
        server.fails(move |call| (call == "get web.quorate-next").then_some(trouble));
        server.publish(&asking(content(4), &proposal, Ask::Vote));
        pod.until("some attempts", || server.calls("get web.quorate-next") >= 4).await;
        assert_eq!((pod.word().as_str(), server.writes()), ("Applied 4", 1));
        server.publish(&asking(content(6), &proposal, Ask::Vote));
        pod.says("Applied 6").await;
        server.publish(&asking(content(7), &server.propose(&content(8)), Ask::Vote));
        server.works();
        pod.says("Staged 8").await;
        assert_eq!(pod.text(), "7");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_no_vote_against_it() {
    let (server, pod) = at_four(&[]).await;
    // A file where a folder must be.
    let mut five = content(5);
    let file = five.bundle.files["f"].clone();
    five.bundle.files.insert("g".into(), file);
    fs::write(pod.directory.path().join("web/g"), "mine").unwrap();
    let five = Head::next(None, 5, Bundle { ..five.bundle }, Timestamp::UNIX_EPOCH);
    let proposal = server.propose(&five);
    server.publish(&asking(often(content(4)), &proposal, Ask::Vote));
    pod.says("Stale 5").await;
    assert!(spec(&server).message.unwrap().contains("in the way"));
    fs::remove_file(pod.directory.path().join("web/g")).unwrap();
    pod.says("Staged 5").await;
    assert_eq!(pod.text(), "4");
}

#[tokio::test]
async fn a_check_that_cannot_be_asked_is_no_vote_and_asked_again() {
    let check = Check::new();
    let (server, pod) = at_four(&["--check-exec", &check.path()]).await;
    check.is_there(false);
    // A vote, a candidate that is to be shown, and the head's own content.
    let five = server.propose(&content(5));
    server.publish(&asking(often(content(4)), &five, Ask::Vote));
    pod.says("Stale 5").await;
    let said = spec(&server);
    let message = said.message.unwrap();
    assert_eq!((said.runs, said.proposal.as_ref()), (Some(4), Some(&five.uid)));
    assert!(message.contains("not checked yet") && message.contains("Permission denied"), "{message}");
    let (writes, sets_before) = (server.writes(), sets(&pod));
    pod.settles().await;
    assert_eq!((server.writes(), sets(&pod)), (writes, sets_before), "said once, staged once");
    check.is_there(true);
    pod.says("Staged 5").await;
    assert_eq!(pod.text(), "4");

    check.is_there(false);
    let six = server.propose(&content(6));
    server.publish(&asking(often(content(4)), &six, try_out(&six, "p", 10)));
    pod.says("Stale 6").await;
    assert_eq!((spec(&server).runs, pod.text().as_str()), (Some(4), "4"));
    check.is_there(true);
    pod.says("Applied 6").await;
    pod.shows(6).await;

    check.is_there(false);
    server.publish(&often(content(7)));
    pod.says("Stale 7").await;
    assert_eq!((spec(&server).runs, pod.text().as_str()), (Some(6), "6"));
    check.is_there(true);
    pod.says("Applied 7").await;
    assert_eq!((pod.text().as_str(), check.checked().as_str()), ("7", "4 5 6 7"));
}

#[tokio::test]
async fn a_check_that_never_answers_refuses_after_three_times() {
    for (last_words, reason) in [("exec sleep 60", "did not end within 1 s"), ("kill -9 $$", "signal: 9")] {
        let check = Check::silent(last_words);
        let (server, pod) = at_four(&["--check-exec", &check.path(), "--hook-seconds", "1"]).await;
        let proposal = server.propose(&content(5));
        server.publish(&asking(often(content(4)), &proposal, Ask::Vote));
        pod.says("Rejected 5").await;
        let (message, writes) = (spec(&server).message.unwrap(), server.writes());
        assert!(message.contains(reason) && message.contains("3 times"), "{message}");
        assert_eq!((check.checked().as_str(), pod.text().as_str()), ("4 5 5 5", "4"));
        // And that is its answer.
        pod.settles().await;
        assert_eq!((check.checked().as_str(), server.writes(), sets(&pod)), ("4 5 5 5", writes, 1));
        assert!(writes <= 4, "at most a word for each time: {writes}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_staged_is_cleared_away_when_nothing_is_asked_any_more() {
    let (server, pod) = at_four(&[]).await;
    let proposal = server.propose(&content(5));
    server.publish(&asking(often(content(4)), &proposal, Ask::Vote));
    pod.says("Staged 5").await;
    assert_eq!(sets(&pod), 2);
    // Superseded, then aborted.
    let other = server.propose(&content(6));
    server.publish(&asking(often(content(4)), &other, Ask::Vote));
    pod.says("Staged 6").await;
    assert_eq!(sets(&pod), 2);
    server.publish(&often(content(4)));
    pod.says("Applied 4").await;
    assert_eq!((sets(&pod), pod.text().as_str(), server.writes()), (1, "4", 4));
}

#[tokio::test]
async fn a_chosen_pod_shows_the_candidate_and_keeps_it_when_it_is_promoted() {
    let (check, told) = (Check::new(), Check::new());
    let (server, pod) = at_four(&["--check-exec", &check.path(), "--notify-exec", &told.path()]).await;
    pod.until("the first set is remembered", || pod.directory.path().join("web/..told").exists()).await;
    let proposal = server.propose(&content(5));
    server.publish(&asking(often(content(4)), &proposal, try_out(&proposal, "p", 10)));
    pod.says("Applied 5").await;
    let said = spec(&server);
    assert_eq!((said.runs, said.proposal), (Some(5), Some(proposal.uid.clone())));
    // It is told again after a restart that comes before the sidecar remembers.
    pod.until("it is remembered that the application knows", || {
        fs::read_to_string(pod.directory.path().join("web/..told")).is_ok_and(|told| told.contains(r#""revision":5"#))
    })
    .await;
    // A restart does not go back to the head's content while it is not known who is chosen.
    let name = ConfigReplica::name_for("web", "web-1", "p");
    server.fails(move |call| (*call == format!("get {name}")).then_some(Trouble::Status(500)));
    let pod = pod.restart();
    pod.settles().await;
    assert_eq!(pod.text(), "5");
    server.works();
    pod.settles().await;
    // Promoted: nothing is switched, checked, told or written.
    let folder = || fs::read_link(pod.directory.path().join("web/..data")).unwrap();
    let (before, writes) = (folder(), server.writes());
    server.publish(&often(content(5)));
    pod.settles().await;
    assert_eq!((pod.text().as_str(), folder(), server.writes()), ("5", before, writes));
    assert_eq!((check.checked().as_str(), told.checked().as_str()), ("4 5", "5"));
}

#[tokio::test(start_paused = true)]
async fn an_aborted_canary_goes_back_to_the_lower_revision() {
    let (server, pod) = at_four(&[]).await;
    let proposal = server.propose(&content(5));
    server.publish(&asking(often(content(4)), &proposal, try_out(&proposal, "p", 10)));
    pod.shows(5).await;
    pod.says("Applied 5").await;
    server.publish(&often(content(4)));
    server.delete_secret(&names::candidate_name("web"));
    pod.shows(4).await;
    pod.says("Applied 4").await;
    assert_eq!((spec(&server).runs, server.writes()), (Some(4), 3));
    // Superseded by one that cannot be read: back to the head's content, too.
    let next = server.propose(&content(6));
    server.publish(&asking(often(content(4)), &next, try_out(&next, "p", 10)));
    pod.shows(6).await;
    let gone = Proposal { uid: "gone".into(), revision: 7, hash: "gone".into() };
    server.publish(&asking(often(content(4)), &gone, try_out(&gone, "p", 10)));
    pod.shows(4).await;
    pod.says("Applied 4").await;
}

#[tokio::test(start_paused = true)]
async fn who_is_not_chosen_or_born_later_stays_on_the_head() {
    let (server, pod) = at_four(&[]).await;
    let proposal = server.propose(&content(5));
    for ask in [try_nobody(), try_out(&proposal, "p", 9)] {
        server.publish(&asking(often(content(4)), &proposal, ask));
        pod.settles().await;
        assert_eq!((pod.text().as_str(), pod.word().as_str(), server.writes()), ("4", "Applied 4", 1));
    }
    assert_eq!(server.calls("get web.quorate-next"), 0, "who is not asked does not read it");
    // The next step chooses it.
    server.publish(&asking(often(content(4)), &proposal, try_out(&proposal, "p", 10)));
    pod.shows(5).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_birth_becomes_known_later_is_chosen_then() {
    let server = Server::default();
    let proposal = server.propose(&content(5));
    // Far less often read than its birth is known.
    server.publish(&asking(content(4), &proposal, try_out(&proposal, "p", 10)));
    server.fails(|call| call.starts_with("post").then_some(Trouble::Status(500)));
    let pod = Pod::web(&server, &[]);
    pod.shows(4).await;
    let lists = server.calls("list");
    server.works();
    pod.shows(5).await;
    assert_eq!(server.calls("list"), lists + 1);
}

#[tokio::test]
async fn a_chosen_pod_that_refuses_stays_on_the_head() {
    let check = Check::new();
    let (server, pod) = at_four(&["--check-exec", &check.path()]).await;
    let proposal = server.propose(&of_text(5, "bad"));
    server.publish(&asking(often(content(4)), &proposal, try_out(&proposal, "p", 10)));
    pod.says("Rejected 5").await;
    assert_eq!((spec(&server).runs, pod.text().as_str()), (Some(4), "4"));
    pod.settles().await;
    assert_eq!((check.checked().as_str(), server.writes()), ("4 5", 2));
    // Promoted all the same: still refused, as the head's now.
    let uid = server.publish(&often(of_text(5, "bad"))).uid();
    pod.until("of the head", || spec(&server).proposal == uid).await;
    assert_eq!((pod.word().as_str(), pod.text().as_str(), check.checked().as_str()), ("Rejected 5", "4", "4 5"));
}

#[tokio::test(start_paused = true)]
async fn a_replayed_head_is_not_believed_even_if_the_candidate_was_newer() {
    let (server, pod) = at_four(&[]).await;
    let old = content(4).to_head_secret(&scene::config());
    server.publish(&often(content(5)));
    pod.shows(5).await;
    let proposal = server.propose(&content(6));
    server.publish(&asking(often(content(5)), &proposal, try_out(&proposal, "p", 10)));
    pod.shows(6).await;
    // A stale API server shows revision 4 again: a quorum read knows better.
    let lists = server.calls("list");
    server.replay(&old);
    pod.until("a quorum read", || server.calls("list") > lists).await;
    for _ in 0..100 {
        sleep(Duration::from_millis(50)).await;
        assert_eq!(pod.text(), "6");
    }
    // The head's number is what counts: 5 after a candidate 6 is no step back.
    server.publish(&Head { lamport: 1, ..often(content(5)) });
    pod.shows(5).await;
}

#[tokio::test(start_paused = true)]
async fn the_directory_holds_only_what_belongs_there() {
    let (server, pod) = at_four(&[]).await;
    server.publish(&often(content(5)));
    pod.shows(5).await;
    pod.settles().await;
    let mut names: Vec<PathBuf> = fs::read_dir(pod.directory.path().join("web"))
        .unwrap()
        .map(|entry| PathBuf::from(entry.unwrap().file_name()))
        .filter(|name| !name.to_string_lossy().starts_with("..r"))
        .collect();
    names.sort();
    assert_eq!(names, ["..data", "..freshness", "f"].map(PathBuf::from));
}
