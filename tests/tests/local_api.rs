//! The sidecar's local API on a real API server: sidecars as processes, with the rights that `docs/examples/` gives and no others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    process::{Command, Output},
    time::{Duration, Instant},
};

use quorate_tests::{
    Cluster,
    cluster::root,
    programs::{self, Program},
    scene::Scene,
    wait::{DEADLINE, wait_for},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::OnceCell,
    time::timeout,
};

struct Shared {
    cluster: Cluster,
    _operator: Program,
}

async fn start() -> Shared {
    let cluster = Cluster::start().await.unwrap();
    cluster.install_crds().await.unwrap();
    let operator =
        programs::operator(&cluster.kubeconfig(0), &[], &cluster.folder().join("operator.log")).await.unwrap();
    operator.ready().await.unwrap();
    Shared { cluster, _operator: operator }
}

/// For all tests that do not break it; each has its own namespace.
async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED.get_or_init(start).await
}

fn example(path: &str) -> String {
    fs::read_to_string(root().join("docs/examples").join(path)).unwrap()
}

/// A namespace with config `web` in it, and the rights of its pods' account.
fn place(cluster: &Cluster) -> Scene<'_> {
    let scene = Scene::new(cluster);
    scene.apply(&example("rbac-sidecar.yaml"));
    scene.apply(&example("local-api/rbac.yaml"));
    publish(&scene, 8080);
    scene
}

fn publish(scene: &Scene<'_>, port: u16) {
    let spec = json!({
        "layers": [{"name": "base", "inline": {"port": port}}], "files": [{"path": "app.yaml"}],
    });
    let config = json!({"apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig", "metadata": {"name": "web"}, "spec": spec});
    scene.apply(&config.to_string());
}

