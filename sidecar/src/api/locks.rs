//! Locks under `/v1/locks`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use quorate_coordination::{
    LockState, Mode, Version, Versioned,
    lock::{DEFAULT_TTL, LONGEST_TTL, MOST_PERMITS},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    Api,
    backend::Backend,
    input::{At, CONTAINER, Container, Input, LONGEST_WAIT, as_seconds, named, seconds},
    json::Json,
    keeper::Kept,
    problem::Problem,
    routes::Route,
};

/// The API server has this much time beside the waiting for others.
const ANSWER: Duration = Duration::from_secs(10);
const LOCK: &str = "/v1/locks/{name}";
const LEASE: &str = "/v1/locks/{name}/{lease}";
/// The media type of one JSON object a line.
const NDJSON: &str = "application/x-ndjson";

/// What is asked for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acquire {
    /// How much of the lock.
    #[serde(default)]
    mode: AskedMode,
    /// Permits that are claimed; with mode `permits` only.
    #[schemars(range(min = 1, max = MOST_PERMITS))]
    take: Option<u32>,
    /// Permits that there are; with mode `permits` only, and then needed. All who use a semaphore say the same.
    #[schemars(range(min = 1, max = MOST_PERMITS))]
    of: Option<u32>,
    /// For how many seconds it holds without being renewed: so long do others wait after a crash.
    #[serde(default = "ttl")]
    #[schemars(range(min = 1, max = 3600))]
    ttl: f64,
    /// For how many seconds it is waited for; 0 is not at all.
    #[serde(default)]
    #[schemars(range(min = 0, max = 300))]
    wait: f64,
}

const fn ttl() -> f64 {
    DEFAULT_TTL.as_secs_f64()
}

/// How much of a lock.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Mode")]
pub enum AskedMode {
    /// All of it.
    #[default]
    Exclusive,
    /// It, together with others who share it.
    Shared,
    /// Permits of a semaphore.
    Permits,
}

/// A lock that is held by lease.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Lease")]
pub struct LeaseShown {
    /// The lock.
    name: String,
    /// By which it is renewed and given back. Whoever knows it can: keep it to yourself.
    lease: String,
    /// The fencing token: it rises with every grant. What the lock protects should refuse lower ones than the highest
    /// it has seen.
    token: u64,
    /// For how many seconds it is certainly held from now on.
    valid_for: f64,
    /// After so many seconds without a renewal it is given back.
    ttl: f64,
}

/// A renewal.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Renewed {
    /// The fencing token.
    token: u64,
    /// For how many seconds it is certainly held from now on.
    valid_for: f64,
}

/// A line of a stream that holds a lock.
#[derive(Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum HoldEvent {
    /// The first line: it is held.
    Granted {
        /// The fencing token.
        token: u64,
        /// For how many seconds it is certainly held from now on.
        valid_for: f64,
    },
    /// Now and then: it is still held.
    Held {
        /// The fencing token.
        token: u64,
        /// For how many seconds it is certainly held from now on.
        valid_for: f64,
    },
    /// The last line: it is not held any more. What it protects must stop.
    Lost {
        /// The fencing token.
        token: u64,
        /// Why.
        reason: String,
    },
}

/// A lock.
#[derive(Serialize, JsonSchema)]
pub struct LockShown {
    /// The lock.
    name: String,
    /// The version: the fencing token of the newest grant is not higher.
    version: u64,
    /// Who holds it, in the order in which they were granted it.
    holders: Vec<HolderShown>,
    /// How many wait.
    waiting: usize,
    /// The highest Lamport stamp of an operation on it.
    lamport: i64,
    /// The highest stamp of its users' hybrid logical clocks.
    hlc: String,
}

/// Who holds a lock.
#[derive(Serialize, JsonSchema)]
pub struct HolderShown {
    /// What people know it by: a pod's name.
    identity: String,
    /// How much of the lock. None of a holder that is not Quorate's, such as client-go.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<AskedMode>,
    /// Permits of a semaphore.
    #[serde(skip_serializing_if = "Option::is_none")]
    take: Option<u32>,
    /// Its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    /// For how many seconds it holds without being renewed.
    ttl: f64,
}

/// What can be asked.
pub fn routes<B: Backend>() -> [Route<B>; 5] {
    [
        Route::new(("get", LOCK), "getLock", "Who holds a lock, by a quorum read", get(state::<B>))
            .answers::<LockShown>(200, "The lock; one that nobody ever held is free")
            .problems(&[502, 503]),
        Route::new(
            ("post", LOCK),
            "acquireLock",
            "Acquire a lock, held by a lease that is to be renewed within its ttl",
            post(acquire::<B>),
        )
        .headers(&[CONTAINER])
        .body::<Acquire>()
        .answers::<LeaseShown>(201, "It is held")
        .problems(&[409, 410, 429, 502, 503, 504]),
        Route::new(("put", LEASE), "renewLock", "Say that the lock is still wanted", put(renew::<B>))
            .answers::<Renewed>(200, "It is still held")
            .problems(&[404, 410]),
        Route::new(("delete", LEASE), "releaseLock", "Give the lock back", delete(release::<B>))
            .problems(&[404, 410, 502, 503, 504]),
        Route::new(
            ("post", "/v1/locks/{name}/hold"),
            "holdLock",
            "Acquire a lock, held for exactly as long as the response stays open",
            post(hold::<B>),
        )
        .headers(&[CONTAINER])
        .body::<Acquire>()
        .streams::<HoldEvent>(NDJSON, "It is held. One JSON object a line; the last says that it is lost")
        .problems(&[409, 410, 429, 502, 503, 504]),
    ]
}

