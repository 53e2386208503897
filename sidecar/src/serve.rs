//! `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};

use crate::Shared;

/// The routes.
pub fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn livez(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    answer(&shared.health.stuck(), "the follow loop is stuck: ")
}

async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    answer(&shared.health.missing(), "")
}

fn answer(problems: &[String], prefix: &str) -> (StatusCode, String) {
    if problems.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{prefix}{}\n", problems.join("\n")))
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> ([(&'static str, &'static str); 1], String) {
    let type_ = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([("content-type", type_)], shared.metrics())
}
