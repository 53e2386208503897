//! `status`: where configs and their rollouts stand.

use jiff::Timestamp;
use kube::{Api, ResourceExt, api::ListParams};
use quorate_crds::{CandidateStatus, ConfigReplica, DistributedConfig, PodCounts, Refused, ReplicaState, names};
use serde::Serialize;

use crate::{
    answer::{Answer, note},
    cluster::{Cluster, call},
    exit::{Exit, Result},
    format::{Cell, Fields, Style, Tone, age, count, printable, short_hash, table},
    options,
    outcome::Outcome,
    pause::Pause,
    stored::{self, HeadNotes},
};

/// How many pods the table lists.
const PODS: usize = 50;

/// Where one config stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// In one word.
    pub outcome: Outcome,
    /// Whether the status speaks of the present spec.
    pub observed: bool,
    /// The condition Ready, and why it is so.
    pub ready: String,
    /// A CamelCase word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Published, Progressing, Paused, RolledBack, Suspended, Pinned or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The revision that pods read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// spec.pin.revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinned: Option<i64>,
    /// spec.suspend.
    pub suspended: bool,
    /// Whether rollouts are held.
    pub paused: Pause,
    /// What pods say of the revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodCounts>,
    /// The rollout under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateStatus>,
}

impl View {
    /// Of a config.
    #[must_use]
    pub fn of(config: &DistributedConfig) -> Self {
        let status = config.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        Self {
            namespace: config.namespace().unwrap_or_default(),
            name: config.name_any(),
            outcome: Outcome::of(config),
            observed: config.status.is_some() && status.observed_generation >= config.metadata.generation,
            ready: ready.map_or("Unknown".into(), |condition| condition.status.clone()),
            reason: ready.map(|condition| condition.reason.clone()).unwrap_or_default(),
            message: ready.map(|condition| condition.message.clone()).unwrap_or_default(),
            phase: status.phase,
            revision: status.revision,
            hash: status.hash,
            pinned: config.spec.pin.as_ref().map(|pin| pin.revision),
            suspended: config.spec.suspend,
            paused: Pause::of(config),
            pods: status.pods,
            candidate: status.candidate,
        }
    }

    /// What colour it is.
    #[must_use]
    pub fn tone(&self) -> Tone {
        match self.outcome {
            Outcome::Ready => Tone::Good,
            Outcome::InProgress => Tone::Busy,
            Outcome::Failed => Tone::Bad,
        }
    }

    /// The phase, or what stands for it.
    #[must_use]
    pub fn phase(&self) -> &str {
        match (&self.phase, self.observed) {
            (_, false) => "Unobserved",
            (Some(phase), true) => phase,
            (None, true) => &self.reason,
        }
    }
}

/// What one pod says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    /// The pod.
    pub pod: String,
    /// Its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The revision whose files it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<i64>,
    /// What it says of the revision below.
    pub state: ReplicaState,
    /// Which the state speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Since when, by the pod's clock.
    pub since: Timestamp,
}

/// One config in detail.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Detail {
    /// As in the list.
    #[serde(flatten)]
    pub view: View,
    /// All conditions.
    pub conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    /// What was refused last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What each pod says; those that refuse first.
    pub replicas: Vec<PodView>,
}

impl Detail {
    /// Of a config, what its head says, and what its pods say.
    #[must_use]
    pub fn of(config: &DistributedConfig, notes: &HeadNotes, replicas: &[ConfigReplica]) -> Self {
        let mut pods: Vec<PodView> = replicas.iter().map(|replica| pod_view(&replica.spec)).collect();
        pods.sort_by(|a, b| (order(a.state), &a.pod).cmp(&(order(b.state), &b.pod)));
        Self {
            view: View::of(config),
            conditions: config.status.clone().unwrap_or_default().conditions,
            refused: notes.standing.refused.clone(),
            replicas: pods,
        }
    }
}

