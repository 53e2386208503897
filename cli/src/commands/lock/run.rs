//! `lock run`: a command that runs only as long as a lock is held.

use std::{convert::Infallible, time::Duration};

use quorate_coordination::{
    Held, Lock, LockError, LockState, Register, Session, Undone, clusters,
    lock::{Invalid, LONGEST_TTL, SHORTEST_TTL, object_name},
    quorum,
};
use quorate_crds::names;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::{
    child::{Child, exit_code},
    leases,
    notice::Notice,
    signals::{self, Signals},
    terminal::Lent,
};
use crate::{
    answer::note,
    cluster::{Cluster, call},
    exit::{Exit, Failure, Result},
    format::printable,
    options::{LockRun, Target},
    participant,
};

/// How often it is looked at the clock: timers stand still while the machine sleeps, and validity does not.
const TICK: Duration = Duration::from_secs(1);
/// Who waits for longer is told for whom.
const PATIENCE: Duration = Duration::from_secs(1);
/// For how long this process stays to give back what it does not need any more. Then others wait for the grant's end.
const GIVING_BACK: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// When the lock is not granted, or the command cannot be started.
pub async fn run(target: &Target, options: &LockRun) -> Result {
    let wrong = |why: &dyn std::fmt::Display| Failure { exit: Exit::WrongRun, message: why.to_string() };
    let ttl = Duration::from(options.ttl);
    object_name(&options.lock).map_err(|error| wrong(&error))?;
    if !(SHORTEST_TTL..=LONGEST_TTL).contains(&ttl) {
        return Err(wrong(&Invalid::Ttl { given: ttl }));
    }
    let notice = Notice::new(ttl, options.grace).map_err(|error| wrong(&error))?;
    let mut signals = Signals::listen().map_err(|error| wrong(&error))?;
    let cluster = Cluster::of(target).await.map_err(|failure| Failure { exit: Exit::NoServer, ..failure })?;
    let session = participant::session().map_err(|failure| Failure { exit: Exit::WrongRun, ..failure })?;
    let (client, namespace) = (cluster.client.clone(), &cluster.namespace);
    match &options.cluster_set {
        None => {
            let lock = Lock::on_lease(client, namespace, &options.lock, session.clone(), ttl);
            if options.wait.is_none() {
                answers(&cluster, options).await?;
            }
            held_by(&cluster, &lock.map_err(|error| failed(&error))?, &session, options, notice, &mut signals).await
        }
        Some(set) => {
            let no_server = |message: String| Failure { exit: Exit::NoServer, message };
            let members = clusters::members(&client, namespace, set).await.map_err(|e| no_server(e.to_string()))?;
            let name = names::lock_register(&options.lock);
            let (initial, limit) = (LockState::default(), clusters::CALL);
            let opened = quorum::open(&members, namespace, set, &name, initial, &session, limit).await;
            let register = opened.map_err(|error| no_server(error.to_string()))?;
            let lock = Lock::new(register, session.clone(), &options.lock, ttl).map_err(|error| failed(&error))?;
            held_by(&cluster, &lock, &session, options, notice, &mut signals).await
        }
    }
}

/// Who waits without end waits through outages, but is to hear at once that there is no API server at all.
async fn answers(cluster: &Cluster, options: &LockRun) -> Result<()> {
    let what = format!("get Lease {}/{}", cluster.namespace, options.lock);
    let asked = call(&what, leases(cluster).get_opt(&options.lock)).await;
    asked.map(drop).map_err(|error| Failure { exit: Exit::NoServer, message: error.message().to_owned() })
}

/// Runs the command under this lock.
async fn held_by<R: Register<State = LockState>>(
    cluster: &Cluster,
    lock: &Lock<R>,
    session: &Session,
    options: &LockRun,
    notice: Notice,
    signals: &mut Signals,
) -> Result {
    let wrong = |why: &dyn std::fmt::Display| Failure { exit: Exit::WrongRun, message: why.to_string() };
    let namespace = &cluster.namespace;
    let held = granted(cluster, lock, options, signals).await?;
    let environment = [
        ("QUORATE_TOKEN", held.token().to_string()),
        ("QUORATE_LOCK", options.lock.clone()),
        ("QUORATE_NAMESPACE", namespace.clone()),
        ("QUORATE_CLAIM", held.claim().to_owned()),
    ];
    let mut child = match Child::start(&options.command, &environment) {
        Ok(child) => child,
        Err(error) => {
            give_back(held).await;
            return Err(wrong(&format!("the command cannot be started: {error}")));
        }
    };
    let lent = Lent::to(child.group());
    // It may have wanted the terminal already.
    child.signal(Signal::CONT);
    let lost = under(&held, &mut child, signals, notice, session).await;
    // What ended when validity was over ended too late, whoever noticed it.
    let lost = lost.or_else(|| held.valid_for().is_zero().then(|| "its time was up before the command ended".into()));
    if let Some(lent) = lent {
        lent.take_back();
    }
    let status = child.reap().map_err(|error| wrong(&error))?;
    let lost = match (give_back(held).await, lost) {
        (_, Some(lost)) => Some(lost),
        (Given::Gone, None) => Some("it was taken back before the command ended".to_owned()),
        (Given::Back | Given::Unknown, None) => None,
    };
    match lost {
        None => Ok(Exit::Command(exit_code(status))),
        Some(why) => {
            let message = format!("lock {namespace}/{} was lost: {why}; the command: {status}", options.lock);
            Err(Failure { exit: Exit::Lost, message })
        }
    }
}

