//! `watch`: follows a config until its rollout has come to an end.

use std::time::Duration;

use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kube::runtime::{
    WatchStreamExt,
    watcher::{self, Event, watcher},
};
use quorate_crds::{CandidateStatus, DistributedConfig};

use crate::{
    answer::{Answer, note, print},
    cluster::{Cluster, with_causes},
    commands::status::{View, rollout, summary, votes},
    exit::{Exit, Failure, Result},
    format::{Style, printable},
    options::{Output, Patience},
    outcome::Outcome,
    stored,
};

/// How often ages are drawn again.
const TICK: Duration = Duration::from_secs(1);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// An end of whatever is under way.
    Settled,
    /// A candidate to be given up.
    GivenUp {
        /// Which.
        revision: i64,
    },
    /// Refused content to be proposed again, and then an end.
    Retried {
        /// Which was refused.
        refused: i64,
        /// What was published then.
        published: Option<i64>,
    },
}

impl Goal {
    /// How the command ends, if this is an end. By the status alone: what is read at another moment tells
    /// of another moment.
    #[must_use]
    pub fn reached(self, config: &DistributedConfig) -> Option<Exit> {
        let status = config.status.clone().unwrap_or_default();
        let candidate = status.candidate.map(|candidate| candidate.revision);
        let settled = match Outcome::of(config) {
            Outcome::InProgress => None,
            outcome => Some(outcome.exit()),
        };
        match self {
            Self::Settled => settled,
            Self::GivenUp { revision } if candidate == Some(revision) => None,
            Self::GivenUp { revision } => {
                // Another may have been published since.
                let published = status.history.iter().map(|entry| entry.revision).chain(status.revision);
                Some(if published.into_iter().any(|r| r == revision) { Exit::Failed } else { Exit::Ok })
            }
            Self::Retried { refused, published } => {
                // The status still tells of the refusal that is to be tried again, and of nothing that
                // keeps the operator from it for good.
                let unbegun = status.refused == Some(refused)
                    && candidate.is_none()
                    && status.revision == published
                    && status.phase.as_deref() != Some("Failed");
                if unbegun { None } else { settled }
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the config does not exist or is deleted, or the API server refuses.
pub async fn run(cluster: &Cluster, answer: Answer, name: &str, patience: Patience) -> Result {
    // Says at once that it does not exist, or that there is no way to it.
    cluster.config(name).await?;
    follow(cluster, answer, name, patience, Goal::Settled).await
}

/// Follows a config until the goal is reached, and shows how it gets there.
///
/// # Errors
/// When the config is deleted, or the API server refuses.
pub async fn follow(cluster: &Cluster, answer: Answer, name: &str, patience: Patience, goal: Goal) -> Result {
    let fields = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher(cluster.configs(), fields).default_backoff();
    let mut screen = Screen::new(answer);
    let end = until_reached(cluster, name, &mut screen, goal, Box::pin(events));
    let Some(limit) = patience.timeout else { return end.await };
    if let Ok(end) = tokio::time::timeout(limit.into(), end).await {
        return end;
    }
    note(&format!("DistributedConfig {}/{name}: still in progress after {limit}", cluster.namespace));
    Ok(Exit::InProgress)
}

async fn until_reached(
    cluster: &Cluster,
    name: &str,
    screen: &mut Screen,
    goal: Goal,
    mut events: impl Stream<Item = watcher::Result<Event<DistributedConfig>>> + Unpin,
) -> Result {
    let gone = || Failure::not_found(format!("DistributedConfig {}/{name} does not exist any more", cluster.namespace));
    let mut listed = None;
    let mut troubled = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep(TICK) => {
                screen.refresh()?;
                continue;
            }
        };
        let config = match event {
            None => return Err(Failure::error("the watch ended")),
            Some(Ok(Event::Init)) => {
                listed = None;
                continue;
            }
            Some(Ok(Event::InitApply(config))) => {
                listed = Some(config);
                continue;
            }
            Some(Ok(Event::InitDone)) => listed.take().ok_or_else(gone)?,
            Some(Ok(Event::Apply(config))) => config,
            Some(Ok(Event::Delete(_))) => return Err(gone()),
            Some(Err(error)) => {
                let told = with_causes(&error);
                if is_refusal(&error) {
                    return Err(Failure::error(format!(
                        "watch DistributedConfig {}/{name}: {told}",
                        cluster.namespace
                    )));
                }
                if !std::mem::replace(&mut troubled, true) {
                    note(&format!("the watch broke ({told}); it is tried again"));
                }
                continue;
            }
        };
        troubled = false;
        screen.see(&config)?;
        if let Some(exit) = goal.reached(&config) {
            if exit == Exit::Failed {
                tell_why(cluster, name, &config).await;
            }
            return Ok(exit);
        }
    }
}

fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let code = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.code,
        _ => return false,
    };
    matches!(code, 401 | 403 | 404)
}

