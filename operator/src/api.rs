//! What every call to the API server obeys: a time limit, and an error that says what was asked of
//! which object.

use std::{fmt, future::Future, time::Duration};

/// The time limit of one call.
pub const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A call that failed.
#[derive(Debug)]
pub struct ApiError {
    /// What was asked, of which object: `create Secret shop/web.quorate`.
    pub call: String,
    /// Why it failed.
    pub cause: Cause,
}

/// Why a call failed.
#[derive(Debug)]
pub enum Cause {
    /// No answer within [`CALL_LIMIT`]. A write may still land.
    TimeOut,
    /// kube's error: the API server's refusal, or no connection.
    Kube(Box<kube::Error>),
}

impl ApiError {
    /// The HTTP status the API server answered with, if it answered.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match &self.cause {
            Cause::Kube(error) => match &**error {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Cause::TimeOut => None,
        }
    }

    /// Whether the API server refused for a reason that repeating does not change. Otherwise a
    /// write's result is unknown.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| (400..500).contains(&code) && code != 429 && code != 408)
    }

    /// A word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match (&self.cause, self.code()) {
            (Cause::TimeOut, _) => "timeout",
            (_, None) => "unreachable",
            (_, Some(403)) => "forbidden",
            (_, Some(404)) => "not_found",
            (_, Some(409)) => "conflict",
            (_, Some(413 | 422)) => "invalid",
            (_, Some(_)) => "api",
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::TimeOut => write!(f, "{}: no answer within {} s", self.call, CALL_LIMIT.as_secs()),
            Cause::Kube(error) => write!(f, "{}: {}", self.call, told(error)),
        }
    }
}

impl std::error::Error for ApiError {}

/// What a failed call says to people.
#[must_use]
pub fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => with_causes(other),
    }
}

/// Without the chain of causes "client error (Connect)" says nothing.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told += &format!(": {cause}");
        source = cause.source();
    }
    told
}

/// Runs one call under the time limit.
///
/// # Errors
/// [`ApiError`], naming the call.
pub async fn call<T>(
    name: impl FnOnce() -> String,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(CALL_LIMIT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ApiError { call: name(), cause: Cause::Kube(Box::new(error)) }),
        Err(_) => Err(ApiError { call: name(), cause: Cause::TimeOut }),
    }
}

/// `None` for an object that does not exist.
///
/// # Errors
/// All others.
pub fn found<T>(result: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match result {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}
