//! Queues under `/v1/queues`.
//!
//! A receipt, as applications have it, names the item too: `ITEM:RECEIPT`.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use k8s_openapi::ByteString;
use quorate_coordination::{
    Delivery, Payload, Queue, QueueError, Sent,
    queue::{LONGEST_VISIBILITY, Peeked, Which},
};
use quorate_crds::{MAX_QUEUE_PAYLOAD, MAX_VISIBILITY_SECONDS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    backend::Backend,
    input::{Asked, At, Input, LONGEST_WAIT, as_seconds, named, seconds},
    json::Json,
    problem::Problem,
    routes::Route,
};

/// Messages that are received in one call: each is claimed by a write of its own, while the time of the first runs.
const MOST_RECEIVED: usize = 16;
/// Messages that are peeked at in one call.
const MOST_PEEKED: usize = 100;
/// What a call to the API server may come to.
const PROBLEMS: &[u16] = &[409, 410, 502, 503, 504];

/// What is sent: text, or bytes that are none.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Send {
    /// Text: 64 KiB at most.
    #[schemars(length(max = MAX_QUEUE_PAYLOAD))]
    payload: Option<String>,
    /// Or bytes, in base64: 64 KiB at most.
    #[schemars(with = "Option<String>")]
    binary_payload: Option<ByteString>,
    /// What it is about, such as order-7: while a message of this name is there, also for some time after it was
    /// acknowledged, no other is sent.
    #[schemars(length(min = 1, max = 255))]
    name: Option<String>,
}

/// What was sent.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Sent")]
pub struct SentShown {
    /// Its object.
    item: String,
    /// Its place in the queue.
    sequence: i64,
    /// Whether there was one of this name already: then nothing was sent, and this tells of that one.
    duplicate: bool,
}

/// What is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Receive {
    /// For how many seconds it is kept from others; without it, for as long as the queue says.
    #[schemars(range(min = 1, max = MAX_VISIBILITY_SECONDS))]
    visibility: Option<f64>,
    /// For how many seconds the first is waited for.
    #[serde(default)]
    #[schemars(range(min = 0, max = 300))]
    wait: f64,
    /// How many.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = MOST_RECEIVED))]
    max: usize,
}

const fn one() -> usize {
    1
}

/// Messages that were received: maybe none.
#[derive(Serialize, JsonSchema)]
pub struct Received {
    /// In the order of their sequence.
    messages: Vec<Message>,
}

/// A message that was received. It is handed out again when its time is up.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// By which it is acknowledged, extended or released, also through another pod.
    receipt: String,
    /// A number that rises each time that it is handed out: what the work writes to can refuse lower ones.
    token: u64,
    /// For how many seconds nobody else is given it, for certain.
    valid_for: f64,
    /// What was sent.
    #[serde(flatten)]
    sent: Content,
}

/// A message's content, and what is said of it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// Its object.
    item: String,
    /// The name it was sent under.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Its place in the queue.
    sequence: i64,
    /// How often it was handed out. From 2 on, somebody may have worked on it before.
    attempts: i64,
    /// Who sent it.
    sent_by: String,
    /// Its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// Or its bytes, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    binary_payload: Option<ByteString>,
}

/// Messages that nobody is given by this.
#[derive(Serialize, JsonSchema)]
pub struct PeekedShown {
    /// In the order of their sequence.
    messages: Vec<PeekedMessage>,
}

/// A message, as it was seen.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeekedMessage {
    /// Where it stands: `Ready`, `Claimed` or `Dead`.
    state: String,
    /// Who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_by: Option<String>,
    /// Why it was given back, or is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// What was sent.
    #[serde(flatten)]
    sent: Content,
}

/// What is looked at.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Peek {
    /// How many.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = MOST_PEEKED))]
    limit: usize,
    /// Dead letters, instead of those that are to be handed out or are worked on.
    #[serde(default)]
    dead: bool,
}

const fn ten() -> usize {
    10
}

