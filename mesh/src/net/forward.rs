//! TCP connections into machines, and flows of datagrams (`datagrams`): through the shim's dialer on this host, or over a
//! stream of `mesh/net/1` to the host that runs the machine.
//!
//! ```text
//! length: u16 | Header  ->
//!                       <- Answer: u8, 0 = connected
//! bytes of the connection <->
//! ```
//! Services are for every member; consoles and all other ports are for those that may operate. The host of the machine
//! judges, by the certificate of the host that asks.

use std::{io, time::Duration};

use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use minicbor::{Decode, Encode};
use proto::{
    id::{HostId, MachineName, SessionId},
    wire::{self, Kind, Message},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, Join},
    net::UnixStream,
    time,
};
use tokio_util::either::Either;

use super::{Dial, End, Net, datagrams, hosts::Unreachable, published, splice::splice};

/// A TCP connection into a guest.
pub type Stream = Either<UnixStream, Join<RecvStream, SendStream>>;

/// Why there is no connection to a machine's port.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The session's directory does not name it.
    #[error("{0} is not in the session")]
    Unknown(MachineName),
    /// Its host is not reachable.
    #[error("the host of {machine} is not reachable")]
    Unreachable {
        /// The machine.
        machine: MachineName,
        /// Why.
        source: Unreachable,
    },
    /// Its host does not run it now.
    #[error("{0} is not running on its host")]
    NotRunning(MachineName),
    /// Its host lets only those enter it that may operate.
    #[error(
        "its host lets nobody into {0} who is not allowed to operate sessions: this host's certificate limits it"
    )]
    MayNot(MachineName),
    /// Nothing listens on the port.
    #[error("port {port} of {machine} refused the connection")]
    Refused {
        /// The machine.
        machine: MachineName,
        /// The port.
        port: u16,
    },
    /// Neither the guest nor its host answered in time.
    #[error("port {port} of {machine} did not answer")]
    TimedOut {
        /// The machine.
        machine: MachineName,
        /// The port.
        port: u16,
    },
    /// The connection broke before it stood.
    #[error("the connection to {machine} broke")]
    Broke {
        /// The machine.
        machine: MachineName,
        /// How.
        source: io::Error,
    },
}

#[derive(Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Header {
    #[n(0)]
    pub(super) session: SessionId,
    #[n(1)]
    pub(super) machine: MachineName,
    #[n(2)]
    pub(super) port: u16,
}

impl Message for Header {
    const KIND: Kind = Kind::Connect;
}

/// The same of a UDP port. Of a kind of its own: who does not know it must not take the port for one of TCP.
#[derive(Debug, PartialEq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct FlowHeader(#[n(0)] pub(super) Header);

impl Message for FlowHeader {
    const KIND: Kind = Kind::ConnectDatagrams;
}

/// Bytes of a header: several times what it needs today.
const MAX_HEADER_BYTES: usize = 1024;

const CONNECTED: u8 = 0;
const NOT_RUNNING: u8 = 1;
const REFUSED: u8 = 2;
const TIMED_OUT: u8 = 3;
const BROKEN: u8 = 4;
const MAY_NOT: u8 = 5;

/// The other host opens the stream to say this, so it has no reason to be slow.
const HEADER_WITHIN: Duration = Duration::from_secs(5);
/// A guest gets 5 s to answer a SYN (`link`); the rest is for the shim and the way.
const DIAL_WITHIN: Duration = Duration::from_secs(8);
const ANSWER_WITHIN: Duration = Duration::from_secs(12);
/// What one splice holds in each direction.
const COPY_BYTES: usize = 64 * 1024;
/// Tells the other side that the connection broke, as opposed to ended.
const BROKE: VarInt = VarInt::from_u32(1);

/// Opens a connection to a port of a machine.
pub(super) async fn dial(
    net: &Net,
    session: SessionId,
    machine: &MachineName,
    port: u16,
) -> Result<Stream, ForwardError> {
    if let Some(dial) = local(net, session, machine) {
        let opened = time::timeout(DIAL_WITHIN, dial(port)).await.unwrap_or_else(|_| timed_out());
        return opened.map(Either::Left).map_err(|error| match answer_of(&error) {
            BROKEN => ForwardError::Broke { machine: machine.clone(), source: error },
            answer => refusal(answer, machine, port),
        });
    }
    let header = Header { session, machine: machine.clone(), port };
    Ok(Either::Right(elsewhere(net, &header, &wire::encode(&header)).await?))
}

/// Opens a flow of datagrams to a port of a machine.
pub(super) async fn dial_datagrams(
    net: &Net,
    session: SessionId,
    machine: &MachineName,
    port: u16,
) -> Result<Box<dyn End>, ForwardError> {
    if local(net, session, machine).is_some() {
        let opened = datagrams::open(net, session, machine, port);
        let broke = |source| ForwardError::Broke { machine: machine.clone(), source };
        return Ok(Box::new(opened.map_err(broke)?));
    }
    let header = FlowHeader(Header { session, machine: machine.clone(), port });
    Ok(Box::new(elsewhere(net, &header.0, &wire::encode(&header)).await?))
}

/// Opens a stream to a machine of another host, which is told where to in these bytes.
async fn elsewhere(
    net: &Net,
    Header { session, machine, port }: &Header,
    bytes: &[u8],
) -> Result<Join<RecvStream, SendStream>, ForwardError> {
    let me = net.0.me();
    let host = net.0.tables().routes.get(session).and_then(|routes| routes.host_of(machine));
    let host = host.ok_or_else(|| ForwardError::Unknown(machine.clone()))?;
    if me == Some(host) {
        return Err(ForwardError::NotRunning(machine.clone()));
    }
    let link = net.0.hosts.link(net, host);
    let connection = link
        .connection(net)
        .await
        .map_err(|source| ForwardError::Unreachable { machine: machine.clone(), source })?;
    ask(&connection, bytes).await.map_err(|error| match answer_of(&error) {
        BROKEN => ForwardError::Broke { machine: machine.clone(), source: error },
        answer => refusal(answer, machine, *port),
    })
}

