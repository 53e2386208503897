//! A change to a config against a scripted API server: others write in between, answers are lost.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use kube::client::Body;
use quorate_cli::{
    answer::Answer,
    change::{annotate, change},
    cluster::Cluster,
    commands::order,
    exit::{Exit, Failure},
    format::Style,
    options::{Follow, Output},
};
use quorate_crds::DistributedConfig;
use serde_json::{Value, json};

/// What becomes of a PATCH.
#[derive(Clone, Copy)]
enum Fate {
    Done,
    /// Somebody wrote before.
    Conflict,
    /// It is done, but the answer is lost.
    DoneUnheard,
    /// It is done, the operator has obeyed since: no candidate is left. The answer is lost.
    ObeyedUnheard,
    /// It is not done, and the answer is lost.
    Lost,
    /// Somebody wrote before, and no candidate is left.
    GoneBefore,
    /// The config was deleted and made again before.
    MadeAgain,
    Forbidden,
}

/// A config as the API server has it, what becomes of each PATCH, and what was sent.
struct Script {
    config: Value,
    fates: VecDeque<Fate>,
    patches: Vec<Value>,
}

impl Script {
    fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        if method == Method::GET {
            return (200, self.config.clone());
        }
        let patch: Value = serde_json::from_slice(body).unwrap();
        self.patches.push(patch.clone());
        let refused = |code: u16| (code, json!({"kind": "Status", "status": "Failure", "message": "no", "code": code}));
        match self.fates.pop_front().unwrap_or(Fate::Conflict) {
            Fate::Done => {
                self.write(&patch);
                (200, self.config.clone())
            }
            Fate::DoneUnheard => {
                self.write(&patch);
                refused(504)
            }
            Fate::ObeyedUnheard => {
                self.write(&patch);
                self.config["status"]["candidate"].take();
                refused(504)
            }
            Fate::Conflict => {
                self.touch();
                refused(409)
            }
            Fate::GoneBefore => {
                self.config["status"]["candidate"].take();
                self.touch();
                refused(409)
            }
            Fate::MadeAgain => {
                self.touch();
                self.config["metadata"]["uid"] = "u2".into();
                refused(409)
            }
            Fate::Lost => refused(504),
            Fate::Forbidden => refused(403),
        }
    }

    /// As the API server: only what was read may be written over.
    fn write(&mut self, patch: &Value) {
        for precondition in ["uid", "resourceVersion"] {
            assert_eq!(patch["metadata"][precondition], self.config["metadata"][precondition]);
        }
        self.config["metadata"]["annotations"] = patch["metadata"]["annotations"].clone();
        self.touch();
    }

    fn touch(&mut self) {
        let version: u64 = self.config["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        self.config["metadata"]["resourceVersion"] = (version + 1).to_string().into();
    }
}

/// A config with revision 4 on its way, whose patches meet these fates.
fn script(fates: &[Fate]) -> Arc<Mutex<Script>> {
    let config = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "1"},
        "spec": {"layers": [], "files": []},
        "status": {"phase": "Progressing", "candidate": {
            "revision": 4, "hash": "sha256:4444", "uid": "c4", "strategy": "Canary", "since": "2026-01-01T00:00:00Z",
            "asked": 10, "accepted": 4, "rejected": 0, "message": "4 of 10 applied"
        }}
    });
    Arc::new(Mutex::new(Script { config, fates: fates.iter().copied().collect(), patches: Vec::new() }))
}

/// The API server that plays it.
fn cluster(script: &Arc<Mutex<Script>>) -> Cluster {
    let shared = Arc::clone(script);
    let service = tower::service_fn(move |request: Request<Body>| {
        let shared = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let (code, answer) = shared.lock().unwrap().answer(&parts.method, &body);
            Ok::<_, Infallible>(Response::builder().status(code).body(Full::from(answer.to_string())).unwrap())
        }
    });
    Cluster { client: kube::Client::new(service, "shop"), namespace: "shop".into() }
}

/// Pauses a config: whether it was written and how often that was tried.
async fn paused(fates: &[Fate]) -> (Result<bool, Failure>, usize) {
    let script = script(fates);
    let pause = |config: &DistributedConfig| Ok(annotate(config, "quorate.io/paused", Some("true")));
    let result = change(&cluster(&script), "web", pause).await;
    let tries = script.lock().unwrap().patches.len();
    (result.map(|(_, written)| written), tries)
}

#[tokio::test]
async fn a_change_is_made_once_whoever_writes_in_between() {
    assert_eq!(paused(&[Fate::Done]).await, (Ok(true), 1));
    assert_eq!(paused(&[Fate::Conflict, Fate::Conflict, Fate::Done]).await, (Ok(true), 3));
}

#[tokio::test]
async fn a_lost_answer_is_settled_by_reading_again() {
    assert_eq!(paused(&[Fate::DoneUnheard]).await, (Ok(true), 1));
    assert_eq!(paused(&[Fate::Lost, Fate::Done]).await, (Ok(true), 2));
}

#[tokio::test]
async fn an_order_that_was_obeyed_before_its_answer_was_lost_is_done() {
    let given_up = |fates: &'static [Fate]| async {
        let script = script(fates);
        let answer = Answer { output: Output::Json, style: Style::default() };
        let result = order::abort(&cluster(&script), answer, "web", Follow::default()).await;
        let tries = script.lock().unwrap().patches.len();
        (result, tries)
    };
    assert_eq!(given_up(&[Fate::ObeyedUnheard]).await, (Ok(Exit::Ok), 1));
    assert_eq!(given_up(&[Fate::Lost, Fate::Done]).await, (Ok(Exit::Ok), 2));
    // It came to nothing without us.
    let (gone, tries) = given_up(&[Fate::GoneBefore]).await;
    assert_eq!((gone.unwrap_err().exit, tries), (Exit::NotFound, 1));
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    let failure = |fates: &'static [Fate]| async { paused(fates).await.0.unwrap_err() };
    assert!(failure(&[Fate::MadeAgain]).await.message.contains("was deleted and made again meanwhile"));
    let forbidden = failure(&[Fate::Forbidden]).await;
    assert_eq!(
        (forbidden.exit, forbidden.message.as_str()),
        (Exit::Error, "patch DistributedConfig shop/web: no (403)")
    );
    // Without end.
    assert!(failure(&[]).await.message.contains("changed by others all the time; nothing was done"));
    assert!(failure(&[Fate::Lost; 20]).await.message.contains("whether it was done is not known"));
}