fn pod_view(spec: &quorate_crds::ConfigReplicaSpec) -> PodView {
    PodView {
        pod: spec.pod.clone(),
        node: spec.node.clone(),
        runs: spec.runs,
        state: spec.state,
        revision: spec.revision,
        message: spec.message.clone(),
        since: spec.since.0,
    }
}

/// What needs attention comes first.
const fn order(state: ReplicaState) -> u8 {
    match state {
        ReplicaState::Rejected => 0,
        ReplicaState::Stale => 1,
        ReplicaState::Orphaned => 2,
        ReplicaState::Staged => 3,
        ReplicaState::Applied => 4,
    }
}

/// The list for scripts.
#[derive(Serialize)]
struct List<'a> {
    configs: &'a [View],
}

/// Runs the command.
///
/// # Errors
/// When the config does not exist, or the API server fails.
pub async fn run(cluster: &Cluster, answer: Answer, options: &options::Status) -> Result {
    let exit = if let Some(name) = &options.name {
        one(cluster, answer, name).await?
    } else {
        all(cluster, answer, options.all_namespaces).await?
    };
    Ok(if options.exit_code { exit } else { Exit::Ok })
}

async fn one(cluster: &Cluster, answer: Answer, name: &str) -> Result {
    let config = cluster.config(name).await?;
    let detail = Detail::of(&config, &head_notes(cluster, name).await, &replicas(cluster, name).await);
    answer.give(&detail, |style| detail_text(style, &detail, Timestamp::now()))?;
    Ok(detail.view.outcome.exit())
}

async fn all(cluster: &Cluster, answer: Answer, namespaces: bool) -> Result {
    let configs: Api<DistributedConfig> = if namespaces { Api::all(cluster.client.clone()) } else { cluster.configs() };
    let listed = call("list DistributedConfigs", configs.list(&ListParams::default())).await?;
    let views: Vec<View> = listed.items.iter().map(View::of).collect();
    if views.is_empty() {
        let place = if namespaces { "any namespace" } else { &format!("namespace {}", cluster.namespace) };
        note(&format!("there is no DistributedConfig in {place}"));
    }
    answer.give(&List { configs: &views }, |style| list_text(style, &views, namespaces))?;
    Ok(Outcome::exit_of_all(views.iter().map(|view| view.outcome)))
}

/// What the head says beside its content. Without the right to read it, that part stays empty.
pub async fn head_notes(cluster: &Cluster, name: &str) -> HeadNotes {
    match stored::notes(cluster, name).await {
        Ok(notes) => notes.unwrap_or_default(),
        Err(error) => {
            note(&format!("what was refused is not shown: {}", error.message()));
            HeadNotes::default()
        }
    }
}

/// What the config's pods say. Without the right to list it, that part stays empty.
async fn replicas(cluster: &Cluster, name: &str) -> Vec<ConfigReplica> {
    let of_config = ListParams::default().labels(&format!("{}={name}", names::LABEL_CONFIG));
    let replicas = cluster.replicas();
    match call("list ConfigReplicas", replicas.list(&of_config)).await {
        Ok(listed) => listed.items,
        Err(error) => {
            note(&format!("what the pods say is not shown: {}", error.message()));
            Vec::new()
        }
    }
}

fn list_text(style: Style, views: &[View], namespaces: bool) -> String {
    if views.is_empty() {
        return String::new();
    }
    let number = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    let rows: Vec<Vec<Cell>> = views
        .iter()
        .map(|view| {
            let namespace = namespaces.then(|| Cell::from(&view.namespace));
            let waiting = view.candidate.as_ref().map(|c| format!("{}: {}", rollout(c), c.message));
            let message = waiting.or_else(|| (view.outcome != Outcome::Ready).then(|| view.message.clone()));
            let rest = [
                Cell::from(&view.name),
                Cell::toned(&view.ready, view.tone()),
                number(view.revision).into(),
                view.pods.as_ref().map(|pods| pods.summary.clone()).unwrap_or_default().into(),
                Cell::toned(view.phase(), view.tone()),
                message.unwrap_or_default().into(),
            ];
            namespace.into_iter().chain(rest).collect()
        })
        .collect();
    let head = ["NAMESPACE", "NAME", "READY", "REVISION", "APPLIED", "PHASE", "MESSAGE"];
    table(style, if namespaces { &head } else { &head[1..] }, &rows)
}

