//! The front door: one loopback port where a browser of this host finds every web service of every session by name,
//! without root and without any set-up of names. It reads each request as far as its head, asks `judge` whether it may
//! come in and [`sites`] what it means, and passes it on to a ready machine, WebSockets included.
//!
//! Owns its listeners and one connection into the mesh for each connection of a client. It never looks into a body.
//! A connection has one place among those at once and one in the count of its machine from its first byte to its last,
//! whatever is spoken on it, and loses both when nothing moves.

pub(crate) mod judge;
mod page;
mod patience;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header},
};
use futures::future::join_all;
use hyper::{
    body::Incoming, client::conn::http1::SendRequest, server::conn::http1, service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::names::sites::{self, NoSite, Site};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::{
    judge::Stranger,
    patience::{Arriving, Patient},
};
use super::{
    balance::{Carried, Counted},
    forward::Forwards,
};
use crate::{host::listen, picture::Pictures};

/// A client whose head is not whole in this time, or that asks nothing further, is cut off: browsers open a connection
/// again.
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
/// What a machine may be asked to do; it decides itself.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
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

/// Binds loopback as [`listen::bind`] does.
pub async fn bind(usual: u16, kept: &Path) -> io::Result<Bound> {
    listen::bind(usual, kept, bind_at).await
}

async fn bind_at(port: u16) -> io::Result<(Bound, u16)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = listener.local_addr()?.port();
    // Browsers try both; without IPv6 one is enough.
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await.ok();
    Ok((Bound { listeners: std::iter::once(listener).chain(six).collect(), port }, port))
}

/// Serves until `stop`, `most` connections at once; the next one waits for its turn.
pub async fn serve(bound: Bound, front: Front, most: usize, stop: CancellationToken) {
    let (front, slots) = (Arc::new(front), Arc::new(Semaphore::new(most)));
    let accepting =
        bound.listeners.into_iter().map(|listener| accept(listener, front.clone(), slots.clone()));
    stop.run_until_cancelled(join_all(accepting)).await;
}

/// One that came waits for its turn: a listener that nobody asks holds no place.
async fn accept(listener: TcpListener, front: Arc<Front>, slots: Arc<Semaphore>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection to the front door was not taken");
                sleep(AGAIN).await;
                continue;
            }
        };
        // The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let front = front.clone();
        tokio::spawn(async move {
            let ended = carry(stream, front, slot).await;
            tracing::trace!(?ended, "a connection to the front door ended");
        });
    }
}

async fn carry(stream: TcpStream, front: Arc<Front>, slot: OwnedSemaphorePermit) -> hyper::Result<()> {
    stream.set_nodelay(true).ok();
    let client = Arc::new(Client { front, upstream: Mutex::new(None), _slot: slot });
    let answer = move |request| {
        let client = client.clone();
        async move { Ok::<_, std::convert::Infallible>(client.answer(request).await) }
    };
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream)), service_fn(answer))
        .with_upgrades()
        .await
}

/// One connection of a client, and the one into the mesh that serves it.
struct Client {
    front: Arc<Front>,
    upstream: Mutex<Option<Upstream>>,
    /// Kept by whoever carries bytes of this client.
    _slot: OwnedSemaphorePermit,
}

struct Upstream {
    to: Site,
    sender: SendRequest<Body>,
    counted: Arc<Counted>,
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
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let front = &self.front;
        let named = match judge::judge(front.port, request.method(), request.uri(), request.headers()) {
            Ok(named) => named,
            Err(stranger) => return refused(&stranger, front.port),
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
    async fn pass(
        self: &Arc<Self>,
        to: Site,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let upgrade = request.headers().get(header::UPGRADE).cloned();
        let near = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let outgoing = outgoing(request, upgrade.as_ref());
        let mut upstream = self.upstream.lock().await;
        let mut response = self.send(&mut upstream, to, outgoing).await?;
        let raw = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let upgraded = response.headers().get(header::UPGRADE).cloned().filter(|_| raw);
        hop(response.headers_mut(), upgraded.as_ref());
        *response.version_mut() = Version::HTTP_11;
        if let (Some(near), true) = (near, raw) {
            let far = hyper::upgrade::on(&mut response);
            let counted = upstream.take().map(|upstream| upstream.counted);
            let client = self.clone();
            tokio::spawn(async move {
                let ended = both_ways(near, far).await;
                tracing::trace!(?ended, "an upgraded connection of the front door ended");
                drop((client, counted));
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
        *upstream = None;
        let mut open = self.connect(to).await?;
        let sent = open.sender.send_request(request).await.map_err(Failure::Broken)?;
        *upstream = Some(open);
        Ok(sent)
    }

    async fn connect(&self, to: Site) -> Result<Upstream, Failure> {
        let Site::Service { session, label, port } = &to else {
            return Err(Failure::Unreached(io::ErrorKind::NotConnected.into()));
        };
        let place = (*session, label.as_str());
        let carried = self.front.forwards.connect(place, *port).await.map_err(Failure::Unreached)?;
        let Carried { stream, counted } = carried;
        let stream = TokioIo::new(Patient::new(stream));
        let (sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(Failure::Broken)?;
        let counted = Arc::new(counted);
        let until_it_ends = counted.clone();
        tokio::spawn(async move {
            let ended = connection.with_upgrades().await;
            tracing::trace!(?ended, "a connection of the front door into a machine ended");
            drop(until_it_ends);
        });
        Ok(Upstream { to, sender, counted })
    }
}

/// Carries the bytes of two that speak something else than HTTP.
async fn both_ways(near: OnUpgrade, far: OnUpgrade) -> io::Result<()> {
    let (near, far) = futures::try_join!(near, far).map_err(io::Error::other)?;
    copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await?;
    Ok(())
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
            Failure::Broken(error) if error.is_user() => own(
                StatusCode::REQUEST_TIMEOUT,
                page::sorry(&format!("what {named} was to be sent did not arrive"), "Try again."),
            ),
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
    let named = head.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let host = named.or_else(|| head.headers.get(header::HOST).cloned());
    // The path alone, also where a client writes the whole address.
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    head.version = Version::HTTP_11;
    hop(&mut head.headers, upgrade);
    // Whom it is for is everybody's, also where a client says otherwise.
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    head.headers.insert(FOR, HeaderValue::from_static("127.0.0.1"));
    head.headers.insert(SCHEME, HeaderValue::from_static("http"));
    Request::from_parts(head, Body::new(Arriving::new(body)))
}

/// Takes what belongs to one connection out of a head, but for the wish to speak something else from here on.
fn hop(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_THE_HOP {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.clone());
    }
}

/// Tells a stranger why, and lets it go: it holds no place.
fn refused(stranger: &Stranger, port: u16) -> Response<Body> {
    let status = match stranger {
        Stranger::Nobody | Stranger::TwoNames => StatusCode::BAD_REQUEST,
        Stranger::Tunnel => StatusCode::METHOD_NOT_ALLOWED,
        Stranger::Misled(_) => StatusCode::MISDIRECTED_REQUEST,
        Stranger::Foreign(_) => StatusCode::FORBIDDEN,
    };
    let next = format!("What runs is listed at http://{}:{port}/", sites::DOMAIN);
    let mut response = own(status, page::sorry(&stranger.to_string(), &next));
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static(METHODS));
    }
    response
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
