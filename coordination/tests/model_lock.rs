//! The lock's own state machine, model-checked: a few clients, a register that answers late, twice or never, and all that can
//! come of it up to a depth. Deeper by `MODEL_DEPTH`.
//!
//! Time is left out but for what `lock/expiry.rs` makes sure of: when an observer's patience with a sign ends, the
//! belief that rests on that sign, or an older one, has ended before.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, hash::Hash};

use jiff::Timestamp;
use quorate_coordination::{
    LockState, Mode, Step,
    lock::{Claim, Sign},
};
use stateright::{Checker, Model, Property};

const CLIENTS: usize = 3;
/// Claims that a client makes, one after the other.
const CLAIMS: u8 = 2;
/// So often a holder renews.
const RENEWALS: u64 = 1;
/// States, as far as the model goes.
const DEPTH: usize = 14;
/// What is wrong is found by then.
const DEPTH_OF_WRONG: usize = 11;

/// What is checked: the lock as it is, or one that is wrong, which must be noticed.
#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Right,
    /// The register does not compare versions.
    Unchecked,
    /// Clients take the lock without patience.
    Thief,
}

struct Locks(Variant);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    register: (u64, LockState),
    clients: [Client; CLIENTS],
    /// Writes that were sent and may still land, once or several times.
    flying: Vec<Write>,
    /// Signs that somebody's patience with has ended: no belief can rest on them any more.
    lapsed: BTreeSet<(String, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    /// Of its claims, the one that it makes now.
    claim: u8,
    /// What it has read.
    known: Option<(u64, LockState)>,
    /// Whether a write is under way that it knows nothing of.
    waiting: bool,
    /// It believes that it holds the lock, since this renewal.
    believes: Option<u64>,
    /// What it gives back, once and for all.
    leaving: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Write {
    client: usize,
    base: u64,
    next: LockState,
    /// What it believes when it is told that this is done: the renewal.
    belief: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// The client reads the register.
    Read(usize),
    Acquire(usize),
    Renew(usize),
    Release(usize),
    /// It gives it back, and makes its next claim in the same write.
    PassOn(usize),
    /// The client's patience with the holder that it knows ends, and it takes the lock.
    Steal(usize),
    /// A write arrives; whether its sender is told.
    Land(usize, bool),
    /// A write never arrives.
    Lose(usize),
}

fn claim(client: usize, number: u8) -> Claim {
    let id = format!("{client}-{number}");
    let (client, mode) = (format!("c{client}"), Mode::Exclusive);
    Claim { id, client, identity: "p".to_owned(), mode, ttl_millis: 15_000, process: None }
}

impl World {
    /// Sends what the operation makes of what the client knows; none if that is nothing.
    fn send(&mut self, client: usize, step: impl FnOnce(&LockState) -> (Step<LockState, ()>, Option<u64>)) -> bool {
        let Some((base, known)) = self.clients[client].known.clone() else { return false };
        let (Step::Write(next, ()), belief) = step(&known) else { return false };
        self.clients[client].waiting = true;
        self.flying.push(Write { client, base, next, belief });
        true
    }

    /// A client has seen a state by which it knows where it stands.
    fn see(&mut self, client: usize, at: (u64, LockState)) {
        let own = &mut self.clients[client];
        let id = claim(client, own.claim).id;
        match at.1.holders.iter().find(|holder| holder.claim.id == id) {
            // Found in a read: from when on it was so, nobody knows, but it is the first that it hears of it.
            Some(holder) if own.believes.is_none() && !own.leaving && !self.lapsed.contains(&(id, holder.renewals)) => {
                own.believes = Some(holder.renewals);
            }
            Some(_) => {}
            None => own.believes = None,
        }
        own.known = Some(at);
    }
}

fn plain<O>(step: Step<LockState, O>) -> Step<LockState, ()> {
    match step {
        Step::Write(next, _) => Step::Write(next, ()),
        Step::Answer(_) => Step::Answer(()),
    }
}

impl Model for Locks {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let register = (0, LockState::default());
        vec![World { register, clients: Default::default(), flying: Vec::new(), lapsed: BTreeSet::new() }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for (number, client) in world.clients.iter().enumerate() {
            let id = claim(number, client.claim).id;
            if client.known.as_ref().is_none_or(|known| known.0 != world.register.0) {
                actions.push(Action::Read(number));
            }
            if client.waiting || client.known.is_none() {
                continue;
            }
            let known = &client.known.as_ref().unwrap().1;
            let enters = client.claim < CLAIMS && !client.leaving && !known.has(&id);
            // Whoever knows that it holds can only renew or leave.
            match client.believes {
                Some(renewals) => {
                    if renewals < RENEWALS {
                        actions.push(Action::Renew(number));
                    }
                    actions.push(Action::Release(number));
                    if client.claim + 1 < CLAIMS {
                        actions.push(Action::PassOn(number));
                    }
                }
                None if client.leaving => actions.push(Action::Release(number)),
                None => {
                    if enters {
                        actions.push(Action::Acquire(number));
                    }
                    if known.position(&id).is_some() {
                        actions.push(Action::Steal(number));
                    }
                }
            }
        }
        for number in 0..world.flying.len() {
            actions.extend([Action::Land(number, true), Action::Land(number, false), Action::Lose(number)]);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let (mut world, now) = (world.clone(), Timestamp::UNIX_EPOCH);
        match action {
            Action::Read(client) => {
                let at = world.register.clone();
                // Whatever was under way is settled once another version is read.
                let base = world.flying.iter().find(|write| write.client == client).map(|write| write.base);
                if base.is_none_or(|base| base != at.0) {
                    world.clients[client].waiting = false;
                }
                if !world.clients[client].waiting {
                    world.left(client);
                }
                world.see(client, at);
            }
            Action::Acquire(client) => {
                let own = claim(client, world.clients[client].claim);
                world.send(client, |state| (plain(state.acquire(&own, true, now)), Some(0))).then_some(())?;
            }
            Action::Renew(client) => {
                let id = claim(client, world.clients[client].claim).id;
                let renewals = world.clients[client].believes? + 1;
                world.send(client, |state| (plain(state.renew(&id, renewals, now)), Some(renewals))).then_some(())?;
            }
            Action::Release(client) => {
                let id = claim(client, world.clients[client].claim).id;
                world.clients[client].believes = None;
                world.clients[client].leaving = true;
                world.send(client, |state| (plain(state.release(&id, now)), None)).then_some(())?;
            }
            Action::PassOn(client) => {
                let id = claim(client, world.clients[client].claim).id;
                let again = claim(client, world.clients[client].claim + 1);
                world.clients[client].believes = None;
                world.clients[client].leaving = true;
                world.send(client, |state| (plain(state.pass_on(&id, &again, now)), Some(0))).then_some(())?;
            }
            Action::Steal(client) => {
                let (_, known) = world.clients[client].known.clone()?;
                let (sign, _) = known.signs().next()?;
                if let Sign::Ours(id, renewals) = &sign
                    && self.0 != Variant::Thief
                {
                    world.lapse(id, *renewals);
                }
                world.send(client, |state| (plain(state.steal(&sign, now)), None)).then_some(())?;
            }
            Action::Land(number, told) => {
                let write = world.flying[number].clone();
                let lands = write.base == world.register.0 || self.0 == Variant::Unchecked;
                if lands {
                    world.register = (world.register.0 + 1, write.next.clone());
                }
                if told {
                    // Its sender hears of this one, and it cannot come once more.
                    world.flying.remove(number);
                    world.told(&write, lands);
                } else if !lands {
                    return None;
                }
            }
            Action::Lose(number) => {
                let write = world.flying.remove(number);
                // The driver sends it again until it is settled.
                world.clients[write.client].waiting = false;
            }
        }
        world.flying.sort_by_key(|write| (write.client, write.base));
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one believes that it holds it, at most", |_, world: &World| {
                world.clients.iter().filter(|client| client.believes.is_some()).count() <= 1
            }),
            Property::always("one holds it, at most", |_, world: &World| world.register.1.holders.len() <= 1),
            Property::sometimes("it goes from one to another", |_, world: &World| world.register.1.transitions >= 2),
            Property::sometimes("all have a part in it", |_, world: &World| {
                world.register.1.holders.len() + world.register.1.waiters.len() == CLIENTS
            }),
        ]
    }
}

