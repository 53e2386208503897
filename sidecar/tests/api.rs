//! The local API over registers in memory: what applications rely on, and that it is as its `OpenAPI` document says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api_scene;
mod scene;

use std::time::Duration;

use api_scene::{Local, Said};
use quorate_coordination::lock::Claim;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

fn token(said: &Said) -> u64 {
    said.json["token"].as_u64().unwrap()
}

fn lease(said: &Said) -> String {
    format!("/v1/locks/job/{}", said.json["lease"].as_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_by_lease_renewed_and_given_back() {
    let local = Local::new(&[]).await;
    let held = local.post("/v1/locks/job", &json!({"ttl": 10})).await.is(201);
    assert_eq!(held.header("location"), lease(&held));
    let left = held.json["validFor"].as_f64().unwrap();
    assert!(left > 5.0 && left <= 10.0, "{left}");

    let busy = local.post("/v1/locks/job", &json!({})).await.is(409);
    assert!(busy.kind() == "lock-busy" && busy.detail().contains("web-1"), "{}", busy.json);
    let shown = local.get("/v1/locks/job").await.is(200);
    assert_eq!(shown.json["holders"][0]["identity"], "web-1");
    assert_eq!((&shown.json["holders"][0]["mode"], &shown.json["waiting"]), (&json!("exclusive"), &json!(0)));

    // As long as the application is there, it holds far beyond its time.
    for _ in 0..10 {
        sleep(Duration::from_secs(8)).await;
        let renewed = local.put(&lease(&held)).await.is(200);
        assert_eq!(token(&renewed), token(&held));
    }
    local.delete(&lease(&held)).await.is(204);
    local.delete(&lease(&held)).await.is(404);
    let next = local.post("/v1/locks/job", &json!({})).await.is(201);
    assert!(token(&next) > token(&held));
}

#[tokio::test(start_paused = true)]
async fn an_application_that_falls_silent_holds_nothing_for_ever() {
    let local = Local::new(&[]).await;
    let held = local.post("/v1/locks/job", &json!({"ttl": 2})).await.is(201);
    let began = Instant::now();
    let next = local.post("/v1/locks/job", &json!({"ttl": 2, "wait": 60})).await.is(201);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(1900) && waited < Duration::from_millis(2500), "{waited:?}");
    assert!(token(&next) > token(&held));
    let gone = local.put(&lease(&held)).await.is(410);
    assert!(gone.detail().contains("without a renewal"), "{}", gone.json);
    local.delete(&lease(&held)).await.is(410);
    local.put(&lease(&held)).await.is(404);
}

#[tokio::test(start_paused = true)]
async fn a_stream_holds_a_lock_for_exactly_as_long_as_it_is_open() {
    let local = Local::new(&[]).await;
    let mut stream = local.stream("/v1/locks/job/hold", &json!({"ttl": 3})).await;
    let granted = stream.line().await.unwrap();
    assert_eq!(granted["event"], "granted");
    for _ in 0..5 {
        let held = stream.line().await.unwrap();
        assert_eq!((&held["event"], &held["token"]), (&json!("held"), &granted["token"]));
    }
    local.post("/v1/locks/job", &json!({})).await.is(409);
    let waiting = tokio::spawn({
        let local = local.clone();
        async move { local.post("/v1/locks/job", &json!({"wait": 60})).await }
    });
    local.waiters("job", 1).await;
    let began = Instant::now();
    drop(stream);
    let next = waiting.await.unwrap().is(201);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert!(token(&next) > granted["token"].as_u64().unwrap());
}

#[tokio::test(start_paused = true)]
async fn whoever_hangs_up_while_waiting_waits_no_more() {
    let local = Local::new(&[]).await;
    local.post("/v1/locks/job", &json!({"ttl": 600})).await.is(201);
    let waiting = tokio::spawn({
        let local = local.clone();
        async move { local.post("/v1/locks/job/hold", &json!({"wait": 60})).await }
    });
    local.waiters("job", 1).await;
    waiting.abort();
    local.waiters("job", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_on_the_stream_to_the_lease_and_to_listeners() {
    let local = Local::new(&[]).await;
    let mut events = local.events(None).await;
    let mut stream = local.stream("/v1/locks/job/hold", &json!({})).await;
    let granted = stream.line().await.unwrap();
    let held = local.post("/v1/locks/other", &json!({"ttl": 3600})).await.is(201);
    local.take_back("job").await;
    local.take_back("other").await;
    let mut last = stream.line().await.unwrap();
    while last["event"] == "held" {
        last = stream.line().await.unwrap();
    }
    assert_eq!((&last["event"], &last["token"]), (&json!("lost"), &granted["token"]));
    assert_eq!(stream.line().await, None, "nothing comes after it");
    let mut told = [events.next("lock-lost").await, events.next("lock-lost").await];
    told.sort_by_key(|event| event["lock"].to_string());
    assert_eq!((&told[0]["lock"], &told[0]["token"]), (&json!("job"), &granted["token"]));
    assert_eq!((&told[1]["lock"], &told[1]["token"]), (&json!("other"), &held.json["token"]));
    local.put(&lease(&held).replace("job", "other")).await.is(410);
}

#[tokio::test(start_paused = true)]
async fn shared_locks_and_semaphores() {
    let local = Local::new(&[]).await;
    for _ in 0..3 {
        local.post("/v1/locks/doc", &json!({"mode": "shared"})).await.is(201);
    }
    local.post("/v1/locks/doc", &json!({})).await.is(409);
    let permits = |take: u32, of: u32| json!({"mode": "permits", "take": take, "of": of});
    local.post("/v1/locks/pool", &permits(2, 3)).await.is(201);
    local.post("/v1/locks/pool", &permits(2, 3)).await.is(409);
    local.post("/v1/locks/pool", &json!({"mode": "permits", "of": 3})).await.is(201);
    let other = local.post("/v1/locks/pool", &permits(1, 4)).await.is(409);
    assert_eq!(other.kind(), "other-permits");
    let shown = local.get("/v1/locks/pool").await.is(200);
    let takes: Vec<&Value> = shown.json["holders"].as_array().unwrap().iter().map(|holder| &holder["take"]).collect();
    assert_eq!(takes, [&json!(2), &json!(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_names_the_container_and_that_it_lives_now() {
    let local = Local::new(&["--container", "app"]).await;
    let claims = async |path: &str, header: &str| -> Claim {
        let headers: &[(&str, &str)] = if header.is_empty() { &[] } else { &[("quorate-container", header)] };
        local.call("POST", path, headers, Some(&json!({}))).await.is(201);
        local.lock_state(path.rsplit('/').next().unwrap()).holders[0].claim.clone()
    };
    let first = claims("/v1/locks/a", "").await.process.unwrap();
    assert_eq!((first.pod.as_str(), first.uid.as_str(), first.container.as_deref()), ("web-1", "p", Some("app")));
    let second = claims("/v1/locks/b", "worker").await.process.unwrap();
    assert_eq!(second.container.as_deref(), Some("worker"));
    assert!(second.alive > first.alive, "each request says that its process lives then");
}

#[tokio::test(start_paused = true)]
async fn a_pod_holds_so_many_locks_and_ends_without_any() {
    let local = Local::new(&[]).await;
    for n in 0..quorate_sidecar::api::MOST_LOCKS {
        local.post(&format!("/v1/locks/l{n}"), &json!({"ttl": 600})).await.is(201);
    }
    let refused = local.post("/v1/locks/one-more", &json!({})).await.is(429);
    assert!(refused.detail().contains("64") && refused.header("retry-after") == "1", "{}", refused.json);
    local.api.close().await;
    for n in 0..quorate_sidecar::api::MOST_LOCKS {
        assert!(local.lock_state(&format!("l{n}")).is_free(), "l{n}");
    }
    local.post("/v1/locks/l0", &json!({})).await.is(503);
}

#[tokio::test(start_paused = true)]
async fn counters_count_once_under_a_key() {
    let local = Local::new(&[]).await;
    let add = |by: i64, key: &'static str| {
        let local = local.clone();
        async move { local.call("POST", "/v1/counters/c/add", &[("idempotency-key", key)], Some(&json!({"by": by}))).await }
    };
    assert_eq!(local.get("/v1/counters/c").await.is(200).json["value"], 0);
    let first = add(5, "a").await.is(200);
    assert_eq!((&first.json["before"], &first.json["value"]), (&json!(0), &json!(5)));
    for _ in 0..3 {
        assert_eq!(add(5, "a").await.is(200).json["value"], 5, "asked again, it is not done again");
    }
    assert_eq!(add(5, "b").await.is(200).json["value"], 10);
    assert_eq!(add(6, "a").await.is(422).kind(), "key-reused");
    let set = |expected: i64, new: i64| json!({"expected": expected, "new": new});
    let other = local.post("/v1/counters/c/compare-and-set", &set(9, 1)).await.is(409);
    assert!(other.kind() == "mismatch" && other.detail().contains("the value is 10"), "{}", other.json);
    local.post("/v1/counters/c/compare-and-set", &set(10, 90)).await.is(200);
    let bounds = local.post("/v1/counters/c/add", &json!({"by": 11})).await.is(409);
    assert!(bounds.kind() == "bounds" && bounds.detail().contains("spec.max"), "{}", bounds.json);
    local.post("/v1/counters/c/add", &json!({"by": i64::MAX})).await.is(409);
    assert_eq!(local.post("/v1/counters/c/add", &json!({})).await.is(200).json["value"], 91);
}

#[tokio::test(start_paused = true)]
async fn blocks_of_ids_do_not_overlap() {
    let local = Local::new(&[]).await;
    let (ten, five) = (json!({"count": 10}), json!({"count": 5}));
    let (one, two) = tokio::join!(local.post("/v1/counters/c/ids", &ten), local.post("/v1/counters/c/ids", &five));
    let block = |said: Said| (said.json["first"].as_i64().unwrap(), said.json["last"].as_i64().unwrap());
    let mut blocks = [block(one.is(200)), block(two.is(200))];
    blocks.sort_unstable();
    assert!(blocks == [(1, 10), (11, 15)] || blocks == [(1, 5), (6, 15)], "{blocks:?}");
    for count in [0, 1_000_001] {
        local.post("/v1/counters/c/ids", &json!({"count": count})).await.is(400);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_handed_out_until_they_are_acknowledged() {
    let local = Local::new(&[]).await;
    let send = |body: Value| {
        let local = local.clone();
        async move { local.post("/v1/queues/mails/messages", &body).await.is(201).json }
    };
    let receive = |body: Value| {
        let local = local.clone();
        async move { local.post("/v1/queues/mails/receive", &body).await.is(200).json["messages"].clone() }
    };
    let at = |message: &Value, what: &str| format!("/v1/queues/mails/{}/{what}", message["receipt"].as_str().unwrap());
    assert_eq!(receive(json!({})).await, json!([]));
    let first = send(json!({"payload": "grüße", "name": "order-7"})).await;
    assert_eq!(first["duplicate"], false);
    let again = send(json!({"payload": "other", "name": "order-7"})).await;
    assert_eq!((&again["duplicate"], &again["sequence"]), (&json!(true), &first["sequence"]));
    send(json!({"binaryPayload": "AP8K"})).await;
    let peeked = local.get("/v1/queues/mails/messages?limit=1").await.is(200).json;
    assert_eq!(
        (&peeked["messages"][0]["payload"], &peeked["messages"][0]["state"]),
        (&json!("grüße"), &json!("Ready"))
    );

    let both = receive(json!({"max": 5, "visibility": 10, "wait": 20})).await;
    assert_eq!((&both[0]["payload"], &both[1]["binaryPayload"]), (&json!("grüße"), &json!("AP8K")));
    assert_eq!((both.as_array().unwrap().len(), &both[0]["attempts"]), (2, &json!(1)));
    assert_eq!(receive(json!({})).await, json!([]), "both are worked on");
    local.post(&at(&both[0], "ack"), &json!({})).await.is(204);
    local.post(&at(&both[0], "ack"), &json!({})).await.is(204);
    let kept = local.post(&at(&both[1], "extend"), &json!({"visibility": 100})).await.is(200).json;
    assert!(kept["validFor"].as_f64().unwrap() > 50.0, "{kept}");
    local.post(&at(&both[1], "release"), &json!({"message": "no power"})).await.is(204);

    // Nobody acknowledges it in time: it was handed out twice, and is dead.
    let second = receive(json!({"visibility": 5})).await;
    assert_eq!((&second[0]["attempts"], &second[0]["name"]), (&json!(2), &Value::Null));
    assert!(second[0]["token"].as_u64() > both[1]["token"].as_u64());
    let stale = local.post(&at(&both[1], "ack"), &json!({})).await.is(410);
    assert!(stale.detail().contains("not valid any more"), "{}", stale.json);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(receive(json!({"wait": 5})).await, json!([]));
    let dead = local.get("/v1/queues/mails/messages?dead=true").await.is(200).json;
    assert_eq!(
        (&dead["messages"][0]["state"], &dead["messages"][0]["binaryPayload"]),
        (&json!("Dead"), &json!("AP8K"))
    );
    assert_eq!(local.get("/v1/queues/mails/messages").await.is(200).json["messages"], json!([]));
    local.post(&at(&second[0], "extend"), &json!({})).await.is(410);
}

#[tokio::test(start_paused = true)]
async fn each_bad_message_has_its_problem() {
    let local = Local::new(&[]).await;
    for (path, body, says) in [
        ("mails/messages", json!({}), "either payload or binaryPayload"),
        ("mails/messages", json!({"payload": "a", "binaryPayload": "AA=="}), "either payload or binaryPayload"),
        ("mails/messages", json!({"binaryPayload": "correct-horse!"}), "another type"),
        ("mails/messages", json!({"payload": "a", "name": ""}), "1 to 255 bytes"),
        ("mails/messages", json!({"payload": "x".repeat(70_000)}), "too large"),
        ("Mails/messages", json!({"payload": "a"}), "is no name"),
        ("a.b/messages", json!({"payload": "a"}), "no name of a queue"),
        ("mails/receive", json!({"visibility": 0}), "from 1 s to 12 h"),
        ("mails/receive", json!({"visibility": 43_201}), "visibility must be"),
        ("mails/receive", json!({"wait": 301}), "wait must be"),
        ("mails/receive", json!({"max": 0}), "max must be"),
        ("mails/receive", json!({"max": 17}), "max must be"),
        ("mails/none/ack", json!({}), "no receipt"),
        ("mails/other.a:1-x/ack", json!({}), "is no item of queue mails"),
    ] {
        let said = local.post(&format!("/v1/queues/{path}"), &body).await.is(400);
        assert!(said.detail().contains(says), "{path}: {}", said.json);
        assert!(!said.text.contains("correct-horse"), "{}", said.json);
    }
    local.get("/v1/queues/mails/messages?limit=101").await.is(400);
    local.post("/v1/queues/mails/mails.none:1-x/ack", &json!({})).await.is(410);
    for n in 0..20 {
        local.post("/v1/queues/mails/messages", &json!({"payload": n.to_string()})).await.is(201);
    }
    let full = local.post("/v1/queues/mails/messages", &json!({"payload": "one more"})).await.is(503);
    assert!(full.kind() == "queue-full" && full.detail().contains("maxLength is 20"), "{}", full.json);
}

#[tokio::test(start_paused = true)]
async fn stamps_are_above_what_was_seen() {
    let local = Local::new(&[]).await;
    let lamport = |said: &Said| said.header("quorate-lamport").parse::<i64>().unwrap();
    let first = local.post("/v1/clock/tick", &json!({})).await.is(200);
    assert_eq!(
        (first.json["lamport"].as_i64().unwrap(), &first.json["hlc"]),
        (lamport(&first), &json!(first.header("quorate-hlc")))
    );
    let merged = local.post("/v1/clock/merge", &json!({"lamport": 1000, "hlc": first.json["hlc"]})).await.is(200);
    assert!(lamport(&merged) > 1000 && merged.json["hlc"].as_str() > first.json["hlc"].as_str());
    let later = local.call("GET", "/v1/locks/x", &[("quorate-lamport", "5000")], None).await.is(200);
    assert!(lamport(&later) > 5000, "{}", lamport(&later));
    // A clock that is hours ahead carries nobody away.
    let ahead = local.post("/v1/clock/merge", &json!({"lamport": 9_000_000, "hlc": "ffffffffffff0000"})).await.is(409);
    assert_eq!(ahead.kind(), "clock-ahead");
    assert!(lamport(&ahead) < 9_000_000, "all of it or nothing");
    for bad in [json!({"lamport": -1}), json!({"hlc": "x"}), json!({"lamport": "1"})] {
        local.post("/v1/clock/merge", &bad).await.is(400);
    }
    local.call("GET", "/v1/locks/x", &[("quorate-lamport", "x")], None).await.is(400);
}

#[tokio::test(start_paused = true)]
async fn each_bad_input_has_its_problem() {
    let local = Local::new(&[]).await;
    for (path, body, says) in [
        ("/v1/locks/Job", json!({}), "is no name"),
        ("/v1/locks/a_b", json!({}), "is no name"),
        ("/v1/locks/job", json!({"ttl": 0}), "from 1 s to 1 h"),
        ("/v1/locks/job", json!({"ttl": -1}), "ttl must be"),
        ("/v1/locks/job", json!({"ttl": 31_536_000}), "ttl must be"),
        ("/v1/locks/job", json!({"wait": 301}), "wait must be 0 to 300"),
        ("/v1/locks/job", json!({"wait": 1e300}), "wait must be"),
        ("/v1/locks/job", json!({"mode": "permits"}), "of is missing"),
        ("/v1/locks/job", json!({"mode": "permits", "take": 4, "of": 3}), "4 of 3 permits"),
        ("/v1/locks/job", json!({"mode": "permits", "of": 100_000}), "512"),
        ("/v1/locks/job", json!({"take": 1}), "mode permits only"),
        ("/v1/locks/job", json!({"mode": "most"}), "unknown variant"),
        ("/v1/locks/job", json!({"tll": 5}), "unknown field `tll`"),
        ("/v1/locks/job", json!([1]), "no JSON object"),
        ("/v1/counters/c/add", json!({"by": "much"}), "another type"),
        ("/v1/counters/c/add", json!({"by": 1e40}), "another type or out of range"),
        ("/v1/counters/C/add", json!({"by": 1}), "is no name"),
    ] {
        let said = local.post(path, &body).await.is(400);
        assert!(said.kind() == "invalid" && said.detail().contains(says), "{path} {body}: {}", said.json);
    }
    let long = "x".repeat(254);
    local.post(&format!("/v1/locks/{long}"), &json!({})).await.is(400);
    local.put("/v1/locks/job/none").await.is(404);
    local.delete("/v1/locks/job/none").await.is(404);
    local.get("/v1/nothing").await.is(404);
    local.get("/").await.is(404);
    let method = local.call("PATCH", "/v1/locks/job", &[], None).await.is(405);
    assert!(method.header("allow").contains("POST"), "{:?}", method.headers);
    for (header, value, status) in [
        ("quorate-container", "Not_A_Name", 400),
        ("host", "evil.example", 421),
        ("origin", "http://evil.example", 403),
    ] {
        local.call("POST", "/v1/locks/job", &[(header, value)], Some(&json!({}))).await.is(status);
    }
    local.call("POST", "/v1/counters/c/add", &[("idempotency-key", "")], Some(&json!({}))).await.is(400);
    let key = "k".repeat(256);
    local.call("POST", "/v1/counters/c/add", &[("idempotency-key", &key)], Some(&json!({}))).await.is(400);
    for (type_, body, status) in [
        ("application/json", "{", 400),
        ("text/plain", "{}", 415),
        ("application/x-www-form-urlencoded", "ttl=1", 415),
        ("application/json; charset=utf-8", "{\"ttl\": 5}", 201),
    ] {
        local.send("POST", "/v1/locks/job", &[("content-type", type_)], body.into()).await.is(status);
    }
    let huge = format!("{{\"by\": 1{}}}", " ".repeat(quorate_sidecar::api::MOST_BYTES));
    local.send("POST", "/v1/counters/c/add", &[("content-type", "application/json")], huge).await.is(413);
    // What is sent wrongly is not shown: it may be a secret.
    let said = local.post("/v1/counters/c/add", &json!({"by": "correct-horse"})).await.is(400);
    assert!(!said.json.to_string().contains("correct-horse"), "{}", said.json);
}

#[tokio::test(start_paused = true)]
async fn trouble_at_the_api_server_is_told_apart() {
    let local = Local::new(&[]).await;
    for (counter, status, kind) in
        [("missing", 502, "refused"), ("silent", 503, "unavailable"), ("lost", 504, "uncertain")]
    {
        let said = local.post(&format!("/v1/counters/{counter}/add"), &json!({})).await.is(status);
        assert_eq!(said.kind(), kind, "{}", said.json);
    }
}

#[tokio::test]
async fn the_document_is_whole_and_of_the_very_router() {
    let local = Local::new(&[]).await;
    let document = local.get("/v1/openapi.json").await.is(200).json;
    assert_eq!(document["openapi"], "3.1.1");
    let mut ids = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            ids.push(operation["operationId"].as_str().unwrap().to_owned());
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
            // The router knows it: what is refused then is the name.
            let asked = path
                .replace("{name}", "BAD")
                .replace("{lease}", "x")
                .replace("{receipt}", "x:y")
                .replace("{path}", "a/b");
            let answer = local.status(&method.to_uppercase(), &asked).await;
            assert!(![404, 405].contains(&answer) || asked.contains("configs"), "{method} {path}: {answer}");
            // Every parameter of the path is described.
            let described = operation["parameters"].as_array().unwrap();
            for name in path.split(['{', '}']).skip(1).step_by(2) {
                assert!(described.iter().any(|one| one["in"] == "path" && one["name"] == name), "{path}: {name}");
            }
        }
    }
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all, "operationIds are unique");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::draft202012::meta::is_valid(schema), "{name}");
        local.validator(schema);
    }
}