/// For how long it is kept from others.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// Seconds from now on; without it, for as long as the queue says.
    #[schemars(range(min = 1, max = MAX_VISIBILITY_SECONDS))]
    visibility: Option<f64>,
}

/// It is kept from others.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Extended {
    /// For how many seconds from now on, for certain.
    valid_for: f64,
}

/// Why it is given back.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The reason, which people are shown.
    #[schemars(length(max = 1024))]
    message: Option<String>,
}

/// What can be asked.
pub fn routes<B: Backend>() -> [Route<B>; 6] {
    [
        Route::new(
            ("get", MESSAGES),
            "peekMessages",
            "The first messages of a queue, without taking any",
            get(peek::<B>),
        )
        .query::<Peek>()
        .answers::<PeekedShown>(200, "The messages")
        .problems(PROBLEMS),
        Route::new(("post", MESSAGES), "sendMessage", "Send a message", post(send::<B>))
            .body::<Send>()
            .answers::<SentShown>(201, "It is in the queue")
            .problems(PROBLEMS),
        Route::new(
            ("post", "/v1/queues/{name}/receive"),
            "receiveMessages",
            "Receive messages, which nobody else is given for some time",
            post(receive::<B>),
        )
        .body::<Receive>()
        .answers::<Received>(200, "The messages; none if there are none")
        .problems(PROBLEMS),
        Route::new(
            ("post", "/v1/queues/{name}/{receipt}/ack"),
            "acknowledgeMessage",
            "It is done: it is not handed out any more",
            post(acknowledge::<B>),
        )
        .problems(PROBLEMS),
        Route::new(
            ("post", "/v1/queues/{name}/{receipt}/extend"),
            "extendMessage",
            "It takes longer: keep it from others",
            post(extend::<B>),
        )
        .body::<Extend>()
        .answers::<Extended>(200, "It is kept")
        .problems(PROBLEMS),
        Route::new(
            ("post", "/v1/queues/{name}/{receipt}/release"),
            "releaseMessage",
            "Give it back: it is handed out again at once, or dead if it has no attempt left",
            post(release::<B>),
        )
        .body::<Release>()
        .problems(PROBLEMS),
    ]
}

const MESSAGES: &str = "/v1/queues/{name}/messages";

/// `POST /v1/queues/{name}/messages`
async fn send<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    Input(asked): Input<Send>,
) -> Result<(StatusCode, Json<SentShown>), Problem> {
    let payload = match (asked.payload, asked.binary_payload) {
        (Some(text), None) => Payload::Text(text),
        (None, Some(ByteString(bytes))) => Payload::Binary(bytes),
        _ => return Err(Problem::invalid("a message has either payload or binaryPayload: say one of them")),
    };
    let Sent { item, sequence, duplicate, .. } = queue(&api, &name)?.send(payload, asked.name.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(SentShown { item, sequence, duplicate })))
}

/// `POST /v1/queues/{name}/receive`
async fn receive<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    Input(asked): Input<Receive>,
) -> Result<Json<Received>, Problem> {
    if !(1..=MOST_RECEIVED).contains(&asked.max) {
        return Err(Problem::invalid(format!("max must be 1 to {MOST_RECEIVED}")));
    }
    let visibility = visibility(asked.visibility)?;
    let mut wait = seconds("wait", asked.wait, LONGEST_WAIT)?;
    let queue = queue(&api, &name)?;
    let mut messages = Vec::new();
    while messages.len() < asked.max {
        match queue.receive(visibility, wait).await {
            Ok(Some(delivery)) => messages.push(delivered(&delivery)),
            Ok(None) => break,
            // What was received before is not lost by it.
            Err(_) if !messages.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
        wait = Duration::ZERO;
    }
    Ok(Json(Received { messages }))
}

/// `GET /v1/queues/{name}/messages`
async fn peek<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    Asked(asked): Asked<Peek>,
) -> Result<Json<PeekedShown>, Problem> {
    if !(1..=MOST_PEEKED).contains(&asked.limit) {
        return Err(Problem::invalid(format!("limit must be 1 to {MOST_PEEKED}")));
    }
    let which = if asked.dead { Which::Dead } else { Which::Live };
    let peeked = queue(&api, &name)?.peek(which, asked.limit).await?;
    Ok(Json(PeekedShown { messages: peeked.into_iter().map(seen).collect() }))
}

