//! Who may ask at all. Whoever is in the pod may; a web page that a browser shows there may not, even if it makes
//! the name of its own server that of this machine (DNS rebinding).

use std::net::IpAddr;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri, header, uri::Authority};

use super::problem::Problem;

/// Lets through what is asked of this machine, by a name that only this machine has.
pub async fn guard(request: Request, next: Next) -> Response {
    match refusal(request.uri(), request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(uri: &Uri, headers: &HeaderMap) -> Option<Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|value| value.to_str().ok()?.parse::<Authority>().ok());
    let is_ours = host.is_some_and(|host| is_loopback(host.host())) && hosts.next().is_none();
    if !is_ours || uri.authority().is_some_and(|asked| !is_loopback(asked.host())) {
        let title = "The request is for another host";
        let detail = "the Host header must be localhost or a loopback address: no other name is served here";
        return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, "host", title, detail));
    }
    let origin = headers.get(header::ORIGIN)?;
    let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
    if origin.as_ref().and_then(Uri::host).is_some_and(is_loopback) {
        return None;
    }
    let detail = "pages of other servers may not ask here: leave out the Origin header";
    Some(Problem::new(StatusCode::FORBIDDEN, "origin", "The request is of another server's page", detail))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_asked() {
        for (host, good) in [
            ("localhost", true),
            ("LOCALHOST:8082", true),
            ("127.0.0.1:8082", true),
            ("[::1]:8082", true),
            ("127.1.2.3", true),
            ("evil.example", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("10.0.0.7", false),
            ("0.0.0.0", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
            assert_eq!(refusal(&Uri::from_static("/v1"), &headers).is_none(), good, "{host}");
        }
        let here = || HeaderMap::from_iter([(header::HOST, "localhost".parse().unwrap())]);
        assert!(refusal(&Uri::from_static("http://evil.example/v1"), &here()).is_some());
        assert!(refusal(&Uri::from_static("/v1"), &HeaderMap::new()).is_some(), "without a host");
        let mut two = here();
        two.append(header::HOST, "evil.example".parse().unwrap());
        assert!(refusal(&Uri::from_static("/v1"), &two).is_some(), "two hosts");
        for (origin, good) in [("http://localhost:3000", true), ("http://evil.example", false), ("null", false)] {
            let mut headers = here();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            assert_eq!(refusal(&Uri::from_static("/v1"), &headers).is_none(), good, "{origin}");
        }
    }
}
