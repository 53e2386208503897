//! `members`: who decides on what a set of clusters decides.

use quorate_coordination::{
    clusters::{self, CALL, Named},
    quorum::{self, Place, Standing, survey},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    answer::{Answer, note},
    cluster::Cluster,
    exit::{Exit, Failure, Result},
    options, participant,
};

/// A register.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct View {
    name: String,
    /// Counts the sets of members that it had.
    epoch: u64,
    /// The clusters that decide.
    members: Vec<String>,
    /// Those of them that have no say now, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<Lost>,
    /// Whether they are those that the set names.
    as_in_set: bool,
}

/// All of them.
#[derive(Debug, PartialEq, Serialize)]
struct Registers {
    registers: Vec<View>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Lost {
    member: String,
    why: String,
}

impl View {
    fn of(standing: Standing, set: &[Named]) -> Self {
        let Standing { name, place, lost } = standing;
        Self {
            as_in_set: place.clusters().count() == set.len()
                && set.iter().all(|(name, _)| place.members.contains_key(name)),
            name,
            epoch: place.epoch,
            members: place.clusters().map(str::to_owned).collect(),
            lost: lost.into_iter().map(|(member, why)| Lost { member, why }).collect(),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When there is no such set, or members are not changed.
pub async fn run(cluster: &Cluster, answer: Answer, command: &options::Members) -> Result {
    let set = match command {
        options::Members::List(of) => &of.set,
        options::Members::Change(options) => &options.of.set,
        options::Members::Forget(options) => &options.of.set,
    };
    let members = clusters::members(&cluster.client, &cluster.namespace, set).await;
    let members = members.map_err(|error| Failure::error(error.to_string()))?;
    let (standings, silent) = survey(&members, &cluster.namespace, CALL).await;
    for (member, why) in silent {
        note(&format!("member {member} of ClusterSet {set}: {why}"));
    }
    let of_set = |standing: &Standing| members.iter().any(|(name, _)| standing.place.members.contains_key(name));
    let standings = standings.into_iter().filter(of_set);
    match command {
        options::Members::List(_) => {
            let registers = standings.map(|standing| View::of(standing, &members)).collect();
            let view = Registers { registers };
            answer.give(&view, |_| table(&view.registers, set))?;
            Ok(Exit::Ok)
        }
        options::Members::Forget(options) => forget(cluster, answer, &members, options).await,
        options::Members::Change(options) => {
            let there: Vec<String> = standings.map(|standing| standing.name).collect();
            // To open one that is not there would make it.
            if let Some(unknown) = options.registers.iter().find(|name| !there.contains(name)) {
                let told = format!("register {}/{unknown} has no member in ClusterSet {set}", cluster.namespace);
                return Err(Failure::not_found(format!("{told}: see kubectl quorate members list {set}")));
            }
            let names = if options.registers.is_empty() { &there } else { &options.registers };
            change(cluster, answer, &members, names).await
        }
    }
}

fn table(views: &[View], set: &str) -> String {
    if views.is_empty() {
        return format!("no register has a member in ClusterSet {set}\n");
    }
    let mut lines = vec![format!("{:<32} {:>5}  {:<32} LOST", "REGISTER", "EPOCH", "MEMBERS")];
    for View { name, epoch, members, lost, as_in_set } in views {
        let mark = if *as_in_set { "" } else { " (not as in the set)" };
        let lost: Vec<String> = lost.iter().map(|lost| format!("{}: {}", lost.member, lost.why)).collect();
        let members = members.join(",") + mark;
        lines.push(format!("{name:<32} {epoch:>5}  {members:<32} {}", lost.join("; ")).trim_end().to_owned());
    }
    lines.join("\n") + "\n"
}

/// Whether it was known.
#[derive(Debug, PartialEq, Serialize)]
struct Forgotten {
    name: String,
    forgotten: bool,
}

async fn forget(
    cluster: &Cluster,
    answer: Answer,
    members: &[Named],
    options::MembersForget { of, register }: &options::MembersForget,
) -> Result {
    let session = participant::session()?;
    let forgotten = quorum::forget(members, &cluster.namespace, &of.set, register, &session, CALL).await;
    let forgotten = forgotten.map_err(|error| Failure::error(error.to_string()))?;
    answer.give(&Forgotten { name: register.clone(), forgotten }, |_| {
        let became = if forgotten { "is forgotten: its next user makes it anew" } else { "was not known" };
        format!("register {register} {became}\n")
    })?;
    Ok(Exit::Ok)
}

/// What became of one register.
#[derive(Debug, PartialEq, Serialize)]
struct Changed {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn change(cluster: &Cluster, answer: Answer, members: &[Named], names: &[String]) -> Result {
    let session = participant::session()?;
    let clusters: Vec<String> = members.iter().map(|(name, _)| name.clone()).collect();
    let mut failed = 0;
    for name in names {
        let changed = async {
            // Whatever it holds: it is handed on as it is.
            let opened = quorum::open_made(members, &cluster.namespace, name, Value::Null, &session, CALL).await;
            let register = opened.map_err(|error| error.to_string())?;
            register.change(&clusters).await.map_err(|error| format!("register {}/{name}: {error}", cluster.namespace))
        };
        let (epoch, error) = match changed.await {
            Ok(Place { epoch, .. }) => (Some(epoch), None),
            Err(error) => (None, Some(error)),
        };
        if let Some(error) = &error {
            note(error);
            failed += 1;
        }
        let changed = Changed { name: name.clone(), epoch, error };
        answer.give_one(&changed, |_| match changed.epoch {
            Some(epoch) => format!("register {name}: {} decide, as epoch {epoch}\n", clusters.join(", ")),
            None => String::new(),
        })?;
    }
    if failed == 0 {
        return Ok(Exit::Ok);
    }
    Err(Failure::error(format!("the members of {failed} of {} registers were not changed", names.len())))
}
