//! A local API over registers in memory, asked without a network. Every request and answer is held against the `OpenAPI` document.
#![allow(dead_code)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body};
use clap::Parser;
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use quorate_coordination::{
    Counter, CounterError, CounterState, Fault, Lock, LockError, LockState, Queue, QueueError, Random, Register,
    Session, SimRegister, Versioned, Virtual,
    queue::{QueueState, SimStore},
};
use quorate_crds::{DistributedCounterSpec, DistributedQueueSpec};
use quorate_sidecar::{
    Shared,
    api::{Api, backend::Backend},
    options::Options,
};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::ServiceExt;

/// Registers in memory, made when first named.
#[derive(Clone, Default)]
pub struct Memory {
    locks: Arc<Mutex<HashMap<String, SimRegister<LockState>>>>,
    counters: Arc<Mutex<HashMap<String, SimRegister<CounterState>>>>,
    queues: Arc<Mutex<HashMap<String, SimStore>>>,
}

/// A register that is not there: `missing` is refused, `silent` does not answer.
struct Absent(String);

impl Register for Absent {
    type State = CounterState;
    type Version = u64;

    async fn read(&self) -> Result<Versioned<CounterState, u64>, quorate_coordination::Failure> {
        if self.0 == "silent" {
            return std::future::pending().await;
        }
        Err(quorate_coordination::Failure::Refused("it does not exist: create it first".to_owned()))
    }

    async fn compare_and_swap(&self, _: &u64, _: &CounterState) -> Result<u64, quorate_coordination::Failure> {
        std::future::pending().await
    }

    fn watch(&self, _: &u64) -> BoxStream<'static, Option<Versioned<CounterState, u64>>> {
        futures::stream::pending().boxed()
    }

    fn name(&self) -> String {
        format!("DistributedCounter shop/{}", self.0)
    }
}

impl Memory {
    pub fn lock_register(&self, name: &str) -> SimRegister<LockState> {
        let mut locks = self.locks.lock().unwrap();
        locks.entry(name.to_owned()).or_insert_with(|| SimRegister::new(LockState::default())).clone()
    }
}

impl Backend for Memory {
    type Lock = SimRegister<LockState>;
    type Queue = SimStore;

    fn lock(&self, name: &str, session: Session, ttl: Duration) -> Result<Lock<Self::Lock>, LockError> {
        Lock::new(self.lock_register(name), session, &format!("shop/{name}"), ttl)
    }

    fn counter(&self, name: &str, session: Session) -> Result<Counter, CounterError> {
        let limit = Duration::from_secs(10);
        if name == "missing" || name == "silent" {
            return Ok(Counter::new(Absent(name.to_owned()), session, limit));
        }
        let fresh = || {
            let spec = DistributedCounterSpec { initial: 0, min: Some(-5), max: Some(100), cluster_set: None };
            let register = SimRegister::new(CounterState::new(spec));
            if name == "lost" {
                register.befall([Fault::None]);
                register.befall([Fault::LostRequest; 1000]);
            }
            register
        };
        let register = self.counters.lock().unwrap().entry(name.to_owned()).or_insert_with(fresh).clone();
        Ok(Counter::new(register, session, limit))
    }

