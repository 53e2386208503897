//! The `OpenAPI` 3.1 document, made of the table of routes and of the types that bodies are read to and written from.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    input::CONTAINER,
    problem::{PROBLEM, ProblemBody},
    routes::{Operation, SchemaOf},
};

/// Problems that every operation may have.
const COMMON: [u16; 3] = [400, 403, 421];
/// And those that read a body.
const OF_BODIES: [u16; 3] = [408, 413, 415];

/// See the module.
pub fn document(operations: impl Iterator<Item = Operation>) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<ProblemBody>();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations {
        let path = operation.path.replace("{*", "{");
        let described = described(&operation, &path, &mut generator);
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[operation.method] = described;
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Quorate's local API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What the containers of a pod ask of their sidecar. Times are numbers of seconds. Every response has \
                the pod's stamps in the headers Quorate-Lamport and Quorate-Hlc; a request may have them, too.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost:8082"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Problem": {"description": "RFC 9457", "content": {PROBLEM: {"schema": problem}}}},
        },
    })
}

fn described(operation: &Operation, path: &str, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = path
        .split(['{', '}'])
        .skip(1)
        .step_by(2)
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    if let Some(query) = operation.query {
        parameters.extend(of_query(&inlined(query)));
    }
    parameters.extend(operation.headers.iter().map(|name| {
        let description = header(name);
        json!({"name": name, "in": "header", "description": description, "schema": {"type": "string"}})
    }));
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses(operation, generator),
    });
    if let Some(body) = operation.body {
        let schema = body(generator);
        described["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    described
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let answer = &operation.answer;
    let schema = answer.schema.map_or_else(|| json!({}), |schema| json!(schema(generator)));
    let content = answer.media.map(|media| json!({media: {"schema": schema}}));
    let mut responses = Map::new();
    let mut good = json!({"description": answer.what});
    if let Some(content) = content {
        good["content"] = content;
    }
    responses.insert(answer.status.to_string(), good);
    if operation.headers.contains(&"if-none-match") {
        responses.insert("304".to_owned(), json!({"description": "It is the one that is known"}));
    }
    let of_bodies: &[u16] = if operation.body.is_some() { &OF_BODIES } else { &[] };
    for status in COMMON.iter().chain(of_bodies).chain(operation.problems) {
        responses.insert(status.to_string(), json!({"$ref": "#/components/responses/Problem"}));
    }
    Value::Object(responses)
}

/// A query's own schema, with all that it refers to inside it.
fn inlined(query: SchemaOf) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    json!(query(&mut settings.into_generator()))
}

/// Each field of a query is a parameter of its own.
fn of_query(schema: &Value) -> Vec<Value> {
    let required = |name: &String| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields
        .map(|(name, field)| json!({"name": name, "in": "query", "required": required(name), "schema": field}))
        .collect()
}

fn header(name: &str) -> &'static str {
    match name {
        CONTAINER => "The container that asks: then a lock passes on as soon as its end is known. It is a DNS label",
        super::counters::IDEMPOTENCY_KEY => {
            "Asked for again with the same key, within an hour at least, it is not done again, and gives the same"
        }
        "if-none-match" => "The ETag of the file that is known",
        "last-event-id" => "The id of the last event that was received: it goes on after that",
        _ => "",
    }
}
