//! `lock list` and `lock show`: who holds a lock, and who waits.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt, api::ListParams};
use quorate_coordination::{
    LockState, Mode, Process, Stored,
    lock::{Claim, Foreign, patience},
};
use quorate_crds::names;
use serde::Serialize;

use super::{leases, read};
use crate::{
    answer::{Answer, note},
    cluster::{Cluster, call},
    exit::{Exit, Result},
    format::{Cell, Fields, Style, Tone, age, count, printable, table},
    options::LockList,
};

/// A lock, as one quorum read shows it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The Lease's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The version that was read. No fencing token that was given so far is higher.
    pub token: Option<u64>,
    /// Who holds it, in the order in which they were granted it.
    pub holders: Vec<ClaimView>,
    /// Who waits, first come first.
    pub waiters: Vec<ClaimView>,
    /// Who holds it that is none of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignView>,
    /// When it was granted last, by that writer's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted: Option<Timestamp>,
    /// When a holder renewed it last, by that holder's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewed: Option<Timestamp>,
    /// Whether, going by those clocks, nobody has renewed it for longer than a grant lives: then who claims it next
    /// sees that for itself, and takes it.
    pub overdue: bool,
    /// How often it went from one holder to another.
    pub transitions: i32,
    /// The highest Lamport stamp of an operation on it.
    pub lamport: i64,
    /// The highest stamp of its users' hybrid logical clocks.
    pub hlc: String,
}

/// A claim.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimView {
    /// Its id, for `lock release --claim`.
    pub claim: String,
    /// Who made it.
    pub identity: String,
    /// How much of the lock it is.
    pub mode: Mode,
    /// For how long it holds without being renewed.
    pub ttl_millis: u64,
    /// How often it was renewed; of holders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renewals: Option<u64>,
    /// The pod whose end ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
}

/// A holder that is none of ours.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForeignView {
    /// Its name for itself.
    pub identity: String,
    /// For how long it holds without being renewed.
    pub ttl_millis: u64,
}

/// The list for scripts.
#[derive(Serialize)]
struct List<'a> {
    locks: &'a [View],
}

/// Runs `lock show`.
///
/// # Errors
/// When there is no such lock, or the API server fails.
pub async fn one(cluster: &Cluster, answer: Answer, name: &str) -> Result {
    let (lease, state) = read(cluster, name).await?;
    let now = Timestamp::now();
    let view = View::of(&lease, &state, now);
    answer.give(&view, |style| detail(style, &view, now))?;
    Ok(Exit::Ok)
}

/// Runs `lock list`.
///
/// # Errors
/// When the API server fails.
pub async fn list(cluster: &Cluster, answer: Answer, options: LockList) -> Result {
    let api: Api<Lease> = if options.all_namespaces { Api::all(cluster.client.clone()) } else { leases(cluster) };
    let listed = call("list Leases", api.list(&ListParams::default())).await?;
    let now = Timestamp::now();
    let ours = |lease: &&Lease| options.all || lease.annotations().contains_key(names::LOCK);
    let views: Vec<View> = listed.items.iter().filter(ours).filter_map(|lease| told(lease, now)).collect();
    answer.give(&List { locks: &views }, |style| rows(style, &views, options.all_namespaces, now))?;
    Ok(Exit::Ok)
}

fn told(lease: &Lease, now: Timestamp) -> Option<View> {
    match LockState::of_object(lease) {
        Ok(state) => Some(View::of(lease, &state, now)),
        Err(why) => {
            let namespace = lease.namespace().unwrap_or_default();
            note(&printable(&format!("Lease {namespace}/{} is left out: {why}", lease.name_any())));
            None
        }
    }
}

