//! `GET /v1/events`: server-sent events of other configuration, and of locks that were lost.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use http::{HeaderMap, HeaderValue, header};
use tokio::{sync::watch, time::timeout};

use super::{Api, backend::Backend, routes::Route};
use crate::{
    Shared,
    events::{Event, Lagged},
};

/// The media type.
const EVENT_STREAM: &str = "text/event-stream";
/// Something is sent at least this often, so that both sides notice when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The header by which a listener says which event it had last.
const LAST_EVENT_ID: &str = "last-event-id";

/// A listener, and its place in the events.
struct Listener {
    shared: Arc<Shared>,
    news: watch::Receiver<u64>,
    /// None at the beginning, and after it fell behind.
    place: Option<u64>,
    lagged: bool,
}

/// What can be asked.
pub fn routes<B: Backend>() -> [Route<B>; 1] {
    let summary = "Server-sent events: config (now, and at each change), lock-lost, and lagged when some were missed";
    [Route::new(("get", "/v1/events"), "events", summary, get(events::<B>))
        .headers(&[LAST_EVENT_ID])
        .streams::<Event>(EVENT_STREAM, "Events; the schema is that of their data")]
}

/// `GET /v1/events`
async fn events<B: Backend>(State(api): State<Arc<Api<B>>>, headers: HeaderMap) -> Response {
    let shared = Arc::clone(&api.shared);
    let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).filter(|id| !id.is_empty());
    let place = last.map(|id| shared.events.place(id));
    let listener = Listener {
        news: shared.events.news(),
        lagged: place == Some(Err(Lagged)),
        place: place.and_then(Result::ok),
        shared,
    };
    let texts = stream::unfold(listener, |mut listener| async move {
        let text = listener.next().await;
        Some((Ok::<_, Infallible>(text), listener))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from_stream(texts)).into_response()
}

impl Listener {
    /// What is sent next; waits until there is something.
    async fn next(&mut self) -> String {
        loop {
            self.news.borrow_and_update();
            let Some(place) = self.place else { return self.begin() };
            match self.shared.events.from(place) {
                Ok(events) if events.is_empty() => match timeout(HEARTBEAT, self.news.changed()).await {
                    Ok(_) => {}
                    Err(_) => return ": nothing new\n\n".to_owned(),
                },
                Ok(events) => {
                    let (mut text, mut place) = (String::new(), place);
                    for event in &events {
                        place += 1;
                        text += &message(event.kind(), &self.shared.events.id(place), event);
                    }
                    self.place = Some(place);
                    return text;
                }
                Err(Lagged) => (self.place, self.lagged) = (None, true),
            }
        }
    }

    /// Every config as it is now; before that, whether events were missed.
    fn begin(&mut self) -> String {
        let (configs, place) = self.shared.events.present();
        self.place = Some(place);
        let id = self.shared.events.id(place);
        let mut text = String::new();
        if std::mem::take(&mut self.lagged) {
            text += &format!("id: {id}\nevent: lagged\ndata: {{}}\n\n");
        }
        for event in &configs {
            text += &message(event.kind(), &id, event);
        }
        // At least something, so that the listener knows that it is heard.
        if text.is_empty() { format!(": nothing yet\nid: {id}\n\n") } else { text }
    }
}

fn message(kind: &str, id: &str, event: &Event) -> String {
    // Strings and numbers: it cannot fail, and has no line breaks.
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n")
}
