//! Checks and notifications, against a real program, a real HTTP server and a real signal.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use clap::Parser;
use jiff::Timestamp;
use quorate_coordination::Boottime;
use quorate_crds::{
    Proposal,
    head::{Bundle, BundleFile, Head},
};
use quorate_sidecar::{
    Shared,
    disk::RealDisk,
    hooks::{self, HookError, Told},
    mirror::{Mirror, Verdict},
    notify::Notifier,
    options::Options,
    publish::Publisher,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::sleep};

/// An application: what it was posted, and what it answers.
#[derive(Clone, Default)]
struct Application(Arc<Mutex<(Vec<Value>, Vec<u16>)>>);

impl Application {
    async fn listen(&self, address: &str) -> SocketAddr {
        async fn told(State(application): State<Application>, body: String) -> StatusCode {
            let mut application = application.0.lock().unwrap();
            application.0.push(serde_json::from_str(&body).unwrap());
            StatusCode::from_u16(application.1.pop().unwrap_or(204)).unwrap()
        }
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/told", post(told)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    fn answers(&self, codes: &[u16]) {
        self.0.lock().unwrap().1 = codes.iter().rev().copied().collect();
    }

    fn told(&self) -> Vec<Value> {
        self.0.lock().unwrap().0.clone()
    }

