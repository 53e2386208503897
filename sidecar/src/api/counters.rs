//! Counters under `/v1/counters`, and blocks of ids from them.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, State},
    routing::{get, post},
};
use http::{StatusCode, request::Parts};
use quorate_coordination::{
    Answer, Counter, CounterError,
    counter::{Key, Operation, Refusal},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Api,
    backend::Backend,
    input::{At, Input, named},
    json::Json,
    problem::Problem,
    routes::Route,
};

/// The header by which an operation is done once, however often it is asked for.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// What may come of an operation.
const PROBLEMS: &[u16] = &[409, 422, 502, 503, 504];
/// The most ids in a block.
const MOST_IDS: u32 = 1_000_000;

/// What is added.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// May be negative.
    #[serde(default = "one")]
    by: i64,
}

const fn one() -> i64 {
    1
}

/// What is set, if it is what is expected.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareAndSet {
    /// What the value must be.
    expected: i64,
    /// What it becomes.
    new: i64,
}

/// How many ids.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    /// As many as are used within some minutes: what is left of a block is lost when the application ends.
    #[schemars(range(min = 1, max = MOST_IDS))]
    count: u32,
}

/// A counter's value.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Value")]
pub struct Counted {
    /// The value before the operation.
    before: i64,
    /// The value after it.
    value: i64,
    /// A version of the counter that has it: what comes later has a higher one.
    token: u64,
    /// The Lamport stamp of that version.
    lamport: i64,
    /// Its stamp by the hybrid logical clock.
    hlc: String,
}

/// Unique ids: `first`, `last`, and all between. Nobody else gets any of them.
#[derive(Serialize, JsonSchema)]
pub struct Block {
    /// The first.
    first: i64,
    /// The last.
    last: i64,
}

impl From<Answer> for Counted {
    fn from(answer: Answer) -> Self {
        let Answer { before, after, token, lamport, hlc } = answer;
        Self { before, value: after, token, lamport, hlc: hlc.to_string() }
    }
}

/// The operation's key, if it has one.
pub struct IdempotencyKey(Option<Key>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() {
            return Err(Problem::invalid("there are two Idempotency-Key headers: send one"));
        }
        let text = value.to_str().map_err(|_| Problem::invalid("the Idempotency-Key is no ASCII text"))?;
        // Structured fields have strings in quotes; most clients send none.
        let key = Key::new(text.trim().trim_matches('"')).map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(Self(Some(key)))
    }
}

/// What can be asked.
pub fn routes<B: Backend>() -> [Route<B>; 4] {
    [
        Route::new(
            ("get", "/v1/counters/{name}"),
            "getCounter",
            "A counter's value, by a quorum read",
            get(value::<B>),
        )
        .answers::<Counted>(200, "The value")
        .problems(&[502, 503, 504]),
        Route::new(
            ("post", "/v1/counters/{name}/add"),
            "addToCounter",
            "Add to a counter, or take from it",
            post(add::<B>),
        )
        .headers(&[IDEMPOTENCY_KEY])
        .body::<Add>()
        .answers::<Counted>(200, "It is done, once")
        .problems(PROBLEMS),
        Route::new(
            ("post", "/v1/counters/{name}/compare-and-set"),
            "compareAndSetCounter",
            "Set a counter if it has the expected value",
            post(compare_and_set::<B>),
        )
        .headers(&[IDEMPOTENCY_KEY])
        .body::<CompareAndSet>()
        .answers::<Counted>(200, "It is done, once")
        .problems(PROBLEMS),
        Route::new(
            ("post", "/v1/counters/{name}/ids"),
            "takeIds",
            "Take a block of unique ids from a counter",
            post(ids::<B>),
        )
        .headers(&[IDEMPOTENCY_KEY])
        .body::<Ids>()
        .answers::<Block>(200, "They are yours alone")
        .problems(PROBLEMS),
    ]
}

/// `GET /v1/counters/{name}`
async fn value<B: Backend>(State(api): State<Arc<Api<B>>>, At(name): At<String>) -> Result<Json<Counted>, Problem> {
    perform(&api, &name, Operation::Get, None).await
}

/// `POST /v1/counters/{name}/add`
async fn add<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    IdempotencyKey(key): IdempotencyKey,
    Input(asked): Input<Add>,
) -> Result<Json<Counted>, Problem> {
    perform(&api, &name, Operation::Add(asked.by), key).await
}

/// `POST /v1/counters/{name}/compare-and-set`
async fn compare_and_set<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    IdempotencyKey(key): IdempotencyKey,
    Input(asked): Input<CompareAndSet>,
) -> Result<Json<Counted>, Problem> {
    let CompareAndSet { expected, new } = asked;
    perform(&api, &name, Operation::CompareAndSet { expected, new }, key).await
}

/// `POST /v1/counters/{name}/ids`
async fn ids<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    IdempotencyKey(key): IdempotencyKey,
    Input(asked): Input<Ids>,
) -> Result<Json<Block>, Problem> {
    if !(1..=MOST_IDS).contains(&asked.count) {
        return Err(Problem::invalid(format!("count must be 1 to {MOST_IDS}")));
    }
    let Json(taken) = perform(&api, &name, Operation::Add(asked.count.into()), key).await?;
    Ok(Json(Block { first: taken.before.saturating_add(1), last: taken.value }))
}

async fn perform<B: Backend>(
    api: &Api<B>,
    name: &str,
    operation: Operation,
    key: Option<Key>,
) -> Result<Json<Counted>, Problem> {
    let name = named(name)?;
    let counter: Counter = api.counters.get(name, || api.backend.counter(name, api.session.clone()))?;
    let answer = counter.perform(operation, key).await?;
    Ok(Json(answer.into()))
}

impl From<CounterError> for Problem {
    fn from(error: CounterError) -> Self {
        let (detail, uncertain) = (error.to_string(), error.is_unknown());
        match error {
            CounterError::Undone(undone) => undone.into(),
            _ if uncertain => Self::uncertain(detail),
            CounterError::Invalid(_) | CounterError::NoKey(_) => Self::invalid(detail),
            CounterError::Refused { why: Refusal::Mismatch { .. }, .. } => {
                Self::conflict("mismatch", "The value is not the expected one", detail)
            }
            CounterError::Refused { why: Refusal::KeyReused { .. }, .. } => {
                let title = "The idempotency key was used for something else";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "key-reused", title, detail)
            }
            CounterError::Refused { why: Refusal::KeysFull, .. } | CounterError::Full { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "counter-full", "The counter has no room for more", detail)
            }
            CounterError::Refused { .. } => Self::conflict("bounds", "The counter's bounds forbid it", detail),
            CounterError::Forgotten { .. } | CounterError::Ended => Self::uncertain(detail),
        }
    }
}
