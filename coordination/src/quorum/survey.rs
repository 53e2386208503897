//! Which registers there are on some clusters, who their members are, and which of those are lost.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use kube::{Api, Client, ResourceExt, api::ListParams};
use quorate_crds::Acceptor;

use super::{
    Place,
    object::{REMADE, place_of},
};
use crate::kube_register::called;

/// A register, as its acceptors show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Its members, as far as is known in these clusters.
    pub place: Place,
    /// A word on each member that has no say now: the name of its cluster, and why.
    pub lost: Vec<(String, String)>,
}

/// The registers of a namespace that have members, by name; and a word on each cluster that does not answer. A call may take `limit`.
pub async fn survey(
    clusters: &[(String, Client)],
    namespace: &str,
    limit: Duration,
) -> (Vec<Standing>, Vec<(String, String)>) {
    let asked = clusters.iter().map(|(cluster, client)| async move {
        let api: Api<Acceptor> = Api::namespaced(client.clone(), namespace);
        let found = called(limit, "list", api.list(&ListParams::default())).await;
        (cluster.clone(), found.map(|list| list.items).map_err(|failure| failure.to_string()))
    });
    let (mut acceptors, mut silent) = (BTreeMap::<String, BTreeMap<String, Acceptor>>::new(), BTreeMap::new());
    for (cluster, found) in join_all(asked).await {
        match found {
            Err(why) => drop(silent.insert(cluster, why)),
            Ok(found) => {
                for acceptor in found {
                    acceptors.entry(acceptor.name_any()).or_default().insert(cluster.clone(), acceptor);
                }
            }
        }
    }
    let standings = acceptors.into_iter().filter_map(|(name, acceptors)| standing(name, &acceptors, &silent));
    (standings.collect(), silent.clone().into_iter().collect())
}

/// What these acceptors of one register, by their clusters, come to; nothing if none of them is a member.
fn standing(
    name: String,
    acceptors: &BTreeMap<String, Acceptor>,
    silent: &BTreeMap<String, String>,
) -> Option<Standing> {
    let said = |(cluster, acceptor): (&String, &Acceptor)| {
        let place = place_of(acceptor).ok()?;
        (place.epoch > 0 && place.members.get(cluster) == acceptor.uid().as_ref()).then_some(place)
    };
    let place = acceptors.iter().filter_map(said).max()?;
    let lost = place.members.iter().filter_map(|(cluster, uid)| {
        let why = match (silent.get(cluster), acceptors.get(cluster)) {
            (Some(why), _) => why.as_str(),
            (None, None) => "it has no acceptor, or is not known here",
            (None, Some(acceptor)) if acceptor.uid().as_ref() != Some(uid) => REMADE,
            (None, Some(_)) => return None,
        };
        Some((cluster.clone(), why.to_owned()))
    });
    let lost = lost.collect();
    Some(Standing { name, place, lost })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn acceptor(uid: &str, epoch: i64, members: &[(&str, &str)]) -> Acceptor {
        let members: BTreeMap<&str, &str> = members.iter().copied().collect();
        serde_json::from_value(json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "Acceptor", "metadata": {"name": "r", "uid": uid},
            "spec": {"epoch": epoch, "members": members, "promised": {"round": 0, "proposer": ""}},
        }))
        .unwrap()
    }

    #[test]
    fn the_latest_members_count_and_those_that_are_lost_are_told() {
        let (before, now) =
            ([("eu", "1"), ("us", "2"), ("asia", "3")], [("eu", "1"), ("us", "9"), ("far", "4"), ("off", "5")]);
        let acceptors = [
            ("eu".to_owned(), acceptor("1", 2, &now)),
            ("us".to_owned(), acceptor("2", 1, &before)),
            ("asia".to_owned(), acceptor("3", 1, &before)),
        ];
        let silent = [("off".to_owned(), "no answer".to_owned())].into();
        let found = standing("r".to_owned(), &acceptors.into(), &silent).unwrap();
        assert_eq!((found.place.epoch, found.place.members.len()), (2, 4));
        let lost: Vec<(&str, &str)> = found.lost.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        assert_eq!(lost, [("far", "it has no acceptor, or is not known here"), ("off", "no answer"), ("us", REMADE)]);
        let waiting = [("eu".to_owned(), acceptor("1", 0, &[]))].into();
        assert_eq!(standing("r".to_owned(), &waiting, &silent), None);
    }
}
