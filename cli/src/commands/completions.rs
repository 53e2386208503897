//! `completions`: scripts for shells, and the answers that kubectl's own completion asks for.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use k8s_openapi::{NamespaceResourceScope, api::coordination::v1::Lease};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, ObjectMeta, PartialObjectMeta},
};
use quorate_crds::{ClusterSet, DistributedConfig, DistributedCounter, DistributedQueue, names::LOCK};
use serde::de::DeserializeOwned;

use crate::{
    answer::print,
    cluster::{Cluster, call},
    exit::{Exit, Failure, Result},
    options::{Options, Target},
};

/// Prints a shell's script for `kubectl-quorate`.
///
/// # Errors
/// When nobody reads.
pub fn script(shell: Shell) -> Result {
    let mut command = Options::command().bin_name("kubectl-quorate");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "kubectl-quorate", &mut script);
    let script = String::from_utf8(script).map_err(|error| Failure::error(error.to_string()))?;
    print(&script)?;
    Ok(Exit::Ok)
}

/// Answers `kubectl_complete-quorate`: a candidate a line, then what kubectl is to do with them.
///
/// # Errors
/// When nobody reads.
pub async fn answer(words: &[String], target: &Target) -> Result {
    let mut candidates = candidates(&mut Options::command(), words);
    if let Some(names) = candidates.names {
        candidates.words.extend(names_of(names, target, words).await);
    }
    let last = words.last().map(String::as_str).unwrap_or_default();
    candidates.words.retain(|word| word.starts_with(last));
    // 4: do not complete file names; 0: do.
    let directive = if candidates.files { 0 } else { 4 };
    candidates.words.push(format!(":{directive}\n"));
    print(&candidates.words.join("\n"))?;
    Ok(Exit::Ok)
}

/// What may stand in place of the last word.
#[derive(Debug, Default, PartialEq, Eq)]
struct Candidates {
    words: Vec<String>,
    /// Names of objects too.
    names: Option<Names>,
    /// Names of files too.
    files: bool,
}

/// What it is that has the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Configs,
    Locks,
    Counters,
    Queues,
    Sets,
}

fn candidates(command: &mut Command, words: &[String]) -> Candidates {
    command.build();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let (mut current, mut positionals, mut pending) = (&*command, 0, None);
    for word in before {
        if pending.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            pending = option(current, word).filter(|_| !word.contains('='));
        } else if let Some(next) = current.find_subcommand(word) {
            current = next;
        } else {
            positionals += 1;
        }
    }
    if let Some(option) = pending {
        let words = option.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let files = matches!(option.get_id().as_str(), "filename" | "kubeconfig" | "directory" | "parameters");
        return Candidates { words, files, names: None };
    }
    if last.starts_with('-') {
        let long = current.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(clap::Arg::get_long);
        return Candidates { words: long.map(|name| format!("--{name}")).collect(), ..Candidates::default() };
    }
    if current.has_subcommands() {
        let visible = current.get_subcommands().filter(|sub| !sub.is_hide_set());
        return Candidates { words: visible.map(|sub| sub.get_name().to_owned()).collect(), ..Candidates::default() };
    }
    // The words of a command that is to be run are as many as they are.
    let endless = || current.get_positionals().last().filter(|argument| argument.is_last_set());
    let argument = current.get_positionals().nth(positionals).or_else(endless);
    let words = argument.map(clap::Arg::get_possible_values).unwrap_or_default();
    Candidates {
        words: words.iter().map(|value| value.get_name().to_owned()).collect(),
        names: argument.and_then(|argument| match argument.get_id().as_str() {
            "name" => Some(Names::Configs),
            "lock" => Some(Names::Locks),
            "counter" => Some(Names::Counters),
            "queue" => Some(Names::Queues),
            "set" => Some(Names::Sets),
            _ => None,
        }),
        files: argument.is_some_and(|argument| argument.get_id() == "command"),
    }
}

/// The option a word is, if it takes a value.
fn option<'c>(command: &'c Command, word: &str) -> Option<&'c clap::Arg> {
    let mut options = command.get_arguments().filter(|argument| argument.get_action().takes_values());
    options.find(|argument| {
        let long = argument.get_long().is_some_and(|name| word == format!("--{name}"));
        long || argument.get_short().is_some_and(|letter| word == format!("-{letter}"))
    })
}

/// The names in the namespace that the words name. Without a way to them there are none.
async fn names_of(names: Names, target: &Target, words: &[String]) -> Vec<String> {
    let value = |names: [&str; 2]| {
        let after = words.windows(2).find(|pair| names.contains(&pair[0].as_str())).map(|pair| pair[1].clone());
        after.or_else(|| words.iter().find_map(|word| word.strip_prefix(&format!("{}=", names[1])).map(str::to_owned)))
    };
    let target = Target {
        namespace: value(["-n", "--namespace"]).or_else(|| target.namespace.clone()),
        context: value(["--context", "--context"]).or_else(|| target.context.clone()),
        kubeconfig: value(["--kubeconfig", "--kubeconfig"]).map(Into::into).or_else(|| target.kubeconfig.clone()),
    };
    let Ok(cluster) = Cluster::of(&target).await else { return Vec::new() };
    match names {
        Names::Configs => listed::<DistributedConfig>(&cluster, |_| true).await,
        Names::Counters => listed::<DistributedCounter>(&cluster, |_| true).await,
        Names::Queues => listed::<DistributedQueue>(&cluster, |_| true).await,
        Names::Sets => listed::<ClusterSet>(&cluster, |_| true).await,
        // Most Leases are none.
        Names::Locks => {
            let is_lock = |meta: &ObjectMeta| meta.annotations.as_ref().is_some_and(|all| all.contains_key(LOCK));
            listed::<Lease>(&cluster, is_lock).await
        }
    }
}

async fn listed<K>(cluster: &Cluster, wanted: impl Fn(&ObjectMeta) -> bool) -> Vec<String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let Ok(found) = call("list", api.list_metadata(&ListParams::default())).await else { return Vec::new() };
    let wanted = |object: &&PartialObjectMeta<K>| wanted(&object.metadata);
    found.items.iter().filter(wanted).map(ResourceExt::name_any).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Candidates {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        candidates(&mut Options::command(), &words)
    }

    #[test]
    fn what_comes_next_is_offered() {
        let has = |line: &str, word: &str| asked(line).words.iter().any(|offered| offered == word);
        assert!(has("", "status") && has("-n shop ", "lint") && !has("", "__complete"));
        assert!(has("promote --", "--force") && has("promote --", "--namespace"));
        assert!(has("-o ", "json") && has("status web -o ", "yaml"));
        assert!(has("completions ", "fish") && has("lock ", "run") && has("counter ", "add"));
        assert!(has("lock run --", "--permits") && !has("", "__exec"));
    }

    #[test]
    fn names_of_configs_and_files_are_offered_where_they_belong() {
        for line in ["status ", "-n shop explain ", "rollback --to 3 "] {
            assert_eq!(asked(line).names, Some(Names::Configs), "{line}");
        }
        assert_eq!((asked("explain web ").names, asked("diff web ").names), (None, None));
        for line in ["lock run --ttl 5s ", "lock show ", "-n shop lock release --force "] {
            assert_eq!(asked(line).names, Some(Names::Locks), "{line}");
        }
        assert_eq!(asked("counter add ").names, Some(Names::Counters));
        assert_eq!(asked("queue receive --wait 20s ").names, Some(Names::Queues));
        assert!(asked("lock run x -- ").files && asked("lock run x -- tar -c ").files && !asked("lock run ").files);
        assert!(asked("lint -f ").files && !asked("status ").files);
    }
}