impl World {
    /// Somebody's patience with this sign has ended: beliefs that rest on it did before.
    fn lapse(&mut self, id: &str, renewals: u64) {
        for earlier in 0..=renewals {
            self.lapsed.insert((id.to_owned(), earlier));
        }
        for (number, client) in self.clients.iter_mut().enumerate() {
            if claim(number, client.claim).id == id && client.believes.is_some_and(|since| since <= renewals) {
                client.believes = None;
            }
        }
    }

    /// A client whose claim is gone, as it wanted, comes to its next one.
    fn left(&mut self, client: usize) {
        let own = &mut self.clients[client];
        if own.leaving && !self.register.1.has(&claim(client, own.claim).id) {
            own.leaving = false;
            own.claim += 1;
        }
    }

    /// A client hears of its write.
    fn told(&mut self, write: &Write, done: bool) {
        let client = write.client;
        self.clients[client].waiting = false;
        // A conflict, or a state that is old by now: it reads.
        self.clients[client].known = done.then(|| self.register.clone());
        if !done {
            return;
        }
        self.left(client);
        let id = claim(client, self.clients[client].claim).id;
        if let Some(renewals) = write.belief
            && self.register.1.holds(&id)
            && !self.lapsed.contains(&(id, renewals))
        {
            self.clients[client].believes = Some(renewals);
        }
    }
}

fn depth() -> usize {
    std::env::var("MODEL_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(DEPTH)
}

#[test]
fn never_two_believe_that_they_hold_it() {
    let checker = Locks(Variant::Right).checker().threads(2).target_max_depth(depth()).spawn_bfs().join();
    println!("{} states, to a depth of {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn a_register_that_does_not_compare_versions_is_noticed() {
    let checker = Locks(Variant::Unchecked).checker().threads(2).target_max_depth(DEPTH_OF_WRONG).spawn_bfs().join();
    assert!(checker.discovery("one believes that it holds it, at most").is_some());
}

#[test]
fn who_takes_it_without_patience_is_noticed() {
    let checker = Locks(Variant::Thief).checker().threads(2).target_max_depth(DEPTH_OF_WRONG).spawn_bfs().join();
    assert!(checker.discovery("one believes that it holds it, at most").is_some());
}
