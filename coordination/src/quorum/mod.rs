//! One register made of N acceptors on N independent API servers: it survives the loss of any minority of them, and
//! needs no clock to be safe.
//!
//! Source: Rystsov, "CASPaxos: Replicated State Machines without logs", 2018. A write is two rounds, prepare and accept, to all
//! members at once, and is done when a majority has answered; while one proposer goes on writing it is one round, as each accept
//! promises the next ballot to the same proposer. A read is one round, when a majority shows the same; else it brings to an
//! end what it finds half done.
//!
//! Who goes on asks those of a majority that answered first, and the others only if one of these is late: what is asked of a member costs its API
//! server work, and the answers of the others come too late to matter. They are told of the last value a moment later.
//!
//! A round is used for one chosen value only, which plain CASPaxos does not ask for: so the round is a fencing token.

mod acceptor;
mod behind;
mod links;
mod member;
mod moving;
mod object;
mod registry;
mod set;
mod survey;

use std::{fmt::Debug, future::Future, pin::pin, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

pub use acceptor::{Accepted, AcceptorState, Ballot, Place, Refusal};
pub use links::KubeLinks;
pub use member::{Answer, Member};
pub use moving::{ChangeError, Chosen, Links, MovingRegister, Next};
pub use registry::{ForgetError, forget};
pub use set::{KubeQuorum, OpenError, open, open_made};
pub use survey::{Standing, survey};

use crate::{Failure, Register, Session, Version, Versioned};
use behind::{Behind, Late};

/// Tries to get a value chosen for a reader, when others propose too.
const TRIES: usize = 16;

impl Version for Ballot {
    fn token(&self) -> u64 {
        self.round
    }
}

/// A value that can be in an acceptor.
pub trait Value: Clone + Debug + PartialEq + Send + Sync + 'static {}
impl<S: Clone + Debug + PartialEq + Send + Sync + 'static> Value for S {}

/// See the module.
pub struct QuorumRegister<S, R: Register> {
    members: Vec<Arc<Member<S, R>>>,
    initial: S,
    name: String,
    session: Session,
    proposer: Mutex<Proposer>,
    behind: Behind<S, R>,
}

/// What this proposer knows of its own attempts.
struct Proposer {
    id: String,
    /// The highest round seen.
    round: u64,
    /// What a majority has promised to it with the value it wrote last.
    promised: Option<Promised>,
}

/// A promise to who goes on.
struct Promised {
    /// The ballot of its next value.
    next: Ballot,
    /// The ballot of its last one.
    of: Ballot,
    /// By whom.
    by: Quick,
}

/// The members that answered first, so that who goes on need not ask the others.
#[derive(Clone, Default)]
struct Quick {
    members: Vec<usize>,
    /// Who was not asked.
    unasked: Vec<usize>,
    /// How long it took.
    took: Duration,
}

impl Quick {
    /// For how long they alone are waited for.
    fn patience(&self) -> Duration {
        (self.took * 3).max(Duration::from_millis(10))
    }
}

/// What a round of requests came to.
enum Round<T, S> {
    /// A majority agreed.
    Majority(T),
    /// The members were changed: the state of one of those who are it now.
    Moved(AcceptorState<S>),
    /// Somebody else is ahead, in this round at least.
    Outbid(u64),
    /// Too many are silent: why.
    Silent(String),
}

/// Why an epoch's register gives nothing.
#[derive(Debug)]
pub(crate) enum Stop<S> {
    /// Nothing was written here: it goes on among others, of whom one has this state.
    Moved(Box<AcceptorState<S>>),
    /// As with any register.
    Failed(Failure),
}

impl<S> From<Failure> for Stop<S> {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl<S> From<Stop<S>> for Failure {
    fn from(stop: Stop<S>) -> Self {
        match stop {
            Stop::Failed(failure) => failure,
            Stop::Moved(there) => Self::Refused(format!("its members were changed to {}", there.place)),
        }
    }
}

impl<S: Value, R: Register<State = AcceptorState<S>>> QuorumRegister<S, R> {
    /// The register whose acceptors these members are, with the value that it has before the first is chosen. Errors call it
    /// by `name`.
    #[must_use]
    pub fn new(members: Vec<Arc<Member<S, R>>>, initial: S, name: &str, session: Session) -> Self {
        let proposer = Proposer { id: session.random.id(), round: 0, promised: None };
        Self {
            members,
            initial,
            name: name.to_owned(),
            session,
            proposer: Mutex::new(proposer),
            behind: Behind::default(),
        }
    }

    const fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// What is so before anything was chosen.
    fn none(&self) -> Accepted<S> {
        Accepted { ballot: Ballot::default(), value: self.initial.clone() }
    }

    /// Phase 1: the latest value that may have been chosen, and its ballot.
    async fn prepare(&self, ballot: &Ballot) -> Round<Accepted<S>, S> {
        let ask = |member: Arc<Member<S, R>>| {
            let ballot = ballot.clone();
            async move { member.prepare(&ballot).await }
        };
        let latest = |accepted: &[Option<Accepted<S>>]| {
            let latest = accepted.iter().flatten().max_by(|a, b| a.ballot.cmp(&b.ballot)).cloned();
            Some(latest.unwrap_or_else(|| self.none()))
        };
        self.round(None, ask, latest).await.0
    }

    /// Phase 2. Of whom it was done by, when it is.
    async fn accept(&self, ballot: &Ballot, value: &S, quick: Option<&Quick>) -> (Round<(), S>, Quick) {
        let next = ballot.next();
        let ask = |member: Arc<Member<S, R>>| {
            let (ballot, value, next) = (ballot.clone(), value.clone(), next.clone());
            async move { member.accept(&ballot, &value, &next).await }
        };
        let (round, by) = self.round(quick, ask, |_| Some(())).await;
        if matches!(round, Round::Majority(())) && !by.unasked.is_empty() {
            let members = by.unasked.iter().map(|number| Arc::clone(&self.members[*number])).collect();
            self.behind.follow(Late { members, ballot: ballot.clone(), value: value.clone(), next });
        }
        (round, by)
    }

    /// The value that a majority shows under one ballot, if one does.
    async fn shown(&self, quick: Option<&Quick>) -> Round<Accepted<S>, S> {
        let majority = self.majority();
        let agreed = |accepted: &[Option<Accepted<S>>]| {
            let ballot = |accepted: &Option<Accepted<S>>| accepted.as_ref().map(|accepted| accepted.ballot.clone());
            let agreed =
                accepted.iter().find(|one| accepted.iter().filter(|a| ballot(a) == ballot(one)).count() >= majority);
            agreed.map(|agreed| agreed.clone().unwrap_or_else(|| self.none()))
        };
        self.round(quick, |member| async move { member.show().await }, agreed).await.0
    }

    /// Asks members, and waits for a majority of answers that come to something; for no more than that. What is still under way then
    /// goes on: who is late catches up. All are asked at once, or the `quick` ones, and the others as soon as one of those
    /// says no or is late.
    async fn round<T, F: Future<Output = Answer<S>> + Send + 'static>(
        &self,
        quick: Option<&Quick>,
        ask: impl Fn(Arc<Member<S, R>>) -> F,
        conclude: impl Fn(&[Option<Accepted<S>>]) -> Option<T>,
    ) -> (Round<T, S>, Quick) {
        let began = Instant::now();
        let call = |number: usize| {
            let answer = ask(Arc::clone(&self.members[number]));
            tokio::spawn(async move { (number, answer.await) })
        };
        let (first, mut unasked): (Vec<usize>, Vec<usize>) =
            (0..self.members.len()).partition(|number| quick.is_none_or(|quick| quick.members.contains(number)));
        let mut answers: FuturesUnordered<_> = first.into_iter().map(call).collect();
        let mut late = pin!(sleep(quick.map_or(Duration::ZERO, Quick::patience)));
        let (mut good, mut members, mut silent, mut outbid) = (Vec::new(), Vec::new(), Vec::new(), None);
        loop {
            let ended = tokio::select! {
                biased;
                ended = answers.next() => ended,
                () = &mut late, if !unasked.is_empty() => {
                    answers.extend(unasked.drain(..).map(call));
                    continue;
                }
            };
            let (number, answer) = match ended {
                Some(Ok(ended)) => ended,
                // Cut short only when all of this process is.
                Some(Err(_)) => continue,
                None if unasked.is_empty() => break,
                None => {
                    answers.extend(unasked.drain(..).map(call));
                    continue;
                }
            };
            let mut yes = |number, accepted| {
                members.push(number);
                good.push(accepted);
            };
            match answer {
                Answer::Has(accepted) => yes(number, accepted),
                Answer::Accepted => yes(number, None),
                Answer::Refused(Refusal(ballot)) => outbid = outbid.max(Some(ballot.round)),
                Answer::Silent(why) => silent.push(format!("{}: {why}", self.members[number].name)),
                // One is enough: it is of other members only after all of these had come to their end.
                Answer::Moved(there) => return (Round::Moved(there), Quick::default()),
            }
            if !members.contains(&number) {
                answers.extend(unasked.drain(..).map(call));
            }
            if good.len() >= self.majority()
                && let Some(concluded) = conclude(&good)
            {
                return (Round::Majority(concluded), Quick { members, unasked, took: began.elapsed() });
            }
        }
        let round = match outbid {
            Some(round) => Round::Outbid(round),
            // Enough answer, and what they say comes to nothing.
            None if good.len() >= self.majority() => Round::Outbid(0),
            None => Round::Silent(format!(
                "{} of {} members answer, and {} are needed: {}",
                good.len(),
                self.members.len(),
                self.majority(),
                silent.join("; ")
            )),
        };
        (round, Quick::default())
    }

    /// Brings to an end what is half done, and gives the value that is chosen now.
    async fn settled(&self, proposer: &mut Proposer) -> Result<Accepted<S>, Stop<S>> {
        for _ in 0..TRIES {
            let ballot = proposer.next_ballot();
            let why = match self.prepare(&ballot).await {
                // Not in a round that a value was accepted in: its token would be another value's too.
                Round::Majority(found) if found.ballot.round >= ballot.round => {
                    proposer.saw(found.ballot.round);
                    continue;
                }
                Round::Majority(found) => match self.accept(&ballot, &found.value, None).await {
                    (Round::Majority(()), by) => {
                        proposer.promised = Some(Promised { next: ballot.next(), of: ballot.clone(), by });
                        return Ok(Accepted { ballot, value: found.value });
                    }
                    (other, _) => other.outcome(),
                },
                other => other.outcome(),
            };
            self.outbid(proposer, why).await?;
        }
        Err(Failure::Unknown("other proposers write it all the time".to_owned()).into())
    }

    /// After a round that came to nothing: waits, if somebody else was ahead.
    async fn outbid(&self, proposer: &mut Proposer, why: Result<u64, Stop<S>>) -> Result<(), Stop<S>> {
        proposer.promised = None;
        proposer.saw(why?);
        // Two who outbid each other in turns must not go on in step.
        sleep(self.session.random.up_to(Duration::from_millis(20))).await;
        Ok(())
    }
}

impl<T, S> Round<T, S> {
    /// The round in which somebody else is ahead, or why there is no answer.
    fn outcome(self) -> Result<u64, Stop<S>> {
        match self {
            Self::Majority(_) => Ok(0),
            Self::Outbid(round) => Ok(round),
            Self::Silent(why) => Err(Failure::Unknown(why).into()),
            Self::Moved(there) => Err(Stop::Moved(there.into())),
        }
    }
}

impl Proposer {
    fn next_ballot(&mut self) -> Ballot {
        self.round += 1;
        Ballot { round: self.round, proposer: self.id.clone() }
    }

    fn saw(&mut self, round: u64) {
        self.round = self.round.max(round);
    }
}

impl<S: Value, R: Register<State = AcceptorState<S>>> QuorumRegister<S, R> {
    /// The value, if it is here.
    pub(crate) async fn read_here(&self) -> Result<Versioned<S, Ballot>, Stop<S>> {
        // Who wrote last has most likely written the last value, and knows who has it.
        let quick = self.proposer.try_lock().ok().and_then(|proposer| Some(proposer.promised.as_ref()?.by.clone()));
        let found = match self.shown(quick.as_ref()).await {
            Round::Majority(found) => found,
            Round::Outbid(_) => self.settled(&mut *self.proposer.lock().await).await?,
            Round::Silent(why) => return Err(Failure::Unknown(why).into()),
            Round::Moved(there) => return Err(Stop::Moved(there.into())),
        };
        // Whoever proposes finds it out itself.
        if let Ok(mut proposer) = self.proposer.try_lock() {
            proposer.saw(found.ballot.round);
        }
        Ok(Versioned { state: found.value, version: found.ballot })
    }

    /// Writes, if the register is here.
    pub(crate) async fn swap_here(&self, base: &Ballot, next: &S) -> Result<Ballot, Stop<S>> {
        let mut proposer = self.proposer.lock().await;
        let (ballot, quick) = match proposer.promised.take() {
            Some(Promised { next, of, by }) if of == *base => (next, Some(by)),
            _ => loop {
                let ballot = proposer.next_ballot();
                let why = match self.prepare(&ballot).await {
                    Round::Majority(found) if found.ballot == *base && found.ballot.round < ballot.round => {
                        break (ballot, None);
                    }
                    Round::Majority(found) if found.ballot.round >= ballot.round => Ok(found.ballot.round),
                    // Nothing was sent. What the present value is, a read tells.
                    Round::Majority(_) => return Err(Failure::Conflict.into()),
                    other => other.outcome(),
                };
                self.outbid(&mut proposer, why).await?;
            },
        };
        proposer.saw(ballot.round);
        let (accepted, by) = self.accept(&ballot, next, quick.as_ref()).await;
        let unknown = match accepted {
            Round::Majority(()) => {
                proposer.saw(ballot.round + 1);
                proposer.promised = Some(Promised { next: ballot.next(), of: ballot.clone(), by });
                return Ok(ballot);
            }
            // A few may have accepted it, and then it is still to come, or not.
            Round::Outbid(round) => {
                proposer.saw(round);
                "another proposer came in between".to_owned()
            }
            Round::Silent(why) => why,
            // It may have been chosen before that, and be what the next members began with.
            Round::Moved(_) => "its members were changed meanwhile".to_owned(),
        };
        Err(Failure::Unknown(unknown).into())
    }
}

impl<S: Value, R: Register<State = AcceptorState<S>>> Register for QuorumRegister<S, R> {
    type State = S;
    type Version = Ballot;

    async fn read(&self) -> Result<Versioned<S, Ballot>, Failure> {
        Ok(self.read_here().await?)
    }

    async fn compare_and_swap(&self, base: &Ballot, next: &S) -> Result<Ballot, Failure> {
        Ok(self.swap_here(base, next).await?)
    }

    fn watch(&self, _: &Ballot) -> BoxStream<'static, Option<Versioned<S, Ballot>>> {
        // What one member tells proves nothing: each of its changes is a reason to read.
        let hints = self.members.iter().map(|member| member.changes());
        stream::select_all(hints).map(|()| None).boxed()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
