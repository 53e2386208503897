//! One run of one config: dereference, resolve, decide, apply, report.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use quorate_crds::DistributedConfig;

use crate::{
    Key, Operator,
    api::ApiError,
    apply::{self, ApplyError, Outcome},
    decide::{Action, Refusal, decide},
    dereference::{self, DereferenceError, digest},
    log::LogError,
    report::{self, Verdict},
    state::{HeadMemory, same_request},
};

/// Every config is looked at this often, whatever the watches say.
const ROUTINE: Duration = Duration::from_secs(300);

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Reading.
    #[error(transparent)]
    Dereference(#[from] DereferenceError),
    /// Writing the head or the log.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Writing events or the status.
    #[error(transparent)]
    Report(ApiError),
    /// A fault of the operator's.
    #[error("the operator failed (this is a bug; its log names the place)")]
    Bug,
}

impl From<tokio::task::JoinError> for RunError {
    // It shows the panic's message, which may hold a value.
    fn from(_: tokio::task::JoinError) -> Self {
        Self::Bug
    }
}

impl RunError {
    /// A word for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match (self.api(), self) {
            (Some(error), _) => error.category(),
            (None, Self::Apply(ApplyError::Conflict)) => "conflict",
            (None, Self::Bug) => "bug",
            (None, _) => "log",
        }
    }

    /// What people are told, if they have to know: the API server's final word, not a passing trouble.
    fn verdict(&self, config: &DistributedConfig) -> Option<Verdict> {
        let is_final = self.api().is_none_or(ApiError::is_refusal);
        match self {
            Self::Apply(ApplyError::Conflict) | Self::Report(_) => None,
            _ if !is_final => None,
            Self::Dereference(DereferenceError::Source { source_ref, .. }) => {
                Some(report::failed(config, "ReadRefused", Some(source_ref), self))
            }
            Self::Dereference(DereferenceError::Head(_)) | Self::Apply(ApplyError::Read(_)) => {
                Some(report::failed(config, "ReadRefused", None, self))
            }
            Self::Dereference(DereferenceError::Log(_)) | Self::Apply(_) => {
                Some(report::failed(config, "WriteRefused", None, self))
            }
            Self::Bug => Some(report::failed(config, "OperatorFailed", None, self)),
        }
    }

    /// The API server's part in it.
    fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Dereference(
                DereferenceError::Source { error, .. }
                | DereferenceError::Head(error)
                | DereferenceError::Log(LogError::Api(error)),
            )
            | Self::Apply(ApplyError::Read(error) | ApplyError::Api(error) | ApplyError::Log(LogError::Api(error)))
            | Self::Report(error) => Some(error),
            _ => None,
        }
    }
}

/// Runs it once. Returns when to look again.
///
/// # Errors
/// [`RunError`]; the caller tries again.
pub async fn run(operator: &Operator, key: &Key) -> Result<Option<Duration>, RunError> {
    let mut noticed = operator.state.take_noticed(key);
    let Some(config) = operator.state.config(key).filter(|c| c.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    match publish(operator, &config, &mut noticed).await {
        Ok((memory, outcome)) => {
            let verdict = report::verdict(&outcome, &memory);
            let awaited = matches!(outcome, Outcome::Refused(Refusal::AwaitingPredecessor));
            let wait =
                tell(operator, &config, Some(&outcome), &verdict, Some(&memory)).await.map_err(RunError::Report)?;
            // Not before: their events are made of the log.
            if operator.state.config(key).is_some_and(|newest| same_request(&newest, &config)) {
                apply::prune(&operator.client, &operator.state, &config, &memory).await;
            }
            let soon = awaited.then_some(Duration::from_secs(1));
            Ok(Some(wait.or(soon).unwrap_or(ROUTINE)))
        }
        Err(error) => {
            if let Some(noticed) = noticed {
                operator.state.put_back_noticed(key, noticed);
            }
            if let Some(verdict) = error.verdict(&config)
                && let Err(untold) = tell(operator, &config, None, &verdict, None).await
            {
                tracing::warn!(config = %key, error = %untold, "the status does not say why the run failed");
            }
            Err(error)
        }
    }
}

/// All but the report. Takes `noticed` when the head answers it.
async fn publish(
    operator: &Operator,
    config: &Arc<DistributedConfig>,
    noticed: &mut Option<tokio::time::Instant>,
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
    let publishes = matches!(action, Action::Publish(_) | Action::Restore { .. });
    let written = || {
        if publishes {
            operator.metrics.publications.inc();
        }
        if let Some(noticed) = noticed.take() {
            operator.metrics.propagation.observe(noticed.elapsed().as_secs_f64());
        }
    };
    Ok(apply::apply(client, state, config, memory, action, written).await?)
}

/// Writes events, then the status: a status that shows a revision means that its event was written,
/// or refused for good. Returns how long to wait when the status is not due yet.
async fn tell(
    operator: &Operator,
    config: &DistributedConfig,
    outcome: Option<&Outcome>,
    verdict: &Verdict,
    memory: Option<&HeadMemory>,
) -> Result<Option<Duration>, ApiError> {
    let key = Key::of(config);
    // The newest, for its resourceVersion: an earlier status write may have changed it.
    let Some(newest) = operator.state.config(&key) else { return Ok(None) };
    // A verdict on another request is none on this one; that one is due already.
    let answered = same_request(&newest, config);
    let now = Timestamp::now();
    let mut events = report::publications(config, outcome, memory, now);
    if answered {
        events.extend(report::warning(&newest, verdict, memory, now));
    }
    for event in events {
        match apply::write_event(&operator.client, &event).await {
            Err(error) if error.is_refusal() => {
                operator.metrics.error(error.category());
                tracing::warn!(config = %key, %error, "an event was refused");
            }
            written => written?,
        }
    }
    if !answered {
        return Ok(None);
    }
    let Some(status) = report::status(&newest, verdict, memory, now) else { return Ok(None) };
    let wait = operator.state.status_wait(&key);
    if !wait.is_zero() {
        return Ok(Some(wait));
    }
    tracing::info!(config = %key, revision = status.revision, reason = verdict.reason, message = verdict.message);
    let config = DistributedConfig { status: Some(status), ..(*newest).clone() };
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