/// Waits until it is held.
async fn granted<R: Register<State = LockState>>(
    cluster: &Cluster,
    lock: &Lock<R>,
    options: &LockRun,
    signals: &mut Signals,
) -> Result<Held<R>> {
    let name = format!("{}/{}", cluster.namespace, options.lock);
    let signal = tokio::select! {
        held = lock.acquire(options.mode(), options.wait.map(Duration::from)) => return held.map_err(|error| failed(&error)),
        signal = signals.next() => signal,
        never = tell(lock, &name) => match never {},
    };
    let _ = timeout(GIVING_BACK, lock.taken_back()).await;
    let message = format!("{} while waiting for lock {name}", signals::name(signal));
    let code = u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX);
    Err(Failure { exit: Exit::Command(code), message })
}

/// Tells for whom it is waited, if that takes long; does not return.
async fn tell<R: Register<State = LockState>>(lock: &Lock<R>, name: &str) -> Infallible {
    sleep(PATIENCE).await;
    note(&match lock.state().await.map(|at| at.state.held_by()) {
        Ok(by) if by.is_empty() => format!("waiting for lock {name}"),
        Ok(by) => format!("waiting for lock {name}, which {} held a moment ago", printable(&by)),
        Err(error) => format!("waiting for lock {name}: {}", printable(&error.to_string())),
    });
    std::future::pending().await
}

/// Returns when the command has ended; the reason, if that was because the lock is lost.
async fn under<R: Register<State = LockState>>(
    held: &Held<R>,
    child: &mut Child,
    signals: &mut Signals,
    notice: Notice,
    session: &Session,
) -> Option<String> {
    let mut until = Duration::ZERO;
    let why = loop {
        let left = held.valid_for();
        until = until.max(session.clock.now() + left);
        let rest = notice.until_told(left);
        tokio::select! {
            biased;
            () = child.ended() => return None,
            why = held.lost() => break why,
            signal = signals.next() => child.signal(signal),
            () = sleep(rest.min(TICK)), if !rest.is_zero() => {}
            () = std::future::ready(()), if rest.is_zero() => {
                break format!("it could not be renewed, and was valid for {} ms more", left.as_millis());
            }
        }
    };
    note(&format!("the lock is lost: {}; the command is told to end", printable(&why)));
    child.signal(Signal::TERM);
    let now = session.clock.now();
    let limit = now + notice.until_killed(until.saturating_sub(now));
    loop {
        let left = limit.saturating_sub(session.clock.now());
        tokio::select! {
            biased;
            () = child.ended() => break,
            signal = signals.next() => child.signal(signal),
            () = sleep(left.min(TICK)) => {}
        }
        if left.is_zero() {
            break;
        }
    }
    // Also what it has started, if that has not ended with it.
    child.signal(Signal::KILL);
    child.ended().await;
    Some(why)
}

/// What became of a lock that is not needed any more.
enum Given {
    Back,
    /// It was not there any more.
    Gone,
    Unknown,
}

async fn give_back<R: Register<State = LockState>>(held: Held<R>) -> Given {
    let why = match timeout(GIVING_BACK, held.release()).await {
        Ok(Ok(())) => return Given::Back,
        Ok(Err(LockError::NoSuchClaim { .. })) => return Given::Gone,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", GIVING_BACK.as_secs()),
    };
    note(&format!("the lock could not be given back, so others get it when its time is up: {why}"));
    Given::Unknown
}

fn failed(error: &LockError) -> Failure {
    let exit = match error {
        LockError::Busy { .. } | LockError::Full { .. } => Exit::NotGranted,
        LockError::Invalid(_) | LockError::OtherPermits { .. } => Exit::WrongRun,
        LockError::NoSuchClaim { .. } => Exit::Lost,
        LockError::Undone(Undone::Refused { .. } | Undone::TimedOut { .. } | Undone::Unknown { .. }) => Exit::NoServer,
    };
    Failure { exit, message: error.to_string() }
}
