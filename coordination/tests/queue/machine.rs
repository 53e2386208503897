//! The pure machine of an item: what each operation makes of each state, and that no order of operations breaks a rule.

use proptest::prelude::*;
use quorate_coordination::{
    Step,
    queue::{
        Item,
        item::{Claim, Claimed, Now, Sending, Sign},
    },
};
use quorate_crds::{QueueItemSpec, QueueItemState};

use super::history::step;

const MAX: u32 = 3;

fn fresh(operation: &str) -> Item {
    let spec = QueueItemSpec {
        queue: "q".into(),
        sequence: 1,
        operation: operation.into(),
        payload: Some("p".into()),
        ..QueueItemSpec::default()
    };
    Item { queue_uid: "u".into(), spec, ..Item::default() }
}

fn claim(id: &str, expired: Option<Sign>) -> Claim {
    Claim { id: id.into(), by: format!("pod-{id}"), visibility_seconds: 30, max_attempts: MAX, expired }
}

fn written<O: std::fmt::Debug>(step: Step<Item, O>) -> Item {
    match step {
        Step::Write(next, _) => next,
        Step::Answer(answer) => panic!("nothing was written: {answer:?}"),
    }
}

fn claimed(item: &Item, id: &str) -> Item {
    written(item.claim(&claim(id, item.sign())))
}

#[test]
fn an_item_is_sent_once() {
    let (none, new) = (Item::default(), fresh("a"));
    let Step::Write(sent, Sending::Sent) = none.send(&new) else { panic!("there is none") };
    assert_eq!(sent.send(&new), Step::Answer(Sending::Sent), "the answer was lost");
    assert_eq!(sent.send(&fresh("b")), Step::Answer(Sending::Duplicate));
    let done = written(claimed(&sent, "r").acknowledge("1-r"));
    assert_eq!(done.send(&fresh("b")), Step::Answer(Sending::Duplicate), "it was acknowledged, and is kept");
    assert_eq!(done.send(&new), Step::Answer(Sending::Sent), "a late answer to the first");
    let other = Item { queue_uid: "v".into(), ..fresh("b") };
    assert_eq!(sent.send(&other), Step::Answer(Sending::Leftover));
}

#[test]
fn a_claim_is_an_attempt_with_a_receipt_of_its_own() {
    let first = claimed(&fresh("a"), "r");
    assert_eq!((first.status.attempts, first.status.receipt.as_deref()), (1, Some("1-r")));
    assert_eq!((first.status.claimed_by.as_deref(), first.status.visibility_seconds), (Some("pod-r"), Some(30)));
    assert_eq!(first.claim(&claim("r", None)), Step::Answer(Claimed::Yours), "the answer was lost");
    assert_eq!(first.claim(&claim("s", None)), Step::Answer(Claimed::Taken));
    let extended = written(first.extend("1-r", 1, 30));
    assert_eq!(extended.claim(&claim("s", first.sign())), Step::Answer(Claimed::Taken), "there was a sign of life");
    let second = claimed(&extended, "s");
    assert_eq!((second.status.attempts, second.status.extensions), (2, 0));
    assert_eq!(Item::default().claim(&claim("r", None)), Step::Answer(Claimed::Taken), "there is none");
}

#[test]
fn an_old_receipt_is_told_what_has_become_of_the_item() {
    let first = claimed(&fresh("a"), "r");
    let second = claimed(&first, "s");
    let by = Now::Claimed { by: "pod-s".into(), attempt: 2 };
    for item in [&second, &written(second.extend("2-s", 1, 60))] {
        assert_eq!(item.acknowledge("1-r"), Step::Answer(Err(by.clone())));
        assert_eq!(item.extend("1-r", 1, 60), Step::Answer(Err(by.clone())));
        assert_eq!(item.release("1-r", MAX, None), Step::Answer(Err(by.clone())));
    }
    assert!(by.to_string().contains("pod-s has it now (attempt 2)"));
    let ready = written(first.release("1-r", MAX, Some("not now")));
    assert_eq!((ready.state(), ready.status.message.as_deref()), (QueueItemState::Ready, Some("not now")));
    assert_eq!(ready.acknowledge("1-r"), Step::Answer(Err(Now::Ready)));
    let done = written(second.acknowledge("2-s"));
    assert_eq!(done.acknowledge("1-r"), Step::Answer(Err(Now::Acknowledged { by: "pod-s".into() })));
    assert_eq!(done.acknowledge("2-s"), Step::Answer(Ok(())), "the answer was lost");
    assert_eq!(done.release("2-s", MAX, None), Step::Answer(Err(Now::Acknowledged { by: "pod-s".into() })));
    assert_eq!(Item::default().acknowledge("1-r"), Step::Answer(Err(Now::Gone)));
    assert_eq!(first.acknowledge(""), Step::Answer(Err(Now::Claimed { by: "pod-r".into(), attempt: 1 })));
}

