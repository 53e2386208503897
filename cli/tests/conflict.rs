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
    change::{annotate, change},
    cluster::Cluster,
    exit::{Exit, Failure},
};
use serde_json::{Value, json};

/// What becomes of a PATCH.
#[derive(Clone, Copy)]
enum Fate {
    Done,
    /// Somebody wrote before.
    Conflict,
    /// It is done, but the answer is lost.
    DoneUnheard,
    /// It is not done, and the answer is lost.
    Lost,
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
            Fate::Conflict => {
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

/// Pauses a config whose patches meet these fates: whether it was written and how often that was tried.
async fn paused(fates: &[Fate]) -> (Result<bool, Failure>, usize) {
    let config = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "DistributedConfig",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "1"},
        "spec": {"layers": [], "files": []}
    });
    let script = Script { config, fates: fates.iter().copied().collect(), patches: Vec::new() };
    let script = Arc::new(Mutex::new(script));
    let shared = Arc::clone(&script);
    let service = tower::service_fn(move |request: Request<Body>| {
        let shared = Arc::clone(&shared);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let (code, answer) = shared.lock().unwrap().answer(&parts.method, &body);
            Ok::<_, Infallible>(Response::builder().status(code).body(Full::from(answer.to_string())).unwrap())
        }
    });
    let cluster = Cluster { client: kube::Client::new(service, "shop"), namespace: "shop".into() };
    let result = change(&cluster, "web", |config| Ok(annotate(config, "quorate.io/paused", Some("true")))).await;
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
