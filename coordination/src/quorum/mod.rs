//! One register made of N acceptors on N independent API servers: it survives the loss of any minority of them, and
//! needs no clock to be safe.
//!
//! Source: Rystsov, "CASPaxos: Replicated State Machines without logs", 2018. A write is two rounds, prepare and accept, to all
//! members at once, and is done when a majority has answered; while one proposer goes on writing it is one round, as each accept
//! promises the next ballot to the same proposer. A read is one round, when a majority shows the same; else it brings to an
//! end what it finds half done.
//!
//! A round is used for one chosen value only, which plain CASPaxos does not ask for: so the round is a fencing token.

mod acceptor;
mod links;
mod member;
mod moving;
mod object;
mod set;
mod survey;

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use futures::{
    StreamExt,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{sync::Mutex, task::JoinHandle};

pub use acceptor::{Accepted, AcceptorState, Ballot, Place, Refusal};
pub use links::KubeLinks;
pub use member::{Answer, Member};
pub use moving::{ChangeError, Chosen, Links, MovingRegister, Next};
pub use set::{KubeQuorum, OpenError, open};
pub use survey::{Standing, survey};

use crate::{Failure, Register, Session, Version, Versioned};

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
}

/// What this proposer knows of its own attempts.
struct Proposer {
    id: String,
    /// The highest round seen.
    round: u64,
    /// A ballot that a majority has promised to it with the value it wrote last, and the ballot of that value.
    promised: Option<(Ballot, Ballot)>,
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
        Self { members, initial, name: name.to_owned(), session, proposer: Mutex::new(proposer) }
    }

    const fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// What is so before anything was chosen.
    fn none(&self) -> Accepted<S> {
        Accepted { ballot: Ballot::default(), value: self.initial.clone() }
    }

    /// Asks all members at once. What is still under way when a majority has answered goes on: who is late catches up.
    fn asked<F: Future<Output = Answer<S>> + Send + 'static>(
        &self,
        ask: impl Fn(Arc<Member<S, R>>) -> F,
    ) -> FuturesUnordered<JoinHandle<(String, Answer<S>)>> {
        let calls = self.members.iter().map(|member| {
            let (name, answer) = (member.name.clone(), ask(Arc::clone(member)));
            tokio::spawn(async move { (name, answer.await) })
        });
        calls.collect()
    }

    /// Phase 1: the latest value that may have been chosen, and its ballot.
    async fn prepare(&self, ballot: &Ballot) -> Round<Accepted<S>, S> {
        let answers = self.asked(|member| {
            let ballot = ballot.clone();
            async move { member.prepare(&ballot).await }
        });
        self.gathered(answers, |accepted: &[Option<Accepted<S>>]| {
            let latest = accepted.iter().flatten().max_by(|a, b| a.ballot.cmp(&b.ballot)).cloned();
            Some(latest.unwrap_or_else(|| self.none()))
        })
        .await
    }

    /// Phase 2.
    async fn accept(&self, ballot: &Ballot, value: &S) -> Round<(), S> {
        let next = ballot.next();
        let answers = self.asked(|member| {
            let (ballot, value, next) = (ballot.clone(), value.clone(), next.clone());
            async move { member.accept(&ballot, &value, &next).await }
        });
        self.gathered(answers, |_| Some(())).await
    }

    /// The value that a majority shows under one ballot, if one does.
    async fn shown(&self) -> Round<Accepted<S>, S> {
        let answers = self.asked(|member| async move { member.show().await });
        let majority = self.majority();
        self.gathered(answers, |accepted: &[Option<Accepted<S>>]| {
            let ballot = |accepted: &Option<Accepted<S>>| accepted.as_ref().map(|accepted| accepted.ballot.clone());
            let agreed =
                accepted.iter().find(|one| accepted.iter().filter(|a| ballot(a) == ballot(one)).count() >= majority);
            agreed.map(|agreed| agreed.clone().unwrap_or_else(|| self.none()))
        })
        .await
    }

    /// Waits for a majority of answers that come to something; for no more than that.
    async fn gathered<T>(
        &self,
        mut answers: FuturesUnordered<JoinHandle<(String, Answer<S>)>>,
        conclude: impl Fn(&[Option<Accepted<S>>]) -> Option<T>,
    ) -> Round<T, S> {
        let (mut good, mut silent, mut outbid) = (Vec::new(), Vec::new(), None);
        while let Some(ended) = answers.next().await {
            // Cut short only when all of this process is.
            let Ok((name, answer)) = ended else { continue };
            match answer {
                Answer::Has(accepted) => good.push(accepted),
                Answer::Accepted => good.push(None),
                Answer::Refused(Refusal(ballot)) => outbid = outbid.max(Some(ballot.round)),
                Answer::Silent(why) => silent.push(format!("{name}: {why}")),
                // One is enough: it is of other members only after all of these had come to their end.
                Answer::Moved(there) => return Round::Moved(there),
            }
            if good.len() >= self.majority()
                && let Some(concluded) = conclude(&good)
            {
                return Round::Majority(concluded);
            }
        }
        match outbid {
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
        }
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
                Round::Majority(found) => match self.accept(&ballot, &found.value).await {
                    Round::Majority(()) => {
                        proposer.promised = Some((ballot.next(), ballot.clone()));
                        return Ok(Accepted { ballot, value: found.value });
                    }
                    other => other.outcome(),
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
        tokio::time::sleep(self.session.random.up_to(Duration::from_millis(20))).await;
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
        let found = match self.shown().await {
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
        let ballot = match proposer.promised.take() {
            Some((ballot, of)) if of == *base => ballot,
            _ => loop {
                let ballot = proposer.next_ballot();
                let why = match self.prepare(&ballot).await {
                    Round::Majority(found) if found.ballot == *base && found.ballot.round < ballot.round => {
                        break ballot;
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
        let unknown = match self.accept(&ballot, next).await {
            Round::Majority(()) => {
                proposer.saw(ballot.round + 1);
                proposer.promised = Some((ballot.next(), ballot.clone()));
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