#[test]
fn an_extension_is_done_once() {
    let first = claimed(&fresh("a"), "r");
    let extended = written(first.extend("1-r", 1, 60));
    assert_eq!((extended.status.extensions, extended.status.visibility_seconds), (1, Some(60)));
    assert_eq!(extended.extend("1-r", 1, 60), Step::Answer(Ok(())), "the answer was lost");
    assert_eq!(written(extended.extend("1-r", 1, 90)).status.visibility_seconds, Some(90), "another has extended too");
    assert_ne!(first.sign(), extended.sign());
}

#[test]
fn after_the_last_attempt_an_item_is_dead_until_it_is_redriven() {
    let mut item = fresh("a");
    for id in ["r", "s", "t"] {
        item = claimed(&item, id);
    }
    for dead in [
        written(item.release("3-t", MAX, Some("no such order"))),
        written(item.expire(&item.sign().unwrap(), MAX)),
        written(item.claim(&claim("u", item.sign()))),
    ] {
        assert_eq!((dead.state(), dead.status.attempts), (QueueItemState::Dead, 3));
        let why = dead.status.message.clone().unwrap();
        assert!(why.starts_with("handed out 3 times, which is the most"), "{why}");
        assert_eq!(dead.claim(&claim("u", None)), Step::Answer(Claimed::Taken));
        assert_eq!(dead.acknowledge("3-t"), Step::Answer(Err(Now::Dead)));
        let again = written(dead.redrive());
        assert_eq!((again.state(), again.status.forgiven, again.is_spent(MAX)), (QueueItemState::Ready, 3, false));
        assert_eq!(again.redrive(), Step::Answer(false));
        assert_eq!(claimed(&again, "v").status.receipt.as_deref(), Some("4-v"), "no receipt is given twice");
    }
    // The limit was set lower while it was ready.
    let ready = written(claimed(&fresh("a"), "r").release("1-r", MAX, None));
    let lower = Claim { max_attempts: 1, ..claim("s", None) };
    assert!(matches!(ready.claim(&lower), Step::Write(dead, Claimed::Buried) if dead.state() == QueueItemState::Dead));
}

#[test]
fn a_long_reason_is_cut() {
    let item = claimed(&fresh("a"), "r");
    let released = written(item.release("1-r", MAX, Some(&"ä".repeat(5000))));
    assert_eq!(released.status.message.unwrap().chars().count(), 1024);
}

/// Any operation, with a receipt of any attempt.
#[derive(Clone, Copy, Debug)]
enum Act {
    Claim,
    Take,
    Extend(usize),
    Acknowledge(usize),
    Release(usize),
    Expire,
    Redrive,
}

fn act() -> impl Strategy<Value = Act> {
    let any = 0..4_usize;
    prop_oneof![
        Just(Act::Claim),
        Just(Act::Take),
        any.clone().prop_map(Act::Extend),
        any.clone().prop_map(Act::Acknowledge),
        any.prop_map(Act::Release),
        Just(Act::Expire),
        Just(Act::Redrive),
    ]
}

proptest! {
    #[test]
    fn no_order_of_operations_breaks_a_rule(acts in prop::collection::vec(act(), 0..60)) {
        let mut item = fresh("a");
        // The last receipts, of which the first is the newest.
        let mut receipts: Vec<String> = vec!["1-x".into()];
        for (stamp, act) in (1..).zip(acts) {
            let id = format!("r{stamp}");
            let old = |n: usize| receipts[n.min(receipts.len() - 1)].clone();
            let next = match act {
                Act::Claim => next_of(item.claim(&claim(&id, None))),
                Act::Take => next_of(item.claim(&claim(&id, item.sign()))),
                Act::Extend(n) => next_of(item.extend(&old(n), item.status.extensions + 1, 10)),
                Act::Acknowledge(n) => next_of(item.acknowledge(&old(n))),
                Act::Release(n) => next_of(item.release(&old(n), MAX, None)),
                Act::Expire => item.sign().and_then(|sign| next_of(item.expire(&sign, MAX))),
                Act::Redrive => next_of(item.redrive()),
            };
            let Some(next) = next else { continue };
            prop_assert!(step(Some(&item), &next), "{act:?}: {item:?} -> {next:?}");
            prop_assert!(next.status.attempts - next.status.forgiven <= i64::from(MAX));
            if let Some(receipt) = &next.status.receipt && receipts[0] != *receipt {
                prop_assert!(!receipts.contains(receipt));
                receipts.insert(0, receipt.clone());
            }
            item = next;
        }
    }
}

fn next_of<O>(step: Step<Item, O>) -> Option<Item> {
    match step {
        Step::Write(next, _) => Some(next),
        Step::Answer(_) => None,
    }
}
