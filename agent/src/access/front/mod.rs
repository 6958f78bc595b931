//! The front door: one loopback port where a browser of this host finds every web service of every session by name,
//! without root and without any set-up of names. It reads each request as far as its head, asks `judge` whether it may
//! come in and [`sites`] what it means, and passes it on to a ready machine, WebSockets included.
//!
//! Owns its listeners and one connection into the mesh for each connection of a client. It never looks into a body.

pub(crate) mod judge;
mod page;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header},
};
use futures::future::join_all;
use hyper::{body::Incoming, client::conn::http1::SendRequest, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::names::sites::{self, NoSite, Site};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::forward::Forwards;
use crate::picture::Pictures;

/// Ports tried after the wanted one, where other agents of this computer or other programs have it.
const FURTHER: u16 = 15;
/// A client that says nothing is cut off: browsers open a connection again.
const IDLE: Duration = Duration::from_secs(30);
/// Heads are small; cookies make them larger.
const HEAD_BYTES: usize = 64 * 1024;
/// Pause after a connection could not be taken, for want of a descriptor.
const AGAIN: Duration = Duration::from_millis(100);
/// Headers of one connection, not of the request (RFC 9110, section 7.6.1).
const OF_THE_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::EXPECT,
];
const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const SCHEME: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The pages of the front door itself run no scripts and load nothing.
const OWN_PAGES: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Bound listeners that do not serve yet.
pub struct Bound {
    listeners: Vec<TcpListener>,
    /// The port of all of them.
    pub port: u16,
}

/// What the front door leads to.
pub struct Front {
    /// How machines are reached.
    pub forwards: Forwards,
    /// What there is.
    pub pictures: Pictures,
    /// This host's name.
    pub host: String,
    /// The port it listens on.
    pub port: u16,
}

/// Binds `port` on loopback, or the next free one.
pub async fn bind(port: u16) -> io::Result<Bound> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for port in (port..=port.saturating_add(FURTHER)).take(usize::from(FURTHER) + 1) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => {
                let port = listener.local_addr()?.port();
                // Browsers try both; without IPv6 one is enough.
                let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok();
                return Ok(Bound { listeners: std::iter::once(listener).chain(six).collect(), port });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Serves until `stop`, `most` connections at once; the next one waits for its turn.
pub async fn serve(bound: Bound, front: Front, most: usize, stop: CancellationToken) {
    let (front, slots) = (Arc::new(front), Arc::new(Semaphore::new(most)));
    let accepting =
        bound.listeners.into_iter().map(|listener| accept(listener, front.clone(), slots.clone()));
    stop.run_until_cancelled(join_all(accepting)).await;
}

async fn accept(listener: TcpListener, front: Arc<Front>, slots: Arc<Semaphore>) {
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection to the front door was not taken");
                sleep(AGAIN).await;
                continue;
            }
        };
        let front = front.clone();
        tokio::spawn(async move {
            let ended = carry(stream, front).await;
            tracing::trace!(?ended, "a connection to the front door ended");
            drop(slot);
        });
    }
}

async fn carry(stream: TcpStream, front: Arc<Front>) -> hyper::Result<()> {
    stream.set_nodelay(true).ok();
    let client = Arc::new(Client { front, upstream: Mutex::new(None) });
    let answer = move |request| {
        let client = client.clone();
        async move { Ok::<_, std::convert::Infallible>(client.answer(request).await) }
    };
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades()
        .await
}

/// One connection of a client, and the one into the mesh that serves it.
struct Client {
    front: Arc<Front>,
    upstream: Mutex<Option<Upstream>>,
}

struct Upstream {
    to: Site,
    sender: SendRequest<Body>,
}

