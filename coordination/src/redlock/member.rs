//! One member of a lock: a Lease on one API server, and what is known of it here.

use std::time::Duration;

use jiff::Timestamp;
use tokio::{sync::Mutex, time::timeout};

use super::state::{Holder, MemberState, Sign};
use crate::{
    Failure, Register, Session, Step, Versioned,
    lock::{micros, patience},
};

/// What a member is good for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It can be granted.
    Free,
    /// Somebody holds it.
    Held(String),
    /// It does not take part, as its Lease is not there, or says less than it said before; seen so since then.
    Absent(Duration),
}

/// A member as it was found.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub standing: Standing,
    pub token: u64,
    pub longest: Duration,
}

/// See the module.
pub(super) struct Member<R: Register<State = MemberState>> {
    pub name: String,
    register: R,
    limit: Duration,
    known: Mutex<Known<R>>,
}

struct Known<R: Register<State = MemberState>> {
    at: Option<Versioned<MemberState, R::Version>>,
    /// What its holder showed, and since when.
    sign: Option<(Sign, Duration)>,
    /// Since when it does not take part.
    absent: Option<Duration>,
    /// The highest token that it ever showed.
    highest: u64,
}

impl<R: Register<State = MemberState>> Known<R> {
    /// This was found, or written, and the answer came at this time.
    fn saw(&mut self, at: Versioned<MemberState, R::Version>, now: Duration) {
        let state = &at.state;
        let since = |sign: &Sign| self.sign.as_ref().filter(|(seen, _)| seen == sign).map_or(now, |(_, since)| *since);
        self.sign = state.sign().map(|sign| (sign.clone(), since(&sign)));
        // A token that fell is one of a copy that was restored: it knows nothing of the grants since.
        let takes_part = state.joined && state.token >= self.highest;
        self.absent = if takes_part { None } else { Some(self.absent.unwrap_or(now)) };
        self.highest = self.highest.max(state.token);
        self.at = Some(at);
    }

    /// What the holder shows, if that is so for longer than it can live.
    fn expired(&self, state: &MemberState, now: Duration) -> Option<&Sign> {
        let holder = state.holder.as_ref()?;
        self.sign.as_ref().filter(|(_, since)| *since + patience(holder.ttl) <= now).map(|(sign, _)| sign)
    }

    fn view(&self, now: Duration) -> Option<View> {
        let state = &self.at.as_ref()?.state;
        let standing = match (&self.absent, &state.holder) {
            (Some(since), _) => Standing::Absent(*since),
            (None, Some(holder)) if self.expired(state, now).is_none() => Standing::Held(holder.identity.clone()),
            (None, _) => Standing::Free,
        };
        Some(View { standing, token: state.token, longest: state.longest })
    }

    /// What is to be written, or a no.
    fn if_it_takes_part(&self, next: Option<MemberState>) -> Step<MemberState, bool> {
        or_no(next.filter(|_| self.absent.is_none()))
    }
}

impl<R: Register<State = MemberState>> Member<R> {
    pub fn new(name: &str, register: R, limit: Duration) -> Self {
        let known = Known { at: None, sign: None, absent: None, highest: 0 };
        Self { name: name.to_owned(), register, limit, known: Mutex::new(known) }
    }

    /// What is remembered of it, if anything is.
    pub fn remembered(&self, session: &Session) -> Option<View> {
        self.known.try_lock().ok()?.view(session.clock.now())
    }

    /// Reads it.
    pub async fn look(&self, session: &Session) -> Result<View, String> {
        self.limited(async {
            let mut known = self.known.lock().await;
            self.read(&mut known, session).await?;
            known.view(session.clock.now()).ok_or_else(|| "nothing is known of it".to_owned())
        })
        .await
    }

    /// Grants it to this holder, if it is free.
    pub async fn grant(&self, session: &Session, holder: &Holder, token: u64) -> Result<bool, String> {
        self.changed(session, |known, state, now, wall| {
            // It landed before, and the answer was lost.
            if state.holder.as_ref().is_some_and(|present| present.claim == holder.claim) {
                return Step::Answer(true);
            }
            known.if_it_takes_part(state.grant(holder, token, known.expired(state, now), wall))
        })
        .await
    }

    /// Renews what this holder holds here, or takes it if it was away.
    pub async fn renew(&self, session: &Session, holder: &Holder, token: u64) -> Result<bool, String> {
        self.changed(session, |known, state, now, wall| {
            known.if_it_takes_part(state.renew(holder, token, known.expired(state, now), wall))
        })
        .await
    }

    /// Gives back what this claim holds here; whether it did.
    pub async fn release(&self, session: &Session, claim: &str) -> Result<bool, String> {
        self.changed(session, |_, state, _, wall| or_no(state.release(claim, wall))).await
    }

    /// Has it take part, if it does not.
    pub async fn join(&self, session: &Session, token: u64, longest: Duration) -> Result<bool, String> {
        self.changed(session, |known, state, _, wall| match known.absent {
            Some(_) => Step::Write(state.join(token.max(known.highest), longest, wall), true),
            None => Step::Answer(true),
        })
        .await
    }

    /// Writes what this makes of what is known, and again of what is found if that was old.
    async fn changed(
        &self,
        session: &Session,
        change: impl Fn(&Known<R>, &MemberState, Duration, Timestamp) -> Step<MemberState, bool>,
    ) -> Result<bool, String> {
        self.limited(async {
            let mut known = self.known.lock().await;
            let mut fresh = false;
            loop {
                if known.at.is_none() {
                    self.read(&mut known, session).await?;
                    fresh = true;
                }
                let Some(at) = known.at.take() else { continue };
                let step = change(&known, &at.state, session.clock.now(), micros(session.clock.wall()));
                let (next, outcome) = match step {
                    // What is remembered may be old.
                    Step::Answer(_) if !fresh => continue,
                    Step::Answer(outcome) => {
                        known.at = Some(at);
                        return Ok(outcome);
                    }
                    Step::Write(next, outcome) => (next, outcome),
                };
                match self.register.compare_and_swap(&at.version, &next).await {
                    Ok(version) => {
                        known.saw(Versioned { state: next, version }, session.clock.now());
                        return Ok(outcome);
                    }
                    Err(Failure::Conflict) => {}
                    Err(failure) => return Err(failure.to_string()),
                }
            }
        })
        .await
    }

    async fn read(&self, known: &mut Known<R>, session: &Session) -> Result<(), String> {
        let at = self.register.read().await.map_err(|failure| failure.to_string())?;
        known.saw(at, session.clock.now());
        Ok(())
    }

    async fn limited<T>(&self, call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        match timeout(self.limit, call).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} ms", self.limit.as_millis())),
        }
    }
}

/// What is to be written, or a no.
fn or_no(next: Option<MemberState>) -> Step<MemberState, bool> {
    next.map_or(Step::Answer(false), |next| Step::Write(next, true))
}
