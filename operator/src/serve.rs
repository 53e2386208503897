//! `/livez`, `/readyz`, `/metrics`.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, routing::get};

use crate::{Operator, readiness::Readiness};

/// The routes.
pub fn routes(operator: Arc<Operator>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(operator)
}

async fn livez(State(operator): State<Arc<Operator>>) -> (StatusCode, &'static str) {
    if operator.health.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the main loop has not turned for a minute\n")
    }
}

async fn readyz(State(operator): State<Arc<Operator>>) -> (StatusCode, String) {
    let missing = operator.health.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ok\n".into())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}

async fn metrics(State(operator): State<Arc<Operator>>) -> ([(&'static str, &'static str); 1], String) {
    operator.metrics.configs.set(operator.state.configs().iter().map(|config| Readiness::of(config)));
    let type_ = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([("content-type", type_)], operator.metrics.text())
}