/// Why a request got no answer from a machine.
enum Failure {
    /// The name means nothing.
    NoSite(NoSite),
    /// No machine took the connection.
    Unreached(io::Error),
    /// The machine's answer is none.
    Broken(hyper::Error),
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let front = &self.front;
        let named = match judge::judge(request.uri(), request.headers()) {
            Ok(named) => named,
            Err(stranger) => {
                let status = match stranger {
                    judge::Stranger::Nobody => StatusCode::BAD_REQUEST,
                    judge::Stranger::Misled(_) => StatusCode::MISDIRECTED_REQUEST,
                    judge::Stranger::Foreign(_) => StatusCode::FORBIDDEN,
                };
                let next = format!("What runs is listed at http://{}:{}/", sites::DOMAIN, front.port);
                return own(status, page::sorry(&stranger.to_string(), &next));
            }
        };
        let picture = front.pictures.now();
        let passed = match sites::site(&picture.shares, &named) {
            Ok(Site::Index) => return own(StatusCode::OK, page::index(&picture, &front.host, front.port)),
            Ok(site) => self.pass(site, request).await,
            Err(none) => Err(Failure::NoSite(none)),
        };
        passed.unwrap_or_else(|failure| failure.told(&named, front.port))
    }

    /// Passes a request on, and its answer back.
    async fn pass(&self, to: Site, mut request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        let near = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let outgoing = outgoing(request, upgrade.as_ref());
        let mut upstream = self.upstream.lock().await;
        let mut response = self.send(&mut upstream, to, outgoing).await?;
        let raw = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let upgraded = response.headers().get(header::UPGRADE).cloned().filter(|_| raw);
        hop(response.headers_mut(), upgraded.as_ref());
        *response.version_mut() = Version::HTTP_11;
        if let Some(near) = near.filter(|_| raw) {
            *upstream = None;
            let far = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                let ended = match futures::try_join!(near, far) {
                    Ok((near, far)) => {
                        copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await.err()
                    }
                    Err(error) => Some(io::Error::other(error)),
                };
                tracing::trace!(?ended, "an upgraded connection of the front door ended");
            });
        }
        Ok(response.map(Body::new))
    }

    /// Sends a request over the connection that is there already, if it leads to the same place and lives; else over a
    /// new one.
    async fn send(
        &self,
        upstream: &mut Option<Upstream>,
        to: Site,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Failure> {
        if let Some(open) = upstream.as_mut().filter(|open| open.to == to) {
            let ready = open.sender.ready().await.is_ok();
            if ready {
                match open.sender.try_send_request(request).await {
                    Ok(response) => return Ok(response),
                    // The machine closed it just then and nothing was sent: once more, over another one.
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None => return Err(Failure::Broken(error.into_error())),
                    },
                }
            }
        }
        let mut sender = self.connect(&to).await?;
        let sent = sender.send_request(request).await.map_err(Failure::Broken)?;
        *upstream = Some(Upstream { to, sender });
        Ok(sent)
    }

    async fn connect(&self, to: &Site) -> Result<SendRequest<Body>, Failure> {
        let Site::Service { session, label, port } = to else {
            return Err(Failure::Unreached(io::ErrorKind::NotConnected.into()));
        };
        let carried =
            self.front.forwards.connect(*session, label, *port).await.map_err(Failure::Unreached)?;
        let (stream, counted) = carried.into_parts();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Broken)?;
        tokio::spawn(async move {
            let ended = connection.with_upgrades().await;
            tracing::trace!(?ended, "a connection of the front door into a machine ended");
            drop(counted);
        });
        Ok(sender)
    }
}

impl Failure {
    fn told(&self, named: &str, port: u16) -> Response<Body> {
        let index = format!("http://{}:{port}/", sites::DOMAIN);
        match self {
            Failure::NoSite(none) => own(
                StatusCode::NOT_FOUND,
                page::sorry(&none.to_string(), &format!("What runs is listed at {index}")),
            ),
            Failure::Unreached(error) => {
                let next = format!(
                    "{error}. agent session status says what keeps it; what runs is listed at {index}"
                );
                let mut sorry = own(
                    StatusCode::SERVICE_UNAVAILABLE,
                    page::sorry(&format!("{named} does not answer now"), &next),
                );
                sorry.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
                sorry
            }
            Failure::Broken(error) => {
                let what = format!("{named} gave no answer that a browser could show");
                own(StatusCode::BAD_GATEWAY, page::sorry(&what, &error.to_string()))
            }
        }
    }
}

/// Makes of a client's request what a machine is asked, and says how it came.
fn outgoing(request: Request<Incoming>, upgrade: Option<&HeaderValue>) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    if let Some(host) = head.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        head.headers.insert(header::HOST, host);
    }
    // The path alone, also where a client writes the whole address.
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    head.version = Version::HTTP_11;
    hop(&mut head.headers, upgrade);
    head.headers.insert(FOR, HeaderValue::from_static("127.0.0.1"));
    head.headers.insert(SCHEME, HeaderValue::from_static("http"));
    Request::from_parts(head, Body::new(body))
}

/// Takes what belongs to one connection out of a head, but for the wish to speak something else from here on.
fn hop(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    for name in OF_THE_HOP {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.clone());
    }
}

fn own(status: StatusCode, page: String) -> Response<Body> {
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(OWN_PAGES));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