/// `revision 42, Canary step 2 of 4`.
#[must_use]
pub fn rollout(candidate: &CandidateStatus) -> String {
    let step = match (candidate.step, candidate.steps) {
        (Some(step), Some(steps)) => format!(" step {step} of {steps}"),
        _ => String::new(),
    };
    format!("revision {}, {}{step}", candidate.revision, candidate.strategy)
}

/// A config in detail, for people.
#[must_use]
pub fn detail_text(style: Style, detail: &Detail, now: Timestamp) -> String {
    let view = &detail.view;
    let mut text = summary(style, view, now);
    if let Some(refused) = &detail.refused {
        let reason = printable(&refused.reason);
        text += &format!(
            "\n{} revision {} ({}), {} ago: {reason}\n",
            style.paint(Tone::Bad, "Refused:"),
            refused.revision,
            printable(short_hash(&refused.hash)),
            age(refused.at, now)
        );
    }
    if !detail.conditions.is_empty() {
        let rows: Vec<Vec<Cell>> = detail
            .conditions
            .iter()
            .map(|c| {
                let since = age(c.last_transition_time.0, now);
                vec![(&c.type_).into(), (&c.status).into(), (&c.reason).into(), since.into(), (&c.message).into()]
            })
            .collect();
        text += &format!("\n{}", table(style, &["CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE"], &rows));
    }
    if !detail.replicas.is_empty() {
        text += &format!("\n{}", pods_text(style, &detail.replicas, now));
    }
    text
}

/// The first part: what it is and where its rollout stands.
#[must_use]
pub fn summary(style: Style, view: &View, now: Timestamp) -> String {
    let mut fields = Fields::default();
    fields.add("Config", format!("{}/{}", printable(&view.namespace), printable(&view.name)));
    let phase = style.paint(view.tone(), &printable(view.phase()));
    fields.add("Phase", if view.message.is_empty() { phase } else { format!("{phase}: {}", printable(&view.message)) });
    if !view.observed {
        fields.add("", "the operator has not seen the present spec yet");
    }
    if let Some(revision) = view.revision {
        let hash = view.hash.as_deref().map(|hash| format!(" ({})", printable(short_hash(hash)))).unwrap_or_default();
        fields.add("Revision", format!("{revision}{hash}"));
    }
    if let Some(pin) = view.pinned {
        fields.add("Pinned", format!("to revision {pin}; `unpin` lets the layers decide again"));
    }
    if view.suspended {
        fields.add("Suspended", "spec.suspend is true: nothing is published");
    }
    match view.paused {
        Pause::Off => {}
        Pause::Holds => fields.add("Paused", "rollouts are held; `resume` lets them go on"),
        Pause::InVain => fields.add(
            "Paused",
            "in vain: with strategy Immediate every pod reads a change at once; spec.suspend: true holds it",
        ),
    }
    if let Some(pods) = &view.pods {
        let parts = [(pods.rejected, "refused", Tone::Bad), (pods.stale, "stale", Tone::Busy)];
        let parts = parts.iter().filter(|(number, ..)| *number > 0);
        let told = parts.map(|(number, what, tone)| style.paint(*tone, &format!("{number} {what}")));
        let applied = format!("{} of {} applied", pods.applied, pods.desired);
        let told: Vec<String> = std::iter::once(applied).chain(told).collect();
        let bar = style.bar(pods.applied, pods.rejected, pods.desired);
        fields.add("Pods", bar + &told.join(", "));
    }
    if let Some(candidate) = &view.candidate {
        let hash = printable(short_hash(&candidate.hash));
        fields.add("Rollout", format!("{} ({hash}), for {}", rollout(candidate), age(candidate.since.0, now)));
        fields.add("", votes(style, candidate));
        fields.add("Waiting", printable(&candidate.message));
    }
    fields.text(style)
}

