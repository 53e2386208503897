//! Asks a Canary's external gates: an address that must answer 2xx, or a query of Prometheus.
//!
//! Users choose the addresses, so the operator follows no redirect, reads a bounded answer within a
//! bounded time, and shows nothing of it but its status or a number.

use std::time::Duration;

use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use quorate_crds::{Gate, PrometheusGate};
use serde_json::Value;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read.
const MAX_ANSWER: usize = 1 << 20;

/// Asks gates.
pub struct Asker {
    client: Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, String>,
}

impl Default for Asker {
    fn default() -> Self {
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .map(|tls| tls.https_or_http().enable_http1().build())
            .map_err(|error| format!("TLS cannot be set up (are there certificates of authorities?): {error}"));
        // A gate is asked every few seconds: a connection in between would only grow old.
        let client = connector.map(|c| Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(c));
        Self { client }
    }
}

impl Asker {
    /// Whether the gate holds.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub async fn ask(&self, gate: &Gate) -> Result<(), String> {
        match (&gate.http, &gate.prometheus) {
            (Some(gate), _) => {
                let (status, _) = self.get(&gate.url).await?;
                if status.is_success() {
                    Ok(())
                } else {
                    Err(format!("{} answered {status}{}", gate.url, hint(status)))
                }
            }
            (None, Some(gate)) => {
                let query: String = percent_encoded(&gate.query);
                let url = format!("{}/api/v1/query?query={query}", gate.url.trim_end_matches('/'));
                let (status, body) = self.get(&url).await?;
                if !status.is_success() {
                    return Err(format!("{} answered {status}{}", gate.url, hint(status)));
                }
                within(gate, &body)
            }
            (None, None) => Ok(()),
        }
    }

    async fn get(&self, url: &str) -> Result<(StatusCode, Bytes), String> {
        let host = url.split('?').next().unwrap_or_default();
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let uri: Uri = url.parse().map_err(|_| format!("{host} is no http:// or https:// address"))?;
        let request = Request::get(uri).header("user-agent", "quorate-operator").body(Empty::new());
        let request = request.map_err(|_| format!("{host} is no http:// or https:// address"))?;
        let answer = async {
            let answer = client.request(request).await.map_err(|error| chain(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok::<_, String>((
                status,
                body.map_err(|_| format!("more than {MAX_ANSWER} bytes, or broken off"))?.to_bytes(),
            ))
        };
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(answer) => answer.map_err(|why| format!("{host} cannot be asked: {why}")),
            Err(_) => Err(format!("{host} did not answer within {} s", LIMIT.as_secs())),
        }
    }
}

fn hint(status: StatusCode) -> &'static str {
    if status.is_redirection() { " (redirects are not followed)" } else { "" }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len() * 3), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// Judges an answer of Prometheus. No data is a failure: a broken exporter must not wave a bad value through.
fn within(gate: &PrometheusGate, body: &[u8]) -> Result<(), String> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| format!("{} answered no JSON", gate.url))?;
    let data = &answer["data"];
    let samples: Vec<&Value> = match data["resultType"].as_str() {
        Some("scalar") => vec![&data["result"]],
        Some("vector") => data["result"].as_array().into_iter().flatten().map(|sample| &sample["value"]).collect(),
        other => {
            return Err(format!("the query gives a {}, not a scalar or vector", other.unwrap_or("thing of no type")));
        }
    };
    if samples.is_empty() {
        return Err("the query gives no data".into());
    }
    for sample in samples {
        let value = sample[1].as_str().and_then(|text| text.parse::<f64>().ok()).filter(|value| !value.is_nan());
        let Some(value) = value else { return Err("the query gives a value that is no number".into()) };
        if gate.min.is_some_and(|min| value < min) {
            return Err(format!("the query gives {value}, below min {}", gate.min.unwrap_or_default()));
        }
        if gate.max.is_some_and(|max| value > max) {
            return Err(format!("the query gives {value}, above max {}", gate.max.unwrap_or_default()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_crds::HttpGate;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    fn prometheus(body: &str) -> Result<(), String> {
        let gate = PrometheusGate { max: Some(0.5), min: Some(0.0), ..PrometheusGate::default() };
        within(&gate, body.as_bytes())
    }

    #[test]
    fn every_value_must_be_within_bounds_and_no_data_is_a_failure() {
        let vector = |values: &[&str]| {
            let samples: Vec<String> =
                values.iter().map(|v| format!(r#"{{"metric":{{}},"value":[1,"{v}"]}}"#)).collect();
            format!(r#"{{"data":{{"resultType":"vector","result":[{}]}}}}"#, samples.join(","))
        };
        assert_eq!(prometheus(&vector(&["0.1", "0.5"])), Ok(()));
        assert_eq!(prometheus(r#"{"data":{"resultType":"scalar","result":[1,"0.2"]}}"#), Ok(()));
        for (answer, why) in [
            (vector(&["0.1", "0.6"]), "above max"),
            (vector(&["-1"]), "below min"),
            (vector(&["NaN"]), "no number"),
            (vector(&[]), "no data"),
            (r#"{"data":{"resultType":"matrix","result":[]}}"#.to_owned(), "matrix"),
            ("<html>".to_owned(), "no JSON"),
        ] {
            let error = prometheus(&answer).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    async fn asked(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            // A gate that hangs keeps its connection.
            let _ = stream.read(&mut request).await;
        });
        let gate = Gate { name: "g".into(), http: Some(HttpGate { url }), ..Gate::default() };
        let result = Asker::default().ask(&gate).await;
        server.abort();
        result
    }

    #[tokio::test]
    async fn an_address_must_answer_2xx_itself_and_in_time() {
        assert_eq!(asked("HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        let error = asked("HTTP/1.1 302 Found\r\nlocation: /health\r\ncontent-length: 0\r\n\r\n").await.unwrap_err();
        assert!(error.contains("302") && error.contains("redirects are not followed"), "{error}");
        let error = asked("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n").await.unwrap_err();
        assert!(error.contains("500"), "{error}");
        let error = asked("").await.unwrap_err();
        assert!(error.contains("did not answer within 5 s"), "{error}");
    }
}
