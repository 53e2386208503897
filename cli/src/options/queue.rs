//! The command line of queues.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_crds::Span;

/// What to do with a queue.
#[derive(Subcommand, Clone, Debug)]
pub enum Queue {
    /// Sends an item, and prints its name.
    Send(QueueSend),
    /// Takes the next item, for a time: what it says, and the receipt. Ends with 4 if there is none.
    Receive(QueueReceive),
    /// The first items, without taking any.
    Peek(QueuePeek),
    /// How many items there are.
    Length(QueueNamed),
    /// Done: an item that was received is not handed out any more.
    Ack(QueueReceipt),
    /// Keeps an item that was received for longer.
    Extend(QueueExtend),
    /// Gives an item back that was received: it is handed out again at once.
    Release(QueueRelease),
    /// The dead letters: items that were handed out too often.
    Dead(QueuePeek),
    /// Makes dead letters ready again, with all their attempts before them.
    Redrive(QueueLetters),
    /// Deletes dead letters.
    Purge(QueuePurge),
}

/// A queue.
#[derive(Args, Clone, Debug)]
pub struct QueueNamed {
    /// The queue's name.
    #[arg(value_name = "NAME")]
    pub queue: String,
}

/// Arguments of queue send.
#[derive(Args, Clone, Debug)]
pub struct QueueSend {
    /// The queue.
    #[command(flatten)]
    pub queue: QueueNamed,

    /// What it says, 64 KiB at most; by default the standard input.
    #[arg(conflicts_with = "filename")]
    pub payload: Option<String>,

    /// A file that says it, or - for the standard input.
    #[arg(short, long)]
    pub filename: Option<PathBuf>,

    /// What the work is about, such as order-7: sent again under the same name, nothing is sent, as long as an item of this
    /// name is kept. So a send whose outcome is not known can be repeated.
    #[arg(long = "name", value_name = "NAME")]
    pub item_name: Option<String>,
}

/// Arguments of queue receive.
#[derive(Args, Clone, Debug)]
pub struct QueueReceive {
    /// The queue.
    #[command(flatten)]
    pub queue: QueueNamed,

    /// How long to wait for one, such as 90s or 5m. By default not at all.
    #[arg(long)]
    pub wait: Option<Span>,

    /// How long it is kept from others, from 1s to 12h; by default the queue's own time.
    #[arg(long)]
    pub visibility: Option<Span>,

    /// Acknowledge it as soon as it is written. What fails after that is not handed out again.
    #[arg(long)]
    pub ack: bool,

    /// Write what it says and nothing else, as it is; item and receipt to the standard error.
    #[arg(long)]
    pub raw: bool,
}

/// Arguments of queue peek and queue dead.
#[derive(Args, Clone, Debug)]
pub struct QueuePeek {
    /// The queue.
    #[command(flatten)]
    pub queue: QueueNamed,

    /// How many at most.
    #[arg(long, default_value_t = 20)]
    pub limit: usize,
}

/// An item that was received.
#[derive(Args, Clone, Debug)]
pub struct QueueReceipt {
    /// The queue.
    #[command(flatten)]
    pub queue: QueueNamed,

    /// The item, as receive told it.
    pub item: String,

    /// The receipt, as receive told it.
    pub receipt: String,
}

/// Arguments of queue extend.
#[derive(Args, Clone, Debug)]
pub struct QueueExtend {
    /// The item.
    #[command(flatten)]
    pub received: QueueReceipt,

    /// How long from now on, from 1s to 12h; by default the queue's own time.
    #[arg(long)]
    pub visibility: Option<Span>,
}

/// Arguments of queue release.
#[derive(Args, Clone, Debug)]
pub struct QueueRelease {
    /// The item.
    #[command(flatten)]
    pub received: QueueReceipt,

    /// Why, for people.
    #[arg(long)]
    pub message: Option<String>,
}

/// Arguments of queue redrive.
#[derive(Args, Clone, Debug)]
pub struct QueueLetters {
    /// The queue.
    #[command(flatten)]
    pub queue: QueueNamed,

    /// The dead letter, as dead tells it; all otherwise.
    pub item: Option<String>,
}

/// Arguments of queue purge.
#[derive(Args, Clone, Debug)]
pub struct QueuePurge {
    /// Which.
    #[command(flatten)]
    pub letters: QueueLetters,

    /// Delete them: what they say is lost.
    #[arg(long)]
    pub force: bool,
}

impl Queue {
    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        let named = match self {
            Self::Send(options) => &options.queue,
            Self::Receive(options) => &options.queue,
            Self::Peek(options) | Self::Dead(options) => &options.queue,
            Self::Length(named) => named,
            Self::Ack(received) => &received.queue,
            Self::Extend(options) => &options.received.queue,
            Self::Release(options) => &options.received.queue,
            Self::Redrive(letters) => &letters.queue,
            Self::Purge(options) => &options.letters.queue,
        };
        &named.queue
    }
}
