//! `queue`: work that is handed out one by one, and again until it is acknowledged.

use std::{
    fs,
    io::{self, Read, Write},
    time::Duration,
};

use k8s_openapi::ByteString;
use quorate_coordination::{
    Queue,
    queue::{Delivery, KubeStore, Length, Payload, Peeked, QueueError, Sent, Which},
};
use quorate_crds::{DistributedQueue, MAX_QUEUE_PAYLOAD, QueueItemState};
use serde::Serialize;

use crate::{
    answer::{Answer, Done, note},
    cluster::Cluster,
    exit::{Exit, Failure, Result},
    format::{Cell, Fields, Style, Tone, count, printable, printable_line, table},
    options::{self, QueueLetters, QueuePeek, QueuePurge, QueueReceive, QueueSend},
    participant,
};

/// The time of an operation, beside that to wait for an item.
const LIMIT: Duration = Duration::from_secs(15);
/// Characters of a payload in a list.
const GLANCE: usize = 60;

type Kept = Queue<KubeStore>;

/// Runs the command.
///
/// # Errors
/// When there is no such queue, or it does not allow it.
pub async fn run(cluster: &Cluster, answer: Answer, command: &options::Queue) -> Result {
    let name = command.name();
    let (client, session) = (cluster.client.clone(), participant::session()?);
    let queue = Queue::on_object(client, &cluster.namespace, name, session, LIMIT).map_err(|error| failure(&error))?;
    cluster.must_have::<DistributedQueue>(name).await?;
    let done = |message: String| {
        let (namespace, revision) = (cluster.namespace.as_str(), None);
        answer.done(&Done { namespace, name, changed: true, revision, message })
    };
    match command {
        options::Queue::Send(options) => send(&queue, answer, options).await?,
        options::Queue::Receive(options) => return receive(&queue, answer, options).await,
        options::Queue::Peek(options) => peek(&queue, answer, options, Which::Live).await?,
        options::Queue::Dead(options) => peek(&queue, answer, options, Which::Dead).await?,
        options::Queue::Length(_) => {
            let Length { ready, claimed, dead } = queue.length().await.map_err(|error| failure(&error))?;
            let view = LengthView { ready, claimed, dead };
            answer.give(&view, |_| format!("{ready} ready, {claimed} claimed, {dead} dead\n"))?;
        }
        options::Queue::Ack(received) => {
            let acknowledged = queue.acknowledge(&received.item, &received.receipt).await;
            acknowledged.map_err(|error| failure(&error))?;
            done(format!("{} is done", printable(&received.item)))?;
        }
        options::Queue::Extend(options) => {
            let (received, time) = (&options.received, options.visibility.map(Duration::from));
            let extended = queue.extend(&received.item, &received.receipt, time).await;
            let kept = extended.map_err(|error| failure(&error))?.as_secs();
            done(format!("{} is kept from others for {kept} s from now on", printable(&received.item)))?;
        }
        options::Queue::Release(options) => {
            let received = &options.received;
            let released = queue.release(&received.item, &received.receipt, options.message.as_deref()).await;
            released.map_err(|error| failure(&error))?;
            done(format!("{} is given back", printable(&received.item)))?;
        }
        options::Queue::Redrive(QueueLetters { item, .. }) => {
            let redriven = queue.redrive(item.as_deref()).await.map_err(|error| failure(&error))?;
            done(format!("{} ready again", count(redriven, "dead letter is", "dead letters are")))?;
        }
        options::Queue::Purge(options) => {
            let purged = purge(&queue, options).await?;
            done(format!("{} deleted", count(purged, "dead letter is", "dead letters are")))?;
        }
    }
    Ok(Exit::Ok)
}

async fn send(queue: &Kept, answer: Answer, options: &QueueSend) -> Result<()> {
    let payload = match (&options.payload, &options.filename) {
        (Some(text), _) => Payload::from(text.as_str()),
        (None, Some(path)) if path.as_os_str() != "-" => {
            let file = fs::File::open(path).map_err(|error| unreadable(&path.display(), &error))?;
            read(file).map_err(|error| unreadable(&path.display(), &error))?
        }
        _ => read(io::stdin().lock()).map_err(|error| unreadable(&"the standard input", &error))?,
    };
    let sent = queue.send(payload, options.item_name.as_deref()).await.map_err(|error| failure(&error))?;
    if sent.duplicate {
        note(&format!("{} was sent before: nothing was sent now", sent.item));
    }
    let Sent { duplicate, item, sequence, state, token, lamport, hlc } = sent;
    let view = SentView { item, duplicate, sequence, state, token, lamport, hlc: hlc.to_string() };
    answer.give(&view, |_| format!("{}\n", view.item))
}

