//! All that can be asked: one table, of which both the router and the `OpenAPI` document are made.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    middleware::{from_fn, from_fn_with_state},
    routing::{MethodRouter, get},
};
use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{
    Api,
    backend::Backend,
    clock, configs, counters, guard,
    json::{JSON, Json},
    locks, openapi,
    problem::Problem,
    queues, stream,
};

/// Writes a type's schema.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// One thing that can be asked, as it is documented.
pub struct Operation {
    /// The method, in lower case.
    pub method: &'static str,
    /// The path; `{*path}` may have slashes.
    pub path: &'static str,
    /// Its name for programs.
    pub id: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Headers of the request that mean something.
    pub headers: &'static [&'static str],
    /// What the query may say.
    pub query: Option<SchemaOf>,
    /// The body of the request.
    pub body: Option<SchemaOf>,
    /// The answer.
    pub answer: Answer,
    /// Problems that it may have beside those that all may have.
    pub problems: &'static [u16],
}

/// An answer.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// What it is.
    pub what: &'static str,
    /// The media type; none without a body.
    pub media: Option<&'static str>,
    /// What the body is made of; none of any bytes.
    pub schema: Option<SchemaOf>,
}

/// One thing that can be asked, and what does it.
pub struct Route<B: Backend> {
    operation: Operation,
    handler: MethodRouter<Arc<Api<B>>>,
}

impl<B: Backend> Route<B> {
    /// Asked by this method and path, and done by `handler`. It answers 204 unless said otherwise.
    pub fn new(
        (method, path): (&'static str, &'static str),
        id: &'static str,
        summary: &'static str,
        handler: MethodRouter<Arc<Api<B>>>,
    ) -> Self {
        let answer = Answer { status: 204, what: "It is done", media: None, schema: None };
        let (headers, problems) = (&[], &[]);
        let operation = Operation { method, path, id, summary, headers, query: None, body: None, answer, problems };
        Self { operation, handler }
    }

    /// With these headers in the request.
    pub fn headers(mut self, headers: &'static [&'static str]) -> Self {
        self.operation.headers = headers;
        self
    }

    /// With this query.
    pub fn query<T: JsonSchema>(mut self) -> Self {
        self.operation.query = Some(schema::<T>);
        self
    }

    /// With this body.
    pub fn body<T: JsonSchema>(mut self) -> Self {
        self.operation.body = Some(schema::<T>);
        self
    }

    /// Answers so, in JSON.
    pub fn answers<T: JsonSchema>(mut self, status: u16, what: &'static str) -> Self {
        self.operation.answer = Answer { status, what, media: Some(JSON), schema: Some(schema::<T>) };
        self
    }

    /// Answers with bytes.
    pub fn sends(mut self, media: &'static str, what: &'static str) -> Self {
        self.operation.answer = Answer { status: 200, what, media: Some(media), schema: None };
        self
    }

    /// Answers with a stream of these.
    pub fn streams<T: JsonSchema>(mut self, media: &'static str, what: &'static str) -> Self {
        self.operation.answer = Answer { status: 200, what, media: Some(media), schema: Some(schema::<T>) };
        self
    }

    /// May have these problems.
    pub fn problems(mut self, problems: &'static [u16]) -> Self {
        self.operation.problems = problems;
        self
    }
}

/// The table.
fn table<B: Backend>() -> Vec<Route<B>> {
    let document = Route::new(("get", "/v1/openapi.json"), "openapi", "This document", get(document::<B>));
    let mut table = vec![document.sends(JSON, "OpenAPI 3.1")];
    table.extend(locks::routes());
    table.extend(counters::routes());
    table.extend(queues::routes());
    table.extend(clock::routes());
    table.extend(configs::routes());
    table.extend(stream::routes());
    table
}

/// The router: nothing is answered that is not in the table.
pub fn router<B: Backend>(api: &Arc<Api<B>>) -> Router {
    let routes = table::<B>().into_iter();
    routes
        .fold(Router::new(), |router, route| router.route(route.operation.path, route.handler))
        .fallback(nothing)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(Arc::clone(api), clock::stamp::<B>))
        .layer(from_fn(guard::guard))
        .with_state(Arc::clone(api))
}

async fn document<B: Backend>() -> Json<serde_json::Value> {
    Json(openapi::document(table::<B>().into_iter().map(|route| route.operation)))
}

async fn nothing(request: Request) -> Problem {
    Problem::unknown(format!("there is no {}: /v1/openapi.json lists all that there is", request.uri().path()))
}

async fn other_method(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("{path} cannot be asked by {method}: /v1/openapi.json lists how");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", "Another method is needed", detail)
}
