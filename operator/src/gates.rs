//! Asks a Canary's external gates: an address that must answer 2xx, or a query of Prometheus.
//!
//! Users choose the addresses, so the operator follows no redirect, reads a bounded answer within a
//! bounded time, and shows nothing of it but its status or a number.

use std::{path::Path, sync::Arc, time::Duration};

use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use quorate_crds::{Gate, PrometheusGate};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::Value;

use crate::api::with_causes;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read.
const MAX_ANSWER: usize = 1 << 20;
/// In a pod, the cluster's own authority: Services within the cluster may be vouched for by it.
const CLUSTER: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Asks gates.
pub struct Asker {
    client: Result<Client<HttpsConnector<HttpConnector>, Empty<Bytes>>, String>,
}

impl Default for Asker {
    fn default() -> Self {
        Self::trusting(authorities())
    }
}

/// Whom gates may be vouched for by: the public authorities, which this program brings, as its image has none; those of
/// the machine, or of the file that `SSL_CERT_FILE` names; and, in a pod, the cluster's.
fn authorities() -> RootCertStore {
    let mut all = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let own = rustls_native_certs::load_native_certs();
    // Without them an address may be refused later, but none that needs no authority.
    for error in own.errors {
        tracing::warn!(%error, "certificates of authorities cannot be read (SSL_CERT_FILE?): gates go on without them");
    }
    all.add_parsable_certificates(own.certs);
    let cluster = CertificateDer::pem_file_iter(Path::new(CLUSTER)).into_iter().flatten().filter_map(Result::ok);
    all.add_parsable_certificates(cluster);
    all
}

impl Asker {
    fn trusting(authorities: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|tls| tls.with_root_certificates(authorities).with_no_client_auth())
            .map_err(|error| format!("TLS cannot be set up: {error}"));
        let connector =
            config.map(|tls| HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build());
        // A gate is asked every few seconds: a connection in between would only grow old.
        let client = connector.map(|c| Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(c));
        Self { client }
    }

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
            let answer = client.request(request).await.map_err(|error| with_causes(&error))?;
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
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

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

    async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.flush().await;
        // A gate that hangs keeps its connection.
        let _ = stream.read(&mut request).await;
    }

    async fn ask(asker: &Asker, url: String) -> Result<(), String> {
        asker.ask(&Gate { name: "g".into(), http: Some(HttpGate { url }), ..Gate::default() }).await
    }

    async fn asked(answer: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/health", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { serve(listener.accept().await.unwrap().0, answer).await });
        // As in an image without any authority: plain HTTP needs none.
        let result = ask(&Asker::trusting(RootCertStore::empty()), url).await;
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

    #[tokio::test]
    async fn an_https_address_needs_an_authority_that_is_trusted() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/health", listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(tls));
            loop {
                // A client that trusts nobody here ends the handshake.
                if let Ok(stream) = acceptor.accept(listener.accept().await.unwrap().0).await {
                    serve(stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        });
        let mut ours = RootCertStore::empty();
        ours.add(authority).unwrap();
        assert_eq!(ask(&Asker::trusting(ours), url.clone()).await, Ok(()));
        let error = ask(&Asker::default(), url).await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
        server.abort();
    }

    #[test]
    fn public_authorities_are_trusted_wherever_it_runs() {
        let all = authorities();
        assert!(webpki_roots::TLS_SERVER_ROOTS.iter().all(|root| all.roots.contains(root)));
        assert!(all.len() > 50, "{}", all.len());
    }
}
