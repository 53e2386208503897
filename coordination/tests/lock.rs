//! The lock over a register in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use quorate_coordination::{
    Fault, Lock, LockError, LockState, Mode, Random, Session, SimRegister, Step, Virtual,
    lock::{Claim, believed, patience},
};
use tokio::time::{Instant, sleep, timeout};

type Register = SimRegister<LockState>;
const TTL: Duration = Duration::from_secs(15);

fn participant(register: &Register, name: &str) -> Lock<Register> {
    let session = Session::with(name, Arc::new(Virtual::default()), Arc::new(Random::from_seed(name)));
    Lock::new(register.clone(), session, "n/l", TTL).unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_goes_from_one_to_the_next_in_the_order_in_which_they_came() {
    let register = Register::new(LockState::default());
    let first = participant(&register, "a").acquire(Mode::Exclusive, None).await.unwrap();
    let (told, mut order) = tokio::sync::mpsc::channel(8);
    for name in ["b", "c", "d"] {
        let (lock, told) = (participant(&register, name), told.clone());
        tokio::spawn(async move {
            let held = lock.acquire(Mode::Exclusive, None).await.unwrap();
            told.send((name, held.token())).await.unwrap();
            held.release().await.unwrap();
        });
        while register.now().state.waiters.iter().all(|claim| claim.identity != name) {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let mut tokens = vec![first.token()];
    first.release().await.unwrap();
    for name in ["b", "c", "d"] {
        let (next, token) = order.recv().await.unwrap();
        assert_eq!(next, name);
        assert!(token > *tokens.last().unwrap(), "{token} after {tokens:?}");
        tokens.push(token);
    }
}

#[tokio::test(start_paused = true)]
async fn who_passes_it_on_comes_behind_all_who_wait_and_writes_once_for_each_turn() {
    let register = Register::new(LockState::default());
    let mut held = participant(&register, "a").acquire(Mode::Exclusive, None).await.unwrap();
    let other = participant(&register, "b");
    let waiting = tokio::spawn(async move { other.acquire(Mode::Exclusive, None).await.unwrap() });
    while register.now().state.waiters.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    let before = register.now().version;
    let again = tokio::spawn(async move {
        held = held.pass_on(None).await.unwrap();
        held.pass_on(None).await.unwrap()
    });
    let other = waiting.await.unwrap();
    assert!(register.now().state.waiters.iter().all(|claim| claim.identity == "a"));
    other.release().await.unwrap();
    // Nobody waits the second time: it goes on at once.
    let held = again.await.unwrap();
    assert!(register.now().state.holds(held.claim()) && held.token() > before);
    // Passed on, given back, passed on.
    assert_eq!(register.now().version, before + 3);
    held.release().await.unwrap();

    let lost = participant(&register, "c").acquire(Mode::Exclusive, None).await.unwrap();
    participant(&register, "d").force_release(lost.claim()).await.unwrap();
    assert!(matches!(lost.pass_on(None).await, Err(LockError::NoSuchClaim { .. })));
    assert!(register.now().state.is_free(), "who has lost it does not come into the queue by that");

    let held = participant(&register, "e").acquire(Mode::Exclusive, None).await.unwrap();
    let other = participant(&register, "f");
    let _other = tokio::spawn(async move { other.acquire(Mode::Exclusive, None).await.map(std::mem::forget) });
    while register.now().state.waiters.is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    let busy = held.pass_on(Some(Duration::from_secs(1))).await;
    assert!(matches!(busy, Err(LockError::Busy { ref by, .. }) if by == "f"));
    assert!(register.now().state.waiters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_operation_is_stamped_above_what_was_before_by_clocks_that_differ() {
    let register = Register::new(LockState::default());
    let ahead = participant(&register, "ahead");
    sleep(Duration::from_millis(300)).await;
    let held = ahead.acquire(Mode::Exclusive, None).await.unwrap();
    let granted = register.now().state;
    held.release().await.unwrap();
    let released = register.now().state;
    // Its clock begins only now.
    let behind = participant(&register, "behind").try_acquire(Mode::Exclusive).await.unwrap();
    let again = register.now().state;
    assert!(behind.token() > 0 && granted.hlc.wall() >= Timestamp::UNIX_EPOCH + Duration::from_millis(300));
    assert!(granted.hlc < released.hlc && released.hlc < again.hlc);
    assert!(granted.lamport < released.lamport && released.lamport < again.lamport);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_limited_time_is_told_who_holds_it() {
    let register = Register::new(LockState::default());
    let _held = participant(&register, "a").acquire(Mode::Exclusive, None).await.unwrap();
    // The holder renews it, so it does not expire.
    let busy = participant(&register, "b").acquire(Mode::Exclusive, Some(TTL * 4)).await;
    assert!(matches!(busy, Err(LockError::Busy { ref by, waited, .. }) if by == "a" && waited >= TTL * 4));
    assert!(register.now().state.waiters.is_empty());
}

/// Held by somebody who does nothing any more.
fn dead() -> Register {
    let claim = Claim {
        id: "dead".into(),
        client: "dead".into(),
        identity: "a".into(),
        mode: Mode::Exclusive,
        ttl_millis: 15_000,
        process: None,
    };
    let Step::Write(held, _) = LockState::default().acquire(&claim, false, Timestamp::UNIX_EPOCH) else { panic!() };
    Register::new(held)
}

#[tokio::test(start_paused = true)]
async fn a_crashed_holder_is_replaced_after_its_time_and_not_before() {
    let register = dead();
    let began = Instant::now();
    let next = participant(&register, "b").acquire(Mode::Exclusive, None).await.unwrap();
    let took = began.elapsed();
    assert!(took >= patience(TTL) && took < TTL * 2, "{took:?}");
    assert!(next.valid_for() <= believed(TTL));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_leaves_the_queue_and_a_holder_gives_it_back() {
    let register = Register::new(LockState::default());
    let held = participant(&register, "a").acquire(Mode::Exclusive, None).await.unwrap();
    let other = participant(&register, "b");
    assert!(timeout(Duration::from_secs(1), other.acquire(Mode::Exclusive, None)).await.is_err());
    drop(held);
    sleep(Duration::from_secs(1)).await;
    assert!(register.now().state.is_free() && register.now().state.waiters.is_empty());
    // The whole of it again, under every fault.
    register.befall([Fault::LostReply, Fault::Delayed, Fault::LostRequest, Fault::FalseConflict]);
    let held = other.acquire(Mode::Exclusive, None).await.unwrap();
    assert!(register.now().state.holds(held.claim()));
    held.release().await.unwrap();
    assert!(register.now().state.is_free());
}

#[tokio::test(start_paused = true)]
async fn shared_holders_and_permits_are_granted_together_and_an_exclusive_one_alone() {
    let register = Register::new(LockState::default());
    let (a, b, c) = (participant(&register, "a"), participant(&register, "b"), participant(&register, "c"));
    let shared = [a.try_acquire(Mode::Shared).await.unwrap(), b.try_acquire(Mode::Shared).await.unwrap()];
    assert!(matches!(c.try_acquire(Mode::Exclusive).await, Err(LockError::Busy { .. })));
    for held in shared {
        held.release().await.unwrap();
    }
    let permit = |take| Mode::Permits { take, of: 3 };
    let two = a.try_acquire(permit(2)).await.unwrap();
    assert!(matches!(b.try_acquire(permit(2)).await, Err(LockError::Busy { .. })));
    let one = b.try_acquire(permit(1)).await.unwrap();
    let other = c.try_acquire(Mode::Permits { take: 1, of: 4 }).await;
    assert!(matches!(other, Err(LockError::OtherPermits { asked: 4, others: 3, .. })));
    two.release().await.unwrap();
    one.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_only_tries_again_and_again_replaces_a_crashed_holder_too() {
    let (register, began) = (dead(), Instant::now());
    let lock = participant(&register, "b");
    while lock.try_acquire(Mode::Exclusive).await.is_err() {
        assert!(began.elapsed() < TTL * 2);
        sleep(Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() >= patience(TTL));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_dropped_while_it_is_on_its_way_is_taken_back_when_it_comes() {
    let register = Register::new(LockState::default());
    let lock = participant(&register, "a");
    register.befall([Fault::Delayed]);
    assert!(timeout(Duration::from_millis(1), lock.acquire(Mode::Exclusive, None)).await.is_err());
    let landed = timeout(TTL, async {
        while register.now().state.is_free() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    // Whether it is seen in between or not: it is gone long before its time would be up.
    let _ = landed.await;
    sleep(TTL / 2).await;
    assert!(register.now().version >= 2 && register.now().state.is_free(), "{:?}", register.now());
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_end_waiting_without_a_limit() {
    let register = Register::new(LockState::default());
    register.befall(std::iter::repeat_n(Fault::LostRequest, 40));
    let held = participant(&register, "a").acquire(Mode::Exclusive, None).await.unwrap();
    assert!(register.now().state.holds(held.claim()));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_told() {
    let register = Register::new(LockState::default());
    let lock = participant(&register, "a");
    let told = lock.force_release("nobody").await.unwrap_err();
    assert!(matches!(told, LockError::NoSuchClaim { .. }) && told.to_string().contains("no claim nobody"), "{told}");
    for permits in [Mode::Permits { take: 0, of: 3 }, Mode::Permits { take: 4, of: 3 }] {
        assert!(matches!(lock.try_acquire(permits).await, Err(LockError::Invalid(_))));
    }
    for ttl in [Duration::ZERO, Duration::from_secs(365 * 86_400)] {
        let session = Session::with("a", Arc::new(Virtual::default()), Arc::new(Random::from_seed("a")));
        let told = Lock::new(register.clone(), session, "n/l", ttl).err().unwrap();
        assert!(told.to_string().contains("from 1 s to 1 h"), "{told}");
    }
    // Somebody took it back: the holder is told, and giving it back is an error.
    let held = lock.acquire(Mode::Exclusive, None).await.unwrap();
    participant(&register, "b").force_release(held.claim()).await.unwrap();
    let reason = timeout(TTL, held.lost()).await.unwrap();
    assert!(held.valid_for().is_zero() && reason.contains("taken back"), "{reason}");
    assert!(matches!(held.release().await, Err(LockError::NoSuchClaim { .. })));
}