    fn queue(&self, name: &str, session: Session) -> Result<Queue<SimStore>, QueueError> {
        let spec = DistributedQueueSpec { max_attempts: 2, max_length: 20, ..DistributedQueueSpec::default() };
        let fresh = || SimStore::new(QueueState { uid: name.to_owned(), spec, ..QueueState::default() });
        let store = self.queues.lock().unwrap().entry(name.to_owned()).or_insert_with(fresh).clone();
        Queue::new(store, name, session, Duration::from_secs(10))
    }
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Local {
    pub shared: Arc<Shared>,
    pub api: Arc<Api<Memory>>,
    pub memory: Memory,
    pub router: Router,
    document: Arc<Value>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Said {
    pub what: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Said {
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {}", self.what, self.text);
        self
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Of a problem.
    pub fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap().trim_start_matches("tag:quorate.io,2026:")
    }

    pub fn detail(&self) -> &str {
        self.json["detail"].as_str().unwrap()
    }
}

impl Local {
    /// Of the pod web-1.
    pub async fn new(words: &[&str]) -> Self {
        let fixed = ["quorate-sidecar", "--config=web", "--namespace=shop", "--directory=/nonexistent"];
        let pod = ["--pod-name=web-1", "--pod-uid=p"];
        let options = Options::parse_from([&fixed[..], &pod, words].concat());
        Self::of(Arc::new(Shared::new(options, Arc::new(Virtual::default())))).await
    }

    pub async fn of(shared: Arc<Shared>) -> Self {
        let random = Arc::new(Random::from_seed("local"));
        let session = Session::with("web-1", Arc::new(Virtual::default()), random);
        let session = Session { lamport: Arc::clone(&shared.lamport), hlc: Arc::clone(&shared.hlc), ..session };
        let memory = Memory::default();
        let api = Api::new(Arc::clone(&shared), memory.clone(), session);
        let router = api.router();
        let asked = Request::get("/v1/openapi.json").header("host", "localhost").body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(asked).await.unwrap();
        let document = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
        Self { shared, api, memory, router, document: Arc::new(document) }
    }

    pub async fn get(&self, path: &str) -> Said {
        self.call("GET", path, &[], None).await
    }

    pub async fn put(&self, path: &str) -> Said {
        self.call("PUT", path, &[], None).await
    }

    pub async fn delete(&self, path: &str) -> Said {
        self.call("DELETE", path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Said {
        self.call("POST", path, &[], Some(body)).await
    }

    pub async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Said {
        let mut headers = headers.to_vec();
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let said = self.send(method, path, &headers, body.map(Value::to_string).unwrap_or_default()).await;
        if said.status < 300
            && let (Some(operation), Some(body)) = (self.operation(method, path), body)
        {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if !schema.is_null() {
                self.must_be(&format!("{method} {path}, the request"), schema, body);
            }
        }
        said
    }

    /// Sends anything; the answer is whole.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Said {
        let what = format!("{method} {path}");
        let response = self.open(method, path, headers, body).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_str(&text).unwrap_or_default();
        let said = Said { what, status: parts.status.as_u16(), headers: parts.headers, text, json };
        self.must_be_documented(method, path, &said);
        said
    }

    pub async fn status(&self, method: &str, path: &str) -> u16 {
        self.open(method, path, &[], String::new()).await.status().as_u16()
    }

    pub async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:8082");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        if ![403, 421].contains(&response.status().as_u16()) {
            let stamped = ["quorate-lamport", "quorate-hlc"].iter().all(|name| response.headers().contains_key(*name));
            assert!(stamped, "every answer is stamped: {method} {path}");
        }
        response
    }

    /// A stream of JSON lines.
    pub async fn stream(&self, path: &str, body: &Value) -> Lines {
        let headers = [("content-type", "application/json")];
        let response = self.open("POST", path, &headers, body.to_string()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
        let schema =
            self.operation("POST", path).unwrap()["responses"]["200"]["content"]["application/x-ndjson"]["schema"]
                .clone();
        Lines {
            local: self.clone(),
            schema,
            body: StreamExt::boxed(response.into_body().into_data_stream()),
            read: String::new(),
        }
    }

    /// A stream of server-sent events.
    pub async fn events(&self, last: Option<&str>) -> Events {
        let headers: Vec<(&str, &str)> = last.map(|id| ("last-event-id", id)).into_iter().collect();
        let response = self.open("GET", "/v1/events", &headers, String::new()).await;
        assert_eq!(response.status(), 200);
        let mut events = Events {
            local: self.clone(),
            body: StreamExt::boxed(response.into_body().into_data_stream()),
            read: String::new(),
            id: String::new(),
            first: Vec::new(),
        };
        // What it begins with says that it listens.
        let begin = events.chunk().await;
        events.read = begin;
        while let Some(event) = events.parsed() {
            events.first.push(event);
        }
        events
    }

    pub fn lock_state(&self, name: &str) -> LockState {
        self.memory.lock_register(name).now().state
    }

    pub async fn waiters(&self, name: &str, count: usize) {
        for _ in 0..10_000 {
            if self.lock_state(name).waiters.len() == count {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
        panic!("{name} never had {count} waiters: {:?}", self.lock_state(name));
    }

    /// Somebody takes a lock away from whoever holds it.
    pub async fn take_back(&self, name: &str) {
        let session = Session::with("admin", Arc::new(Virtual::default()), Arc::new(Random::from_seed(name)));
        let lock = self.memory.lock(name, session, Duration::from_secs(15)).unwrap();
        let claim = lock.state().await.unwrap().state.holders[0].claim.id.clone();
        lock.force_release(&claim).await.unwrap();
    }

    /// What the document says of a path.
    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let path = path.split('?').next()?;
        let fits = |template: &str| {
            let (asked, known): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
            let same = |(asked, known): (&&str, &&str)| known.starts_with('{') || asked == known;
            let open = template.ends_with("{path}") && asked.len() >= known.len();
            (asked.len() == known.len() || open) && asked.iter().zip(&known).all(same)
        };
        let paths = self.document["paths"].as_object()?;
        // Words before parameters, as in the router.
        let mut found: Vec<_> = paths.iter().filter(|(template, _)| fits(template)).collect();
        found.sort_by_key(|(template, _)| template.matches('{').count());
        found.iter().find_map(|(_, methods)| methods.get(method.to_lowercase()))
    }

    fn must_be_documented(&self, method: &str, path: &str, said: &Said) {
        let media = said.header("content-type").to_owned();
        let problem = json!({"$ref": "#/components/schemas/Problem"});
        if said.status >= 400 {
            assert_eq!(media, "application/problem+json", "{}", said.what);
            self.must_be(&said.what, &problem, &said.json);
            assert_eq!(said.json["status"], said.status, "{}", said.what);
        }
        let Some(operation) = self.operation(method, path) else {
            assert!([404, 405].contains(&said.status), "{} is not in the document: {}", said.what, said.text);
            return;
        };
        let response = &operation["responses"][said.status.to_string()];
        assert!(!response.is_null(), "{}: {} is not in the document: {}", said.what, said.status, said.text);
        if said.status < 300 {
            let schema = &response["content"][&media]["schema"];
            match &response["content"] {
                Value::Null => assert!(said.text.is_empty(), "{}: it has no body", said.what),
                content if content.get("*/*").is_some() => {}
                _ => self.must_be(&said.what, schema, &said.json),
            }
        }
    }

    fn must_be(&self, what: &str, schema: &Value, value: &Value) {
        assert!(!schema.is_null(), "{what}: no schema");
        let validator = self.validator(schema);
        let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{what}: {value}: {errors:?}");
    }

    /// Of a schema of the document, which must make sense.
    pub fn validator(&self, schema: &Value) -> jsonschema::Validator {
        let mut schema = schema.clone();
        schema["components"] = self.document["components"].clone();
        jsonschema::draft202012::new(&schema).unwrap()
    }
}

/// A stream of JSON lines.
pub struct Lines {
    local: Local,
    schema: Value,
    body: BoxStream<'static, Result<axum::body::Bytes, axum::Error>>,
    read: String,
}

impl Lines {
    /// The next one; none at the end.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.read.find('\n') {
                let json = serde_json::from_str(&self.read[..end]).unwrap();
                self.read.drain(..=end);
                self.local.must_be("a line", &self.schema, &json);
                return Some(json);
            }
            let bytes = self.body.next().await?.unwrap();
            self.read += std::str::from_utf8(&bytes).unwrap();
        }
    }
}