/// What failed, on the standard error: the last word of a script's log.
async fn tell_why(cluster: &Cluster, name: &str, config: &DistributedConfig) {
    let refused = stored::notes(cluster, name).await.ok().flatten().and_then(|notes| notes.standing.refused);
    let what = format!("DistributedConfig {}/{name}", cluster.namespace);
    note(&match refused {
        Some(refused) => format!("{what}: revision {} was refused: {}", refused.revision, printable(&refused.reason)),
        None => format!("{what}: {}", printable(&View::of(config).message)),
    });
}

/// What was drawn, and what was seen of each step.
struct Screen {
    answer: Answer,
    last: Option<View>,
    told: String,
    lines: usize,
    steps: Vec<CandidateStatus>,
}

impl Screen {
    fn new(answer: Answer) -> Self {
        Self { answer, last: None, told: String::new(), lines: 0, steps: Vec::new() }
    }

    /// Shows a config, if it tells anything new.
    fn see(&mut self, config: &DistributedConfig) -> Result<()> {
        let view = View::of(config);
        if self.last.as_ref() == Some(&view) {
            return Ok(());
        }
        self.remember(view.candidate.as_ref());
        self.last = Some(view);
        self.draw()
    }

    fn remember(&mut self, candidate: Option<&CandidateStatus>) {
        let Some(candidate) = candidate else { return };
        self.steps.retain(|seen| seen.uid == candidate.uid && seen.step != candidate.step);
        self.steps.push(candidate.clone());
    }

    /// Draws again what is there: time has passed.
    fn refresh(&mut self) -> Result<()> {
        if self.is_live() { self.draw() } else { Ok(()) }
    }

    fn is_live(&self) -> bool {
        self.answer.output == Output::Table && self.answer.style.live
    }

    fn draw(&mut self) -> Result<()> {
        let Some(view) = &self.last else { return Ok(()) };
        let now = Timestamp::now();
        if self.is_live() {
            let text = frame(self.answer.style, view, &self.steps, now);
            print(&self.answer.style.redraw(&text, self.lines))?;
            self.lines = text.lines().count();
            return Ok(());
        }
        let told = line(view);
        if self.answer.output == Output::Table && told == self.told {
            return Ok(());
        }
        self.answer.give_one(view, |_| format!("{now:.0} {told}\n"))?;
        self.told = told;
        Ok(())
    }
}

/// What is drawn over and over on a terminal.
fn frame(style: Style, view: &View, steps: &[CandidateStatus], now: Timestamp) -> String {
    let current = view.candidate.as_ref().map(|candidate| (&candidate.uid, candidate.step));
    let mut text = String::new();
    for seen in steps.iter().filter(|seen| Some((&seen.uid, seen.step)) != current) {
        text += &format!("{}: {}\n", rollout(seen), votes(style, seen));
    }
    text + &summary(style, view, now)
}

