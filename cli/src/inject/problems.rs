//! Why a pod cannot have a sidecar, word for word as the chart's refusal says it.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::Value;

use super::{
    parameters::SETTINGS,
    request::{PREFIX, Request, list},
    sidecar::TOKEN_PATH,
};

/// The annotations that are no [`SETTINGS`]; the last two are other parts' of Quorate.
const OTHERS: [&str; 11] = [
    "config",
    "tools-volume",
    "check-http",
    "check-exec",
    "notify-http",
    "notify-signal",
    "notify-exec",
    "hook-seconds",
    "api",
    "revision",
    "fencing-token",
];

/// What the system or the sidecar itself uses.
const RESERVED: [&str; 5] = ["/dev", "/proc", "/sys", "/tools", TOKEN_PATH];

/// An amount of memory.
const MEMORY: &str = "[1-9][0-9]{0,11}(Ki|Mi|Gi|k|M|G)?";

/// Everything that is wrong, in the policy's order.
#[must_use]
pub fn of(request: &Request<'_>) -> Vec<String> {
    let mut problems = unknown(request);
    problems.extend(amounts(request));
    problems.extend(hooks(request));
    let rules = [configs, path, order, port, user, hook_seconds, api, own_check, signal, tools, names, mounts];
    problems.extend(rules.into_iter().filter_map(|rule| rule(request)));
    problems
}

fn unknown(request: &Request<'_>) -> Vec<String> {
    let is_known = |name: &str| OTHERS.contains(&name) || SETTINGS.contains(&name);
    let names = request.asked.keys().filter(|name| !is_known(name));
    names.map(|name| format!("{PREFIX}{name} is no annotation of injection")).collect()
}

fn amounts(request: &Request<'_>) -> Vec<String> {
    let (memory, size) = (format!("^({MEMORY})?$"), format!("^{MEMORY}$"));
    let cpu = "^([1-9][0-9]{0,5}m?|[0-9]{1,3}[.][0-9]{1,3})?$";
    let forms = [
        ("memory-request", memory.as_str(), "64Mi"),
        ("memory-limit", &memory, "64Mi"),
        ("volume-size", &size, "64Mi"),
        ("cpu-request", cpu, "500m"),
        ("cpu-limit", cpu, "500m"),
    ];
    let bad: Vec<String> = forms
        .into_iter()
        .filter(|(name, form, _)| !matches(request.setting(name), form))
        .map(|(name, _, example)| format!("{PREFIX}{name} must be an amount such as {example}"))
        .collect();
    if !bad.is_empty() {
        return bad;
    }
    let pairs = [("memory-request", "memory-limit"), ("cpu-request", "cpu-limit"), ("volume-size", "memory-limit")];
    let is_above = |(less, more): &(&str, &str)| {
        let (less, more) = (request.setting(less), request.setting(more));
        !less.is_empty() && !more.is_empty() && milli(less) > milli(more)
    };
    let above = pairs.into_iter().filter(is_above);
    above.map(|(less, more)| format!("{PREFIX}{less} must not be above {PREFIX}{more}")).collect()
}

fn hooks(request: &Request<'_>) -> Vec<String> {
    let address = r"^http://[A-Za-z0-9.:_\[\]-]+(/[A-Za-z0-9._~:/?&=%+,;@!*-]*)?$";
    let is_bad = |name: &&str| request.asked(name).is_some_and(|text| !matches(text, address));
    let addresses = ["check-http", "notify-http"]
        .into_iter()
        .filter(is_bad)
        .map(|name| format!("{PREFIX}{name} must be an address such as http://host:8080/path"));
    let is_elsewhere = |name: &&str| !matches(request.asked(name).unwrap_or_default(), "^/tools/[!-~]+( +[!-~]+)*$");
    let programs = request.programs().filter(is_elsewhere).map(|name| {
        format!(
            "{PREFIX}{name} must be a program below /tools, where {PREFIX}tools-volume is mounted, and its arguments"
        )
    });
    addresses.chain(programs).collect()
}

fn configs(request: &Request<'_>) -> Option<String> {
    let configs = &request.configs;
    if configs.len() == 1 && configs.iter().all(String::is_empty) {
        return Some("quorate.io/config is missing: it names the configs to mount, such as web,db".into());
    }
    let is_good = configs.iter().all(|name| matches(name, "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"));
    let distinct: BTreeSet<_> = configs.iter().collect();
    when(
        !is_good || distinct.len() < configs.len(),
        "quorate.io/config must be names of DistributedConfigs, each once, with commas between",
    )
}

fn path(request: &Request<'_>) -> Option<String> {
    let path = request.setting("path");
    let is_used = |other: &&str| is_at_or_below(other, path) || is_at_or_below(path, other);
    when(
        !matches(path, "^(/[A-Za-z0-9_.-]+)+$") || matches(path, "/[.][.]?(/|$)") || RESERVED.iter().any(is_used),
        "quorate.io/path must be an absolute path such as /etc/quorate, and none that the system or the sidecar uses",
    )
}

fn order(request: &Request<'_>) -> Option<String> {
    when(!["first", "last"].contains(&request.setting("order")), "quorate.io/order must be first or last")
}

fn port(request: &Request<'_>) -> Option<String> {
    let text = request.setting("port");
    let port = text.parse::<u32>().ok().filter(|port| matches(text, "^[1-9]") && (1024..=65535).contains(port));
    when(port.is_none(), "quorate.io/port must be 1024 to 65535")
}

fn user(request: &Request<'_>) -> Option<String> {
    when(!matches(request.setting("user"), "^[1-9][0-9]{0,8}$"), "quorate.io/user must be a UID other than 0")
}