impl Acquire {
    fn mode(&self) -> Result<Mode, Problem> {
        match (self.mode, self.take, self.of) {
            (AskedMode::Exclusive, None, None) => Ok(Mode::Exclusive),
            (AskedMode::Shared, None, None) => Ok(Mode::Shared),
            (AskedMode::Permits, take, Some(of)) => Ok(Mode::Permits { take: take.unwrap_or(1), of }),
            (AskedMode::Permits, _, None) => Err(Problem::invalid("of is missing: how many permits the semaphore has")),
            _ => Err(Problem::invalid("take and of are for mode permits only")),
        }
    }
}

/// `POST /v1/locks/{name}`
async fn acquire<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    container: Container,
    Input(asked): Input<Acquire>,
) -> Result<Response, Problem> {
    let kept = granted(&api, &name, container, &asked, true).await?;
    let lease = api.session.random.id();
    let (token, valid_for) = (kept.token, as_seconds(kept.renew().await?));
    api.keeper.lend(lease.clone(), kept);
    let place = format!("/v1/locks/{name}/{lease}");
    let body = Json(LeaseShown { name, lease, token, valid_for, ttl: asked.ttl });
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], body).into_response())
}

/// `PUT /v1/locks/{name}/{lease}`
async fn renew<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At((name, lease)): At<(String, String)>,
) -> Result<Json<Renewed>, Problem> {
    let (token, left) = api.keeper.renew(named(&name)?, &lease).await?;
    Ok(Json(Renewed { token, valid_for: as_seconds(left) }))
}

/// `DELETE /v1/locks/{name}/{lease}`
async fn release<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At((name, lease)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    api.keeper.release(named(&name)?, &lease).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/locks/{name}/hold`
async fn hold<B: Backend>(
    State(api): State<Arc<Api<B>>>,
    At(name): At<String>,
    container: Container,
    Input(asked): Input<Acquire>,
) -> Result<Response, Problem> {
    let kept = granted(&api, &name, container, &asked, false).await?;
    let (token, valid_for) = (kept.token, as_seconds(kept.renew().await?));
    let (interval, first) = (Duration::from_secs_f64(asked.ttl / 3.0), HoldEvent::Granted { token, valid_for });
    let lines = stream::unfold((Some(kept), Some(first)), move |(kept, first)| async move {
        let kept = kept?;
        let event = match first {
            Some(first) => first,
            None => next(&kept, interval).await,
        };
        let goes_on = !matches!(event, HoldEvent::Lost { .. });
        // Strings and numbers: it cannot fail.
        let line = serde_json::to_string(&event).unwrap_or_default() + "\n";
        Some((Ok::<_, Infallible>(line), (goes_on.then_some(kept), None)))
    });
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON))], Body::from_stream(lines)).into_response())
}

/// `GET /v1/locks/{name}`
async fn state<B: Backend>(State(api): State<Arc<Api<B>>>, At(name): At<String>) -> Result<Json<LockShown>, Problem> {
    let lock = api.backend.lock(named(&name)?, api.session.clone(), DEFAULT_TTL)?;
    let read = timeout(ANSWER, lock.state()).await.map_err(|_| no_answer(&name, "try again"))??;
    Ok(Json(shown(name, &read)))
}

/// Held, and kept from now on.
async fn granted<B: Backend>(
    api: &Api<B>,
    name: &str,
    container: Container,
    asked: &Acquire,
    by_lease: bool,
) -> Result<Kept, Problem> {
    let (name, mode) = (named(name)?, asked.mode()?);
    let (ttl, wait) = (seconds("ttl", asked.ttl, LONGEST_TTL)?, seconds("wait", asked.wait, LONGEST_WAIT)?);
    let slot = api.keeper.slot()?;
    let lock = api.backend.lock(name, api.session_of(container), ttl)?;
    // Dropped, also because the application hangs up, the claim is taken back.
    let held = timeout(wait + ANSWER, lock.acquire(mode, Some(wait))).await;
    let held = held.map_err(|_| no_answer(name, "nothing is held, and the claim is taken back: try again"))??;
    Ok(api.keeper.keep(name, held, by_lease.then_some(ttl), slot))
}

fn no_answer(name: &str, then: &str) -> Problem {
    Problem::unavailable(format!("lock {name}: the API server gave no answer in time: {then}"))
}

/// What a stream says next.
async fn next(kept: &Kept, interval: Duration) -> HoldEvent {
    let token = kept.token;
    let lost = tokio::select! {
        reason = kept.ended() => reason,
        () = sleep(interval) => match kept.renew().await {
            Ok(left) => return HoldEvent::Held { token, valid_for: as_seconds(left) },
            Err(_) => kept.ended().await,
        },
    };
    HoldEvent::Lost { token, reason: lost }
}

fn shown<V: Version>(name: String, read: &Versioned<LockState, V>) -> LockShown {
    let ours = read.state.holders.iter().map(|holder| {
        let (mode, take) = match holder.claim.mode {
            Mode::Exclusive => (AskedMode::Exclusive, None),
            Mode::Shared => (AskedMode::Shared, None),
            Mode::Permits { take, .. } => (AskedMode::Permits, Some(take)),
        };
        HolderShown {
            identity: holder.claim.identity.clone(),
            mode: Some(mode),
            take,
            container: holder.claim.process.as_ref().and_then(|process| process.container.clone()),
            ttl: as_seconds(holder.claim.ttl()),
        }
    });
    let foreign = read.state.foreign.iter().map(|foreign| HolderShown {
        identity: foreign.identity.clone(),
        mode: None,
        take: None,
        container: None,
        ttl: as_seconds(foreign.ttl),
    });
    LockShown {
        name,
        version: read.version.token(),
        holders: ours.chain(foreign).collect(),
        waiting: read.state.waiters.len(),
        lamport: read.state.lamport,
        hlc: read.state.hlc.to_string(),
    }
}