/// Text, if it is any. More than may be sent is not read to its end.
fn read(from: impl Read) -> io::Result<Payload> {
    let mut bytes = Vec::new();
    from.take(MAX_QUEUE_PAYLOAD as u64 + 1).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).map_or_else(|error| Payload::from(error.into_bytes()), Payload::from))
}

fn unreadable(what: &dyn std::fmt::Display, error: &io::Error) -> Failure {
    Failure::error(format!("{what} cannot be read: {error}; nothing was sent"))
}

async fn receive(queue: &Kept, answer: Answer, options: &QueueReceive) -> Result {
    let wait = options.wait.map_or(Duration::ZERO, Duration::from);
    let received = queue.receive(options.visibility.map(Duration::from), wait).await;
    let Some(delivery) = received.map_err(|error| failure(&error))? else {
        note("nothing was ready");
        return Ok(Exit::InProgress);
    };
    let (view, payload) = (Received::of(&delivery), delivery.payload());
    if options.raw {
        note(&format!("{} {}", view.item, view.receipt));
        let mut out = io::stdout().lock();
        let written = out.write_all(payload.as_bytes()).and_then(|()| out.flush());
        written.map_err(|error| {
            Failure::error(format!("the standard output cannot be written: {error}; it is handed out again in time"))
        })?;
    } else {
        answer.give(&view, |style| received_text(style, &view, &payload))?;
    }
    // Only what was written is done.
    if options.ack {
        delivery.acknowledge().await.map_err(|error| failure(&error))?;
    }
    Ok(Exit::Ok)
}

async fn peek(queue: &Kept, answer: Answer, options: &QueuePeek, which: Which) -> Result<()> {
    let peeked = queue.peek(which, options.limit).await.map_err(|error| failure(&error))?;
    let items: Vec<ItemView> = peeked.into_iter().map(ItemView::from).collect();
    answer.give(&List { items: &items }, |style| items_text(style, &items))
}

async fn purge(queue: &Kept, options: &QueuePurge) -> Result<usize> {
    let item = options.letters.item.as_deref();
    if !options.force {
        let which = item.map_or_else(|| "all dead letters".to_owned(), printable);
        return Err(Failure::error(format!(
            "what {which} would say is lost then: --force deletes it; `queue redrive` makes it ready again instead"
        )));
    }
    queue.purge_dead(item).await.map_err(|error| failure(&error))
}

fn failure(error: &QueueError) -> Failure {
    let exit = match error {
        error if error.is_unknown() => Exit::InProgress,
        QueueError::Full { .. }
        | QueueError::Leftover { .. }
        | QueueError::Stale { .. }
        | QueueError::NotDead { .. } => Exit::Failed,
        _ => Exit::Error,
    };
    Failure { exit, message: error.to_string() }
}

#[derive(Serialize)]
struct LengthView {
    ready: usize,
    claimed: usize,
    dead: usize,
}

/// What was sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SentView {
    item: String,
    duplicate: bool,
    sequence: i64,
    state: QueueItemState,
    token: u64,
    lamport: i64,
    hlc: String,
}

/// What an item says.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Says {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<ByteString>,
}

impl From<&Payload> for Says {
    fn from(payload: &Payload) -> Self {
        match payload {
            Payload::Text(text) => Self { payload: Some(text.clone()), payload_base64: None },
            Payload::Binary(bytes) => Self { payload: None, payload_base64: Some(ByteString(bytes.clone())) },
        }
    }
}

/// What was received.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    item: String,
    receipt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    sequence: i64,
    attempts: i64,
    sent_by: String,
    token: u64,
    lamport: i64,
    hlc: String,
    /// For how long nobody else is given it, for certain.
    valid_for_millis: u64,
    #[serde(flatten)]
    says: Says,
}

impl Received {
    fn of(delivery: &Delivery<KubeStore>) -> Self {
        Self {
            item: delivery.item().to_owned(),
            receipt: delivery.receipt().to_owned(),
            name: delivery.name().map(str::to_owned),
            sequence: delivery.sequence(),
            attempts: delivery.attempts(),
            sent_by: delivery.sent_by().to_owned(),
            token: delivery.token(),
            lamport: delivery.lamport(),
            hlc: delivery.hlc().to_string(),
            valid_for_millis: u64::try_from(delivery.valid_for().as_millis()).unwrap_or(u64::MAX),
            says: Says::from(&delivery.payload()),
        }
    }
}