/// A stream of server-sent events.
pub struct Events {
    local: Local,
    body: BoxStream<'static, Result<axum::body::Bytes, axum::Error>>,
    read: String,
    /// The last event's id.
    pub id: String,
    /// What it began with.
    pub first: Vec<(String, Value)>,
}

impl Events {
    async fn chunk(&mut self) -> String {
        String::from_utf8(self.body.next().await.unwrap().unwrap().to_vec()).unwrap()
    }

    fn parsed(&mut self) -> Option<(String, Value)> {
        loop {
            let (message, rest) = self.read.split_once("\n\n")?;
            let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let (kind, data, id) = (field("event: "), field("data: "), field("id: "));
            self.read = rest.to_owned();
            self.id = id.unwrap_or_else(|| self.id.clone());
            if let (Some(kind), Some(data)) = (kind, data) {
                let json: Value = serde_json::from_str(&data).unwrap();
                if kind != "lagged" {
                    self.local.must_be(&kind, &json!({"$ref": "#/components/schemas/Event"}), &json);
                }
                return Some((kind, json));
            }
        }
    }

    /// The next one, which must be of this kind.
    pub async fn next(&mut self, kind: &str) -> Value {
        loop {
            if let Some((found, json)) = self.parsed() {
                assert_eq!(found, kind, "{json}");
                return json;
            }
            let chunk = self.chunk().await;
            self.read += &chunk;
        }
    }
}
