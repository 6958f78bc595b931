//! How a stranger becomes a member, on a connection of its own (`mesh/join/1`): the only protocol
//! that is open to strangers. `stranger` is the joining side, `door` the member's.
//! What is said and signed is decided in `proto::trust::join`; here it travels.
//!
//! ```text
//! hello -> offer -> proof -> answer, and when it is "admitted": ready -> welcome
//! ```
//! The welcome is the first thing that the new member asks for and gets as one, so a join that
//! succeeds has seen data go both ways.

pub(crate) mod door;
pub(crate) mod member;
mod restore;
mod stranger;

use std::{io, time::Duration};

use iroh::endpoint::{Connection, RecvStream, SendStream};
use minicbor::{Decode, Encode};
use proto::{
    id::HostId,
    limits::{MAX_JOIN_BYTES, MAX_RPC_BYTES},
    trust::join::EXPORT_LABEL,
    wire::{self, Kind, Message, record::Reach},
};

use crate::{
    members::roster::Roll,
    transport::protocols::{receive_frame, send_frame},
};

pub use member::{MeetError, Met, Noted, note};
pub use restore::{PhraseError, RestoreError, Restored, Restoring, restore};
pub use stranger::{JoinError, Joined, Joining, join};

/// A whole join, seen from the member: two round trips, and a forward to an issuer.
const DOOR_TIMEOUT: Duration = Duration::from_secs(15);
/// What a connection is closed with when there are too many strangers.
const BUSY: u32 = 429;
/// What is said with it, before the time after which to come again; hosts of an older version say nothing more.
const BUSY_WORDS: &str = "busy, again in ";

/// The joiner lives as a member.
#[derive(Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
struct Ready {}

impl Message for Ready {
    const KIND: Kind = Kind::JoinReady;
}

/// What a new member needs to live: everything that was ever said, and where everybody is.
#[derive(Debug, PartialEq, Encode, Decode)]
#[cbor(map)]
struct Welcome {
    #[cbor(n(0), with = "proto::wire::fields::blobs")]
    statements: Vec<Vec<u8>>,
    #[cbor(n(1), with = "proto::wire::fields::parts")]
    reaches: Vec<(HostId, Reach)>,
}

impl Message for Welcome {
    const KIND: Kind = Kind::JoinWelcome;
}

/// Tells whether anybody can join by a token: without one, strangers who come through a relay are not heard.
pub(crate) fn is_open(roll: &Roll) -> bool {
    !roll.set.grants().is_empty()
}

/// Gives the secret that only the two ends of this connection know.
fn channel(connection: &Connection) -> io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    connection
        .export_keying_material(&mut secret, EXPORT_LABEL, b"")
        .map_err(|_| io::Error::other("the connection exports no keying material"))?;
    Ok(secret)
}

async fn send<T: Message>(stream: &mut SendStream, message: &T) -> io::Result<()> {
    send_frame(stream, &wire::encode(message)).await
}

async fn receive<T: Message>(stream: &mut RecvStream) -> io::Result<T> {
    receive_within(stream, MAX_JOIN_BYTES).await
}

async fn receive_welcome(stream: &mut RecvStream) -> io::Result<Welcome> {
    receive_within(stream, MAX_RPC_BYTES).await
}

async fn receive_within<T: Message>(stream: &mut RecvStream, limit: usize) -> io::Result<T> {
    let bytes = receive_frame(stream, limit).await?;
    wire::decode(&bytes, limit).map_err(io::Error::other)
}

#[cfg(test)]
pub(crate) mod tests;
