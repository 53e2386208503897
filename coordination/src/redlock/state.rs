//! What one member says of a lock, as a pure state machine.
//!
//! The token that a member knows never falls: neither a release nor a try that failed takes it back. So two grants, each
//! of a majority, have a member in common, and the later one has the higher token.

use std::time::Duration;

use jiff::Timestamp;

/// See the module. A member that has no Lease says nothing: it is not a free one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberState {
    /// Whether the member takes part. One whose Lease was lost does not, until it is joined again.
    pub joined: bool,
    /// The highest token that was accepted here.
    pub token: u64,
    /// The longest time that was ever granted here: so long may a holder live that nobody knows of.
    pub longest: Duration,
    /// Who holds it here.
    pub holder: Option<Holder>,
    /// When it was written last, by that writer's clock. Changes with every write.
    pub written: Option<Timestamp>,
}

/// Who holds one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The claim's id; empty of a holder that is none of ours.
    pub claim: String,
    /// What people know it by.
    pub identity: String,
    /// For how long it holds without being renewed.
    pub ttl: Duration,
    /// Counts the renewals.
    pub renewals: u64,
}

/// What shows that a holder lives: it changes with every renewal.
pub type Sign = (String, u64, Option<Timestamp>);

impl MemberState {
    /// What shows that its holder lives. Of one of ours the claim and its renewals do, of others the time.
    #[must_use]
    pub fn sign(&self) -> Option<Sign> {
        let holder = self.holder.as_ref()?;
        let ours = !holder.claim.is_empty();
        let who = if ours { &holder.claim } else { &holder.identity };
        Some((who.clone(), holder.renewals, if ours { None } else { self.written }))
    }

    /// Grants it with this token, if nobody holds it but who is `expired`. None if it cannot be.
    #[must_use]
    pub fn grant(&self, holder: &Holder, token: u64, expired: Option<&Sign>, now: Timestamp) -> Option<Self> {
        let sign = self.sign();
        let free = sign.is_none() || sign.as_ref() == expired;
        (self.joined && free && token > self.token).then(|| Self {
            joined: true,
            token,
            longest: self.longest.max(holder.ttl),
            holder: Some(holder.clone()),
            written: Some(now),
        })
    }

    /// Renews what this holder, whose token a majority accepted, holds here; where it does not, as the member was away, it is
    /// granted if it is free. None if it is another's.
    #[must_use]
    pub fn renew(&self, holder: &Holder, token: u64, expired: Option<&Sign>, now: Timestamp) -> Option<Self> {
        if self.joined && self.holder.as_ref().is_some_and(|present| present.claim == holder.claim) {
            return Some(Self { holder: Some(holder.clone()), written: Some(now), ..self.clone() });
        }
        // Nobody else was ever granted this token.
        let before = Self { token: self.token.saturating_sub(u64::from(self.token == token)), ..self.clone() };
        before.grant(holder, token, expired, now)
    }

    /// Gives back what this claim holds here. The token stays.
    #[must_use]
    pub fn release(&self, claim: &str, now: Timestamp) -> Option<Self> {
        let held = self.holder.as_ref().is_some_and(|holder| holder.claim == claim);
        held.then(|| Self { holder: None, written: Some(now), ..self.clone() })
    }

    /// Takes part from now on: free, and with what a majority knows.
    #[must_use]
    pub fn join(&self, token: u64, longest: Duration, now: Timestamp) -> Self {
        let (token, longest) = (token.max(self.token), longest.max(self.longest));
        Self { joined: true, token, longest, holder: None, written: Some(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn holder(claim: &str) -> Holder {
        Holder { claim: claim.into(), identity: "pod".into(), ttl: Duration::from_secs(15), renewals: 0 }
    }

    fn joined() -> MemberState {
        MemberState::default().join(4, Duration::from_secs(1), NOW)
    }

    #[test]
    fn a_member_that_has_no_lease_grants_nothing() {
        assert_eq!(MemberState::default().grant(&holder("a"), 1, None, NOW), None);
    }

    #[test]
    fn a_grant_needs_a_higher_token_and_that_nobody_holds_it() {
        assert_eq!(joined().grant(&holder("a"), 4, None, NOW), None);
        let held = joined().grant(&holder("a"), 5, None, NOW).unwrap();
        assert_eq!((held.token, held.longest), (5, Duration::from_secs(15)));
        assert_eq!(held.grant(&holder("b"), 6, None, NOW), None);
        let sign = held.sign();
        assert!(held.grant(&holder("b"), 6, sign.as_ref(), NOW).is_some());
        let renewed = held.renew(&Holder { renewals: 1, ..holder("a") }, 5, None, NOW).unwrap();
        assert_eq!(renewed.grant(&holder("b"), 6, sign.as_ref(), NOW), None, "it lives");
    }

    #[test]
    fn a_release_is_its_holders_and_keeps_the_token() {
        let held = joined().grant(&holder("a"), 5, None, NOW).unwrap();
        assert_eq!((held.release("b", NOW), held.renew(&holder("b"), 6, None, NOW)), (None, None));
        let free = held.release("a", NOW).unwrap();
        assert_eq!((free.holder.is_none(), free.token), (true, 5));
    }

    #[test]
    fn who_holds_a_majority_takes_a_member_that_was_away() {
        assert_eq!(joined().renew(&holder("a"), 3, None, NOW), None, "others were granted it since");
        for token in [4, 5] {
            let regained = joined().renew(&holder("a"), token, None, NOW).unwrap();
            assert_eq!((regained.token, regained.holder), (token, Some(holder("a"))));
        }
    }

    #[test]
    fn who_joins_has_what_the_others_know() {
        let stale = joined().grant(&holder("a"), 5, None, NOW).unwrap();
        let again = stale.join(9, Duration::from_secs(60), NOW);
        assert_eq!((again.token, again.longest, again.holder), (9, Duration::from_secs(60), None));
    }
}
