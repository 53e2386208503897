//! A client between which and the API server things go wrong: refusals, resets, replies that are lost after the write was
//! done, requests that stall, arrive after the client was told of a reset, or arrive twice, watches that are refused, late,
//! or end.

use std::{error::Error, io, path::Path, sync::Arc, time::Duration};

use anyhow::Result;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Bytes;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use quorate_coordination::Random;
use serde_json::json;
use tokio::time::sleep;

type Boxed = Box<dyn Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Boxed>>;

/// How bad it is, and by which dice.
#[derive(Debug)]
pub struct Faults {
    /// Of a hundred requests, how many something befalls.
    pub percent: u64,
    /// For up to this a request stalls, or a watch is late.
    pub stall: Duration,
    /// The dice.
    pub random: Random,
}

/// What befalls a request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is not done, and refused like this.
    Refused(u16),
    /// It is not done, and the connection ends.
    Reset,
    /// It is done, and the connection ends before the reply.
    LostReply,
    /// It is done, and something in between gives up on it.
    DoneAndRefused(u16),
    /// It comes late to the API server.
    Late(Duration),
    /// The connection ends, and after that it is done.
    UnderWay(Duration),
    /// It is done, and later it arrives once more.
    Doubled(Duration),
    /// The reply comes late.
    LateReply(Duration),
}

impl Faults {
    fn one_of<T: Copy>(&self, from: &[T]) -> Option<T> {
        let index = self.random.bits() % u64::try_from(from.len()).ok()?.max(1);
        from.get(usize::try_from(index).ok()?).copied()
    }

    fn befalls(&self) -> Option<Fault> {
        if self.random.bits() % 100 >= self.percent {
            return None;
        }
        let stall = self.random.up_to(self.stall);
        let code = self.one_of(&[409, 429, 500, 504])?;
        // Whoever answers a conflict after all has not done it.
        let after = self.one_of(&[429, 500, 504])?;
        self.one_of(&[
            Fault::Refused(code),
            Fault::Reset,
            Fault::LostReply,
            Fault::LostReply,
            Fault::DoneAndRefused(after),
            Fault::Late(stall),
            Fault::UnderWay(stall),
            Fault::Doubled(stall),
            Fault::LateReply(stall),
        ])
    }
}

/// A client that all this befalls.
///
/// # Errors
/// When the kubeconfig cannot be used.
pub async fn client(kubeconfig: &Path, faults: Faults) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    let (client, faults) = (Client::try_from(config)?, Arc::new(faults));
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request| send(client.clone(), Arc::clone(&faults), request));
    Ok(Client::new(service, namespace))
}

async fn send(client: Client, faults: Arc<Faults>, request: Request<Body>) -> Result<Answer, Boxed> {
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch="));
    let (parts, body) = request.into_parts();
    let body = body.collect_bytes().await?;
    let request = || Request::from_parts(parts.clone(), Body::from(body.clone()));
    let fault = faults.befalls();
    match fault {
        Some(Fault::Refused(code)) => return refusal(code),
        Some(Fault::Reset) => return Err(reset()),
        Some(Fault::Late(stall)) => sleep(stall).await,
        Some(Fault::UnderWay(stall)) => {
            later(client, stall, request());
            return Err(reset());
        }
        _ => {}
    }
    let answer = client.send(request()).await?;
    match fault {
        Some(Fault::LostReply) => return Err(reset()),
        Some(Fault::DoneAndRefused(code)) => return refusal(code),
        Some(Fault::Doubled(stall)) => later(client, stall, request()),
        Some(Fault::LateReply(stall)) => sleep(stall).await,
        _ => {}
    }
    let answer = answer.map(|body| body.map_err(Into::into).boxed_unsync());
    Ok(if is_watch { cut_short(answer, &faults) } else { answer })
}

/// Sends it when the time is over, whatever has become of the client by then.
fn later(client: Client, stall: Duration, request: Request<Body>) {
    tokio::spawn(async move {
        sleep(stall).await;
        // Nobody hears of it.
        drop(client.send(request).await);
    });
}

/// A watch that ends after a while, without a word, and stands still now and then before.
fn cut_short(answer: Answer, faults: &Arc<Faults>) -> Answer {
    let end = sleep(faults.random.up_to(faults.stall * 10));
    let faults = Arc::clone(faults);
    answer.map(|body| {
        let late = BodyStream::new(body).then(move |frame| {
            let stall = if faults.befalls().is_some() { faults.random.up_to(faults.stall) } else { Duration::ZERO };
            async move {
                sleep(stall).await;
                frame
            }
        });
        StreamBody::new(late.take_until(end)).boxed_unsync()
    })
}

fn refusal(code: u16) -> Result<Answer, Boxed> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "Fault",
        "message": "refused by the fault layer",
    });
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::builder().status(code).header("content-type", "application/json").body(body)?)
}

fn reset() -> Boxed {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}