impl View {
    fn of(lease: &Lease, state: &LockState, now: Timestamp) -> Self {
        let claim = |claim: &Claim, renewals: Option<u64>| ClaimView {
            claim: claim.id.clone(),
            identity: claim.identity.clone(),
            mode: claim.mode,
            ttl_millis: claim.ttl_millis,
            renewals,
            process: claim.process.clone(),
        };
        let foreign = state.foreign.as_ref().map(|Foreign { identity, ttl, .. }| ForeignView {
            identity: identity.clone(),
            ttl_millis: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        });
        let longest = state.signs().map(|(_, ttl)| patience(ttl)).max();
        let silent = state.renewed.and_then(|renewed| now.duration_since(renewed).try_into().ok());
        Self {
            namespace: lease.namespace().unwrap_or_default(),
            name: lease.name_any(),
            token: lease.resource_version().and_then(|version| version.parse().ok()),
            holders: state.holders.iter().map(|holder| claim(&holder.claim, Some(holder.renewals))).collect(),
            waiters: state.waiters.iter().map(|waiter| claim(waiter, None)).collect(),
            foreign,
            granted: state.acquired,
            renewed: state.renewed,
            overdue: longest.zip(silent).is_some_and(|(longest, silent): (_, std::time::Duration)| silent > longest),
            transitions: state.transitions,
            lamport: state.lamport,
            hlc: state.hlc.to_string(),
        }
    }

    fn held_by(&self) -> String {
        if let Some(foreign) = &self.foreign {
            return foreign.identity.clone();
        }
        match self.holders.as_slice() {
            [] => "nobody".to_owned(),
            [one] => one.identity.clone(),
            [first, others @ ..] => format!("{} and {}", first.identity, count(others.len(), "other", "others")),
        }
    }

    fn tone(&self) -> Tone {
        if self.overdue {
            Tone::Bad
        } else if self.foreign.is_none() && self.holders.is_empty() {
            Tone::Faint
        } else {
            Tone::Good
        }
    }
}

fn mode(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => "exclusive".to_owned(),
        Mode::Shared => "shared".to_owned(),
        Mode::Permits { take, of } => format!("{take} of {of}"),
    }
}

fn rows(style: Style, views: &[View], namespaces: bool, now: Timestamp) -> String {
    if views.is_empty() {
        return "no locks\n".to_owned();
    }
    let since = |time: Option<Timestamp>| time.map(|time| age(time, now)).unwrap_or_default();
    let row = |view: &View| -> Vec<Cell> {
        let how = match (&view.foreign, view.holders.first()) {
            (Some(_), _) => "election".to_owned(),
            (None, Some(holder)) => mode(holder.mode),
            (None, None) => String::new(),
        };
        let held = !(view.holders.is_empty() && view.foreign.is_none());
        let cells = [
            view.name.as_str().into(),
            Cell::toned(view.held_by(), view.tone()),
            how.into(),
            view.waiters.len().to_string().into(),
            since(view.granted.filter(|_| held)).into(),
            Cell::toned(since(view.renewed.filter(|_| held)), if view.overdue { Tone::Bad } else { Tone::Faint }),
        ];
        namespaces.then(|| view.namespace.as_str().into()).into_iter().chain(cells).collect()
    };
    let head = ["NAMESPACE", "NAME", "HELD BY", "MODE", "WAITING", "SINCE", "RENEWED"];
    table(style, &head[usize::from(!namespaces)..], &views.iter().map(row).collect::<Vec<_>>())
}

fn detail(style: Style, view: &View, now: Timestamp) -> String {
    let mut fields = Fields::default();
    fields.add("Lock", format!("{}/{}", printable(&view.namespace), printable(&view.name)));
    fields.add("Held by", style.paint(view.tone(), &printable(&view.held_by())));
    if let Some(foreign) = &view.foreign {
        let says =
            "it is none of ours: a leader election of client-go, say. Ours wait until it has left, or is silent for";
        fields.add("", format!("{says} {} s", foreign.ttl_millis.div_ceil(1000)));
    }
    let held = !(view.holders.is_empty() && view.foreign.is_none());
    if let Some(granted) = view.granted.filter(|_| held) {
        fields.add("Granted", format!("{} ago", age(granted, now)));
    }
    if let Some(renewed) = view.renewed.filter(|_| held) {
        let seems =
            if view.overdue { "; its time seems to be up: who claims it next sees that for itself" } else { "" };
        fields.add("Renewed", format!("{} ago, by the holder's clock{seems}", age(renewed, now)));
    }
    if let Some(token) = view.token {
        fields.add("Token", format!("{token}, or lower: no fencing token given so far is higher"));
    }
    fields.add("Changed hands", count(view.transitions.unsigned_abs() as usize, "time", "times"));
    let mut text = fields.text(style);
    for (title, claims) in [("HOLDERS", &view.holders), ("WAITING", &view.waiters)] {
        if !claims.is_empty() {
            text += &format!("\n{}", claims_text(style, title, claims));
        }
    }
    text
}

