//! Who takes part in locks, counters and queues: this process, as others know it.

use quorate_coordination::{Process, Session};

use crate::exit::{Failure, Result};

/// Characters of an identity that coordination takes.
const LONGEST: usize = 200;

/// This process: in a pod by the pod's name, else by the user's and the machine's.
///
/// # Errors
/// When the system has no randomness to give.
pub fn session() -> Result<Session> {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let who = Participant::of(|name| std::env::var(name).ok(), &machine);
    let session = Session::new(&who.identity).map_err(|error| Failure::error(format!("no random numbers: {error}")))?;
    Ok(match who.pod {
        Some((pod, uid, container)) => session.of_process(Process::of_pod(pod, uid, container)),
        None => session,
    })
}

/// What the environment says of this process.
#[derive(Debug, PartialEq, Eq)]
struct Participant {
    identity: String,
    /// The pod's name and uid, and the container's name if that is known.
    pod: Option<(String, String, Option<String>)>,
}

impl Participant {
    fn of(environment: impl Fn(&str) -> Option<String>, machine: &str) -> Self {
        let says = |name: &str| environment(name).filter(|value| !value.is_empty());
        let pod = says("POD_NAME");
        let identity = pod.clone().unwrap_or_else(|| match says("USER") {
            Some(user) => format!("{user}@{machine}"),
            None => machine.to_owned(),
        });
        let plain = identity.chars().map(|c| if c.is_control() || c.is_whitespace() { '-' } else { c });
        let identity = plain.take(LONGEST).collect();
        // Without the uid it might be an earlier pod of this name that has ended.
        let pod = pod.and_then(|pod| Some((pod, says("POD_UID")?, says("CONTAINER_NAME"))));
        Self { identity, pod }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(environment: &[(&str, &str)]) -> Participant {
        let says = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Participant::of(says, "laptop")
    }

    #[test]
    fn in_a_pod_it_is_the_pod_else_the_user() {
        let pod = [("POD_NAME", "web-0"), ("POD_UID", "u"), ("CONTAINER_NAME", "app"), ("USER", "root")];
        let of_pod = |container: Option<&str>| Some(("web-0".into(), "u".into(), container.map(str::to_owned)));
        assert_eq!(of(&pod), Participant { identity: "web-0".into(), pod: of_pod(Some("app")) });
        assert_eq!(of(&pod[..2]).pod, of_pod(None));
        assert_eq!(of(&pod[..1]), Participant { identity: "web-0".into(), pod: None });
        assert_eq!(of(&[("USER", "al ice"), ("POD_NAME", "")]).identity, "al-ice@laptop");
        assert_eq!(of(&[]).identity, "laptop");
    }
}
