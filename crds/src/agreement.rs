//! What a set of clusters decides about a config.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Who decides what the next revision is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agreement {
    /// A ClusterSet of this namespace: a majority of its clusters decides which content comes next, and all of them deliver it.
    /// Each of the clusters has a config of this name and namespace; whichever layers were changed last give the content.
    #[schemars(length(min = 1, max = 253))]
    pub cluster_set: String,
}

/// What was decided last, as far as is known here.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgreementStatus {
    /// The ClusterSet.
    pub cluster_set: String,
    /// Counts what was decided: the same number is the same content in all clusters.
    pub revision: i64,
    /// The member whose layers gave it.
    pub origin: String,
    /// The hash of its content.
    pub hash: String,
    /// The round of the ballot under which it was decided, or read last.
    pub ballot: i64,
    /// Its Lamport stamp.
    pub lamport: i64,
}

/// An entry of the clusters' log: what they decided once, the same in all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgreedEntry {
    /// Counts the entries; 0 before the first.
    pub revision: i64,
    /// The member whose layers gave it.
    pub origin: String,
    /// The hash of the content. The content itself may be secret: it is in a Secret of this hash.
    pub hash: String,
    /// The hash of the entry before.
    pub previous: String,
    /// The round of the ballot on which it was decided.
    pub after: u64,
    /// The Lamport stamp.
    pub lamport: i64,
    /// Who changed the layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
}

/// The value of the register that the clusters decide on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agreed {
    /// What was decided last.
    pub entry: AgreedEntry,
    /// What each member's layers gave when it proposed last, by its hash.
    pub inputs: BTreeMap<String, String>,
}

impl Agreed {
    /// What `member` proposes, whose layers give the content with this hash; nothing, if they gave the same when it proposed last. So
    /// clusters whose layers differ do not overrule each other for ever: a change does, and a cluster that comes back does not.
    #[must_use]
    pub fn proposal(&self, member: &str, hash: &str, after: u64, changed_by: Option<&str>) -> Option<Self> {
        if self.inputs.get(member).is_some_and(|before| before == hash) {
            return None;
        }
        let mut next = self.clone();
        next.inputs.insert(member.to_owned(), hash.to_owned());
        if hash != self.entry.hash {
            next.entry = AgreedEntry {
                revision: self.entry.revision.saturating_add(1),
                origin: member.to_owned(),
                hash: hash.to_owned(),
                previous: self.entry.hash.clone(),
                after,
                lamport: self.entry.lamport.saturating_add(1),
                changed_by: changed_by.map(str::to_owned),
            };
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_its_layers_proposes_and_who_comes_back_does_not() {
        let none = Agreed::default();
        let first = none.proposal("eu", "a", 0, Some("kubectl")).unwrap();
        let says = |agreed: &Agreed| (agreed.entry.revision, agreed.entry.origin.clone(), agreed.entry.hash.clone());
        assert_eq!(says(&first), (1, "eu".into(), "a".into()));
        // Another region has other layers: they come next, once.
        let second = first.proposal("us", "b", 3, None).unwrap();
        assert_eq!(
            (says(&second), second.entry.previous.as_str(), second.entry.after),
            ((2, "us".into(), "b".into()), "a", 3)
        );
        assert_eq!(second.proposal("eu", "a", 5, None), None, "nothing was changed in eu");
        assert_eq!(second.proposal("us", "b", 5, None), None);
        let third = second.proposal("eu", "c", 5, None).unwrap();
        assert_eq!((says(&third), third.entry.lamport), ((3, "eu".into(), "c".into()), 3));
        // Whose layers give what was decided says so, and the entry stays as it is in everybody's log.
        let same = third.proposal("asia", "c", 7, Some("helm")).unwrap();
        assert_eq!(same.entry, third.entry);
        assert_eq!(same.proposal("asia", "c", 8, None), None);
    }
}
