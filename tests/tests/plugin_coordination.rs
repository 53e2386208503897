//! `kubectl quorate lock|counter` as scripts use it, on a real API server that fails.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, SystemTime},
};

use futures::future::join_all;
use quorate_tests::{
    Cluster,
    programs::path_of,
    scene::Scene,
    wait::{DEADLINE, wait_for},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// A namespace, and the plugin with its file for scripts to write.
struct Stage<'a> {
    scene: Scene<'a>,
    kubeconfig: PathBuf,
    log: PathBuf,
}

/// What the program printed, and its exit code.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl<'a> Stage<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let scene = Scene::new(cluster);
        let log = scene.path("log");
        fs::write(&log, "").unwrap();
        Self { scene, kubeconfig: cluster.kubeconfig(0), log }
    }

    fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(path_of("kubectl-quorate").unwrap());
        command.args(["-n", &self.scene.namespace]).args(words);
        command.env("KUBECONFIG", &self.kubeconfig).env("LOG", &self.log).env("USER", "tester");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn say(&self, line: &str) -> Said {
        end_of(self.command(&line.split(' ').collect::<Vec<_>>()).spawn().unwrap()).await
    }

    async fn json(&self, line: &str) -> Value {
        let said = self.say(&format!("{line} -o json")).await;
        assert_eq!(said.code, 0, "{said:?}");
        serde_json::from_str(&said.out).unwrap()
    }

    /// A shell script under a lock.
    fn under(&self, options: &str, script: &str) -> Child {
        self.under_by(&self.kubeconfig, options, script)
    }

    /// The same by another way to the API server.
    fn under_by(&self, kubeconfig: &Path, options: &str, script: &str) -> Child {
        let words = ["lock", "run"].into_iter().chain(options.split(' ')).chain(["--", "sh", "-c", script]);
        self.command(&words.collect::<Vec<_>>()).env("KUBECONFIG", kubeconfig).spawn().unwrap()
    }

    async fn run(&self, options: &str, script: &str) -> Said {
        end_of(self.under(options, script)).await
    }

    /// What a script wrote last into this file beside the log.
    fn time(&self, file: &str) -> Duration {
        let text = fs::read_to_string(format!("{}.{file}", self.log.display())).unwrap();
        Duration::from_secs_f64(text.trim().parse().unwrap())
    }

    fn logged(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap().lines().map(str::to_owned).collect()
    }

    async fn until_logged(&self, line: &str) {
        wait_for(&format!("the log to say {line}"), || async {
            let lines = self.logged();
            if lines.iter().any(|logged| logged == line) { Ok(()) } else { Err(format!("{lines:?}")) }
        })
        .await
        .unwrap();
    }

    async fn until_waiting(&self, lock: &str, waiters: usize) {
        wait_for(&format!("{waiters} to wait for {lock}"), || async {
            let shown = self.json(&format!("lock show {lock}")).await;
            if shown["waiters"].as_array().unwrap().len() == waiters { Ok(()) } else { Err(shown.to_string()) }
        })
        .await
        .unwrap();
    }
}