/// One change on one line, for logs.
fn line(view: &View) -> String {
    let revision = view.revision.map(|revision| format!(" revision {revision}")).unwrap_or_default();
    let pods = view.pods.as_ref().map(|pods| format!(", {} applied", pods.summary)).unwrap_or_default();
    let rest = match &view.candidate {
        Some(candidate) => format!(
            "; {}: {}; {}",
            rollout(candidate),
            votes(Style::default(), candidate),
            printable(&candidate.message)
        ),
        None if view.message.is_empty() => String::new(),
        None => format!("; {}", printable(&view.message)),
    };
    format!("{}{revision}{pods}{rest}", printable(view.phase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PLAIN, at, candidate, config, config_with};

    fn rolling() -> DistributedConfig {
        config_with(&|c| {
            let status = c.status.as_mut().unwrap();
            status.candidate = Some(candidate());
            status.phase = Some("Progressing".into());
        })
    }

    #[test]
    fn a_change_is_a_line_in_a_log() {
        assert_eq!(line(&View::of(&config())), "Published revision 3, 9/10 applied; revision 3 is published");
        assert_eq!(
            line(&View::of(&rolling())),
            "Progressing revision 3, 9/10 applied; revision 4, Canary step 2 of 4: 7 of 10 accepted, 1 refused; \
             7 of 10 applied, baking 40 s more"
        );
    }

    #[test]
    fn steps_that_are_done_stay_on_the_screen_until_another_candidate_comes() {
        let mut screen = Screen::new(Answer { output: Output::Table, style: PLAIN });
        let first = CandidateStatus { step: Some(1), asked: 1, accepted: 1, rejected: 0, ..candidate() };
        for seen in [&CandidateStatus { accepted: 0, ..first.clone() }, &first, &candidate()] {
            screen.remember(Some(seen));
        }
        let text = frame(PLAIN, &View::of(&rolling()), &screen.steps, at(60));
        assert!(text.starts_with("revision 4, Canary step 1 of 4: 1 of 1 accepted\nConfig:"), "{text}");
        screen.remember(Some(&CandidateStatus { uid: "c2".into(), ..candidate() }));
        assert_eq!(screen.steps.len(), 1);
    }

    #[test]
    fn the_end_is_told_by_what_was_waited_for() {
        let rolled_back = rolled_back(4);
        assert_eq!(Goal::Settled.reached(&config()), Some(Exit::Ok));
        assert_eq!(Goal::Settled.reached(&rolling()), None);
        assert_eq!(Goal::Settled.reached(&rolled_back), Some(Exit::Failed));

        let given_up = |revision| Goal::GivenUp { revision };
        assert_eq!(given_up(4).reached(&rolling()), None);
        assert_eq!(given_up(4).reached(&rolled_back), Some(Exit::Ok));
        // It was published before the word came, and perhaps another one after it.
        assert_eq!(given_up(3).reached(&config()), Some(Exit::Failed));
        assert_eq!(given_up(2).reached(&config()), Some(Exit::Failed));
    }

    #[test]
    fn a_refusal_that_is_to_be_tried_again_is_no_end_of_trying_again() {
        let retried = Goal::Retried { refused: 4, published: Some(3) };
        assert_eq!(retried.reached(&rolled_back(4)), None);
        assert_eq!(retried.reached(&rolling()), None);
        assert_eq!(retried.reached(&config()), Some(Exit::Ok));
        assert_eq!(retried.reached(&rolled_back(5)), Some(Exit::Failed), "it was tried, and refused again");
        let in_phase = |phase: &str| {
            let mut config = rolled_back(4);
            config.status.as_mut().unwrap().phase = Some(phase.into());
            retried.reached(&config)
        };
        assert_eq!(in_phase("Suspended"), None, "it is tried when the suspension ends");
        assert_eq!(in_phase("Failed"), Some(Exit::Failed), "the layers are broken: it cannot be tried");
    }

    fn rolled_back(refused: i64) -> DistributedConfig {
        config_with(&|c| {
            let status = c.status.as_mut().unwrap();
            status.phase = Some("RolledBack".into());
            status.refused = Some(refused);
        })
    }
}
