//! The local API on real sockets: connections have a limit, and whoever hangs up is noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api_scene;

use std::{os::unix::fs::FileTypeExt, time::Duration};

use api_scene::Local;
use quorate_sidecar::api::listen::{self, Address, Listener, MOST_CONNECTIONS};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

const LIMIT: Duration = Duration::from_secs(20);

async fn serve(local: &Local, address: &Address) -> String {
    let listener = listen::bind(address).await.unwrap();
    let place = match &listener {
        Listener::Tcp(listener) => listener.local_addr().unwrap().to_string(),
        Listener::Unix(_) => String::new(),
    };
    let router = local.router.clone();
    tokio::spawn(async move { listen::serve(&listener, &router).await });
    place
}

fn request(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n")
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waited = timeout(LIMIT, async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: never"));
}

#[tokio::test]
async fn a_closed_connection_gives_the_lock_back_and_takes_a_claim_back() {
    let local = Local::new(&[]).await;
    let place = serve(&local, &"127.0.0.1:0".parse().unwrap()).await;
    let mut holder = BufReader::new(TcpStream::connect(&place).await.unwrap());
    holder.write_all(request("POST", "/v1/locks/job/hold").as_bytes()).await.unwrap();
    let mut line = String::new();
    while !line.contains("granted") {
        line.clear();
        assert!(timeout(LIMIT, holder.read_line(&mut line)).await.unwrap().unwrap() > 0);
    }
    let body = r#"{"wait": 60}"#;
    let mut waiter = TcpStream::connect(&place).await.unwrap();
    let head = "POST /v1/locks/job HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    waiter.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    until("a claim waits", || local.lock_state("job").waiters.len() == 1).await;
    drop(waiter);
    until("it is taken back", || local.lock_state("job").waiters.is_empty()).await;
    assert!(!local.lock_state("job").is_free());
    drop(holder);
    until("the lock is given back", || local.lock_state("job").is_free()).await;
}

#[tokio::test]
async fn connections_have_a_limit_and_the_next_is_told_so() {
    let local = Local::new(&[]).await;
    let place = serve(&local, &"127.0.0.1:0".parse().unwrap()).await;
    let mut open = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        let mut stream = TcpStream::connect(&place).await.unwrap();
        stream.write_all(request("GET", "/v1/events").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        open.push(stream);
    }
    let mut refused = TcpStream::connect(&place).await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, refused.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("128 connections"), "{answer}");
    open.pop();
    let served = async {
        loop {
            let mut stream = TcpStream::connect(&place).await.unwrap();
            stream.write_all(request("GET", "/v1/configs").as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            if stream.read_exact(&mut answer).await.is_ok() && &answer == b"HTTP/1.1 200" {
                return;
            }
        }
    };
    timeout(LIMIT, served).await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_that_an_earlier_process_left_is_made_anew_and_nothing_else_is_removed() {
    let local = Local::new(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let address: Address = format!("unix:{}", path.display()).parse().unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    serve(&local, &address).await;
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(request("GET", "/v1/configs").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    assert!(listen::bind(&address).await.is_err(), "somebody listens there");
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert!(listen::bind(&Address::Unix(file.clone())).await.is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}
