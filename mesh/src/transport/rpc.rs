//! One request, one answer, one substream, one deadline: the shape of `/mesh/rpc/1` and `/mesh/raft/1`.
//! Nothing here acts on what is asked.
//!
//! ```text
//! caller                          receiver
//!   length, request, end    ->
//!                           <-    TAKEN        as soon as the stream is in our hands
//!                           <-    length, answer
//! ```
//! A receiver with more streams than it can hold drops some; without TAKEN the request was never
//! read, so the caller may safely try again.

use std::{collections::BTreeMap, future::Future, io, sync::Arc, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Stream, StreamProtocol};
use proto::{
    backoff::BackOff,
    id::HostId,
    limits::{MAX_MEMBERS, MAX_RPC_BYTES},
    wire::{
        self,
        rpc::{Answer, Request},
    },
};
use tokio::{sync::Semaphore, time::Instant};

use crate::transport::{
    inbound::Inlet,
    protocols::{RPC, read_frame, read_length, read_rest, write_frame},
    swarm::{OpenError, Streams},
};

const TAKEN: u8 = 1;
/// Requests that are served at once; more wait here, read whole, as far as their callers' parts of memory reach.
const MAX_SERVED: usize = 256;
/// Of these for one member: a host that asks for all of its sessions at once has some left.
const MAX_SERVED_EACH: usize = 64;
/// Streams of one member that are open: more than QUIC lets one connection have at a time.
const MAX_STREAMS_EACH: usize = 128;
/// KiB of one member's requests that are in memory: two of the largest, and many of the others.
const MAX_KIB_EACH: u32 = 32 * 1024;
/// A request is sent in one go; one that dribbles longer than this is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the caller may take to read its answer: the largest on a slow uplink.
const WRITE_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest that a receiver works on a request. Callers have shorter deadlines of their own.
const SERVE_TIMEOUT: Duration = Duration::from_secs(600);
/// Streams dropped by a busy receiver in a row before the caller is told.
const MAX_TRIES: u32 = 6;
/// Before such a request is sent again.
const AGAIN: BackOff = BackOff::new(5, 160);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The receiver is no member of this mesh, as far as this host knows.
    #[error("the host is no member of this mesh")]
    NotMember,
    /// There is no way to it now.
    #[error("cannot reach the host: {0}")]
    Unreachable(String),
    /// The deadline passed; whether the request was carried out is unknown.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection broke after the request was sent; whether it was carried out is unknown.
    #[error("the connection broke before the answer: {0}")]
    Broken(String),
    /// The request is larger than the protocol allows.
    #[error("the request has {got} bytes, {limit} are allowed")]
    TooLarge {
        /// Its size.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// The answer could not be read.
    #[error("the answer is malformed")]
    Malformed,
}

/// A protocol of this shape.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub(crate) protocol: StreamProtocol,
    pub(crate) limit: usize,
}

/// Asks another member.
pub(crate) async fn call(
    streams: &Streams,
    to: HostId,
    request: &Request,
    within: Duration,
) -> Result<Answer, RpcError> {
    let exchange = Exchange { protocol: RPC, limit: MAX_RPC_BYTES };
    let answer = ask(streams, &exchange, to, &wire::encode(request), within).await?;
    wire::decode(&answer, MAX_RPC_BYTES).map_err(|_| RpcError::Malformed)
}

/// Sends a request and waits for its answer.
pub(crate) async fn ask(
    streams: &Streams,
    exchange: &Exchange,
    to: HostId,
    request: &[u8],
    within: Duration,
) -> Result<Vec<u8>, RpcError> {
    if request.len() > exchange.limit {
        return Err(RpcError::TooLarge { got: request.len(), limit: exchange.limit });
    }
    let deadline = Instant::now() + within;
    let mut last = String::new();
    for attempt in 1..=MAX_TRIES {
        let left = deadline.saturating_duration_since(Instant::now());
        let stream = match streams.open(to, exchange.protocol.clone(), left).await {
            Ok(stream) => stream,
            Err(OpenError::TimedOut(_)) => return Err(RpcError::TimedOut(within)),
            Err(error) => return Err(RpcError::Unreachable(error.to_string())),
        };
        match tokio::time::timeout_at(deadline, talk(stream, request, exchange.limit)).await {
            Err(_) => return Err(RpcError::TimedOut(within)),
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Talk::NotTaken(error))) => last = error.to_string(),
            Ok(Err(Talk::Broken(error))) => return Err(RpcError::Broken(error.to_string())),
        }
        tokio::time::sleep(AGAIN.after(attempt)).await;
    }
    Err(RpcError::Unreachable(last))
}