fn claims_text(style: Style, title: &str, claims: &[ClaimView]) -> String {
    let row = |claim: &ClaimView| -> Vec<Cell> {
        let process = claim.process.as_ref();
        let pod = process.map(|process| match &process.container {
            Some(container) => format!("{}/{container}", process.pod),
            None => process.pod.clone(),
        });
        vec![
            claim.identity.as_str().into(),
            mode(claim.mode).into(),
            format!("{}s", claim.ttl_millis.div_ceil(1000)).into(),
            claim.renewals.map(|renewals| renewals.to_string()).unwrap_or_default().into(),
            pod.unwrap_or_default().into(),
            claim.claim.as_str().into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = claims.iter().map(row).collect();
    table(style, &[title, "MODE", "TTL", "RENEWALS", "POD", "CLAIM"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PLAIN, at};
    use quorate_coordination::Step;
    use serde_json::json;

    fn lease(spec: &serde_json::Value) -> Lease {
        let metadata = json!({"namespace": "shop", "name": "nightly", "resourceVersion": "77"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn claimed(state: &LockState, id: &str, mode: Mode) -> LockState {
        let process =
            Process { pod: format!("web-{id}"), uid: "u".into(), container: Some("app".into()), alive: at(0) };
        let claim = Claim {
            id: id.into(),
            client: "c".into(),
            identity: format!("web-{id}"),
            mode,
            ttl_millis: 15_000,
            process: Some(process),
        };
        let Step::Write(next, _) = state.acquire(&claim, true, at(0)) else { panic!("not claimed") };
        next
    }

    #[test]
    fn holders_and_waiters_are_told_in_their_order() {
        let state = claimed(&LockState::default(), "0", Mode::Exclusive);
        let state = claimed(&claimed(&state, "1", Mode::Shared), "2", Mode::Permits { take: 1, of: 3 });
        let view = View::of(&lease(&json!({})), &state, at(7));
        assert_eq!(
            detail(PLAIN, &view, at(7)),
            "Lock:          shop/nightly\n\
             Held by:       web-0\n\
             Granted:       7s ago\n\
             Renewed:       7s ago, by the holder's clock\n\
             Token:         77, or lower: no fencing token given so far is higher\n\
             Changed hands: 1 time\n\
             \n\
             HOLDERS   MODE        TTL   RENEWALS   POD         CLAIM\n\
             web-0     exclusive   15s   0          web-0/app   0\n\
             \n\
             WAITING   MODE     TTL   RENEWALS   POD         CLAIM\n\
             web-1     shared   15s              web-1/app   1\n\
             web-2     1 of 3   15s              web-2/app   2\n"
        );
        assert_eq!(
            rows(PLAIN, &[view], false, at(7)),
            "NAME      HELD BY   MODE        WAITING   SINCE   RENEWED\n\
             nightly   web-0     exclusive   2         7s      7s\n"
        );
    }

    #[test]
    fn who_is_silent_for_too_long_seems_to_have_ended() {
        let state = claimed(&LockState::default(), "0", Mode::Exclusive);
        let view = |seconds| View::of(&lease(&json!({})), &state, at(seconds));
        assert!(!view(15).overdue && view(16).overdue);
        // A clock that is behind says nothing.
        assert!(!view(-100).overdue);
        assert!(detail(PLAIN, &view(60), at(60)).contains("60s ago, by the holder's clock; its time seems to be up"));
        assert!(!View::of(&lease(&json!({})), &LockState::default(), at(60)).overdue);
    }

    #[test]
    fn a_holder_of_another_kind_is_told_as_such() {
        let lease = lease(&json!({"holderIdentity": "node-1\u{1b}", "leaseDurationSeconds": 20}));
        let view = View::of(&lease, &LockState::of_object(&lease).unwrap(), at(0));
        let text = detail(PLAIN, &view, at(0));
        assert!(text.contains("node-1\u{fffd}") && text.contains("none of ours") && text.contains("20 s"), "{text}");
    }
}