async fn end_of(child: Child) -> Said {
    timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap().into()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Enters, stays until another one enters too or a second is over, leaves.
const SECTION: &str = r#"
    echo "in $$" >> $LOG
    for i in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(tail -n 1 $LOG)" = "in $$" ] || break
        sleep 0.1
    done
    echo "out $$" >> $LOG
    echo "$QUORATE_TOKEN""#;

/// Whether nobody entered before the other had left.
fn exclusive(log: &[String]) -> bool {
    log.chunks(2).all(|pair| match pair {
        [entered, left] => entered.strip_prefix("in ").is_some_and(|who| left.strip_prefix("out ") == Some(who)),
        _ => false,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runs_at_a_time_and_in_the_order_of_coming() {
    let cluster = Cluster::start().await.unwrap();
    let stage = Stage::new(&cluster);
    let all = join_all((0..4).map(|_| stage.run("nightly", SECTION))).await;
    let log = stage.logged();
    assert!(log.len() == 8 && exclusive(&log), "{log:?}");
    let mut tokens: Vec<u64> = all.iter().map(|said| said.out.trim().parse().unwrap()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 4, "{all:?}");

    // Without the lock the same check fails.
    fs::write(&stage.log, "").unwrap();
    let shells = (0..4).map(|_| Command::new("sh").args(["-c", SECTION]).env("LOG", &stage.log).output());
    join_all(shells).await;
    assert!(!exclusive(&stage.logged()), "{:?}", stage.logged());

    // First come, first served; each with a higher token.
    fs::write(&stage.log, "").unwrap();
    let gate = stage.scene.path("gate").display().to_string();
    let first = stage.under(
        "order",
        &format!("echo started >> $LOG; until [ -e {gate} ]; do sleep 0.05; done; echo $QUORATE_TOKEN >> $LOG"),
    );
    stage.until_logged("started").await;
    let mut others = Vec::new();
    for number in 1..4 {
        others.push(stage.under("order", &format!("echo {number} $QUORATE_TOKEN >> $LOG")));
        stage.until_waiting("order", number).await;
    }
    fs::write(&gate, "").unwrap();
    for child in [first].into_iter().chain(others) {
        assert_eq!(end_of(child).await.code, 0);
    }
    let lines = stage.logged();
    let order: Vec<&str> = lines[2..].iter().map(|line| &line[..1]).collect();
    assert_eq!(order, ["1", "2", "3"], "{lines:?}");
    let tokens: Vec<u64> =
        lines[1..].iter().map(|line| line.split(' ').next_back().unwrap().parse().unwrap()).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "{lines:?}");

    // The token rises also when somebody deletes the Lease.
    stage.scene.kubectl(&["delete", "lease", "order"]).unwrap();
    let again: u64 = stage.run("order", "echo $QUORATE_TOKEN").await.out.trim().parse().unwrap();
    assert!(again > tokens[3], "{again} after {tokens:?}");

    // Several at once, where that is asked for.
    for options in ["readers --shared", "pool --permits 1/2"] {
        fs::write(&stage.log, "").unwrap();
        join_all((0..2).map(|_| stage.run(options, SECTION))).await;
        assert!(!exclusive(&stage.logged()), "{options}: {:?}", stage.logged());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_it_ends_is_told_apart() {
    let cluster = Cluster::start().await.unwrap();
    let stage = Stage::new(&cluster);
    // The command's own.
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        let said = stage.run("x", script).await;
        assert_eq!(said.code, code, "{script}: {said:?}");
    }
    let said = stage.run("x", "cat; echo $QUORATE_LOCK/$QUORATE_NAMESPACE/$QUORATE_CLAIM; echo why >&2").await;
    has(&said.out, &[&format!("x/{}/", stage.scene.namespace)]);
    assert_eq!((said.code, said.err.as_str()), (0, "why\n"));
    let said = stage.say("lock run x -- no-such-command").await;
    assert_eq!(said.code, 127, "{said:?}");
    has(&said.err, &["no-such-command cannot be run"]);
    assert_eq!(stage.say("lock run x -- /tmp").await.code, 126);

    // Wrong usage.
    for (line, part) in [
        ("lock run x", "-- <COMMAND>"),
        ("lock run x true", "unexpected argument 'true'"),
        ("lock run Not_A_Name -- true", "\"Not_A_Name\" is no name"),
        ("lock run x --ttl 0s -- true", "from 1 s to 1 h, not 0ns"),
        ("lock run x --ttl 8760h -- true", "from 1 s to 1 h"),
        ("lock run x --ttl 15 -- true", "write it as 90s, 5m or 1h30m"),
        ("lock run x --grace 10s -- true", "more than a third of --ttl"),
        ("lock run x --permits 3/2 -- true", "3 of 2 permits cannot be claimed"),
        ("lock run x --permits 1/513 -- true", "1 of 513 permits cannot be claimed"),
        ("lock run x --permits 3 -- true", "1/3"),
    ] {
        let said = stage.say(line).await;
        assert_eq!(said.code, 125, "{line}: {said:?}");
        has(&said.err, &[part]);
    }

    // Not granted in time.
    let holder = stage.under("x", "echo held >> $LOG; exec sleep 60");
    stage.until_logged("held").await;
    for wait in ["0s", "1s"] {
        let said = stage.say(&format!("lock run x --wait {wait} -- true")).await;
        assert_eq!(said.code, 124, "{said:?}");
        has(&said.err, &["is held by tester@", "not granted within"]);
    }
    assert_eq!(stage.json("lock show x").await["waiters"], json!([]));

    // Interrupted while waiting: nothing is left behind.
    let waiting = stage.under("x", "true");
    stage.until_waiting("x", 1).await;
    signal(&waiting, Signal::INT);
    let ended = end_of(waiting).await;
    assert_eq!(ended.code, 130, "{ended:?}");
    has(&ended.err, &["SIGINT while waiting for lock"]);
    // Who waits for a while is told for whom.
    let mut waiting = stage.under("x", "true");
    let mut told = [0; 16];
    let error = waiting.stderr.as_mut().unwrap();
    timeout(DEADLINE, error.read_exact(&mut told)).await.unwrap().unwrap();
    assert_eq!(&told, b"waiting for lock");
    signal(&waiting, Signal::TERM);
    assert_eq!(end_of(waiting).await.code, 143);
    assert_eq!(stage.json("lock show x").await["waiters"], json!([]));

    // Interrupted while it holds: the command is told, and its end is what counts.
    signal(&holder, Signal::TERM);
    assert_eq!(end_of(holder).await.code, 143);
    for (sent, name) in [(Signal::INT, "INT"), (Signal::TERM, "TERM"), (Signal::HUP, "HUP")] {
        let script =
            format!("trap 'echo {name}; exit 9' {name}; echo ready-{name} >> $LOG; while :; do sleep 0.05; done");
        let child = stage.under("x", &script);
        stage.until_logged(&format!("ready-{name}")).await;
        signal(&child, sent);
        let ended = end_of(child).await;
        assert_eq!((ended.code, ended.out.trim()), (9, name), "{ended:?}");
        assert_eq!(stage.json("lock show x").await["holders"], json!([]));
    }

    // No API server.
    let nowhere = stage.scene.path("nowhere");
    fs::write(&nowhere, fs::read_to_string(&stage.kubeconfig).unwrap().replace("127.0.0.1:", "127.0.0.1:1")).unwrap();
    let text = fs::read_to_string(&nowhere).unwrap();
    let server = text.split("server: ").nth(1).unwrap().split(['\n', ',', '}']).next().unwrap();
    fs::write(&nowhere, text.replace(server.trim(), "https://127.0.0.1:1")).unwrap();
    let lost = Stage { kubeconfig: nowhere, ..stage };
    for options in ["", " --wait 1s"] {
        let said = lost.say(&format!("lock run x{options} -- true")).await;
        assert_eq!(said.code, 122, "{said:?}");
        has(&said.err, &["refused"]);
    }
    let nothing = Stage { kubeconfig: "/nowhere".into(), ..lost };
    assert_eq!(nothing.say("lock run x -- true").await.code, 122);
}

/// Says what it is told, and goes on; beats as long as it lives.
const STUBBORN: &str = r#"
    trap 'echo told >> $LOG' TERM
    echo "pid $$" >> $LOG
    while :; do date +%s.%N > $LOG.new; mv $LOG.new $LOG.beat; sleep 0.05; done"#;

/// Says when it began.
const NEXT: &str = "date +%s.%N > $LOG.next";

/// A way to the API server that can be cut: then it takes everything, and delivers nothing.
struct Link {
    kubeconfig: PathBuf,
    cut: watch::Sender<bool>,
}

impl Link {
    async fn to(stage: &Stage<'_>) -> Self {
        let text = fs::read_to_string(&stage.kubeconfig).unwrap();
        let server = text.split("https://").nth(1).unwrap();
        let server: String = server.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kubeconfig = stage.scene.path("cut.kubeconfig");
        let own = listener.local_addr().unwrap().to_string();
        fs::write(&kubeconfig, text.replace(&server, &own)).unwrap();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&server).await.unwrap();
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                tokio::spawn(deliver(from_near, to_far, is_cut.clone()));
                tokio::spawn(deliver(from_far, to_near, is_cut.clone()));
            }
        });
        Self { kubeconfig, cut }
    }
}

