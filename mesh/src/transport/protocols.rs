//! The name of everything that is spoken on the one endpoint, and its framing: a length of four bytes, big-endian, and
//! that many bytes. The images' protocol is iroh-blobs' own and has its name from there. Nothing here knows a message.

use std::io;

use futures::{AsyncReadExt, AsyncWriteExt};
use iroh::endpoint::{RecvStream, SendStream};
use libp2p::{Stream, StreamProtocol};

/// iroh connections that carry libp2p, for members.
pub(crate) const LIBP2P: &[u8] = b"mesh/libp2p/1";
/// iroh connections on which strangers join: the only ones that are open to them.
pub(crate) const JOIN: &[u8] = b"mesh/join/1";
/// iroh connections of the session network, for members.
pub const NET: &[u8] = b"mesh/net/1";
/// What libp2p hosts say to each other of themselves.
pub(crate) const IDENTIFY: &str = "/mesh/id/1";
/// Streams of gossip.
pub(crate) const GOSSIP: StreamProtocol = StreamProtocol::new("/mesh/gossip/1");
/// Requests between members.
pub(crate) const RPC: StreamProtocol = StreamProtocol::new("/mesh/rpc/1");
/// Messages between the voters of a session.
pub(crate) const RAFT: StreamProtocol = StreamProtocol::new("/mesh/raft/1");

/// Memory that an announced length gets at once; the rest comes as its bytes do.
const AT_ONCE: usize = 64 * 1024;

/// Writes a frame to a stream of libp2p.
pub(crate) async fn write_frame(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&length(bytes)?).await?;
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Reads a frame of at most `limit` bytes from a stream of libp2p.
pub(crate) async fn read_frame(stream: &mut Stream, limit: usize) -> io::Result<Vec<u8>> {
    let length = read_length(stream, limit).await?;
    read_rest(stream, length).await
}

/// Reads how long the frame is that comes.
pub(crate) async fn read_length(stream: &mut Stream, limit: usize) -> io::Result<usize> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    within(length, limit)
}

/// Reads the frame whose length was read.
pub(crate) async fn read_rest(stream: &mut Stream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length.min(AT_ONCE));
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Writes a frame to a stream of iroh.
pub(crate) async fn send_frame(stream: &mut SendStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(&length(bytes)?).await?;
    stream.write_all(bytes).await?;
    Ok(())
}

/// Reads a frame of at most `limit` bytes from a stream of iroh.
pub(crate) async fn receive_frame(stream: &mut RecvStream, limit: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(io::Error::other)?;
    let length = within(length, limit)?;
    let mut bytes = Vec::with_capacity(length.min(AT_ONCE));
    while bytes.len() < length {
        let most = (length - bytes.len()).min(AT_ONCE);
        let chunk = stream.read_chunk(most).await.map_err(io::Error::other)?;
        bytes.extend_from_slice(&chunk.ok_or(io::ErrorKind::UnexpectedEof)?);
    }
    Ok(bytes)
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    Ok(u32::try_from(bytes.len()).map_err(io::Error::other)?.to_be_bytes())
}

fn within(length: [u8; 4], limit: usize) -> io::Result<usize> {
    let length = u32::from_be_bytes(length) as usize;
    match length <= limit {
        true => Ok(length),
        false => Err(io::Error::other(format!("a frame of {length} bytes, {limit} are allowed"))),
    }
}
