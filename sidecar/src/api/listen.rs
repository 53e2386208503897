//! Where the local API is served: a loopback address or a Unix socket, a bounded number of connections at once.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::problem::{PROBLEM, Problem};

/// Connections at once, streams included.
pub const MOST_CONNECTIONS: usize = 128;
/// A request's head must be there within this; so long may a connection be idle, too.
const SLOWEST_HEAD: Duration = Duration::from_secs(30);
/// Bytes of a request's head, and of what is read ahead.
const MOST_HEAD: usize = 32 * 1024;
/// After an `accept` that failed: most often there are no file descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// Where: `127.0.0.1:8082`, or `unix:/run/quorate/api.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// On loopback.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err("write unix:/an/absolute/path".into()) };
        }
        let address: SocketAddr = text.parse().map_err(|_| "write 127.0.0.1:8082 or unix:/run/quorate/api.sock")?;
        if address.ip().is_loopback() {
            Ok(Self::Tcp(address))
        } else {
            Err("it is no loopback address: who can reach it could take the pod's locks and read its files".into())
        }
    }
}

/// A place that is listened at.
pub enum Listener {
    /// On loopback.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Listens at an address.
///
/// # Errors
/// When it is taken, or may not be used.
pub async fn bind(address: &Address) -> anyhow::Result<Listener> {
    match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("--api {address}: cannot listen there"))?;
            tracing::info!(api = %listener.local_addr()?, "the local API is served");
            Ok(Listener::Tcp(listener))
        }
        Address::Unix(path) => {
            let shown = path.display();
            let failed = || format!("--api unix:{shown}: cannot listen there");
            // One that an earlier container left behind; nothing else is removed.
            if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
                && UnixStream::connect(path).await.is_err()
            {
                fs::remove_file(path).with_context(failed)?;
            }
            let listener = UnixListener::bind(path).with_context(failed)?;
            // Containers run as other users: who may use it is told by the folder.
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).with_context(failed)?;
            tracing::info!(api = %format!("unix:{shown}"), "the local API is served");
            Ok(Listener::Unix(listener))
        }
    }
}

/// Serves, for ever.
pub async fn serve(listener: &Listener, router: &Router) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = match listener {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("the local API: a connection cannot be accepted: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            stream.refuse().await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            stream.talk(router).await;
            drop(slot);
        });
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    async fn talk(self, router: Router) {
        match self {
            Self::Tcp(stream) => {
                // Events are small, and are to be there at once.
                let _ = stream.set_nodelay(true);
                talk(stream, router).await;
            }
            Self::Unix(stream) => talk(stream, router).await,
        }
    }

    async fn refuse(self) {
        // Into an empty buffer: who cannot take it at once does not get it.
        let _ = timeout(PAUSE, async {
            match self {
                Self::Tcp(stream) => refuse(stream).await,
                Self::Unix(stream) => refuse(stream).await,
            }
        })
        .await;
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let talked = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SLOWEST_HEAD)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // That a client hangs up is no news.
    let _ = talked.await;
}

async fn refuse(mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
    let problem = Problem::unavailable(format!(
        "the pod has {MOST_CONNECTIONS} connections to the local API, which is the most: close some, then try again"
    ));
    let (status, body) = (problem.status(), problem.text());
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {PROBLEM}\r\ncontent-length: {}\r\n", body.len());
    stream.write_all(format!("{head}retry-after: 1\r\nconnection: close\r\n\r\n{body}").as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_loopback_and_sockets() {
        for good in ["127.0.0.1:8082", "[::1]:8082", "127.9.9.9:0", "unix:/run/api.sock"] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:8082", "[::]:8082", "10.0.0.1:8082", "localhost:8082", "8082", "unix:api.sock", ""] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
