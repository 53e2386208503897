//! An API server in memory: objects by path, compare-and-swap as the real one does it, and a fault at
//! a chosen write.
// Each test file uses a part.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::client::Body;
use quorate_operator::{Operator, health::Health, metrics::Metrics, state::State, watch};
use serde_json::{Value, json};

/// What happens to one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The API server says 500, and does nothing.
    Broken,
    /// It is done, but the connection is lost before the answer.
    Lost,
    /// It is done, but the answer never comes.
    Silent,
    /// The operator ends before it, or after it but before the answer: nothing is served until
    /// [`Server::restart`].
    EndBefore,
    EndAfter,
}

type Hook = Box<dyn FnMut(&Method, &str) + Send>;

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: usize,
    fault: Option<(usize, Fault)>,
    dead: bool,
    watches_fail: bool,
    forbidden: Vec<String>,
    hook: Option<Hook>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<Inner>>);

type Answer = UnsyncBoxBody<Bytes, std::convert::Infallible>;

fn answer(status: u16, body: &Value) -> Response<Answer> {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(body).unwrap()
}

fn failure(code: u16, reason: &str) -> Response<Answer> {
    let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": format!("scripted {reason}"), "reason": reason, "code": code});
    answer(code, &status)
}

impl Server {
    /// An operator on it that knows what a listing shows now.
    pub fn operator(&self, namespaces: &[&str]) -> Arc<Operator> {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.map_err(io::Error::other)?;
                let query = parts.uri.query().unwrap_or_default().to_owned();
                match server.serve(&parts.method, parts.uri.path(), &query, &body) {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        let namespaces: Vec<String> = namespaces.iter().map(ToString::to_string).collect();
        let operator = Operator {
            client: kube::Client::new(service, "shop"),
            state: State::default(),
            metrics: Metrics::default(),
            health: Health::new(watch::names_of(&namespaces)),
            namespaces,
            gates: quorate_operator::gates::Asker::default(),
            nudges: false,
            clusters: quorate_operator::clusters::Clusters::default(),
            agreements: quorate_operator::agreement::Agreements::default(),
        };
        for config in self.under("distributedconfigs/") {
            operator.state.config_applied(serde_json::from_value(config).unwrap());
        }
        Arc::new(operator)
    }

    /// The fault of the write of this number, from now on, counted from 0.
    pub fn fail(&self, write: usize, fault: Fault) {
        let mut inner = self.0.lock().unwrap();
        inner.fault = Some((inner.writes + write, fault));
    }

    /// Whether the fault is still to come.
    pub fn fault_is_due(&self) -> bool {
        self.0.lock().unwrap().fault.is_some()
    }

    /// Serves again. Returns whether it did not.
    pub fn restart(&self) -> bool {
        std::mem::take(&mut self.0.lock().unwrap().dead)
    }

    /// Whether watches get no answer.
    pub fn watches_fail(&self, fail: bool) {
        self.0.lock().unwrap().watches_fail = fail;
    }

    /// What is below this path is forbidden.
    pub fn forbid(&self, path: &str) {
        self.0.lock().unwrap().forbidden.push(path.to_owned());
    }

    /// It no longer is.
    pub fn allow(&self, path: &str) {
        self.0.lock().unwrap().forbidden.retain(|forbidden| forbidden != path);
    }

    /// Called before every write.
    pub fn before_writes(&self, hook: impl FnMut(&Method, &str) + Send + 'static) {
        self.0.lock().unwrap().hook = Some(Box::new(hook));
    }

    /// Puts an object there, as somebody else.
    pub fn put(&self, collection: &str, mut object: Value) {
        let mut inner = self.0.lock().unwrap();
        let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
        let uid = inner.objects.get(&path).map(|old| old["metadata"]["uid"].clone());
        inner.version += 1;
        object["metadata"]["resourceVersion"] = json!(inner.version.to_string());
        object["metadata"]["uid"] = uid.unwrap_or_else(|| json!(format!("uid-{}", inner.version)));
        inner.objects.insert(path, object);
    }

    /// Changes an object, as somebody else.
    pub fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        let mut inner = self.0.lock().unwrap();
        inner.version += 1;
        let version = inner.version.to_string();
        let object = inner.objects.get_mut(path).unwrap();
        edit(object);
        object["metadata"]["resourceVersion"] = json!(version);
    }

