//! One run of one config: dereference, resolve, decide, apply, report.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use quorate_coordination::quorum::OpenError;
use quorate_crds::{ConfigRef, DistributedConfig};
use quorate_resolve::{Problem, ProblemKind, Problems, Sources};

use crate::{
    Key, Operator, access,
    agreement::{self, AgreementError},
    api::ApiError,
    apply::{self, ApplyError, Outcome},
    decide::{Action, Decision, Observed, Refusal, Restore, Situation, Wanted, decide, rollout_of},
    dereference::{self, DereferenceError, digest},
    guarded::Guarded,
    log::LogError,
    nudge, population,
    report::{self, Verdict, View},
    rollout::{Facts, Progress},
    state::{HeadMemory, Stage, same_request},
};

/// Every config is looked at this often, whatever the watches say.
const ROUTINE: Duration = Duration::from_secs(300);

/// How old a listing of pods may be while a rollout waits, and at rest, where it is only told.
const PODS_AGE: Duration = Duration::from_secs(5);
const PODS_AGE_AT_REST: Duration = Duration::from_secs(30);

/// Why a run did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Reading.
    #[error(transparent)]
    Dereference(#[from] DereferenceError),
    /// What other clusters have a say in.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
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
            (None, Self::Agreement(_)) => "agreement",
            (None, Self::Bug) => "bug",
            (None, _) => "log",
        }
    }

    /// What people are told, if they have to know: the API server's final word, not a passing trouble.
    fn verdict(&self, config: &DistributedConfig) -> Option<Verdict> {
        let is_final = self.api().is_none_or(ApiError::is_refusal);
        match self {
            // People are to know that clusters are lost, be it for a while.
            Self::Agreement(AgreementError::NoMajority { .. } | AgreementError::Open(OpenError::Unknown { .. })) => {
                Some(report::failed(config, "QuorumLost", None, self))
            }
            Self::Agreement(AgreementError::Api(_)) if !is_final => None,
            Self::Agreement(_) => Some(report::failed(config, "AgreementFailed", None, self)),
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
            | Self::Agreement(AgreementError::Api(error))
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
pub async fn run(operator: &Arc<Operator>, key: &Key) -> Result<Option<Duration>, RunError> {
    let mut noticed = operator.state.take_noticed(key);
    let Some(config) = operator.state.config(key).filter(|c| c.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    let result = publish(operator, &config, &mut noticed).await;
    let is_over = result.as_ref().is_ok_and(|run| !matches!(run.outcome, Outcome::Moved));
    if let Some(noticed) = noticed.filter(|_| !is_over) {
        operator.state.put_back_noticed(key, noticed);
    }
    // There is more to do at once.
    if result.is_ok() && !is_over {
        return Ok(Some(Duration::ZERO));
    }
    // After the head, for which pods wait; but without one too: taking rights away must not wait for layers.
    let (access, again) = access::keep(operator, &config).await;
    let access = access.as_ref();
    match result {
        Ok(run) => Ok([end(operator, &config, run, access).await?, again].into_iter().flatten().min()),
        Err(error) => {
            if let Some(verdict) = error.verdict(&config)
                && let Err(untold) = tell(operator, &config, None, access, &verdict).await
            {
                tracing::warn!(config = %key, error = %untold, "the status does not say why the run failed");
            }
            Err(error)
        }
    }
}

/// What a run did and saw.
struct Run {
    memory: HeadMemory,
    outcome: Outcome,
    progress: Option<Progress>,
    problems: Option<Problems>,
}

/// Tells what came of a run that has no more to do. Returns when to look again.
async fn end(
    operator: &Operator,
    config: &DistributedConfig,
    run: Run,
    access: Option<&access::Word>,
) -> Result<Option<Duration>, RunError> {
    let (client, state, key) = (&operator.client, &operator.state, Key::of(config));
    let is_under_way = population::instruction(&run.memory).is_some();
    // Whoever came and went meanwhile counts from the next run on.
    let age = match run.outcome {
        _ if is_under_way => PODS_AGE,
        // They are told of it.
        Outcome::Published { .. } if operator.nudges => Duration::ZERO,
        _ => PODS_AGE_AT_REST,
    };
    population::look_again(client, state, config, age).await.map_err(DereferenceError::Head)?;
    if config.spec.agreement.is_some() {
        agreement::catch_up(operator, config).await;
    }
    let nudged = nudge_pods(operator, config, &run.memory).await.map_err(RunError::Report)?;
    let verdict = report::verdict(&run.outcome, &run.memory, run.progress.as_ref(), run.problems.as_ref());
    let wait = tell(operator, config, Some(&run), access, &verdict).await.map_err(RunError::Report)?;
    // Not before: their events are made of the log.
    if state.config(&key).is_some_and(|newest| same_request(&newest, config)) {
        apply::prune(client, state, config, &run.memory).await;
    }
    let awaited = matches!(run.outcome, Outcome::Refused(Refusal::AwaitingPredecessor));
    let soon = awaited.then_some(Duration::from_secs(1));
    let judged = run.progress.and_then(|progress| progress.again).map(Duration::from_secs);
    let looked = is_under_way.then_some(PODS_AGE);
    let agreed = config.spec.agreement.as_ref().map(|_| agreement::ROUTINE);
    Ok([wait, soon, judged, looked, nudged, agreed, Some(ROUTINE)].into_iter().flatten().min())
}

/// Tells pods without a sidecar to look for the head. A refusal is told once a revision.
async fn nudge_pods(
    operator: &Operator,
    config: &DistributedConfig,
    memory: &HeadMemory,
) -> Result<Option<Duration>, ApiError> {
    match nudge::nudge(operator, config, memory).await {
        Ok(again) => Ok(again),
        Err(error) => {
            operator.metrics.error(error.category());
            let warning = report::nudge_warning(config, memory, &error, Timestamp::now());
            announce(operator, config, vec![warning]).await?;
            Ok(None)
        }
    }
}

/// All but the report. Takes `noticed` when the head answers it.
async fn publish(
    operator: &Arc<Operator>,
    config: &Arc<DistributedConfig>,
    noticed: &mut Option<tokio::time::Instant>,
) -> Result<Run, RunError> {
    let (client, state) = (&operator.client, &operator.state);
    let (sources, memory) =
        futures::join!(dereference::sources(client, state, config), dereference::head(client, state, config));
    let (sources, memory) = (sources?, memory?);
    // Before the next step, which may be all that is seen of this one.
    announce(operator, config, report::steps(config, &memory, Timestamp::now())).await.map_err(RunError::Report)?;
    let wanted = if let Some(problems) = unknown_configs(operator, config, &sources) {
        Err(problems)
    } else {
        // A megabyte of layers takes a while: not on the threads that serve the watches.
        let config = Arc::clone(config);
        tokio::task::spawn_blocking(move || {
            let bundle = quorate_resolve::resolve(&config, &sources)?;
            Ok::<_, Problems>(Wanted { hash: bundle.hash(), provenance: digest(&bundle), bundle })
        })
        .await?
    };
    if let Err(problems) = &wanted {
        for problem in &problems.0 {
            operator.metrics.error(problem.kind.reason());
        }
    }
    let wanted = match &config.spec.agreement {
        Some(with) if !config.spec.suspend => {
            let published = match &memory.observed {
                Observed::Ours(stored) => Some(stored.head.hash.as_str()),
                _ => None,
            };
            agreement::agreed(operator, config, with, wanted, published).await?
        }
        _ => wanted,
    };
    let (decision, facts) = decided(operator, config, &memory, wanted).await?;
    let publishes = matches!(decision.action, Action::Publish(_) | Action::Restore { .. } | Action::Accept);
    let written = || {
        if publishes {
            operator.metrics.publications.inc();
        }
        if let Some(noticed) = noticed.take() {
            operator.metrics.propagation.observe(noticed.elapsed().as_secs_f64());
        }
    };
    let ended = ended(&memory, &decision.action);
    let (memory, outcome) = apply::apply(client, state, config, memory, decision.action, &facts, written).await?;
    if let Some(ended) = ended {
        operator.metrics.rollout(ended);
    }
    Ok(Run { memory, outcome, progress: decision.progress, problems: decision.problems })
}

/// Configs that are referred to, but are where the operator does not look: whether they exist it
/// cannot say, so they are no missing ones, not even optional.
fn unknown_configs(operator: &Operator, config: &DistributedConfig, sources: &Sources) -> Option<Problems> {
    let unknown = sources.configs.keys().filter(|target| !operator.state.is_listed(&target.namespace));
    let problems: Vec<Problem> = unknown
        .map(|target| {
            let namespace = &target.namespace;
            let reason = if operator.serves(namespace) {
                format!("{target}: the configs of namespace {namespace} cannot be listed; /readyz of the operator says why")
            } else {
                format!("{target}: the operator does not serve namespace {namespace}; start it with --namespace {namespace} too")
            };
            let own = config.metadata.namespace.as_ref();
            let layer = config.spec.layers.iter().find(|layer| {
                let named = |r: &ConfigRef| r.name == target.name && r.namespace.as_ref().or(own) == Some(namespace);
                layer.config_ref.as_ref().is_some_and(named)
            });
            let layer = layer.map(|layer| layer.name.clone());
            Problem { kind: ProblemKind::SourceMissing, layer, file: None, pointer: None, reason }
        })
        .collect();
    (!problems.is_empty()).then_some(Problems(problems))
}

/// How an action ends a rollout, if it does.
fn ended(memory: &HeadMemory, action: &Action) -> Option<&'static str> {
    let Observed::Ours(stored) = &memory.observed else { return None };
    match action {
        Action::Restore { because: Restore::Refused(_), .. } => Some("refused"),
        _ if stored.head.standing.rollout.is_none() => None,
        Action::Accept => Some("accepted"),
        Action::Instruct(next) if next.rollout.is_none() && next.refused.is_some() => Some("refused"),
        Action::Instruct(next) if next.rollout.is_none() => Some("superseded"),
        _ => None,
    }
}

/// Decides; looks by quorum where the decision needs it, and has gates asked for the next one.
async fn decided(
    operator: &Arc<Operator>,
    config: &DistributedConfig,
    memory: &HeadMemory,
    wanted: Result<Wanted, Problems>,
) -> Result<(Decision, Facts), RunError> {
    let (client, state, key) = (&operator.client, &operator.state, Key::of(config));
    let instruction = population::instruction(memory);
    // A word of a pod that is not known may count.
    if instruction.is_some() || state.pods_age(&key).is_none() && !state.replicas(&key).is_empty() {
        population::look_again(client, state, config, PODS_AGE).await.map_err(DereferenceError::Head)?;
    }
    let mut fresh = false;
    loop {
        let facts = Facts { fresh, ..population::known(state, config, memory) };
        let situation = Situation {
            spec: &config.spec,
            observed: &memory.observed,
            candidate: &memory.candidate,
            log: &memory.log,
            wanted: wanted.clone(),
            facts: &facts,
        };
        let decision = decide(&situation);
        if let (Some(instruction), Some(progress)) = (instruction, &decision.progress) {
            let mut stage = population::stage(state, config, instruction);
            stage.baking_since = progress.baking_since;
            state.keep_stage(&key, stage.clone());
            ask_gates(operator, config, &progress.gates_due, &stage);
        }
        if matches!(decision.action, Action::Look) && !fresh {
            population::look(client, state, config).await.map_err(DereferenceError::Head)?;
            fresh = true;
            continue;
        }
        return Ok((decision, facts));
    }
}

/// Asks them, each in a task of its own: one that hangs holds up nobody. The config is due again when it
/// has answered.
fn ask_gates(operator: &Arc<Operator>, config: &DistributedConfig, due: &[String], stage: &Stage) {
    let key = Key::of(config);
    let due = operator.state.begin_asking(&key, stage, due);
    for gate in rollout_of(&config.spec).gates.iter().filter(|gate| due.contains(&gate.name)) {
        let (operator, key, gate, stage) = (Arc::clone(operator), key.clone(), gate.clone(), stage.clone());
        tokio::spawn(async move {
            let answer = operator.gates.ask(&gate).await;
            operator.state.gate_answered(&key, &stage, &gate.name, answer);
        });
    }
}

/// Writes events. One that is refused for good is told in the log.
async fn announce(operator: &Operator, config: &DistributedConfig, events: Vec<Event>) -> Result<(), ApiError> {
    let key = Key::of(config);
    for event in events {
        let name = event.metadata.name.clone().unwrap_or_default();
        if operator.state.was_told(&key, &name) {
            continue;
        }
        match apply::write_event(&operator.client, &event).await {
            Err(error) if error.is_refusal() => {
                operator.metrics.error(error.category());
                tracing::warn!(config = %key, %error, "an event was refused");
            }
            written => written?,
        }
        operator.state.keep_told(&key, name);
    }
    Ok(())
}

/// Writes events, then the status: a status that shows a revision means that its event was written,
/// or refused for good. Returns how long to wait when the status is not due yet.
async fn tell(
    operator: &Operator,
    config: &DistributedConfig,
    run: Option<&Run>,
    access: Option<&access::Word>,
    verdict: &Verdict,
) -> Result<Option<Duration>, ApiError> {
    let key = Key::of(config);
    // The newest, for its resourceVersion: an earlier status write may have changed it.
    let Some(newest) = operator.state.config(&key) else { return Ok(None) };
    // A verdict on another request is none on this one; that one is due already.
    let answered = same_request(&newest, config);
    let now = Timestamp::now();
    let memory = run.map(|run| &run.memory);
    let mut events = report::publications(config, run.map(|run| &run.outcome), memory, now);
    events.extend(memory.into_iter().flat_map(|memory| report::steps(config, memory, now)));
    if answered {
        events.extend(report::warning(&newest, verdict, memory, now));
        events.extend(access.and_then(|access| report::access_warning(&newest, access, now)));
    }
    announce(operator, config, events).await?;
    if !answered {
        return Ok(None);
    }
    let facts = memory.map(|memory| population::known(&operator.state, &newest, memory));
    let progress = run.and_then(|run| run.progress.as_ref());
    let view = facts.as_ref().map(|facts| View { facts, progress });
    let agreement = newest.spec.agreement.as_ref().and_then(|with| operator.agreements.status(&key, with));
    let Some(status) = report::status(&newest, verdict, access, memory, view, agreement, now) else { return Ok(None) };
    let wait = operator.state.status_wait(&key);
    if !wait.is_zero() {
        return Ok(Some(wait));
    }
    tracing::info!(config = %key, revision = status.revision, reason = verdict.reason, message = verdict.message);
    let config = DistributedConfig { status: Some(status), ..(*newest).clone() };
    match apply::write_status(&operator.client, &config).await {
        Ok(Guarded(written)) => {
            if let Ok(mut written) = written {
                // Who changed it last is known from the watch.
                written.metadata.managed_fields.clone_from(&newest.metadata.managed_fields);
                operator.state.status_written(written);
            }
            Ok(None)
        }
        // A newer config is on its way, or it is gone.
        Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(Some(Duration::from_millis(100))),
        Err(error) => Err(error),
    }
}
