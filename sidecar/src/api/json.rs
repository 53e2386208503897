//! A JSON answer.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Serialize;

/// The media type.
pub const JSON: &str = "application/json";

/// See the module. Of our own types only, which always can be written.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        ([(header::CONTENT_TYPE, HeaderValue::from_static(JSON))], body).into_response()
    }
}