    /// Removes an object, as somebody else.
    pub fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path).unwrap();
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// All objects whose path contains this.
    pub fn under(&self, part: &str) -> Vec<Value> {
        let inner = self.0.lock().unwrap();
        inner.objects.iter().filter(|(path, _)| path.contains(part)).map(|(_, object)| object.clone()).collect()
    }

    /// `None` is silence.
    fn serve(
        &self,
        method: &Method,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Option<Result<Response<Answer>, io::Error>> {
        if method == Method::GET {
            return self.0.lock().unwrap().read(path, query);
        }
        let hook = self.0.lock().unwrap().hook.take();
        if let Some(mut hook) = hook {
            hook(method, path);
            self.0.lock().unwrap().hook = Some(hook);
        }
        let mut inner = self.0.lock().unwrap();
        if inner.dead {
            return None;
        }
        if inner.forbidden.iter().any(|forbidden| path.starts_with(forbidden.as_str())) {
            return Some(Ok(failure(403, "Forbidden")));
        }
        let number = inner.writes;
        inner.writes += 1;
        let fault = inner.fault.filter(|(write, _)| *write == number).map(|(_, fault)| fault);
        if fault.is_some() {
            inner.fault = None;
        }
        match fault {
            None => Some(Ok(inner.write(method, path, body))),
            Some(Fault::Broken) => Some(Ok(failure(500, "InternalError"))),
            Some(Fault::Lost) => {
                inner.write(method, path, body);
                Some(Err(io::Error::from(io::ErrorKind::ConnectionReset)))
            }
            Some(Fault::Silent) => {
                inner.write(method, path, body);
                None
            }
            Some(Fault::EndBefore) => {
                inner.dead = true;
                None
            }
            Some(Fault::EndAfter) => {
                inner.write(method, path, body);
                inner.dead = true;
                None
            }
        }
    }
}

impl Inner {
    fn read(&mut self, path: &str, query: &str) -> Option<Result<Response<Answer>, io::Error>> {
        if self.dead {
            return None;
        }
        if self.forbidden.iter().any(|forbidden| path.starts_with(forbidden.as_str())) {
            return Some(Ok(failure(403, "Forbidden")));
        }
        if query.contains("watch=true") {
            if self.watches_fail {
                return Some(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
            }
            let silent = StreamBody::new(stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>());
            return Some(Ok(Response::new(silent.boxed_unsync())));
        }
        if let Some(object) = self.objects.get(path) {
            return Some(Ok(answer(200, object)));
        }
        let is_collection = ["secrets", "configmaps", "distributedconfigs", "configreplicas", "pods", "acceptors"]
            .iter()
            .any(|collection| path.ends_with(&format!("/{collection}")));
        if !is_collection {
            return Some(Ok(failure(404, "NotFound")));
        }
        let query = query.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let selected = |object: &&Value| {
            query.split('&').filter_map(|pair| pair.split_once("Selector=")).all(|(kind, terms)| {
                terms.split(',').filter_map(|term| term.split_once('=')).all(|(name, value)| match kind {
                    "label" => object["metadata"]["labels"][name] == value,
                    _ if name.ends_with('!') => object[name.trim_end_matches('!')] != value,
                    _ => object[name] == value,
                })
            })
        };
        let below = format!("{path}/");
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(p, _)| p.starts_with(&below))
            .map(|(_, object)| object)
            .filter(selected)
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List",
            "metadata": {"resourceVersion": self.version.to_string()}, "items": items});
        Some(Ok(answer(200, &list)))
    }

    fn write(&mut self, method: &Method, path: &str, body: &[u8]) -> Response<Answer> {
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let named = format!("{path}/{}", sent["metadata"]["name"].as_str().unwrap_or_default());
        self.version += 1;
        let version = json!(self.version.to_string());
        if method == Method::POST {
            if self.objects.contains_key(&named) {
                return failure(409, "AlreadyExists");
            }
            let mut object = sent;
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
            object["metadata"]["resourceVersion"] = version;
            self.objects.insert(named, object.clone());
            return answer(201, &object);
        }
        let status = path.ends_with("/status");
        let path = path.trim_end_matches("/status");
        let Some(old) = self.objects.get_mut(path) else { return failure(404, "NotFound") };
        if method == Method::DELETE {
            let wanted = &sent["preconditions"]["uid"];
            if !wanted.is_null() && *wanted != old["metadata"]["uid"] {
                return failure(409, "Conflict");
            }
            let object = self.objects.remove(path).unwrap();
            return answer(200, &object);
        }
        let same = |field: &str| {
            let wanted = &sent["metadata"][field];
            wanted.is_null() || *wanted == old["metadata"][field]
        };
        if !same("uid") || !same("resourceVersion") {
            return failure(409, "Conflict");
        }
        let uid = old["metadata"]["uid"].clone();
        if status {
            old["status"] = sent["status"].clone();
        } else if method == Method::PATCH {
            merge(old, &sent);
        } else {
            *old = sent;
        }
        old["metadata"]["uid"] = uid;
        old["metadata"]["resourceVersion"] = version;
        answer(200, old)
    }
}

/// RFC 7396, without deletions.
fn merge(old: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| merge(&mut old[name], value)),
        other => *old = other.clone(),
    }
}
