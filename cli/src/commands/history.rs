//! `history`: the revisions that are kept, newest first.

use jiff::Timestamp;
use kube::ResourceExt;
use quorate_crds::{DistributedConfig, Refused};
use serde::Serialize;

use crate::{
    answer::Answer,
    cluster::Cluster,
    commands::status::{head_notes, rollout},
    exit::{Exit, Result},
    format::{Cell, Style, Tone, age, printable, short_hash, table},
    stored::HeadNotes,
};

/// The history of a config.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The config's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The revisions that are kept, newest first.
    pub revisions: Vec<Entry>,
    /// What was refused last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What is proposed, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
}

/// One revision.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its number.
    pub revision: i64,
    /// When it was decided.
    pub time: Timestamp,
    /// Its content.
    pub hash: String,
    /// The older revision whose content it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<i64>,
    /// Who made the change behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
    /// Of current, pinned, good, refused.
    pub marks: Vec<&'static str>,
}

/// Runs the command.
///
/// # Errors
/// When the config does not exist, or the API server fails.
pub async fn run(cluster: &Cluster, answer: Answer, name: &str) -> Result {
    let config = cluster.config(name).await?;
    let history = view(&config, &head_notes(cluster, name).await);
    answer.give(&history, |style| text(style, &history, Timestamp::now()))?;
    Ok(Exit::Ok)
}

fn view(config: &DistributedConfig, notes: &HeadNotes) -> History {
    let status = config.status.clone().unwrap_or_default();
    let refused = notes.standing.refused.clone();
    let marks = |revision: i64, hash: &str| {
        let all = [
            (status.revision == Some(revision), "current"),
            (config.spec.pin.as_ref().is_some_and(|pin| pin.revision == revision), "pinned"),
            (notes.good == Some(revision), "good"),
            // What was refused may have been published before, under another number.
            (refused.as_ref().is_some_and(|refused| refused.hash == hash), "refused"),
        ];
        all.into_iter().filter(|(holds, _)| *holds).map(|(_, mark)| mark).collect()
    };
    let entry = |entry: &quorate_crds::HistoryEntry| Entry {
        revision: entry.revision,
        time: entry.time.0,
        hash: entry.hash.clone(),
        restored: entry.restored,
        changed_by: entry.changed_by.clone(),
        marks: marks(entry.revision, &entry.hash),
    };
    let mut revisions: Vec<Entry> = status.history.iter().map(entry).collect();
    revisions.sort_by_key(|entry| std::cmp::Reverse(entry.revision));
    History {
        namespace: config.namespace().unwrap_or_default(),
        name: config.name_any(),
        revisions,
        refused,
        candidate: status.candidate.as_ref().map(rollout),
    }
}

fn text(style: Style, history: &History, now: Timestamp) -> String {
    let rows: Vec<Vec<Cell>> = history
        .revisions
        .iter()
        .map(|entry| {
            let tone = match entry.marks.as_slice() {
                marks if marks.contains(&"refused") => Tone::Bad,
                marks if marks.contains(&"current") => Tone::Good,
                _ => Tone::Faint,
            };
            vec![
                entry.revision.to_string().into(),
                format!("{:.0}", entry.time).into(),
                age(entry.time, now).into(),
                short_hash(&entry.hash).into(),
                entry.restored.map(|restored| restored.to_string()).unwrap_or_default().into(),
                entry.changed_by.as_deref().unwrap_or_default().into(),
                Cell::toned(entry.marks.join(","), tone),
            ]
        })
        .collect();
    let mut text = if rows.is_empty() {
        format!("{}/{}: nothing is published yet\n", printable(&history.namespace), printable(&history.name))
    } else {
        table(style, &["REVISION", "TIME", "AGE", "HASH", "RESTORED", "CHANGED BY", "MARKS"], &rows)
    };
    if let Some(candidate) = &history.candidate {
        text += &format!("\n{} {candidate}\n", style.paint(Tone::Busy, "On its way:"));
    }
    if let Some(refused) = &history.refused {
        text += &format!(
            "\n{} revision {} ({}), {} ago: {}\n",
            style.paint(Tone::Bad, "Refused:"),
            refused.revision,
            printable(short_hash(&refused.hash)),
            age(refused.at, now),
            printable(&refused.reason)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PLAIN, at, candidate, config_with};
    use quorate_crds::{Pin, Standing};

    #[test]
    fn the_newest_comes_first_with_who_changed_it_and_what_it_is() {
        let config = config_with(&|c| {
            c.spec.pin = Some(Pin { revision: 1 });
            let status = c.status.as_mut().unwrap();
            status.history[0].restored = Some(1);
            status.history[1].changed_by = Some("ConfigMap shop/web-eu by bob".into());
            status.candidate = Some(candidate());
        });
        let refused = Refused {
            revision: 2,
            hash: config.status.as_ref().unwrap().history[1].hash.clone(),
            reason: "3 of 10 pods refused".into(),
            at: at(300),
        };
        let notes = HeadNotes { standing: Standing { refused: Some(refused), ..Standing::default() }, good: Some(1) };
        assert_eq!(
            text(PLAIN, &view(&config, &notes), at(360)),
            "REVISION   TIME                   AGE   HASH           RESTORED   CHANGED BY                     MARKS\n\
             3          2026-01-01T00:03:00Z   3m    cccccccccccc   1          alice                          current\n\
             2          2026-01-01T00:02:00Z   4m    bbbbbbbbbbbb              ConfigMap shop/web-eu by bob   refused\n\
             1          2026-01-01T00:01:00Z   5m    aaaaaaaaaaaa              alice                          pinned,good\n\
             \n\
             On its way: revision 4, Canary step 2 of 4\n\
             \n\
             Refused: revision 2 (bbbbbbbbbbbb), 60s ago: 3 of 10 pods refused\n"
        );
    }

    #[test]
    fn nothing_published_is_said() {
        let config = config_with(&|c| c.status = None);
        assert_eq!(text(PLAIN, &view(&config, &HeadNotes::default()), at(0)), "shop/web: nothing is published yet\n");
    }
}
