//! How the members of a ClusterSet are, as its status says it: pure.

use std::{collections::BTreeSet, error::Error, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use quorate_coordination::clusters::distinct;
use quorate_crds::{ClusterMemberStatus, ClusterSet, ClusterSetStatus};

/// What a member said.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its name.
    pub name: String,
    /// What it said, or why it is not ready.
    pub seen: Result<Seen, String>,
}

/// What a member that is ready said.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its Kubernetes version.
    pub version: String,
    /// The uid of its namespace kube-system.
    pub uid: String,
    /// How long the answer took.
    pub round_trip: Duration,
}

/// What an error means, and what to do.
#[must_use]
pub fn explained(error: &kube::Error, namespace: &str) -> String {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            "it does not accept the credentials (401): they are wrong or have expired; put new ones into its kubeconfig"
                .to_owned()
        }
        kube::Error::Api(status) if status.code == 403 => format!(
            "the rights are too small: {}; bind the ClusterRole quorate-members there (docs/quorum.md)",
            status.message
        ),
        kube::Error::Api(status) if status.code == 404 => format!(
            "it has no Acceptors: install Quorate's CustomResourceDefinitions of this version there ({} in namespace {namespace})",
            status.message
        ),
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => {
            let mut deepest: &dyn Error = other;
            while let Some(cause) = deepest.source() {
                deepest = cause;
            }
            format!("it cannot be reached: {deepest}")
        }
    }
}

/// Why the set must not be used, if so.
#[must_use]
pub fn refused(probes: &[Probe]) -> Option<String> {
    let uid = |probe: &Probe| {
        let uid = probe.seen.as_ref().map(|seen| seen.uid.clone());
        (probe.name.clone(), uid.map_err(Clone::clone))
    };
    distinct(&probes.iter().map(uid).collect::<Vec<_>>()).err().map(|same| same.to_string())
}

/// The status to write, or none if it is there already.
#[must_use]
pub fn status(set: &ClusterSet, probes: &[Probe], now: Timestamp) -> Option<ClusterSetStatus> {
    let old = set.status.clone().unwrap_or_default();
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let ready = probes.iter().filter(|probe| probe.seen.is_ok()).count();
    let needed = probes.len() / 2 + 1;
    let unready = probes.iter().filter_map(|probe| Some(format!("{}: {}", probe.name, probe.seen.as_ref().err()?)));
    let unready = unready.collect::<Vec<_>>().join("; ");
    let refused = refused(probes);
    let of = format!("{ready} of {} members are ready", probes.len());
    let quorum = match &refused {
        Some(why) => (false, "SameCluster", why.clone()),
        None if ready >= needed => (true, "MajorityReady", of + &advice(probes.len())),
        None => (false, "QuorumLost", format!("{of}, and {needed} are needed: {unready}")),
    };
    let degraded = match &refused {
        Some(why) => (true, "SameCluster", why.clone()),
        None if !unready.is_empty() => (true, "MembersNotReady", unready),
        None => versions(probes),
    };
    let stalled = match &refused {
        Some(why) => (true, "SameCluster", format!("{why}: name another cluster, or leave one of them out")),
        None => (false, "AsExpected", "nobody is needed".to_owned()),
    };
    let conditions = [("QuorumAvailable", quorum), ("Degraded", degraded), ("Stalled", stalled)];
    let condition = |(type_, (holds, reason, message)): (&str, (bool, &str, String))| {
        let status = if holds { "True" } else { "False" };
        let before = old.conditions.iter().find(|before| before.type_ == type_ && before.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(8192).collect(),
            observed_generation: set.metadata.generation,
            last_transition_time: before.map_or_else(|| now.clone(), |before| before.last_transition_time.clone()),
        }
    };
    let status = ClusterSetStatus {
        observed_generation: set.metadata.generation,
        conditions: conditions.map(condition).into(),
        summary: Some(format!("{ready}/{}", probes.len())),
        members: probes.iter().map(|probe| member(&old, probe, &now)).collect(),
    };
    (!says_the_same(&old, &status)).then_some(status)
}

fn advice(members: usize) -> String {
    match members {
        1 => "; one member decides alone: nothing is gained over a register of that cluster".to_owned(),
        even if even % 2 == 0 => format!("; an even number tolerates no more losses than {} members would", even - 1),
        odd => format!("; {} may be lost", odd / 2),
    }
}

fn versions(probes: &[Probe]) -> (bool, &'static str, String) {
    let seen = probes.iter().filter_map(|probe| Some((&probe.name, &probe.seen.as_ref().ok()?.version)));
    let seen: Vec<(&String, &String)> = seen.collect();
    let distinct: BTreeSet<&String> = seen.iter().map(|(_, version)| *version).collect();
    if distinct.len() <= 1 {
        return (false, "AllReady", "all members are ready".to_owned());
    }
    let each = seen.iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ");
    (false, "VersionsDiffer", format!("all members are ready; their Kubernetes versions differ: {each}"))
}