fn make(scene: &Scene<'_>, kind: &str, name: &str, spec: &Value) {
    let object = json!({"apiVersion": "quorate.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    scene.apply(&object.to_string());
}

/// A pod's sidecar, whose local API is at an address.
struct Pod {
    sidecar: Program,
    address: String,
}

/// The sidecar of a pod of its own, with the rights of the pods' account.
async fn pod(scene: &Scene<'_>, name: &str) -> Pod {
    let uid = scene.pod(name, "web");
    let account = scene.cluster.kubeconfig_of(&format!("{}:web", scene.namespace)).unwrap();
    let directory = scene.path(name);
    fs::create_dir_all(&directory).unwrap();
    let (log, directory) = (directory.join("sidecar.log"), directory.display().to_string());
    let words = ["--config=web", "--namespace", &scene.namespace, "--directory", &directory, "--api=127.0.0.1:0"];
    let who = ["--pod-name", name, "--pod-uid", &uid, "--container", "app"];
    let sidecar = programs::sidecar(&account, &[&words[..], &who].concat(), &log).await.unwrap();
    let output = sidecar.process.output();
    let address = output.lines().find_map(|line| line.split_once(" api=")).expect(&output).1;
    Pod { address: address.split_whitespace().next().unwrap().to_owned(), sidecar }
}

/// An answer.
#[derive(Debug)]
struct Said {
    status: u16,
    head: String,
    text: String,
}

impl Said {
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }
}

impl Pod {
    async fn open(&self, method: &str, path: &str, headers: &str, body: Option<&Value>) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let length = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        // In HTTP/1.0 a body ends with its connection.
        let request = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\n{length}{headers}\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn call(&self, method: &str, path: &str, headers: &str, body: Option<&Value>) -> Said {
        let mut answer = String::new();
        let mut stream = self.open(method, path, headers, body).await;
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Said { status, head: head.to_lowercase(), text: text.to_owned() }
    }

    async fn get(&self, path: &str) -> Said {
        self.call("GET", path, "", None).await
    }

    async fn post(&self, path: &str, body: &Value) -> Said {
        self.call("POST", path, "", Some(body)).await
    }

    /// Holds a lock for as long as the stream is open; what the first line says.
    async fn hold(&self, lock: &str, body: &Value) -> (BufReader<TcpStream>, Value) {
        let stream = self.open("POST", &format!("/v1/locks/{lock}/hold"), "", Some(body)).await;
        let mut stream = BufReader::new(stream);
        let granted = line(&mut stream).await;
        assert_eq!(granted["event"], "granted", "{granted}");
        (stream, granted)
    }

    async fn file(&self, query: &str) -> Said {
        self.get(&format!("/v1/configs/web/files/app.yaml?{query}")).await
    }
}

/// The next line that is JSON.
async fn line(stream: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut text = String::new();
        let read = timeout(DEADLINE, stream.read_line(&mut text)).await.unwrap().unwrap();
        assert!(read > 0, "the stream has ended");
        if text.starts_with('{') {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

async fn waits(scene: &Scene<'_>, pod: &Pod, lock: &str, count: u64) {
    wait_for(&format!("{count} to wait for {lock}"), || async {
        let said = pod.get(&format!("/v1/locks/{lock}")).await.is(200).json();
        if said["waiting"] == count { Ok(()) } else { Err(said.to_string()) }
    })
    .await
    .unwrap_or_else(|error| panic!("{error}: {}", scene.get("lease", lock)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pods_contend_for_one_lock() {
    let scene = place(&shared().await.cluster);
    let (mut one, two) = (pod(&scene, "web-1").await, pod(&scene, "web-2").await);
    let (stream, first) = one.hold("job", &json!({"ttl": 60})).await;
    let busy = two.post("/v1/locks/job", &json!({})).await.is(409);
    assert!(busy.detail().contains("is held by web-1"), "{}", busy.detail());
    let shown = scene.get("lease", "job");
    assert!(shown["spec"]["holderIdentity"].as_str().unwrap().starts_with("web-1"), "{shown}");
    let claims: Value =
        serde_json::from_str(shown["metadata"]["annotations"]["quorate.io/lock"].as_str().unwrap()).unwrap();
    assert_eq!(claims["holders"][0]["process"]["container"], "app", "{claims}");

    // The stream is closed: the lock passes on at once, long before its time.
    let asked = json!({"wait": 50, "ttl": 60});
    let waiting = two.post("/v1/locks/job", &asked);
    let closing = async {
        waits(&scene, &one, "job", 1).await;
        drop(stream);
        Instant::now()
    };
    let (second, closed) = tokio::join!(waiting, closing);
    let second = second.is(201);
    assert!(closed.elapsed() < Duration::from_secs(10), "{:?}", closed.elapsed());
    assert!(second.json()["token"].as_u64() > first["token"].as_u64());
    assert!(second.head.contains("quorate-lamport:"), "{}", second.head);
    let lease = format!("/v1/locks/job/{}", second.json()["lease"].as_str().unwrap());

    // Given back, the next has it; and its sidecar gives it back when it is ended.
    let (_stream, third) = {
        let waiting = one.hold("job", &asked);
        let giving = async {
            waits(&scene, &two, "job", 1).await;
            two.call("DELETE", &lease, "", None).await.is(204);
        };
        tokio::join!(waiting, giving).0
    };
    assert!(third["token"].as_u64() > second.json()["token"].as_u64());
    let waiting = two.post("/v1/locks/job", &asked);
    let ending = async {
        waits(&scene, &one, "job", 1).await;
        one.sidecar.process.signal(Signal::TERM);
        one.sidecar.process.wait();
        Instant::now()
    };
    let (fourth, ended) = tokio::join!(waiting, ending);
    fourth.is(201);
    assert!(ended.elapsed() < Duration::from_secs(10), "{:?}", ended.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_killed_holds_until_its_time_is_up() {
    let scene = place(&shared().await.cluster);
    let (mut one, two) = (pod(&scene, "web-1").await, pod(&scene, "web-2").await);
    let (_stream, _) = one.hold("job", &json!({"ttl": 3})).await;
    let killed = Instant::now();
    one.sidecar.process.kill();
    two.post("/v1/locks/job", &json!({"wait": 50})).await.is(201);
    assert!(killed.elapsed() > Duration::from_secs(1), "nobody is let in before: {:?}", killed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_is_asked_for_again_is_counted_once() {
    let scene = place(&shared().await.cluster);
    make(&scene, "DistributedCounter", "orders", &json!({"initial": 10, "max": 20}));
    let (one, two) = (pod(&scene, "web-1").await, pod(&scene, "web-2").await);
    let (path, key) = ("/v1/counters/orders/add", "idempotency-key: 7a1c\r\n");
    let first = one.call("POST", path, key, Some(&json!({"by": 3}))).await.is(200).json();
    assert_eq!((&first["before"], &first["value"]), (&json!(10), &json!(13)));
    for pod in [&one, &two, &one] {
        let again = pod.call("POST", path, key, Some(&json!({"by": 3}))).await.is(200).json();
        assert_eq!((&again["before"], &again["value"]), (&json!(10), &json!(13)));
    }
    assert_eq!(two.post(path, &json!({})).await.is(200).json()["value"], 14);
    let bounds = two.post(path, &json!({"by": 7})).await.is(409);
    assert!(bounds.detail().contains("above spec.max 20"), "{}", bounds.detail());
    assert_eq!(scene.get("dctr", "orders")["status"]["value"], 14);
    let missing = one.get("/v1/counters/none").await.is(502);
    assert!(missing.detail().contains("create it first"), "{}", missing.detail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_from_pod_to_pod_and_is_fenced_by_its_receipt() {
    let scene = place(&shared().await.cluster);
    make(&scene, "DistributedQueue", "mails", &json!({"maxAttempts": 3}));
    let (one, two) = (pod(&scene, "web-1").await, pod(&scene, "web-2").await);
    let sent = json!({"payload": "to: all", "name": "order-7"});
    let first = one.post("/v1/queues/mails/messages", &sent).await.is(201).json();
    let again = two.post("/v1/queues/mails/messages", &sent).await.is(201).json();
    assert_eq!(
        (&first["duplicate"], &again["duplicate"], &again["item"]),
        (&json!(false), &json!(true), &first["item"])
    );

    // Whoever falls silent has it no more.
    let received = two.post("/v1/queues/mails/receive", &json!({"wait": 20, "visibility": 1})).await.is(200).json();
    let old = &received["messages"][0];
    assert_eq!((&old["payload"], &old["attempts"], &old["sentBy"]), (&json!("to: all"), &json!(1), &json!("web-1")));
    let received = one.post("/v1/queues/mails/receive", &json!({"wait": 50, "visibility": 600})).await.is(200).json();
    let new = &received["messages"][0];
    assert_eq!((&new["attempts"], new["token"].as_u64() > old["token"].as_u64()), (&json!(2), true));
    let at = |message: &Value, what: &str| format!("/v1/queues/mails/{}/{what}", message["receipt"].as_str().unwrap());
    two.post(&at(old, "ack"), &json!({})).await.is(410);
    // The present receipt is good in any pod.
    two.post(&at(new, "extend"), &json!({"visibility": 60})).await.is(200);
    two.post(&at(new, "ack"), &json!({})).await.is(204);
    one.post(&at(new, "ack"), &json!({})).await.is(204);
    let none = two.post("/v1/queues/mails/receive", &json!({})).await.is(200).json();
    assert_eq!(none["messages"], json!([]));
    let missing = two.post("/v1/queues/none/receive", &json!({})).await.is(502);
    assert!(missing.detail().contains("create it first"), "{}", missing.detail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named() {
    let scene = place(&shared().await.cluster);
    scene.kubectl(&["delete", "rolebinding", "quorate-local-api"]).unwrap();
    let pod = pod(&scene, "web-1").await;
    let message = json!({"payload": "x"});
    for (path, body) in [
        ("/v1/locks/job", json!({})),
        ("/v1/counters/orders/add", json!({})),
        ("/v1/queues/mails/messages", message),
        ("/v1/queues/mails/receive", json!({})),
    ] {
        let refused = pod.post(path, &body).await;
        // A right that was just taken away may still be there for a moment.
        let refused =
            if refused.status == 201 { pod.post("/v1/locks/other", &json!({})).await } else { refused }.is(502);
        assert!(refused.detail().contains("forbidden: the service account needs get"), "{}", refused.detail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_has_its_problem_and_nothing_is_lost() {
    let scene = place(&shared().await.cluster);
    let pod = pod(&scene, "web-1").await;
    let (mut stream, granted) = pod.hold("job", &json!({"ttl": 3})).await;
    for (method, path, body, status) in [
        ("POST", "/v1/locks/Job", json!({}), 400),
        ("POST", "/v1/locks/job", json!({"ttl": 0}), 400),
        ("POST", "/v1/locks/job", json!({"ttl": 31_536_000}), 400),
        ("POST", "/v1/locks/job", json!({"mode": "permits", "take": 9, "of": 3}), 400),
        ("PUT", "/v1/locks/job/none", json!({}), 404),
        ("DELETE", "/v1/locks/job/none", json!({}), 404),
        ("PATCH", "/v1/locks/job", json!({}), 405),
        ("GET", "/v1/configs/db", json!({}), 404),
        ("GET", "/v2", json!({}), 404),
    ] {
        let said = pod.call(method, path, "", Some(&body)).await.is(status);
        assert!(said.head.contains("content-type: application/problem+json"), "{}", said.head);
        assert_eq!(said.json()["status"], status);
    }
    // What something else wrote is not touched, and said so.
    let foreign = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "foreign"},
        "spec": {"holderIdentity": "client-go", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"},
    });
    scene.apply(&foreign.to_string());
    let busy = pod.post("/v1/locks/foreign", &json!({})).await.is(409);
    assert!(busy.detail().contains("client-go"), "{}", busy.detail());
    let held = line(&mut stream).await;
    assert_eq!((&held["event"], &held["token"]), (&json!("held"), &granted["token"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_strong_fails_closed_and_weak_goes_on() {
    let shared = start().await;
    let scene = place(&shared.cluster);
    let pod = pod(&scene, "web-1").await;
    pod.sidecar.ready().await.unwrap();
    assert_eq!(pod.file("consistency=strong").await.is(200).text, "port: 8080\n");
    publish(&scene, 9090);
    wait_for("revision 2", || async {
        let said = pod.file("consistency=strong").await;
        if said.text == "port: 9090\n" { Ok(()) } else { Err(said.text) }
    })
    .await
    .unwrap();
    let (mut stream, _) = pod.hold("job", &json!({"ttl": 4})).await;

    shared.cluster.api_servers[0].signal(Signal::STOP);
    let strong = pod.file("consistency=strong").await.is(503);
    assert!(strong.detail().contains("cannot be known"), "{}", strong.detail());
    assert_eq!(pod.file("consistency=weak").await.is(200).text, "port: 9090\n");
    assert_eq!(pod.file("consistency=bounded&maxAge=300").await.is(200).text, "port: 9090\n");
    pod.file("consistency=bounded&maxAge=0.1").await.is(503);
    // A lock that cannot be renewed is lost in time, and its holder is told.
    let mut last = line(&mut stream).await;
    while last["event"] == "held" {
        last = line(&mut stream).await;
    }
    assert_eq!(last["event"], "lost", "{last}");

    shared.cluster.api_servers[0].signal(Signal::CONT);
    wait_for("strong reads", || async {
        let said = pod.file("consistency=strong").await;
        if said.status == 200 { Ok(()) } else { Err(said.text) }
    })
    .await
    .unwrap();
}

/// Whether there is such a program here.
fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

fn run(pod: &Pod, name: &str) -> Option<Output> {
    let (kind, program) = match name.rsplit_once('.').unwrap().1 {
        "sh" => ("curl", "sh"),
        "py" => ("python3", "python3"),
        _ => ("node", "node"),
    };
    if !has(kind) {
        eprintln!("skipped: there is no {kind} here to run {name}");
        return None;
    }
    let path = root().join("docs/examples/local-api").join(name);
    let mut command = Command::new("timeout");
    command.arg("60").arg(program).arg(path).env("EVENTS", "1").env("QUORATE_URL", format!("http://{}", pod.address));
    Some(command.output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_run() {
    let scene = place(&shared().await.cluster);
    make(&scene, "DistributedCounter", "orders", &json!({}));
    make(&scene, "DistributedQueue", "mails", &json!({}));
    let pod = pod(&scene, "web-1").await;
    pod.sidecar.ready().await.unwrap();
    for (name, says) in [
        ("lock.sh", "working under token "),
        ("lock.py", "step 2 under token "),
        ("lock.mjs", "step 2 under token "),
        ("counter.sh", "\"value\":1"),
        ("counter.py", "ids [3, 4, 5]"),
        ("counter.mjs", "from 5 to 15"),
        ("queue.sh", "\"payload\":\"to: all\""),
        ("queue.py", "attempt 1 of hello"),
        ("queue.mjs", "working on { n: 3 }"),
        ("config.sh", "port: 8080\nport: 8080\nport: 8080\n304"),
        ("config.py", "port: 8080"),
        ("config.mjs", "port: 8080"),
        ("events.sh", "\"revision\":1"),
        ("events.py", "web is at revision 1"),
        ("events.mjs", "config {\"config\":\"web\",\"revision\":1"),
    ] {
        let Some(output) = run(&pod, name) else { continue };
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let has_all = output.status.success() && says.lines().all(|line| out.contains(line));
        assert!(has_all, "{name}: {}\n{out}\n{err}", output.status);
    }
    // Each has given back what it held, and done what it took.
    assert_eq!(pod.get("/v1/queues/mails/messages").await.is(200).json()["messages"], json!([]));
    assert_eq!(pod.get("/v1/locks/nightly").await.is(200).json()["holders"], json!([]));
}

#[test]
fn the_documentation_shows_the_examples_that_are_run() {
    let text = fs::read_to_string(root().join("docs/local-api.md")).unwrap();
    for entry in fs::read_dir(root().join("docs/examples/local-api")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(text.contains(&format!("examples/local-api/{name}")), "docs/local-api.md does not name {name}");
    }
}