fn received_text(style: Style, view: &Received, payload: &Payload) -> String {
    let mut fields = Fields::default();
    fields.add("Item", printable(&view.item));
    fields.add("Receipt", printable(&view.receipt));
    fields.add("Attempt", view.attempts.to_string());
    fields.add("Sent by", printable(&view.sent_by));
    fields.add("Kept", format!("from others for {} s", view.valid_for_millis / 1000));
    let said = match payload {
        Payload::Text(text) => text.lines().map(|line| printable_line(line) + "\n").collect(),
        Payload::Binary(bytes) => {
            format!("{} that are no text: --raw writes them\n", crate::format::bytes(bytes.len()))
        }
    };
    format!("{}\n{said}", fields.text(style))
}

/// An item, as it was seen.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemView {
    item: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    sequence: i64,
    state: QueueItemState,
    attempts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    sent_by: String,
    #[serde(flatten)]
    says: Says,
}

/// The list for scripts.
#[derive(Serialize)]
struct List<'a> {
    items: &'a [ItemView],
}

impl From<Peeked> for ItemView {
    fn from(peeked: Peeked) -> Self {
        let Peeked { item, name, sequence, state, attempts, claimed_by, message, sent_by, payload } = peeked;
        Self { item, name, sequence, state, attempts, claimed_by, message, sent_by, says: Says::from(&payload) }
    }
}

fn items_text(style: Style, items: &[ItemView]) -> String {
    if items.is_empty() {
        return "no items\n".to_owned();
    }
    let row = |view: &ItemView| -> Vec<Cell> {
        let tone = match view.state {
            QueueItemState::Dead => Tone::Bad,
            QueueItemState::Claimed => Tone::Busy,
            QueueItemState::Ready | QueueItemState::Acknowledged => Tone::Good,
        };
        let said = match (&view.says.payload, &view.says.payload_base64) {
            (Some(text), _) if text.chars().count() > GLANCE => text.chars().take(GLANCE).chain(['…']).collect(),
            (Some(text), _) => text.clone(),
            (None, bytes) => format!("({})", crate::format::bytes(bytes.as_ref().map_or(0, |bytes| bytes.0.len()))),
        };
        vec![
            view.sequence.to_string().into(),
            view.item.as_str().into(),
            Cell::toned(format!("{:?}", view.state), tone),
            view.attempts.to_string().into(),
            view.claimed_by.as_deref().unwrap_or_default().into(),
            view.message.as_deref().unwrap_or_default().into(),
            said.into(),
        ]
    };
    let head = ["SEQUENCE", "ITEM", "STATE", "ATTEMPTS", "CLAIMED BY", "MESSAGE", "PAYLOAD"];
    table(style, &head, &items.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::PLAIN;

    fn view(state: QueueItemState, payload: Payload) -> ItemView {
        ItemView::from(Peeked {
            item: "mails.order-7".into(),
            name: Some("order-7".into()),
            sequence: 3,
            state,
            attempts: 1,
            claimed_by: Some("web-0".into()),
            message: None,
            sent_by: "web-1".into(),
            payload,
        })
    }

    #[test]
    fn items_are_told_a_line_each_whatever_they_say() {
        let long = "x".repeat(100);
        let items = [
            view(QueueItemState::Claimed, Payload::from("a\nb\u{1b}")),
            view(QueueItemState::Dead, Payload::from(vec![0, 255])),
            view(QueueItemState::Ready, Payload::from(long.as_str())),
        ];
        let text = items_text(PLAIN, &items);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("a\u{fffd}b\u{fffd}") && text.contains("(2 bytes)") && !text.contains(&long), "{text}");
        let json = serde_json::to_value(&items[1]).unwrap();
        assert_eq!((&json["payloadBase64"], json.get("payload")), (&"AP8=".into(), None));
    }

    #[test]
    fn what_is_no_text_is_sent_as_it_is_and_no_more_is_read_than_can_be_sent() {
        assert_eq!(read("grüße".as_bytes()).unwrap(), Payload::from("grüße"));
        assert_eq!(read(&[0xff, 0][..]).unwrap(), Payload::from(vec![0xff, 0]));
        assert_eq!(read(io::repeat(b'x')).unwrap().as_bytes().len(), MAX_QUEUE_PAYLOAD + 1);
    }
}
