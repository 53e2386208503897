//! A change of the members of a quorum's register, model-checked with the acceptors' own code: three acceptors are replaced by one of
//! them and two new ones while two proposers append to the value. Deeper by `MODEL_DEPTH`.
//!
//! Requests that were sent stay: they arrive at any later time, never, or again and again, and their answers are lost or not. An answer
//! that comes late needs no state of its own: it is like one in time to a proposer who is slow to use it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use quorate_coordination::quorum::{Accepted, AcceptorState, Ballot, Chosen, Next, Place};
use stateright::{Checker, HasDiscoveries, Model, Property};

const BEFORE: [&str; 3] = ["a", "b", "c"];
const AFTER: [&str; 3] = ["c", "d", "e"];
const MAJORITY: usize = 2;
/// The first proposer changes the members with what it gets through first.
const PROPOSERS: usize = 2;
/// Rounds that a proposer may use, all above that of the value which is there.
const ROUNDS: [&[u64]; PROPOSERS] = [&[2, 3, 4], &[2, 3, 4]];
/// States, as far as the model goes.
const DEPTH: usize = 12;
const AGREES: &str = "what is chosen is chosen for good, in one order, among whichever members";

/// What is checked: the register as it is, or one that is wrong, which must be noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    Right,
    /// New members begin with nothing.
    Empty,
    /// Whoever sees the last value goes on, chosen or not.
    Early,
    /// New members begin with the last value's own ballot.
    Higher,
}

/// Who appended to the list, in their order.
type Value = Chosen<Vec<u8>>;
type State = AcceptorState<Value>;