enum Talk {
    NotTaken(io::Error),
    Broken(io::Error),
}

async fn talk(mut stream: Stream, request: &[u8], limit: usize) -> Result<Vec<u8>, Talk> {
    write_frame(&mut stream, request).await.map_err(Talk::NotTaken)?;
    let mut taken = [0];
    stream.read_exact(&mut taken).await.map_err(Talk::NotTaken)?;
    if taken[0] != TAKEN {
        return Err(Talk::Broken(io::Error::other("another protocol")));
    }
    let answer = read_frame(&mut stream, limit).await.map_err(Talk::Broken)?;
    // The answer is here; how the stream ends does not matter.
    stream.close().await.ok();
    Ok(answer)
}

/// What one member may have of this host in one protocol at a time.
struct Allowance {
    /// Streams in any state.
    streams: Arc<Semaphore>,
    /// Requests that were read and whose answer is not yet away.
    served: Semaphore,
    /// KiB of requests.
    room: Semaphore,
}

impl Allowance {
    fn new() -> Arc<Allowance> {
        Arc::new(Allowance {
            streams: Arc::new(Semaphore::new(MAX_STREAMS_EACH)),
            served: Semaphore::new(MAX_SERVED_EACH),
            room: Semaphore::new(MAX_KIB_EACH as usize),
        })
    }
}

/// Serves what comes in until the swarm ends. `handle` gives the answer, or `None` for none at all.
pub(crate) async fn serve<H, F>(mut inlet: Inlet, limit: usize, handle: H)
where
    H: Fn(HostId, Vec<u8>) -> F + Clone + Send + 'static,
    F: Future<Output = Option<Vec<u8>>> + Send,
{
    let slots = Arc::new(Semaphore::new(MAX_SERVED));
    let mut members: BTreeMap<HostId, Arc<Allowance>> = BTreeMap::new();
    while let Some((from, stream)) = inlet.recv().await {
        if members.len() > MAX_MEMBERS {
            members.retain(|_, allowance| Arc::strong_count(allowance) > 1);
        }
        let allowance = members.entry(from).or_insert_with(Allowance::new).clone();
        // Dropping the stream tells the caller that nothing of it was read.
        let Ok(stream_permit) = allowance.streams.clone().try_acquire_owned() else { continue };
        let (slots, handle) = (slots.clone(), handle.clone());
        tokio::spawn(async move {
            let _stream_permit = stream_permit;
            let served = serve_one(stream, limit, &allowance, &slots, move |request| handle(from, request));
            match tokio::time::timeout(SERVE_TIMEOUT, served).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(?from, %error, "a request ended early"),
                Err(_) => tracing::warn!(?from, "a request was given up: it took too long"),
            }
        });
    }
}

async fn serve_one<F>(
    mut stream: Stream,
    limit: usize,
    allowance: &Allowance,
    slots: &Semaphore,
    handle: impl FnOnce(Vec<u8>) -> F,
) -> io::Result<()>
where
    F: Future<Output = Option<Vec<u8>>>,
{
    stream.write_all(&[TAKEN]).await?;
    stream.flush().await?;
    let read = async {
        let length = read_length(&mut stream, limit).await?;
        // Above the limit of the protocol there is no frame, so what is asked for can be had.
        let kib = u32::try_from(length.div_ceil(1024)).unwrap_or(MAX_KIB_EACH).min(MAX_KIB_EACH);
        let room = allowance.room.acquire_many(kib).await.map_err(io::Error::other)?;
        Ok((read_rest(&mut stream, length).await?, room))
    };
    let read: Result<io::Result<_>, _> = tokio::time::timeout(READ_TIMEOUT, read).await;
    let (request, room) = read.map_err(|_| io::ErrorKind::TimedOut)??;
    // Only what was read takes a place: whoever dribbles keeps nobody waiting.
    let _own = allowance.served.acquire().await.map_err(io::Error::other)?;
    let slot = slots.acquire().await.map_err(io::Error::other)?;
    let answer = handle(request).await;
    drop((slot, room));
    // Without an answer the stream is dropped, which tells the caller.
    let Some(answer) = answer else { return Ok(()) };
    let written = tokio::time::timeout(WRITE_TIMEOUT, async {
        write_frame(&mut stream, &answer).await?;
        stream.close().await
    });
    written.await.map_err(|_| io::ErrorKind::TimedOut)?
}
