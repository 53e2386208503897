//! The quorum's register, model-checked with the acceptors' own code: three acceptors, two proposers, and messages that are
//! lost, doubled and reordered, whatever can come of it up to a depth. Deeper by `MODEL_DEPTH`.
//!
//! What was sent stays: it arrives at any later time, never, or again and again. So an acceptor that ends and comes back is
//! in it too: what it stored is there, and its answers are lost. What acceptors check, the API server checks once more by the CRD's
//! rules.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use quorate_coordination::quorum::{Accepted, AcceptorState, Ballot};
use stateright::{Checker, HasDiscoveries, Model, Property};

const ACCEPTORS: usize = 3;
const MAJORITY: usize = 2;
const PROPOSERS: usize = 2;
/// States, as far as the model goes.
const DEPTH: usize = 17;

/// What is checked: the register as it is, or one that is wrong, which must be noticed.
#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Right,
    /// Acceptors accept whatever they promised.
    NoPromise,
    /// An acceptor that is missing is made anew, empty.
    Forgetful,
    /// A majority of the answers is enough, not of the members.
    AnyMajority,
}

/// Who appended to the list, in their order.
type List = Vec<u8>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Prepare(Ballot),
    Promised(Ballot, usize, Option<(Ballot, List)>),
    Accept(Ballot, List),
    Accepted(Ballot, usize),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Preparing(Ballot, BTreeMap<usize, Option<(Ballot, List)>>),
    Accepting(Ballot, List, BTreeSet<usize>),
    /// Chosen: the next ballot is promised already.
    Steady(Ballot, List),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Proposer {
    starts: u8,
    steady: u8,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    acceptors: Vec<AcceptorState<List>>,
    proposers: Vec<Proposer>,
    sent: BTreeSet<Message>,
    /// Which acceptor has ever accepted what.
    accepted: BTreeSet<(Ballot, List, usize)>,
    forgot: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// A proposer begins, or begins again.
    Start(usize),
    /// A proposer writes the next value in the round that is promised to it.
    Next(usize),
    /// A message arrives at an acceptor.
    Arrive(Message, usize),
    /// An answer arrives at its proposer.
    Answer(Message),
    Forget(usize),
}

struct Quorum {
    variant: Variant,
    /// Rounds that a proposer may begin with a prepare.
    starts: u8,
    /// Values that a proposer may write without a prepare, each after one that was chosen.
    steady: u8,
}

fn proposer(ballot: &Ballot) -> usize {
    ballot.proposer.parse().unwrap()
}

impl Quorum {
    fn arrive(&self, world: &mut World, message: &Message, to: usize) -> Option<()> {
        let state = world.acceptors[to].clone();
        let blind = AcceptorState { promised: Ballot::default(), ..state.clone() };
        let state = if self.variant == Variant::NoPromise { blind } else { state };
        let answer = match message {
            Message::Prepare(ballot) => {
                let next = state.prepare(ballot).ok()?.unwrap_or(state);
                let had = next.accepted.clone().map(|Accepted { ballot, value }| (ballot, value));
                world.acceptors[to] = next;
                Message::Promised(ballot.clone(), to, had)
            }
            Message::Accept(ballot, value) => {
                world.acceptors[to] = state.accept(ballot, value, &ballot.next()).ok()?.unwrap_or(state);
                world.accepted.insert((ballot.clone(), value.clone(), to));
                Message::Accepted(ballot.clone(), to)
            }
            _ => return None,
        };
        world.sent.insert(answer);
        Some(())
    }

    fn answer(&self, world: &mut World, message: &Message) -> Option<()> {
        let majority = if self.variant == Variant::AnyMajority { 1 } else { MAJORITY };
        let (Message::Promised(ballot, ..) | Message::Accepted(ballot, _)) = message else { return None };
        let number = proposer(ballot);
        let mut phase = world.proposers[number].phase.clone();
        match (&mut phase, message) {
            (Phase::Preparing(own, promises), Message::Promised(_, from, had)) if own == ballot => {
                if promises.insert(*from, had.clone()).is_some() {
                    return None;
                }
                if promises.len() >= majority {
                    let (latest, mut list) = promises.values().flatten().max().cloned().unwrap_or_default();
                    // A round is one value's only.
                    phase = if latest.round >= own.round {
                        Phase::Idle
                    } else {
                        list.push(u8::try_from(number).unwrap());
                        world.sent.insert(Message::Accept(own.clone(), list.clone()));
                        Phase::Accepting(own.clone(), list, BTreeSet::new())
                    };
                }
            }
            (Phase::Accepting(own, list, accepts), Message::Accepted(_, from)) if own == ballot => {
                if !accepts.insert(*from) {
                    return None;
                }
                if accepts.len() >= majority {
                    phase = Phase::Steady(own.clone(), list.clone());
                }
            }
            _ => return None,
        }
        world.proposers[number].phase = phase;
        Some(())
    }
}