/// A request to the members of an epoch, with what those begin with who come late.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Message {
    Prepare(Ballot, State),
    Accept(Ballot, Value, State),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Preparing(Ballot, BTreeMap<&'static str, Option<Accepted<Value>>>),
    Accepting(Ballot, Value, BTreeSet<&'static str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Proposer {
    round: u64,
    /// The members that it knows, as the state of one of them.
    there: State,
    changed: bool,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    acceptors: BTreeMap<&'static str, State>,
    proposers: Vec<Proposer>,
    sent: BTreeSet<Message>,
    /// How many have ever accepted what, by epoch and ballot.
    accepted: BTreeMap<(u64, Ballot), (Value, BTreeSet<&'static str>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// A proposer begins, or begins again, in this round.
    Start(usize, u64),
    /// A request arrives, and its answer does, or does not.
    Arrive(Box<Message>, &'static str, bool),
}

/// What an acceptor answers.
enum Answer {
    Has(State),
    Refused,
    /// It is in a later epoch.
    Moved(State),
}

struct Change {
    variant: Variant,
    /// The rounds that each proposer may use.
    rounds: [&'static [u64]; PROPOSERS],
    /// Whether answers are lost.
    lossy: bool,
}

/// The epoch says who its members are.
fn place(epoch: u64) -> Place {
    Place { epoch, ..Place::default() }
}

fn ballot(round: u64, proposer: usize) -> Ballot {
    Ballot { round, proposer: proposer.to_string() }
}

impl Change {
    /// A request arrives at an acceptor; gives what it answers: what it has.
    fn arrive(&self, world: &mut World, message: &Message, to: &'static str) -> Answer {
        let (Message::Prepare(ballot, begins) | Message::Accept(ballot, _, begins)) = message;
        let mut state = world.acceptors[to].clone();
        if state.place.epoch > begins.place.epoch {
            return Answer::Moved(state);
        }
        if state.place.epoch < begins.place.epoch {
            state = begins.joined();
            if self.variant == Variant::Empty {
                state = State { place: state.place, ..State::default() };
            }
        }
        world.acceptors.insert(to, state.clone());
        let next = match message {
            Message::Prepare(..) => state.prepare(ballot),
            Message::Accept(_, value, _) => state.accept(ballot, value, &ballot.next()),
        };
        let Ok(next) = next else { return Answer::Refused };
        let next = next.unwrap_or(state);
        if let Message::Accept(_, value, _) = message {
            let of = (next.place.epoch, ballot.clone());
            world.accepted.entry(of).or_insert_with(|| (value.clone(), BTreeSet::new())).1.insert(to);
        }
        world.acceptors.insert(to, next.clone());
        Answer::Has(next)
    }

    /// The answer arrives at the proposer.
    fn answered(&self, world: &mut World, message: &Message, from: &'static str, state: State) {
        let (Message::Prepare(ballot, begins) | Message::Accept(ballot, _, begins)) = message;
        let number: usize = ballot.proposer.parse().unwrap();
        let mut own = world.proposers[number].clone();
        if begins.place != own.there.place {
            return;
        }
        own.phase = match (own.phase.clone(), message) {
            (Phase::Preparing(round, mut promises), Message::Prepare(..)) if round == *ballot => {
                promises.insert(from, state.accepted);
                if promises.len() < MAJORITY {
                    Phase::Preparing(round, promises)
                } else {
                    let latest = promises.into_values().flatten().max_by(|one, other| one.ballot.cmp(&other.ballot));
                    self.proposed(world, &mut own, number, round, latest.or(self.nothing()))
                }
            }
            (Phase::Accepting(round, value, mut accepts), Message::Accept(..)) if round == *ballot => {
                accepts.insert(from);
                if accepts.len() < MAJORITY {
                    Phase::Accepting(round, value, accepts)
                } else {
                    self.followed(&mut own, round, value)
                }
            }
            (phase, _) => phase,
        };
        world.proposers[number] = own;
    }

    /// What a proposer does who knows the latest value.
    fn proposed(
        &self,
        world: &mut World,
        own: &mut Proposer,
        number: usize,
        round: Ballot,
        latest: Option<Accepted<Value>>,
    ) -> Phase {
        // A round is one value's only.
        let Some(Accepted { ballot, mut value }) = latest.filter(|latest| latest.ballot.round < round.round) else {
            return Phase::Idle;
        };
        if value.next.is_some() && self.variant == Variant::Early {
            return self.followed(own, round, value);
        }
        if value.next.is_none() && number == 0 && !own.changed {
            own.changed = true;
            value.next = Some(Next { place: place(2), after: ballot });
        } else if value.next.is_none() {
            value.value.get_or_insert_default().push(u8::try_from(number).unwrap());
        }
        world.sent.insert(Message::Accept(round.clone(), value.clone(), own.there.clone()));
        Phase::Accepting(round, value, BTreeSet::new())
    }

    /// A value is chosen under this ballot: the proposer goes on after it, where it says.
    fn followed(&self, own: &mut Proposer, ballot: Ballot, chosen: Value) -> Phase {
        if let Some(Next { place, after }) = chosen.next {
            let ballot = if self.variant == Variant::Higher { ballot } else { after };
            let accepted = Accepted { ballot, value: Chosen { value: chosen.value, next: None } };
            own.there = State { place, accepted: Some(accepted), ..State::default() };
        }
        Phase::Idle
    }

    /// What whoever finds nothing goes on from: where nothing is lost it never happens.
    fn nothing(&self) -> Option<Accepted<Value>> {
        let none = Accepted { ballot: Ballot::default(), value: Chosen { value: None, next: None } };
        Some(none).filter(|_| self.variant == Variant::Empty)
    }
}

impl World {
    /// What a majority accepted under one ballot, the epochs' in their order, lowest first.
    fn chosen(&self) -> impl Iterator<Item = (u64, &Value)> {
        let by_many = self.accepted.iter().filter(|(_, (_, by))| by.len() >= MAJORITY);
        by_many.map(|((epoch, _), (value, _))| (*epoch, value))
    }

    fn agrees(&self) -> bool {
        let list = |value: &Value| value.value.clone().unwrap_or_default();
        let chosen: Vec<_> = self.chosen().collect();
        let in_order = |pair: &[(u64, &Value)]| {
            let ((epoch, value), (later, next)) = (pair[0], pair[1]);
            // After the last value of an epoch come the last value once more, and the next epoch.
            let ended = value.next.is_some() && epoch == later;
            list(next).starts_with(&list(value)) && (!ended || value == next)
        };
        chosen.windows(2).all(in_order) && chosen.iter().all(|(_, value)| list(value).starts_with(&[9]))
    }
}

impl Model for Change {
    type State = World;
    type Action = Action;

    /// Two of the members have a value already.
    fn init_states(&self) -> Vec<World> {
        let first = Chosen { value: Some(vec![9]), next: None };
        let member = State { place: place(1), ..State::default() };
        let with_value = member.accept(&ballot(1, 9), &first, &ballot(1, 9)).unwrap().unwrap();
        let proposer = Proposer { round: 0, there: with_value.clone(), changed: false, phase: Phase::Idle };
        vec![World {
            acceptors: BTreeMap::from([
                ("a", with_value.clone()),
                ("b", with_value),
                ("c", member),
                ("d", State::default()),
                ("e", State::default()),
            ]),
            proposers: vec![proposer; PROPOSERS],
            sent: BTreeSet::new(),
            accepted: BTreeMap::new(),
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (number, proposer) in world.proposers.iter().enumerate() {
            let rounds = self.rounds[number].iter().filter(|round| **round > proposer.round);
            actions.extend(rounds.map(|round| Action::Start(number, *round)));
        }
        for message in &world.sent {
            let (Message::Prepare(_, begins) | Message::Accept(_, _, begins)) = message;
            let members = if begins.place.epoch == 1 { BEFORE } else { AFTER };
            for to in members {
                actions.push(Action::Arrive(message.clone().into(), to, true));
                if self.lossy {
                    actions.push(Action::Arrive(message.clone().into(), to, false));
                }
            }
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        match action {
            Action::Start(number, round) => {
                let own = &mut next.proposers[number];
                own.round = round;
                own.phase = Phase::Preparing(ballot(round, number), BTreeMap::new());
                next.sent.insert(Message::Prepare(ballot(round, number), own.there.clone()));
            }
            Action::Arrive(message, to, answered) => match self.arrive(&mut next, &message, to) {
                Answer::Has(state) if answered => self.answered(&mut next, &message, to, state),
                Answer::Moved(moved) if answered => {
                    let (Message::Prepare(ballot, _) | Message::Accept(ballot, ..)) = &*message;
                    let own = &mut next.proposers[ballot.proposer.parse::<usize>().unwrap()];
                    if own.there.place.epoch < moved.place.epoch {
                        (own.there, own.phase) = (moved, Phase::Idle);
                    }
                }
                _ => {}
            },
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREES, |_, world: &World| world.agrees()),
            Property::sometimes("the members are changed, and the register goes on", |_, world: &World| {
                world.chosen().any(|(epoch, _)| epoch == 2)
            }),
            Property::sometimes("it goes on before the change, too", |_, world: &World| {
                world.chosen().any(|(epoch, value)| epoch == 1 && value.next.is_none())
            }),
        ]
    }
}

fn depth() -> usize {
    std::env::var("MODEL_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(DEPTH)
}

/// These rounds of each are enough to go wrong, without losses.
fn noticed(variant: Variant, rounds: [&'static [u64]; PROPOSERS]) -> bool {
    let model = Change { variant, rounds, lossy: false };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!("{variant:?}: {} states, to a depth of {}", checker.unique_state_count(), checker.max_depth());
    checker.discovery(AGREES).is_some()
}

#[test]
fn what_is_chosen_stays_so_when_the_members_change() {
    let model = Change { variant: Variant::Right, rounds: ROUNDS, lossy: true };
    let checker = model.checker().threads(2).target_max_depth(depth()).spawn_bfs().join();
    println!("{} states, to a depth of {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn members_that_begin_with_nothing_are_noticed() {
    assert!(noticed(Variant::Empty, [&[2, 3], &[]]));
}

#[test]
fn a_change_that_was_not_chosen_is_noticed() {
    assert!(noticed(Variant::Early, [&[2, 4], &[3, 5]]));
}

#[test]
fn members_that_begin_under_the_last_values_ballot_are_noticed() {
    const HIGHER: [&[u64]; PROPOSERS] = [&[2, 3], &[4, 5]];
    assert!(noticed(Variant::Higher, HIGHER));
    assert!(!noticed(Variant::Right, HIGHER));
}