fn hook_seconds(request: &Request<'_>) -> Option<String> {
    let seconds = request.asked("hook-seconds").unwrap_or("10");
    when(!matches(seconds, "^([1-9]|[123][0-9]|4[0-5])$"), "quorate.io/hook-seconds must be 1 to 45")
}

fn api(request: &Request<'_>) -> Option<String> {
    let asked = request.asked("api")?;
    let port = asked.strip_prefix("127.0.0.1:").filter(|port| matches(port, "^[1-9][0-9]{3,4}$"));
    let is_good = |port: &str| port.parse().is_ok_and(|port: u32| (1024..=65535).contains(&port));
    when(
        !port.is_some_and(|port| is_good(port) && port != request.setting("port")),
        "quorate.io/api must be 127.0.0.1 and a port from 1024 to 65535 other than quorate.io/port, such as 127.0.0.1:8082",
    )
}

/// A check comes before the first set is shown, and before that no container is started.
fn own_check(request: &Request<'_>) -> Option<String> {
    let asks_itself = r"^http://(localhost|127[.][0-9.]+|\[::1\])(:|/|$)";
    when(
        request.asked("check-http").is_some_and(|text| matches(text, asks_itself)) && !request.has_forerunner(),
        "quorate.io/check-http asks this pod itself, whose containers start only after the first check: let a native \
         sidecar answer that comes before (quorate.io/order: last), or ask another pod",
    )
}

fn signal(request: &Request<'_>) -> Option<String> {
    let signal = request.asked("notify-signal")?;
    if !matches(signal, "^(SIG)?(HUP|INT|QUIT|TERM|USR1|USR2|WINCH):[!-~]+$") {
        return Some("quorate.io/notify-signal must be a signal and a program such as HUP:nginx".into());
    }
    if request.spec["shareProcessNamespace"] != true {
        return Some("quorate.io/notify-signal needs shareProcessNamespace: true in the spec of the pod".into());
    }
    let user = request.setting("user");
    let user_of = |value: &Value| value["securityContext"]["runAsUser"].as_i64();
    let of_pod = user_of(request.spec).unwrap_or_default();
    when(
        !request.readers().any(|container| user_of(container).unwrap_or(of_pod).to_string() == user),
        &format!(
            "quorate.io/notify-signal: only a process of the same user can be signalled, and no container has runAsUser \
             {user}; give the UID of the program as quorate.io/user, and as runAsUser of its container"
        ),
    )
}

/// The sidecar's image has no programs, not even a shell.
fn tools(request: &Request<'_>) -> Option<String> {
    if request.asked("tools-volume").is_none() {
        let program = request.programs().next()?;
        return Some(format!(
            "{PREFIX}{program} needs quorate.io/tools-volume: the image of the sidecar has no programs, so name a volume of \
             the pod with yours, such as an image volume"
        ));
    }
    let Some(volume) = request.tools() else {
        return Some("quorate.io/tools-volume names no volume of the pod".into());
    };
    when(
        request.is_first() && !volume["emptyDir"].is_null(),
        "quorate.io/tools-volume is an emptyDir, which is empty when the sidecar starts: fill it in an init container with \
         quorate.io/order: last, or use an image volume",
    )
}

fn names(request: &Request<'_>) -> Option<String> {
    let is_taken = request.containers().iter().any(|container| container["name"] == super::request::SIDECAR)
        || request.volumes().iter().any(|volume| volume["name"] == "quorate" || volume["name"] == "quorate-token");
    when(
        !request.is_injected() && is_taken,
        "the names quorate-sidecar (of a container), quorate and quorate-token (of volumes) are those of injection: use \
         others",
    )
}

fn mounts(request: &Request<'_>) -> Option<String> {
    let path = request.setting("path");
    let is_in_the_way = |mount: &Value| {
        // Everybody has the token's mount, and no path comes near it.
        let other = mount["mountPath"].as_str().unwrap_or_default();
        other != TOKEN_PATH && is_at_or_below(other, path)
    };
    when(
        !request.is_injected()
            && request.readers().any(|container| list(&container["volumeMounts"]).iter().any(is_in_the_way)),
        &format!("a container mounts something at or below {path} already: choose another quorate.io/path"),
    )
}

fn is_at_or_below(path: &str, other: &str) -> bool {
    format!("{path}/").starts_with(&format!("{other}/"))
}

fn when(is_so: bool, problem: &str) -> Option<String> {
    is_so.then(|| problem.to_owned())
}

fn matches(text: &str, form: &str) -> bool {
    Regex::new(form).is_ok_and(|form| form.is_match(text))
}

/// An amount of the forms above, in thousandths.
fn milli(amount: &str) -> u128 {
    let units =
        [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];
    if let Some(digits) = amount.strip_suffix('m') {
        return digits.parse().unwrap_or_default();
    }
    let found = units.iter().find_map(|(unit, factor)| Some((amount.strip_suffix(unit)?, *factor)));
    let (number, factor) = found.unwrap_or((amount, 1));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let thousandths = format!("{fraction:0<3}").parse::<u128>().unwrap_or_default();
    (whole.parse::<u128>().unwrap_or_default() * 1000 + thousandths) * factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_compare_by_what_they_are() {
        let rising = ["1m", "999m", "1", "1.5", "2", "1k", "1Ki", "1500k", "1536Ki", "2M", "2Mi", "1G", "1Gi"];
        assert!(rising.windows(2).all(|pair| milli(pair[0]) < milli(pair[1])));
        assert_eq!((milli("0.5"), milli("1024Ki")), (milli("500m"), milli("1Mi")));
    }
}