/// `7 of 10 accepted, 1 refused`, with a bar where it can be seen.
#[must_use]
pub fn votes(style: Style, candidate: &CandidateStatus) -> String {
    let refused = match candidate.rejected {
        0 => String::new(),
        number => format!(", {}", style.paint(Tone::Bad, &format!("{number} refused"))),
    };
    let bar = style.bar(candidate.accepted, candidate.rejected, candidate.asked);
    format!("{bar}{} of {} accepted{refused}", candidate.accepted, candidate.asked)
}

fn pods_text(style: Style, pods: &[PodView], now: Timestamp) -> String {
    let number = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    let rows: Vec<Vec<Cell>> = pods
        .iter()
        .take(PODS)
        .map(|pod| {
            let tone = match pod.state {
                ReplicaState::Applied => Tone::Good,
                ReplicaState::Staged => Tone::Busy,
                ReplicaState::Rejected | ReplicaState::Stale | ReplicaState::Orphaned => Tone::Bad,
            };
            vec![
                (&pod.pod).into(),
                pod.node.as_deref().unwrap_or_default().into(),
                number(pod.runs).into(),
                Cell::toned(format!("{:?}", pod.state), tone),
                number(pod.revision).into(),
                age(pod.since, now).into(),
                pod.message.as_deref().unwrap_or_default().into(),
            ]
        })
        .collect();
    let mut text = table(style, &["POD", "NODE", "RUNS", "STATE", "REVISION", "SINCE", "MESSAGE"], &rows);
    if pods.len() > PODS {
        text += &format!("and {} (-o json lists all)\n", count(pods.len() - PODS, "more pod", "more pods"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PLAIN, at, candidate, config, config_with, replica};
    use quorate_crds::{Rollout, Standing, Strategy};

    fn refused() -> HeadNotes {
        let refused = Refused {
            revision: 4,
            hash: "sha256:dddddddddddddddd".into(),
            reason: "1 of 10 refused".into(),
            at: at(90),
        };
        HeadNotes { standing: Standing { refused: Some(refused), ..Standing::default() }, good: Some(3) }
    }

    #[test]
    fn the_list_reads_as_an_answer() {
        let rolling = config_with(&|c| {
            c.metadata.name = Some("cart".into());
            let status = c.status.as_mut().unwrap();
            status.candidate = Some(candidate());
            status.phase = Some("Progressing".into());
        });
        let fresh = config_with(&|c| {
            c.metadata.name = Some("new".into());
            c.status = None;
        });
        let views: Vec<View> = [config(), rolling, fresh].iter().map(View::of).collect();
        assert_eq!(
            list_text(PLAIN, &views, true),
            "NAMESPACE   NAME   READY     REVISION   APPLIED   PHASE         MESSAGE\n\
             shop        web    True      3          9/10      Published\n\
             shop        cart   True      3          9/10      Progressing   revision 4, Canary step 2 of 4: 7 of 10 applied, baking 40 s more\n\
             shop        new    Unknown                        Unobserved\n"
        );
        assert!(list_text(PLAIN, &views, false).starts_with("NAME   READY"));
        assert_eq!(list_text(PLAIN, &[], false), "");
    }

    #[test]
    fn a_rollout_says_where_it_is_what_it_waits_for_and_who_refuses() {
        let config = config_with(&|c| {
            let status = c.status.as_mut().unwrap();
            status.candidate = Some(candidate());
            status.phase = Some("Progressing".into());
        });
        let replicas = [
            replica("web-a", ReplicaState::Applied, None),
            replica("web-c", ReplicaState::Rejected, Some("nginx -t:\nport 99999 is no port")),
            replica("web-b", ReplicaState::Applied, None),
        ];
        let detail = Detail::of(&config, &refused(), &replicas);
        assert_eq!(
            detail_text(PLAIN, &detail, at(120)),
            "Config:   shop/web\n\
             Phase:    Progressing: revision 3 is published\n\
             Revision: 3 (cccccccccccc)\n\
             Pods:     9 of 10 applied, 1 refused\n\
             Rollout:  revision 4, Canary step 2 of 4 (dddddddddddd), for 60s\n\
             \u{20}         7 of 10 accepted, 1 refused\n\
             Waiting:  7 of 10 applied, baking 40 s more\n\
             \n\
             Refused: revision 4 (dddddddddddd), 30s ago: 1 of 10 refused\n\
             \n\
             CONDITION     STATUS   REASON      SINCE   MESSAGE\n\
             Ready         True     Published   2m      revision 3 is published\n\
             Reconciling   False    Published   2m      revision 3 is published\n\
             Stalled       False    Published   2m      revision 3 is published\n\
             \n\
             POD     NODE   RUNS   STATE      REVISION   SINCE   MESSAGE\n\
             web-c   n1     3      Rejected   4          90s     nginx -t:\u{fffd}port 99999 is no port\n\
             web-a   n1     3      Applied    3          90s\n\
             web-b   n1     3      Applied    3          90s\n"
        );
    }

    #[test]
    fn a_thousand_pods_do_not_drown_the_one_that_refuses() {
        let mut replicas: Vec<_> =
            (0..999).map(|n| replica(&format!("p{n:03}"), ReplicaState::Applied, None)).collect();
        replicas.push(replica("zz", ReplicaState::Rejected, Some("no")));
        let text = detail_text(PLAIN, &Detail::of(&config(), &HeadNotes::default(), &replicas), at(0));
        assert!(text.contains("zz ") && text.ends_with("and 950 more pods (-o json lists all)\n"), "{text}");
    }

    #[test]
    fn pin_pause_suspend_and_an_unseen_spec_are_told() {
        let config = config_with(&|c| {
            c.spec.pin = Some(quorate_crds::Pin { revision: 2 });
            c.spec.suspend = true;
            c.metadata.generation = Some(5);
            pause(c, Strategy::Canary);
        });
        let text = summary(PLAIN, &View::of(&config), at(0));
        for part in ["Unobserved", "has not seen the present spec", "to revision 2", "nothing is published", "`resume`"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    fn pause(config: &mut DistributedConfig, strategy: Strategy) {
        config.spec.rollout = Some(Rollout { strategy, ..Rollout::default() });
        config.metadata.annotations = Some([(names::PAUSED.to_owned(), "true".to_owned())].into());
    }

    #[test]
    fn a_pause_that_holds_nothing_is_not_called_one() {
        for (strategy, holds, told) in [
            (Strategy::Immediate, false, "in vain: with strategy Immediate"),
            (Strategy::Quorum, true, "rollouts are held"),
            (Strategy::Canary, true, "rollouts are held"),
        ] {
            let view = View::of(&config_with(&|c| pause(c, strategy)));
            let text = summary(PLAIN, &view, at(0));
            assert!(text.contains(told), "{strategy}: {text}");
            assert_eq!(serde_json::to_value(&view).unwrap()["paused"], holds, "{strategy}");
        }
        // Immediate is the default.
        let view = View::of(&config_with(&|c| {
            pause(c, Strategy::Immediate);
            c.spec.rollout = None;
        }));
        assert_eq!(view.paused, Pause::InVain);
    }

    #[test]
    fn json_is_stable() {
        let detail = Detail::of(&config(), &refused(), &[replica("web-a", ReplicaState::Applied, None)]);
        let json = serde_json::to_value(&detail).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "conditions",
                "hash",
                "message",
                "name",
                "namespace",
                "observed",
                "outcome",
                "paused",
                "phase",
                "pods",
                "ready",
                "reason",
                "refused",
                "replicas",
                "revision",
                "suspended"
            ]
        );
        assert_eq!(json["outcome"], "Ready");
        assert_eq!(json["replicas"][0]["state"], "Applied");
    }
}
