//! One run of one config: dereference, resolve, decide, apply, report.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use quorate_crds::DistributedConfig;

use crate::{
    Key, Operator,
    api::ApiError,
    apply::{self, ApplyError, Outcome},
    decide::{Refusal, decide},
    dereference::{self, digest},
    log::LogError,
    report::{self, Verdict},
    state::HeadMemory,
};

/// Every config is looked at this often, whatever the watches say.
const ROUTINE: Duration = Duration::from_secs(300);

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Reading, or writing the report.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Writing.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A fault of the operator's.
    #[error("resolving ended unexpectedly (this is a bug): {0}")]
    Resolve(#[from] tokio::task::JoinError),
}

impl From<LogError> for RunError {
    fn from(error: LogError) -> Self {
        Self::Apply(error.into())
    }
}

impl RunError {
    /// A word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api(error) | Self::Apply(ApplyError::Api(error) | ApplyError::Log(LogError::Api(error))) => {
                error.category()
            }
            Self::Apply(ApplyError::Conflict) => "conflict",
            Self::Apply(ApplyError::Log(LogError::Taken { .. })) => "log",
            Self::Resolve(_) => "bug",
        }
    }

    /// Whether a person has to know: the API server's final word, not a passing trouble.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Api(error) | Self::Apply(ApplyError::Api(error) | ApplyError::Log(LogError::Api(error))) => {
                error.is_refusal()
            }
            Self::Apply(ApplyError::Conflict) => false,
            Self::Apply(ApplyError::Log(LogError::Taken { .. })) | Self::Resolve(_) => true,
        }
    }
}

/// Runs it once. Returns when to look again.
///
/// # Errors
/// [`RunError`]; the caller tries again.
pub async fn run(operator: &Operator, key: &Key) -> Result<Option<Duration>, RunError> {
    let noticed = operator.state.take_noticed(key);
    let Some(config) = operator.state.config(key).filter(|c| c.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    match publish(operator, &config, noticed).await {
        Ok((memory, outcome)) => {
            let verdict = report::verdict(&outcome, &memory);
            let awaited = matches!(outcome, Outcome::Refused(Refusal::AwaitingPredecessor));
            let wait = tell(operator, key, Some(&outcome), &verdict, Some(&memory)).await?;
            let soon = awaited.then_some(Duration::from_secs(1));
            Ok(Some(wait.or(soon).unwrap_or(ROUTINE)))
        }
        Err(error) => {
            if error.is_refusal() {
                tell(operator, key, None, &report::write_refused(&error), None).await?;
            }
            Err(error)
        }
    }
}

async fn publish(
    operator: &Operator,
    config: &Arc<DistributedConfig>,
    noticed: Option<tokio::time::Instant>,
) -> Result<(HeadMemory, Outcome), RunError> {
    let (client, state) = (&operator.client, &operator.state);
    let (sources, memory) =
        futures::join!(dereference::sources(client, state, config), dereference::head(client, state, config));
    let (sources, memory) = (sources?, memory?);
    // A megabyte of layers takes a while: not on the threads that serve the watches.
    let candidate = {
        let config = Arc::clone(config);
        tokio::task::spawn_blocking(move || quorate_resolve::resolve(&config, &sources)).await?
    };
    if let Err(problems) = &candidate {
        for problem in &problems.0 {
            operator.metrics.error(problem.kind.reason());
        }
    }
    let action = decide(&config.spec, &memory.observed, &memory.log, candidate, digest);
    let written = || {
        operator.metrics.publications.inc();
        if let Some(noticed) = noticed {
            operator.metrics.propagation.observe(noticed.elapsed().as_secs_f64());
        }
    };
    Ok(apply::apply(client, state, config, memory, action, written).await?)
}

/// Writes events, then the status: a status that shows a revision means that its event was written.
/// Returns how long to wait when the status is not due yet.
async fn tell(
    operator: &Operator,
    key: &Key,
    outcome: Option<&Outcome>,
    verdict: &Verdict,
    memory: Option<&HeadMemory>,
) -> Result<Option<Duration>, ApiError> {
    // The newest, for its resourceVersion: an earlier status write may have changed it.
    let Some(config) = operator.state.config(key) else { return Ok(None) };
    let now = Timestamp::now();
    for event in report::events(&config, outcome, verdict, memory, now) {
        if let Err(error) = apply::write_event(&operator.client, &event).await {
            operator.metrics.error(error.category());
            tracing::warn!(config = %key, %error, "an event was not written");
        }
    }
    let Some(status) = report::status(&config, verdict, memory, now) else { return Ok(None) };
    let wait = operator.state.status_wait(key);
    if !wait.is_zero() {
        return Ok(Some(wait));
    }
    tracing::info!(config = %key, revision = status.revision, reason = verdict.reason, message = verdict.message);
    let config = DistributedConfig { status: Some(status), ..(*config).clone() };
    match apply::write_status(&operator.client, &config).await {
        Ok(mut written) => {
            written.metadata.managed_fields = None;
            operator.state.status_written(written);
            Ok(None)
        }
        // A newer config is on its way, or it is gone.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(Some(Duration::from_millis(100))),
        Err(error) => Err(error),
    }
}