async fn deliver(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_cut: watch::Receiver<bool>) {
    let mut bytes = vec![0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if is_cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_lock_is_told_and_killed() {
    let cluster = Cluster::start().await.unwrap();
    let stage = Stage::new(&cluster);
    // Taken by force.
    let child = stage.under("x --ttl 12s --grace 1s", STUBBORN);
    let pid = begun(&stage).await;
    let refused = stage.say("lock release x").await;
    assert_eq!(refused.code, 1, "{refused:?}");
    has(&refused.err, &["is held by tester@", "may be at work", "--force"]);
    let next = stage.under("x", "echo next >> $LOG");
    stage.until_waiting("x", 1).await;
    let released = stage.say("lock release x --force").await;
    assert_eq!(released.code, 0, "{released:?}");
    has(&released.out, &["does not hold it any more, and may not know yet"]);
    let ended = end_of(child).await;
    assert_eq!(ended.code, 123, "{ended:?}");
    has(&ended.err, &["it was taken back", "the command is told to end"]);
    assert!(stage.logged().contains(&"told".to_owned()) && is_gone(pid), "{:?}", stage.logged());
    assert_eq!(end_of(next).await.code, 0);
    let unknown = stage.say("lock release x --force --claim nope").await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
    has(&unknown.err, &["there is no claim nope"]);
    let free = stage.say("lock release x --force").await;
    assert_eq!(free.code, 2, "{free:?}");
    has(&free.err, &["nobody holds it"]);

    // Killed: not even then does the command live on.
    let mut child = stage.under("x --ttl 2s", STUBBORN);
    let pid = begun(&stage).await;
    child.start_kill().unwrap();
    child.wait().await.unwrap();
    until_gone(pid).await;

    // Cut off from the API server, which others are not: when the next one begins, the command has ended.
    let link = Link::to(&stage).await;
    let child = stage.under_by(&link.kubeconfig, "y --ttl 3s", STUBBORN);
    let pid = begun(&stage).await;
    let next = stage.under("y", NEXT);
    stage.until_waiting("y", 1).await;
    link.cut.send(true).unwrap();
    let ended = end_of(child).await;
    assert_eq!(ended.code, 123, "{ended:?}");
    assert!(stage.logged().contains(&"told".to_owned()) && is_gone(pid), "{:?}", stage.logged());
    assert_eq!(end_of(next).await.code, 0);
    let (beat, began) = (stage.time("beat"), stage.time("next"));
    assert!(beat < began, "the command lived at {beat:?}, and the next began at {began:?}");

    // The same check fails where no lock can help: stopped for longer than the lock lives, nobody ends the command. It is
    // killed as soon as that is over.
    let child = stage.under("y --ttl 2s", STUBBORN);
    let pid = begun(&stage).await;
    signal(&child, Signal::STOP);
    assert_eq!(stage.run("y", NEXT).await.code, 0);
    let began = stage.time("next");
    wait_for("another beat", || async { if stage.time("beat") > began { Ok(()) } else { Err("none".into()) } })
        .await
        .unwrap();
    signal(&child, Signal::CONT);
    let ended = end_of(child).await;
    assert_eq!(ended.code, 123, "{ended:?}");
    assert!(is_gone(pid));

    // The API server does not answer for longer than the lock lives.
    let child = stage.under("z --ttl 6s", STUBBORN);
    let pid = begun(&stage).await;
    cluster.api_servers[0].signal(Signal::STOP);
    let stopped = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let ended = end_of(child).await;
    assert_eq!(ended.code, 123, "{ended:?}");
    has(&ended.err, &["it could not be renewed", "the command is told to end"]);
    assert!(stage.logged().contains(&"told".to_owned()) && is_gone(pid), "{:?}", stage.logged());
    // It was renewed before that at the latest, and so valid for less than this.
    let lived = stage.time("beat").saturating_sub(stopped);
    assert!(lived < Duration::from_secs(6), "it lived for {lived:?} without the API server");
    cluster.api_servers[0].signal(Signal::CONT);
    assert_eq!(stage.run("z", "true").await.code, 0);

    // It does not answer for a moment: the command goes on.
    let child = stage.under("z --ttl 12s", "echo pid $$ >> $LOG; sleep 6; exit 3");
    begun(&stage).await;
    cluster.api_servers[0].signal(Signal::STOP);
    // For so long, which is less than it takes to be told.
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.api_servers[0].signal(Signal::CONT);
    let ended = end_of(child).await;
    assert_eq!(ended.code, 3, "{ended:?}");
}

/// The process id of a command that has begun.
async fn begun(stage: &Stage<'_>) -> i32 {
    let begun = wait_for("the command to run", || async {
        let lines = stage.logged();
        lines.iter().find_map(|line| line.strip_prefix("pid ")?.parse().ok()).ok_or(format!("{lines:?}"))
    });
    let pid = begun.await.unwrap();
    fs::write(&stage.log, "").unwrap();
    pid
}

fn is_gone(pid: i32) -> bool {
    test_kill_process(Pid::from_raw(pid).unwrap()).is_err()
}

async fn until_gone(pid: i32) {
    wait_for("the command to end", || async { if is_gone(pid) { Ok(()) } else { Err("it lives".into()) } })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_are_shown_with_who_waits_and_who_is_none_of_ours() {
    let cluster = Cluster::start().await.unwrap();
    let stage = Stage::new(&cluster);
    assert_eq!(stage.say("lock list").await.out, "no locks\n");
    assert_eq!(stage.say("lock show x").await.code, 2);
    let bad = stage.say("lock show X").await;
    assert_eq!(bad.code, 1, "{bad:?}");
    has(&bad.err, &["\"X\" is no name"]);

    let mut command = stage.command(&["lock", "run", "x", "--", "sleep", "60"]);
    command.env("POD_NAME", "web-0").env("POD_UID", "u-0").env("CONTAINER_NAME", "app");
    let holder = command.spawn().unwrap();
    wait_for("web-0 to hold it", || async {
        let shown = stage.say("lock show x").await;
        if shown.out.contains("web-0") { Ok(()) } else { Err(shown.err) }
    })
    .await
    .unwrap();
    let waiting = stage.under("x --shared", "true");
    stage.until_waiting("x", 1).await;
    let shown = stage.say("lock show x").await;
    has(&shown.out, &["Held by:", "web-0", "web-0/app", "exclusive", "WAITING", "tester@", "shared", "Token:"]);
    assert_eq!(stage.say("__complete lock show x").await.out, "x\n:4\n");
    let listed = stage.say("lock list").await;
    has(&listed.out, &["NAME   HELD BY", "x      web-0     exclusive   1"]);
    let json = stage.json("lock show x").await;
    assert_eq!(json["holders"][0]["process"]["uid"], "u-0", "{json}");
    let claim = json["waiters"][0]["claim"].as_str().unwrap();
    let refused = stage.say(&format!("lock release x --claim {claim}")).await;
    has(&refused.err, &["would wait in vain"]);
    signal(&holder, Signal::TERM);
    assert_eq!(end_of(holder).await.code, 143);
    assert_eq!(end_of(waiting).await.code, 0);

    // One of client-go's.
    let elected = r#"{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "scheduler"},
        "spec": {"holderIdentity": "node-1_abc", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"}}"#;
    stage.scene.apply(elected);
    has(&stage.say("lock show scheduler").await.out, &["node-1_abc", "none of ours", "its time seems to be up"]);
    assert!(!stage.say("lock list").await.out.contains("scheduler"));
    has(&stage.say("lock list --all -A").await.out, &["NAMESPACE", "scheduler", "election"]);
    let said = stage.say("lock run scheduler --wait 0s -- true").await;
    assert_eq!(said.code, 124, "{said:?}");
    has(&said.err, &["held by node-1_abc"]);
    assert_eq!(stage.say("lock release scheduler --force").await.code, 0);
    assert_eq!(stage.say("lock run scheduler --wait 0s -- true").await.code, 0);

    // A semaphore that others use with another number of permits.
    let holder = stage.under("pool --permits 1/3", "echo pid $$ >> $LOG; exec sleep 60");
    begun(&stage).await;
    let other = stage.say("lock run pool --permits 1/2 -- true").await;
    assert_eq!(other.code, 125, "{other:?}");
    has(&other.err, &["is used with 3 permits now, not 2"]);
    has(&stage.say("lock list").await.out, &["1 of 3"]);
    drop(holder);

    // A Lease that something else wrote.
    stage.scene.kubectl(&["annotate", "lease", "x", "--overwrite", "quorate.io/lock=hello"]).unwrap();
    let broken = stage.say("lock run x -- true").await;
    assert_eq!(broken.code, 122, "{broken:?}");
    has(&broken.err, &["quorate.io/lock is no state of a lock", "delete the Lease"]);
    has(&stage.say("lock list").await.err, &["is left out"]);

    // Who has no right is told which.
    stage.scene.kubectl(&["create", "serviceaccount", "nobody"]).unwrap();
    let kubeconfig = cluster.kubeconfig_of(&format!("{}:nobody", stage.scene.namespace)).unwrap();
    let nobody = Stage { kubeconfig, ..stage };
    for line in ["lock run y -- true", "lock run y --wait 0s -- true"] {
        let said = nobody.say(line).await;
        assert_eq!(said.code, 122, "{said:?}");
        has(&said.err, &["forbidden"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_count() {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let stage = Stage::new(&cluster);
    let missing = stage.say("counter add orders").await;
    assert_eq!(missing.code, 2, "{missing:?}");
    has(&missing.err, &["does not exist", "kubectl apply"]);
    stage.scene.apply(
        r#"{"apiVersion": "quorate.io/v1alpha1", "kind": "DistributedCounter", "metadata": {"name": "orders"},
            "spec": {"initial": 10, "min": 0, "max": 100}}"#,
    );
    assert_eq!(stage.say("counter get orders").await.out, "10\n");
    // Each exactly once, and each is told its own.
    let mut told: Vec<i64> = join_all((0..6).map(|_| stage.say("counter add orders")))
        .await
        .iter()
        .map(|said| said.out.trim().parse().unwrap_or_else(|_| panic!("{said:?}")))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [11, 12, 13, 14, 15, 16]);
    assert_eq!(stage.say("counter add orders -6").await.out, "10\n");
    // The same key is the same operation.
    for _ in 0..2 {
        assert_eq!(stage.say("counter add orders 5 --key order-77").await.out, "15\n");
    }
    // What has ended is forgotten: a counter knows only so many.
    let writers = &stage.scene.get("dctr", "orders")["status"]["writers"];
    assert_eq!(writers, &json!({}), "{writers}");

    let no = stage.say("counter set orders 3 --expect 14").await;
    assert_eq!(no.code, 3, "{no:?}");
    has(&no.err, &["the value is 15, not 14: nothing was changed"]);
    let set = stage.json("counter set orders 3 --expect 15").await;
    assert_eq!((&set["value"], &set["before"]), (&json!(3), &json!(15)));
    assert_eq!(stage.json("counter set orders 4 --force").await["before"], 3);
    for (line, part) in [
        ("counter add orders 97", "would be 101, above spec.max 100: nothing was changed"),
        ("counter add orders -5", "would be -1, below spec.min 0"),
        ("counter set orders 101 --force", "above spec.max 100"),
        ("counter add orders 9223372036854775807", "leaves the range of 64 bits"),
    ] {
        let said = stage.say(line).await;
        assert_eq!(said.code, 3, "{line}: {said:?}");
        has(&said.err, &[part]);
    }
    for line in ["counter set orders 4", "counter add Orders", "counter add orders 1 --key "] {
        assert_eq!(stage.say(line).await.code, 1, "{line}");
    }
    assert_eq!(stage.json("counter get orders").await["value"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_hand_out_what_was_sent_until_it_is_acknowledged() {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let stage = Stage::new(&cluster);
    let missing = stage.say("queue receive mails").await;
    assert_eq!(missing.code, 2, "{missing:?}");
    has(&missing.err, &["DistributedQueue", "does not exist", "kubectl apply"]);
    stage.scene.apply(
        r#"{"apiVersion": "quorate.io/v1alpha1", "kind": "DistributedQueue", "metadata": {"name": "mails"},
            "spec": {"visibilityTimeout": "60s", "maxAttempts": 2, "maxLength": 3}}"#,
    );
    let none = stage.say("queue receive mails --wait 1s").await;
    assert_eq!((none.code, none.out.as_str()), (4, ""), "{none:?}");
    assert_eq!(stage.say("queue peek mails").await.out, "no items\n");

    // Each name once; in the order of sending.
    assert_eq!(stage.say("queue send mails first --name order-7").await.out, "mails.order-7\n");
    let again = stage.json("queue send mails first --name order-7").await;
    assert_eq!(again["duplicate"], true, "{again}");
    let file = stage.scene.path("bytes");
    fs::write(&file, [0, 255, 10]).unwrap();
    assert_eq!(stage.say(&format!("queue send mails -f {}", file.display())).await.code, 0);
    let peeked = stage.json("queue peek mails").await;
    assert_eq!(
        (&peeked["items"][0]["payload"], &peeked["items"][1]["payloadBase64"]),
        (&json!("first"), &json!("AP8K"))
    );
    has(&stage.say("queue peek mails").await.out, &["SEQUENCE   ITEM", "mails.order-7", "Ready", "(3 bytes)"]);

    // Received, it is nobody else's.
    let first = stage.json("queue receive mails").await;
    let word = |value: &Value, field: &str| value[field].as_str().unwrap().to_owned();
    assert_eq!((word(&first, "item"), word(&first, "payload")), ("mails.order-7".into(), "first".into()));
    let said = stage.command(&["queue", "receive", "mails", "--raw", "--ack"]).output().await.unwrap();
    assert_eq!(said.stdout, [0, 255, 10]);
    assert_eq!(stage.say("queue receive mails").await.code, 4);
    has(&stage.say("queue length mails").await.out, &["0 ready, 1 claimed, 0 dead"]);
    let receipt = word(&first, "receipt");
    assert_eq!(stage.say(&format!("queue extend mails mails.order-7 {receipt} --visibility 5m")).await.code, 0);
    let back = stage.say(&format!("queue release mails mails.order-7 {receipt} --message disk-full")).await;
    assert_eq!(back.code, 0, "{back:?}");

    // A receipt of before is worth nothing.
    let stale = stage.say(&format!("queue ack mails mails.order-7 {receipt}")).await;
    assert_eq!(stale.code, 3, "{stale:?}");
    has(&stale.err, &["is not valid any more", "nothing was changed"]);
    let second = stage.say("queue receive mails").await;
    has(&second.out, &["Item:", "mails.order-7", "Attempt: 2", "Sent by:", "\n\nfirst\n"]);
    let receipt = word(&stage.scene.get("qi", "mails.order-7")["status"], "receipt");
    stage.say(&format!("queue release mails mails.order-7 {receipt} --message again")).await;

    // Handed out too often, it is dead, until somebody says otherwise.
    has(&stage.say("queue dead mails").await.out, &["mails.order-7", "Dead", "again"]);
    let refused = stage.say("queue purge mails").await;
    assert_eq!(refused.code, 1, "{refused:?}");
    has(&refused.err, &["all dead letters", "--force", "redrive"]);
    has(&stage.say("queue redrive mails mails.order-7").await.out, &["1 dead letter is ready again"]);
    assert_eq!(stage.say("queue redrive mails mails.order-7").await.code, 3);
    let third = stage.json("queue receive mails").await;
    assert_eq!(third["attempts"], 1, "{third}");
    let done = stage.say(&format!("queue ack mails mails.order-7 {}", word(&third, "receipt"))).await;
    assert_eq!(done.code, 0, "{done:?}");
    has(&stage.say("queue length mails").await.out, &["0 ready, 0 claimed, 0 dead"]);

    for (line, code, part) in [
        ("queue send Mails x", 1, "\"Mails\" is no name of a queue"),
        ("queue receive mails --visibility 13h", 1, "from 1 s to 12 h"),
        ("queue ack mails other.item 1-x", 1, "is no item of queue mails"),
        ("queue ack mails mails.nothing 1-x", 3, "there is no such item"),
    ] {
        let said = stage.say(line).await;
        assert_eq!(said.code, code, "{line}: {said:?}");
        has(&said.err, &[part]);
    }
    fs::write(&file, vec![b'x'; 65_537]).unwrap();
    let large = stage.say(&format!("queue send mails -f {}", file.display())).await;
    assert_eq!(large.code, 1, "{large:?}");
    has(&large.err, &["65537 bytes is too large"]);
    for _ in 0..3 {
        assert_eq!(stage.say("queue send mails more").await.code, 0);
    }
    let full = stage.say("queue send mails more").await;
    assert_eq!(full.code, 3, "{full:?}");
    has(&full.err, &["it is full", "nothing was sent"]);
}
