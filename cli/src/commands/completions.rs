//! `completions`: scripts for shells, and the answers that kubectl's own completion asks for.

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use kube::{ResourceExt, api::ListParams};

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
    if candidates.names {
        candidates.words.extend(config_names(target, words).await);
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
    /// Names of configs too.
    names: bool,
    /// Names of files too.
    files: bool,
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
        return Candidates { words, files, names: false };
    }
    if last.starts_with('-') {
        let long = current.get_arguments().filter(|argument| !argument.is_hide_set()).filter_map(clap::Arg::get_long);
        return Candidates { words: long.map(|name| format!("--{name}")).collect(), ..Candidates::default() };
    }
    if current.has_subcommands() {
        let visible = current.get_subcommands().filter(|sub| !sub.is_hide_set());
        return Candidates { words: visible.map(|sub| sub.get_name().to_owned()).collect(), ..Candidates::default() };
    }
    let argument = current.get_positionals().nth(positionals);
    let words = argument.map(clap::Arg::get_possible_values).unwrap_or_default();
    Candidates {
        words: words.iter().map(|value| value.get_name().to_owned()).collect(),
        names: argument.is_some_and(|argument| argument.get_id() == "name"),
        files: false,
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

/// The configs of the namespace that the words name. Without a way to them there are none.
async fn config_names(target: &Target, words: &[String]) -> Vec<String> {
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
    let listed = call("list", cluster.configs().list_metadata(&ListParams::default())).await;
    listed.map(|listed| listed.items.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
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
        assert!(has("completions ", "fish"));
    }

    #[test]
    fn names_of_configs_and_files_are_offered_where_they_belong() {
        assert!(asked("status ").names && asked("-n shop explain ").names && asked("rollback --to 3 ").names);
        assert!(!asked("explain web ").names && !asked("diff web ").names);
        assert!(asked("lint -f ").files && !asked("status ").files);
    }
}