fn member(old: &ClusterSetStatus, Probe { name, seen }: &Probe, now: &Time) -> ClusterMemberStatus {
    let before = old.members.iter().find(|member| member.name == *name);
    let since = before.filter(|before| before.ready == seen.is_ok()).and_then(|before| before.since.clone());
    let told = ClusterMemberStatus { name: name.clone(), since: since.or(Some(now.clone())), ..Default::default() };
    match seen {
        Ok(Seen { version, uid, round_trip }) => ClusterMemberStatus {
            ready: true,
            round_trip_millis: i64::try_from(round_trip.as_millis()).ok(),
            version: Some(version.clone()),
            cluster_uid: Some(uid.clone()),
            ..told
        },
        Err(why) => ClusterMemberStatus {
            message: Some(why.chars().take(1024).collect()),
            // Which cluster it was is worth keeping.
            version: before.and_then(|before| before.version.clone()),
            cluster_uid: before.and_then(|before| before.cluster_uid.clone()),
            ..told
        },
    }
}

/// Whether they differ by nothing but how long answers took, and by little.
fn says_the_same(old: &ClusterSetStatus, new: &ClusterSetStatus) -> bool {
    let timeless = |status: &ClusterSetStatus| {
        let mut status = status.clone();
        status.members.iter_mut().for_each(|member| member.round_trip_millis = None);
        status
    };
    let near =
        |(old, new): (&ClusterMemberStatus, &ClusterMemberStatus)| match (old.round_trip_millis, new.round_trip_millis)
        {
            (Some(old), Some(new)) => old.max(new) <= 20 || old.max(new) <= 3 * old.min(new),
            (old, new) => old == new,
        };
    timeless(old) == timeless(new) && old.members.iter().zip(&new.members).all(near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::ClusterSetSpec;

    fn probe(name: &str, uid: &str, millis: u64) -> Probe {
        let seen = Seen { version: "v1.37.2".into(), uid: uid.into(), round_trip: Duration::from_millis(millis) };
        Probe { name: name.into(), seen: Ok(seen) }
    }

    fn lost(name: &str) -> Probe {
        Probe { name: name.into(), seen: Err("no answer within 2 s".into()) }
    }

    fn told(status: &ClusterSetStatus, type_: &str) -> (String, String, String) {
        let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        (found.status.clone(), found.reason.clone(), found.message.clone())
    }

    fn says(probes: &[Probe]) -> ClusterSetStatus {
        status(&ClusterSet::new("s", ClusterSetSpec::default()), probes, Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_majority_is_told_apart_from_less_and_each_lost_member_is_named() {
        let all = says(&[probe("eu", "1", 1), probe("us", "2", 80), probe("asia", "3", 200)]);
        assert_eq!(all.summary.as_deref(), Some("3/3"));
        let (quorum, _, message) = told(&all, "QuorumAvailable");
        assert_eq!((quorum.as_str(), message.as_str()), ("True", "3 of 3 members are ready; 1 may be lost"));
        assert_eq!(told(&all, "Degraded").0, "False");
        let two = says(&[probe("eu", "1", 1), lost("us"), probe("asia", "3", 1)]);
        assert_eq!(told(&two, "QuorumAvailable").0, "True");
        assert_eq!(
            told(&two, "Degraded"),
            ("True".into(), "MembersNotReady".into(), "us: no answer within 2 s".into())
        );
        let one = says(&[probe("eu", "1", 1), lost("us"), lost("asia")]);
        let (quorum, reason, message) = told(&one, "QuorumAvailable");
        assert_eq!((quorum.as_str(), reason.as_str()), ("False", "QuorumLost"));
        assert!(message.starts_with("1 of 3 members are ready, and 2 are needed: us: no answer"), "{message}");
        let even = says(&[probe("eu", "1", 1), probe("us", "2", 1)]);
        assert!(told(&even, "QuorumAvailable").2.contains("no more losses than 1 members"));
    }

    #[test]
    fn one_cluster_under_two_names_is_no_majority() {
        let status = says(&[probe("eu", "1", 1), probe("us", "1", 1), probe("asia", "3", 1)]);
        assert_eq!(told(&status, "QuorumAvailable").1, "SameCluster");
        assert!(told(&status, "Stalled").2.contains("members eu and us are the same cluster"));
    }

    #[test]
    fn a_status_is_written_when_it_says_something_new() {
        let mut set = ClusterSet::new("s", ClusterSetSpec::default());
        let probes = [probe("eu", "1", 10), probe("us", "2", 80)];
        set.status = status(&set, &probes, Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(60).unwrap();
        assert_eq!(status(&set, &[probe("eu", "1", 19), probe("us", "2", 100)], later), None);
        assert!(status(&set, &[probe("eu", "1", 19), probe("us", "2", 500)], later).is_some(), "it became slow");
        let lost = status(&set, &[probe("eu", "1", 10), lost("us")], later).unwrap();
        assert_eq!(lost.members[1].since, Some(Time(later)));
        assert_eq!(lost.members[1].cluster_uid.as_deref(), Some("2"), "it is known which one it was");
        assert_eq!(lost.members[0].since, Some(Time(Timestamp::UNIX_EPOCH)));
    }
}
