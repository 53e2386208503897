//! What requests hold: read within limits, and refused with a problem.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::{HeaderMap, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use quorate_coordination::lock::object_name;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::problem::Problem;

/// The largest body of a request, in bytes.
pub const MOST_BYTES: usize = 384 * 1024;
/// A request's body must be there within this.
const SLOWEST_BODY: Duration = Duration::from_secs(10);
/// The longest that a request may wait for others.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// The header that names the container that asks.
pub const CONTAINER: &str = "quorate-container";

/// A JSON body; none is an empty object.
pub struct Input<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let body = Limited::new(request.into_body(), MOST_BYTES).collect();
        let bytes = match timeout(SLOWEST_BODY, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let detail = format!("the body has more than {MOST_BYTES} bytes, which is the most: send less");
                return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail));
            }
            Ok(Err(_)) => return Err(Problem::invalid("the body ended early: send all of it")),
            Err(_) => {
                let detail = format!("the body was not there within {} s: send it faster", SLOWEST_BODY.as_secs());
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "slow", "The body came too slowly", detail));
            }
        };
        if !bytes.is_empty() && !is_json {
            let (title, detail) = ("The body is not JSON", "send JSON, with Content-Type: application/json");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", title, detail));
        }
        let bytes = if bytes.is_empty() { &b"{}"[..] } else { bytes.trim_ascii_start() };
        // An array of the fields' values would be read, too.
        if !bytes.starts_with(b"{") {
            return Err(Problem::invalid("the body is no JSON object"));
        }
        let input = serde_json::from_slice(bytes).map_err(|error| Problem::invalid(told(&error)))?;
        Ok(Self(input))
    }
}

/// What is wrong with a body. The error's own text may show values, which may be a message's.
fn told(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let place = format!("line {}, column {}", error.line(), error.column());
    match error.classify() {
        Category::Data => {
            let text = error.to_string();
            // Of serde's messages these name fields alone.
            let named = ["missing field", "unknown field", "unknown variant", "duplicate field"];
            let why = if named.iter().any(|begin| text.starts_with(begin)) {
                text
            } else {
                format!("a value is of another type or out of range at {place}")
            };
            format!("the body is not what is asked for here: {why}; see /v1/openapi.json")
        }
        _ => format!("the body is no JSON, from {place} on"),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let type_ = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    type_.split(';').next().is_some_and(|type_| type_.trim().eq_ignore_ascii_case("application/json"))
}

/// What the query says.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = Query::try_from_uri(&parts.uri);
        query.map(|Query(asked)| Self(asked)).map_err(|error| Problem::invalid(error.body_text()))
    }
}

/// What the path says.
pub struct At<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(at)| Self(at)).map_err(|error| Problem::invalid(error.body_text()))
    }
}

/// The container that asks, if it says so.
pub struct Container(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Container {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(CONTAINER) else { return Ok(Self(None)) };
        let name = value.to_str().ok().filter(|name| is_label(name));
        let named = name.map(|name| Self(Some(name.to_owned())));
        named.ok_or_else(|| Problem::invalid("the header Quorate-Container names no container: it is a DNS label"))
    }
}

/// Whether it is a DNS label, as containers' names are.
#[must_use]
pub fn is_label(name: &str) -> bool {
    object_name(name).is_ok() && name.len() <= 63 && !name.contains('.')
}

/// A lock's, counter's or queue's name.
pub fn named(name: &str) -> Result<&str, Problem> {
    object_name(name).map(|()| name).map_err(|error| Problem::invalid(error.to_string()))
}

/// Seconds, as they come in JSON.
pub fn seconds(what: &str, value: f64, most: Duration) -> Result<Duration, Problem> {
    let time = Duration::try_from_secs_f64(value).ok().filter(|time| *time <= most);
    time.ok_or_else(|| Problem::invalid(format!("{what} must be 0 to {} seconds", most.as_secs())))
}

/// Seconds, as they go out.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of less than a century are exact")]
pub fn as_seconds(time: Duration) -> f64 {
    time.as_millis() as f64 / 1e3
}
