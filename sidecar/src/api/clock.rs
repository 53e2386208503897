//! The pod's clocks, Lamport's and the hybrid logical one: under `/v1/clock`, and in the headers of every request and
//! response.
//!
//! A response's stamps are above all that the pod has seen and stamped before. Whoever sends the stamps of a message it got
//! along with a request makes everything after it be stamped above that message.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::post,
};
use http::{HeaderMap, HeaderValue};
use quorate_coordination::{Session, Stamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Api, backend::Backend, input::Input, json::Json, problem::Problem, routes::Route};

/// The header of Lamport's stamps.
pub const LAMPORT: &str = "quorate-lamport";
/// The header of the hybrid logical clock's.
pub const HLC: &str = "quorate-hlc";

/// A moment, by both clocks.
#[derive(Serialize, JsonSchema)]
pub struct Moment {
    /// Lamport's clock.
    #[schemars(range(min = 1))]
    lamport: i64,
    /// The hybrid logical clock: 16 hexadecimal digits, which sort as the stamps do.
    #[schemars(regex(pattern = r"^[0-9a-f]{16}$"))]
    hlc: String,
}

/// The stamps of something that was seen.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// By Lamport's clock.
    #[schemars(range(min = 0))]
    lamport: Option<i64>,
    /// By the hybrid logical clock.
    #[schemars(regex(pattern = r"^[0-9a-f]{16}$"))]
    hlc: Option<String>,
}

impl Moment {
    fn now(session: &Session) -> Self {
        let hlc = session.hlc.now(session.clock.wall());
        Self { lamport: session.lamport.tick(), hlc: hlc.to_string() }
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert(LAMPORT, HeaderValue::from(self.lamport));
        if let Ok(hlc) = HeaderValue::try_from(&self.hlc) {
            headers.insert(HLC, hlc);
        }
    }
}

impl Seen {
    fn of_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |name: &str| match headers.get(name).map(HeaderValue::to_str) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.to_owned())),
            Some(Err(_)) => Err(Problem::invalid(format!("the header {name} is no stamp"))),
        };
        let lamport = text(LAMPORT)?.map(|text| text.parse());
        let lamport =
            lamport.transpose().map_err(|_| Problem::invalid(format!("the header {LAMPORT} is no number")))?;
        Ok(Self { lamport, hlc: text(HLC)? })
    }

    /// All of it or nothing.
    fn merge(&self, session: &Session) -> Result<(), Problem> {
        if self.lamport.is_some_and(|stamp| stamp < 0) {
            return Err(Problem::invalid("a Lamport stamp is not negative"));
        }
        if let Some(hlc) = &self.hlc {
            let stamp: Stamp = hlc.parse().map_err(|error| Problem::invalid(format!("{error}")))?;
            session.hlc.see(stamp, session.clock.wall()).map_err(|error| {
                Problem::conflict("clock-ahead", "A stamp is too far ahead to be believed", error.to_string())
            })?;
        }
        if let Some(lamport) = self.lamport {
            session.lamport.see(lamport);
        }
        Ok(())
    }
}

/// What can be asked.
pub fn routes<B: Backend>() -> [Route<B>; 2] {
    let tick = Route::new(
        ("post", "/v1/clock/tick"),
        "tick",
        "A stamp above all that was seen and stamped before",
        post(tick::<B>),
    );
    let merge = Route::new(
        ("post", "/v1/clock/merge"),
        "merge",
        "Something with these stamps was seen: a stamp above it",
        post(merge::<B>),
    );
    [tick, merge.body::<Seen>()].map(|route| route.answers::<Moment>(200, "The stamp").problems(&[409]))
}

/// `POST /v1/clock/tick`
async fn tick<B: Backend>(State(api): State<Arc<Api<B>>>) -> Response {
    told(&api.session)
}

/// `POST /v1/clock/merge`
async fn merge<B: Backend>(State(api): State<Arc<Api<B>>>, Input(seen): Input<Seen>) -> Result<Response, Problem> {
    seen.merge(&api.session)?;
    Ok(told(&api.session))
}

fn told(session: &Session) -> Response {
    let moment = Moment::now(session);
    let mut headers = HeaderMap::new();
    moment.write(&mut headers);
    (headers, Json(moment)).into_response()
}

/// Merges a request's stamps, and stamps the response.
pub async fn stamp<B: Backend>(State(api): State<Arc<Api<B>>>, request: Request, next: Next) -> Response {
    let seen = Seen::of_headers(request.headers()).and_then(|seen| seen.merge(&api.session));
    let mut response = match seen {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if !response.headers().contains_key(LAMPORT) {
        Moment::now(&api.session).write(response.headers_mut());
    }
    response
}
