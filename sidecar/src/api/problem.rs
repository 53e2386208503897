//! What goes wrong, as RFC 9457 has it: what happened, to which object, and what to do.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use quorate_coordination::{LockError, Undone};
use schemars::JsonSchema;
use serde::Serialize;

/// The media type of a problem.
pub const PROBLEM: &str = "application/problem+json";
/// What problems' types begin with: names, which nothing is behind.
const TYPE: &str = "tag:quorate.io,2026:";

/// A problem. Its detail never holds a file's or a message's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
}

/// A problem, as it is sent.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
pub struct ProblemBody {
    /// Names the kind of problem: compare this. A `tag:` URI.
    #[serde(rename = "type")]
    type_: String,
    /// The kind of problem, for people.
    title: String,
    /// The HTTP status.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// What happened, to which object, and what to do.
    detail: String,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into() }
    }

    /// What was asked for makes no sense.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", "The request makes no sense", detail)
    }

    /// There is no such thing.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown", "There is no such thing", detail)
    }

    /// Something that was there is not any more.
    pub fn gone(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "gone", "It is not held any more", detail)
    }

    /// It cannot be done or told now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "It cannot be done or told now", detail)
    }

    /// The pod has as many as it may.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many", "The pod has as many as it may", detail)
    }

    /// Others were first, or the state is another.
    pub fn conflict(kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, title, detail)
    }

    /// Its status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// As it is sent.
    #[must_use]
    pub fn text(&self) -> String {
        let body = ProblemBody {
            type_: format!("{TYPE}{}", self.kind),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
        };
        // Strings and a number: it cannot fail.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.text()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Undone> for Problem {
    fn from(undone: Undone) -> Self {
        let detail = undone.to_string();
        match undone {
            Undone::Refused { .. } => {
                Self::new(StatusCode::BAD_GATEWAY, "refused", "The API server refuses it", detail)
            }
            Undone::TimedOut { .. } => Self::unavailable(detail),
            Undone::Unknown { .. } => Self::uncertain(detail),
        }
    }
}

impl Problem {
    /// Whether it was done cannot be told.
    pub fn uncertain(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "uncertain", "It may have been done, or may be yet", detail)
    }
}

impl From<LockError> for Problem {
    fn from(error: LockError) -> Self {
        let detail = error.to_string();
        match error {
            LockError::Invalid(_) => Self::invalid(detail),
            LockError::Busy { .. } => Self::conflict("lock-busy", "Others hold the lock", detail),
            LockError::OtherPermits { .. } => {
                Self::conflict("other-permits", "The semaphore has another number of permits", detail)
            }
            LockError::Full { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "lock-full", "Too many wait for the lock", detail)
            }
            LockError::NoSuchClaim { .. } => Self::gone(detail),
            LockError::Undone(undone) => undone.into(),
        }
    }
}