impl World {
    /// What a majority accepted under one ballot, lowest first.
    fn chosen(&self) -> BTreeMap<&Ballot, &List> {
        let by_many = |ballot: &Ballot| self.accepted.iter().filter(|(other, ..)| other == ballot).count() >= MAJORITY;
        self.accepted.iter().filter(|(ballot, ..)| by_many(ballot)).map(|(ballot, list, _)| (ballot, list)).collect()
    }

    fn agrees(&self) -> bool {
        let chosen: Vec<_> = self.chosen().into_iter().collect();
        chosen.windows(2).all(|pair| pair[1].1.starts_with(pair[0].1) && pair[0].0.round < pair[1].0.round)
    }
}

impl Model for Quorum {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            acceptors: vec![AcceptorState::default(); ACCEPTORS],
            proposers: vec![Proposer::default(); PROPOSERS],
            sent: BTreeSet::new(),
            accepted: BTreeSet::new(),
            forgot: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (number, proposer) in world.proposers.iter().enumerate() {
            if proposer.starts < self.starts && !matches!(proposer.phase, Phase::Steady(..)) {
                actions.push(Action::Start(number));
            }
            if proposer.steady < self.steady && matches!(proposer.phase, Phase::Steady(..)) {
                actions.push(Action::Next(number));
            }
        }
        for message in &world.sent {
            match message {
                Message::Prepare(_) | Message::Accept(..) => {
                    actions.extend((0..ACCEPTORS).map(|to| Action::Arrive(message.clone(), to)));
                }
                Message::Promised(..) | Message::Accepted(..) => actions.push(Action::Answer(message.clone())),
            }
        }
        if self.variant == Variant::Forgetful && !world.forgot {
            actions.extend((0..ACCEPTORS).map(Action::Forget));
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Start(number) => {
                let own = &mut next.proposers[number];
                own.starts += 1;
                // Each has seen the other's rounds, or not: both are in it, as each begins at two rounds.
                let ballot = Ballot { round: 2 * u64::from(own.starts) - 1, proposer: number.to_string() };
                own.phase = Phase::Preparing(ballot.clone(), BTreeMap::new());
                next.sent.insert(Message::Prepare(ballot));
            }
            Action::Next(number) => {
                let own = &mut next.proposers[number];
                own.steady += 1;
                let Phase::Steady(ballot, mut list) = own.phase.clone() else { return None };
                list.push(u8::try_from(number).unwrap());
                own.phase = Phase::Accepting(ballot.next(), list.clone(), BTreeSet::new());
                next.sent.insert(Message::Accept(ballot.next(), list));
            }
            Action::Arrive(message, to) => self.arrive(&mut next, &message, to)?,
            Action::Answer(message) => self.answer(&mut next, &message)?,
            Action::Forget(acceptor) => {
                next.acceptors[acceptor] = AcceptorState::default();
                next.forgot = true;
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is chosen is chosen for good, in one order", |_, world: &World| world.agrees()),
            Property::sometimes("both are chosen", |_, world: &World| {
                world.chosen().values().any(|list| list.contains(&0) && list.contains(&1))
            }),
            Property::sometimes("one goes on without a prepare", |_, world: &World| {
                world.chosen().values().any(|list| list.starts_with(&[0, 0]))
            }),
        ]
    }
}

fn depth() -> usize {
    std::env::var("MODEL_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(DEPTH)
}

/// So many rounds of each are enough to go wrong.
fn noticed(variant: Variant, starts: u8) -> bool {
    let model = Quorum { variant, starts, steady: 0 };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    checker.discovery("what is chosen is chosen for good, in one order").is_some()
}

#[test]
fn what_is_chosen_is_never_lost_or_contradicted() {
    let model = Quorum { variant: Variant::Right, starts: 2, steady: 1 };
    let checker = model.checker().threads(2).target_max_depth(depth()).spawn_bfs().join();
    println!("{} states, to a depth of {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn acceptors_that_do_not_keep_promises_are_noticed() {
    assert!(noticed(Variant::NoPromise, 1));
    assert!(!noticed(Variant::Right, 1));
}

#[test]
fn an_acceptor_that_is_made_anew_is_noticed() {
    assert!(noticed(Variant::Forgetful, 1));
}

#[test]
fn a_minority_that_counts_as_a_majority_is_noticed() {
    assert!(noticed(Variant::AnyMajority, 2));
}