/// Opens a stream for what `header` asks for. The kind of an error is the other host's answer.
pub(super) async fn ask(connection: &Connection, header: &[u8]) -> io::Result<Join<RecvStream, SendStream>> {
    let asked = time::timeout(ANSWER_WITHIN, async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(io::Error::other)?;
        let length = u16::try_from(header.len()).map_err(io::Error::other)?;
        send.write_all(&[&length.to_be_bytes(), header].concat()).await?;
        let answer = recv.read_u8().await?;
        Ok((answer, tokio::io::join(recv, send)))
    });
    match asked.await.unwrap_or_else(|_| timed_out())? {
        (CONNECTED, stream) => Ok(stream),
        (NOT_RUNNING, _) => Err(io::ErrorKind::NotFound.into()),
        (REFUSED, _) => Err(io::ErrorKind::ConnectionRefused.into()),
        (TIMED_OUT, _) => timed_out(),
        (MAY_NOT, _) => Err(io::ErrorKind::PermissionDenied.into()),
        _ => Err(io::Error::other("the other host could not connect")),
    }
}

/// Serves one stream that another host opened.
pub(super) async fn serve(net: Net, from: HostId, send: SendStream, mut recv: RecvStream) {
    let Ok(Some(asked)) = time::timeout(HEADER_WITHIN, read_asked(&mut recv)).await else {
        return;
    };
    match asked {
        Asked::Machine(header) => {
            let dial = local(&net, header.session, &header.machine);
            let opened = async {
                judge(&net, from, &header)?;
                dial.ok_or(io::ErrorKind::NotFound)?(header.port).await
            };
            carry(opened, send, recv).await;
        }
        Asked::Flow(FlowHeader(header)) => {
            let opened = async {
                judge(&net, from, &header)?;
                datagrams::open(&net, header.session, &header.machine, header.port)
            };
            carry(opened, send, recv).await;
        }
        Asked::Host(header) => carry(published::connect(&net, header.port), send, recv).await,
    }
}

/// Refuses a host that may not enter machines, unless it asks for a service.
fn judge(net: &Net, from: HostId, Header { session, machine, port }: &Header) -> io::Result<()> {
    let serves =
        |net: &Net| net.0.tables().routes.get(session).is_some_and(|routes| routes.serves(machine, *port));
    if serves(net) || (net.0.enters)(from) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Answers how opening went, and joins what was opened with the stream.
async fn carry<E: End>(open: impl Future<Output = io::Result<E>>, mut send: SendStream, recv: RecvStream) {
    let opened = time::timeout(DIAL_WITHIN, open).await.unwrap_or_else(|_| timed_out());
    let answer = opened.as_ref().map_or_else(answer_of, |_| CONNECTED);
    let said = send.write_all(&[answer]).await;
    let (Ok(()), Ok(mut opened)) = (said, opened) else { return };
    let mut stream = tokio::io::join(recv, send);
    if splice(&mut opened, &mut stream, COPY_BYTES).await.is_err() {
        let (mut recv, mut send) = stream.into_inner();
        // Either may be over already, which is what we want.
        let _ = (send.reset(BROKE), recv.stop(BROKE));
    }
}

/// What another host opens a stream for.
pub(crate) enum Asked {
    Machine(Header),
    Flow(FlowHeader),
    Host(published::Header),
}

pub(crate) async fn read_asked(recv: &mut (impl AsyncRead + Unpin)) -> Option<Asked> {
    let mut bytes = [0; MAX_HEADER_BYTES];
    let length = recv.read_u16().await.ok()?;
    let bytes = bytes.get_mut(..usize::from(length))?;
    recv.read_exact(bytes).await.ok()?;
    let machine = || wire::decode(bytes, MAX_HEADER_BYTES).ok().map(Asked::Machine);
    let flow = || wire::decode(bytes, MAX_HEADER_BYTES).ok().map(Asked::Flow);
    let host = || wire::decode(bytes, MAX_HEADER_BYTES).ok().map(Asked::Host);
    machine().or_else(flow).or_else(host)
}

fn local(net: &Net, session: SessionId, machine: &MachineName) -> Option<Dial> {
    let tables = net.0.tables();
    let attached = tables.locals.get(&session)?.get(machine)?;
    // An incarnation that has a successor, here or elsewhere, is not connected to any more.
    let current = tables.routes.get(&session)?.is_current(machine, attached.epoch);
    current.then(|| attached.dial.clone())
}

fn timed_out<T>() -> io::Result<T> {
    Err(io::ErrorKind::TimedOut.into())
}

fn answer_of(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => REFUSED,
        io::ErrorKind::TimedOut => TIMED_OUT,
        io::ErrorKind::NotFound => NOT_RUNNING,
        io::ErrorKind::PermissionDenied => MAY_NOT,
        _ => BROKEN,
    }
}

fn refusal(answer: u8, machine: &MachineName, port: u16) -> ForwardError {
    let machine = machine.clone();
    match answer {
        NOT_RUNNING => ForwardError::NotRunning(machine),
        MAY_NOT => ForwardError::MayNot(machine),
        REFUSED => ForwardError::Refused { machine, port },
        TIMED_OUT => ForwardError::TimedOut { machine, port },
        _ => ForwardError::Broke { machine, source: io::Error::other("its host could not connect") },
    }
}