/// `POST /v1/queues/{name}/{receipt}/ack`
async fn acknowledge<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At((name, receipt)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (item, receipt) = parts(&receipt)?;
    queue(&api, &name)?.acknowledge(item, receipt).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/queues/{name}/{receipt}/extend`
async fn extend<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At((name, receipt)): At<(String, String)>,
    Input(asked): Input<Extend>,
) -> Result<Json<Extended>, Problem> {
    let ((item, receipt), visibility) = (parts(&receipt)?, visibility(asked.visibility)?);
    let left = queue(&api, &name)?.extend(item, receipt, visibility).await?;
    Ok(Json(Extended { valid_for: as_seconds(left) }))
}

/// `POST /v1/queues/{name}/{receipt}/release`
async fn release<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At((name, receipt)): At<(String, String)>,
    Input(asked): Input<Release>,
) -> Result<StatusCode, Problem> {
    let (item, receipt) = parts(&receipt)?;
    queue(&api, &name)?.release(item, receipt, asked.message.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn queue<B: Backend>(api: &Api<B>, name: &str) -> Result<Queue<B::Queue>, Problem> {
    let name = named(name)?;
    Ok(api.queues.get(name, || api.backend.queue(name, api.session.clone()))?)
}

/// The item that a receipt names, and the item's receipt.
fn parts(receipt: &str) -> Result<(&str, &str), Problem> {
    receipt.rsplit_once(':').ok_or_else(|| Problem::invalid("this is no receipt: give it as it was received"))
}

fn visibility(asked: Option<f64>) -> Result<Option<Duration>, Problem> {
    asked.map(|asked| seconds("visibility", asked, LONGEST_VISIBILITY)).transpose()
}

fn delivered<B: quorate_coordination::queue::Store>(delivery: &Delivery<B>) -> Message {
    let (payload, binary_payload) = split(delivery.payload());
    Message {
        receipt: format!("{}:{}", delivery.item(), delivery.receipt()),
        token: delivery.token(),
        valid_for: as_seconds(delivery.valid_for()),
        sent: Content {
            item: delivery.item().to_owned(),
            name: delivery.name().map(str::to_owned),
            sequence: delivery.sequence(),
            attempts: delivery.attempts(),
            sent_by: delivery.sent_by().to_owned(),
            payload,
            binary_payload,
        },
    }
}

fn seen(peeked: Peeked) -> PeekedMessage {
    let Peeked { item, name, sequence, state, attempts, claimed_by, message, sent_by, payload } = peeked;
    let (payload, binary_payload) = split(payload);
    let sent = Content { item, name, sequence, attempts, sent_by, payload, binary_payload };
    PeekedMessage { state: format!("{state:?}"), claimed_by, message, sent }
}

fn split(payload: Payload) -> (Option<String>, Option<ByteString>) {
    match payload {
        Payload::Text(text) => (Some(text), None),
        Payload::Binary(bytes) => (None, Some(ByteString(bytes))),
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let detail = error.to_string();
        match error {
            QueueError::Undone(undone) => undone.into(),
            QueueError::Invalid(_) => Self::invalid(detail),
            QueueError::Full { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "queue-full", "The queue is full", detail)
            }
            QueueError::Leftover { .. } => {
                Self::conflict("leftover", "An item of a deleted queue has the name", detail)
            }
            QueueError::NotDead { .. } => Self::conflict("not-dead", "It is no dead letter", detail),
            QueueError::Stale { .. } => Self::gone(detail),
            QueueError::Ended => Self::unavailable(detail),
        }
    }
}