    fn revisions(&self) -> Vec<i64> {
        self.told().iter().map(|told| told["revision"].as_i64().unwrap()).collect()
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: never");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A head whose file `a` is its text, and whose file `b` never changes.
fn head(revision: i64, text: &str) -> (Proposal, Arc<Head>) {
    let file = |text: &str| BundleFile { mode: 0o444, secret: false, bytes: text.into() };
    let files = [("a".to_owned(), file(text)), ("b".to_owned(), file("b"))].into();
    let head = Head::next(None, revision, Bundle { files, provenance: Vec::new() }, Timestamp::UNIX_EPOCH);
    (Proposal { uid: "h".into(), revision, hash: head.hash.clone() }, Arc::new(head))
}

/// A sidecar without its follow loop: a start of its own.
struct Sidecar {
    shared: Arc<Shared>,
    mirror: Mirror<RealDisk>,
    notifier: JoinHandle<()>,
}

impl Sidecar {
    async fn start(directory: &Path, words: &[&str]) -> Self {
        let directory = directory.display().to_string();
        let fixed = ["quorate-sidecar", "--config", "web", "--namespace", "shop", "--directory", &directory];
        let shared = Arc::new(Shared::new(Options::parse_from(fixed.iter().chain(words)), Arc::new(Boottime)));
        let publisher = Arc::new(Publisher::new(RealDisk, shared.options.directory.join("web")));
        let (sender, news) = watch::channel(None);
        let mut mirror = Mirror::new(Arc::clone(&shared), "web".into(), Arc::clone(&publisher), sender);
        mirror.begin().await;
        let notifier = Notifier { shared: Arc::clone(&shared), config: "web".into(), publisher, news };
        Self { shared, mirror, notifier: tokio::spawn(notifier.run()) }
    }

    async fn show(&mut self, revision: i64, text: &str) -> Verdict {
        let (content, head) = head(revision, text);
        self.mirror.show(&content, &head, None).await.unwrap()
    }

    fn kill(self) {
        self.notifier.abort();
    }
}

#[tokio::test]
async fn a_check_by_http_sees_the_staged_files_and_decides() {
    let (application, directory) = (Application::default(), tempfile::tempdir().unwrap());
    let address = application.listen("127.0.0.1:0").await;
    let mut sidecar = Sidecar::start(directory.path(), &["--check-http", &format!("http://{address}/told")]).await;
    let shown = || fs::read_to_string(directory.path().join("web/a")).unwrap();
    assert_eq!(sidecar.show(1, "one").await, Verdict::Accepted);
    application.answers(&[422]);
    let Verdict::Refused(why) = sidecar.show(2, "two").await else { panic!("accepted") };
    assert!(why.contains("422") && why.contains("/told"), "{why}");
    assert_eq!(shown(), "one");
    let told = application.told();
    assert_eq!((&told[1]["revision"], &told[1]["changed"]), (&2.into(), &serde_json::json!(["a"])));
    let staged = told[1]["staged"].as_str().unwrap();
    assert!(staged.contains("..r2.") && !Path::new(staged).exists(), "refused sets are removed: {staged}");
    // The same content is not checked again; other content is.
    assert!(matches!(sidecar.show(2, "two").await, Verdict::Refused(_)));
    assert_eq!(application.told().len(), 2);
    assert_eq!(sidecar.show(3, "three").await, Verdict::Accepted);
    assert_eq!(shown(), "three");
}

#[tokio::test]
async fn a_check_by_a_program_sees_the_staged_files_and_decides() {
    let directory = tempfile::tempdir().unwrap();
    let check = directory.path().join("check");
    fs::write(&check, "#!/bin/sh\n! grep -q bad \"$QUORATE_STAGED/a\"\n").unwrap();
    fs::set_permissions(&check, fs::Permissions::from_mode(0o755)).unwrap();
    let mut sidecar = Sidecar::start(directory.path(), &["--check-exec", &check.display().to_string()]).await;
    assert_eq!(sidecar.show(1, "good").await, Verdict::Accepted);
    let Verdict::Refused(why) = sidecar.show(2, "bad").await else { panic!("accepted") };
    assert!(why.contains("exit status: 1") && !why.contains("bad"), "{why}");
}

#[tokio::test]
async fn the_application_is_told_of_changes_only_and_again_until_it_answers_well() {
    let (application, directory) = (Application::default(), tempfile::tempdir().unwrap());
    // An IPv6 address, where there is one.
    let address = match TcpListener::bind("[::1]:0").await {
        Ok(_) => application.listen("[::1]:0").await,
        Err(_) => application.listen("127.0.0.1:0").await,
    };
    let words = ["--notify-http", &format!("http://{address}/told")];
    let mut sidecar = Sidecar::start(directory.path(), &words).await;
    let told = directory.path().join("web/..told");
    sidecar.show(1, "one").await;
    until("the first set is remembered", || told.exists()).await;
    sidecar.show(2, "one").await;
    application.answers(&[500, 500]);
    sidecar.show(3, "three").await;
    until("three posts", || application.told().len() == 3).await;
    assert_eq!(application.revisions(), [3, 3, 3], "neither the first nor equal content is told of");
    assert_eq!(application.told()[0]["changed"], serde_json::json!(["a"]));
    assert!(sidecar.shared.metrics.text().contains(r#"errors_total{category="notify"} 2"#));
    // Back to what it knew before a failure is a change for those who were told.
    application.answers(&[500]);
    sidecar.show(4, "four").await;
    until("four posts", || application.told().len() == 4).await;
    sidecar.show(5, "three").await;
    until("five posts", || application.told().len() == 5).await;
    assert_eq!(application.revisions(), [3, 3, 3, 4, 5]);
}

#[tokio::test]
async fn a_change_that_nobody_was_told_of_is_told_of_after_the_next_start() {
    let (application, directory) = (Application::default(), tempfile::tempdir().unwrap());
    let address = application.listen("127.0.0.1:0").await;
    let words = ["--notify-http", &format!("http://{address}/told")];
    let mut sidecar = Sidecar::start(directory.path(), &words).await;
    sidecar.show(1, "one").await;
    until("the first set is remembered", || directory.path().join("web/..told").exists()).await;
    // Killed after the switch.
    sidecar.notifier.abort();
    sidecar.show(2, "two").await;
    sidecar.kill();
    let sidecar = Sidecar::start(directory.path(), &words).await;
    until("the post", || application.revisions() == [2]).await;
    until("it is remembered", || {
        fs::read_to_string(directory.path().join("web/..told")).is_ok_and(|told| told.contains(r#""revision":2"#))
    })
    .await;
    sidecar.kill();
    // And once only: the next post is about the next change.
    let mut sidecar = Sidecar::start(directory.path(), &words).await;
    sidecar.show(3, "three").await;
    until("the next", || application.revisions() == [2, 3]).await;
}

#[tokio::test]
async fn changes_that_come_while_one_is_told_of_become_one() {
    let directory = tempfile::tempdir().unwrap();
    let (hook, log, go) = ["hook", "log", "go"].map(|name| directory.path().join(name)).into();
    let script = format!(
        "#!/bin/sh\necho $QUORATE_REVISION >>{}\nwhile ! [ -e {} ]; do sleep 0.02; done\n",
        log.display(),
        go.display()
    );
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let mut sidecar = Sidecar::start(directory.path(), &["--notify-exec", &hook.display().to_string()]).await;
    let read = || fs::read_to_string(&log).unwrap_or_default();
    sidecar.show(1, "one").await;
    until("the first set is remembered", || directory.path().join("web/..told").exists()).await;
    sidecar.show(2, "two").await;
    until("the hook", || read() == "2\n").await;
    for (revision, text) in [(3, "three"), (4, "four"), (5, "five")] {
        sidecar.show(revision, text).await;
    }
    fs::write(&go, "").unwrap();
    until("the last", || read() == "2\n5\n").await;
}

#[tokio::test]
async fn a_signal_reaches_every_process_of_the_name() {
    let directory = tempfile::tempdir().unwrap();
    // The kernel keeps 15 characters of it.
    let name = format!("qs-{}-very-long", std::process::id());
    let program = directory.path().join(&name);
    // No shell traps what it was started to ignore, as HUP under nohup.
    let script = format!(
        "#!/bin/sh\ntrap 'echo >{0}/got-$1; exit' USR1\necho >{0}/up-$1\nwhile :; do sleep 0.02; done\n",
        directory.path().display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let start = |n: &str| Command::new(&program).arg(n).stdin(Stdio::null()).spawn().unwrap();
    let (mut one, mut two) = (start("1"), start("2"));
    let there = |what: &str| directory.path().join(what).exists();
    until("both are up", || there("up-1") && there("up-2")).await;
    hooks::signal(format!("USR1:{name}").parse().unwrap()).await.unwrap();
    until("both are told", || there("got-1") && there("got-2")).await;
    one.wait().unwrap();
    two.wait().unwrap();
    let why = hooks::signal("HUP:qs-nobody".parse().unwrap()).await.unwrap_err().to_string();
    assert!(why.contains("shareProcessNamespace"), "{why}");
}

#[tokio::test]
async fn an_answer_is_told_from_silence_and_silence_from_nobody_there() {
    let nothing = BTreeSet::new();
    let told = Told { config: "web", namespace: "shop", revision: 1, hash: "h", changed: &nothing, staged: None };
    let limit = Duration::from_millis(100);
    let exec = async |command: &str| hooks::exec(command, &told, limit).await.unwrap_err();
    let post = async |uri: &str| hooks::post(&uri.parse().unwrap(), &told, limit).await.unwrap_err();
    let refused = |error, part| assert!(matches!(&error, HookError::Refused(why) if why.contains(part)), "{error:?}");
    let silent = |error, part| assert!(matches!(&error, HookError::Silent(why) if why.contains(part)), "{error:?}");
    let unasked = |error, part| assert!(matches!(&error, HookError::Unasked(why) if why.contains(part)), "{error:?}");

    refused(exec("false").await, "false ended with exit status: 1");
    silent(exec("sleep 60").await, "sleep did not end within");
    let directory = tempfile::tempdir().unwrap();
    let crash = directory.path().join("crash");
    fs::write(&crash, "#!/bin/sh\nkill -SEGV $$\n").unwrap();
    unasked(exec(&crash.display().to_string()).await, "cannot be run: Permission denied");
    fs::set_permissions(&crash, fs::Permissions::from_mode(0o755)).unwrap();
    silent(exec(&crash.display().to_string()).await, "signal: 11");
    unasked(exec("/nowhere/check").await, "/nowhere/check cannot be run: No such file");

    let application = Application::default();
    let address = application.listen("127.0.0.1:0").await;
    application.answers(&[503]);
    refused(post(&format!("http://{address}/told")).await, "/told answered 503");
    // It takes connections, as one that hangs does.
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hangs.local_addr().unwrap();
    silent(post(&format!("http://{address}/")).await, "/ did not answer within");
    tokio::spawn(async move { while hangs.accept().await.is_ok() {} });
    silent(post(&format!("http://{address}/")).await, "gave no answer");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    unasked(post(&format!("http://{gone}/")).await, "cannot be reached: Connection refused");
    unasked(post("https://localhost/").await, "only http:// is possible");
}

#[test]
fn a_variable_that_is_empty_counts_as_not_set() {
    let run = |config: &str| {
        let mut sidecar = Command::new(env!("CARGO_BIN_EXE_quorate-sidecar"));
        sidecar
            .env_clear()
            .env("KUBECONFIG", "/nonexistent")
            .env("POD_NAMESPACE", "shop")
            .env("QUORATE_DIRECTORY", "/d");
        for empty in ["CHECK_EXEC", "CHECK_HTTP", "NOTIFY_HTTP", "NOTIFY_SIGNAL", "NOTIFY_EXEC", "HOOK_SECONDS", "ONCE"]
        {
            sidecar.env(format!("QUORATE_{empty}"), "");
        }
        let output = sidecar.env("QUORATE_CONFIG", config).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let said = run("web");
    assert!(said.contains("no way to an API server"), "{said}");
    let said = run("");
    assert!(said.contains("--config"), "{said}");
}
