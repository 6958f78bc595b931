//! How a guest's packet travels between hosts: as one QUIC datagram, or as two halves when the
//! path's datagrams are too small for it now. Pure: packets in, datagrams out, and back.
//!
//! ```text
//! kind: u8 | session: 16 bytes | epoch: u64 big-endian | 0 whole:  IP packet
//!                                                      | 1 first:  id: u32 | first half
//!                                                      | 2 second: id: u32 | second half
//! ```
//!
//! The epoch is that of the machine that sent the packet.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::id::{Epoch, SessionId};

/// What every datagram of one packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// Whose addresses the packet uses.
    pub session: SessionId,
    /// The incarnation of the machine that sent it.
    pub epoch: Epoch,
}

/// The datagrams of one packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Split {
    /// It fits.
    Whole(Bytes),
    /// It goes in two.
    Halves(Bytes, Bytes),
    /// Even its halves do not fit. No path of QUIC is that narrow for our MTU.
    TooLong,
}

/// A datagram that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What the packet belongs to.
    pub tag: Tag,
    /// The packet, or a half of it.
    pub body: Body,
}

/// What a datagram carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A packet.
    Whole(Bytes),
    /// The first half of the packet with this id.
    First(u32, Bytes),
    /// The second half.
    Second(u32, Bytes),
}

const TAG_BYTES: usize = 1 + 16 + 8;
const HALF_BYTES: usize = TAG_BYTES + 4;

/// Makes the datagrams of `packet`. `id` is new for every packet to that host.
pub fn split(tag: Tag, packet: &Bytes, id: u32, max_datagram: usize) -> Split {
    if TAG_BYTES + packet.len() <= max_datagram {
        return Split::Whole(write(0, tag, None, packet));
    }
    let (first, second) = packet.split_at(packet.len().div_ceil(2));
    if HALF_BYTES + first.len() > max_datagram {
        return Split::TooLong;
    }
    Split::Halves(write(1, tag, Some(id), first), write(2, tag, Some(id), second))
}

/// Reads a datagram; `None` when it is none of ours.
pub fn read(mut datagram: Bytes) -> Option<Datagram> {
    let kind = datagram.try_get_u8().ok()?;
    let mut session = [0; 16];
    datagram.try_copy_to_slice(&mut session).ok()?;
    let epoch = Epoch(datagram.try_get_u64().ok()?);
    let body = match kind {
        0 => Body::Whole(datagram),
        1 => Body::First(datagram.try_get_u32().ok()?, datagram),
        2 => Body::Second(datagram.try_get_u32().ok()?, datagram),
        _ => return None,
    };
    Some(Datagram { tag: Tag { session: SessionId(session), epoch }, body })
}

fn write(kind: u8, tag: Tag, id: Option<u32>, part: &[u8]) -> Bytes {
    let mut datagram = BytesMut::with_capacity(HALF_BYTES + part.len());
    datagram.put_u8(kind);
    datagram.put_slice(&tag.session.0);
    datagram.put_u64(tag.epoch.0);
    if let Some(id) = id {
        datagram.put_u32(id);
    }
    datagram.put_slice(part);
    datagram.freeze()
}

/// Puts halves together again. One per connection; the other host chose the ids.
#[derive(Debug, Default)]
pub struct Joiner {
    waiting: BTreeMap<(Tag, u32), (Instant, Half)>,
}

#[derive(Debug)]
enum Half {
    First(Bytes),
    Second(Bytes),
}

/// Halves that may wait for their other half: a burst of reordered datagrams, 90 KiB at most.
const MAX_WAITING: usize = 64;
/// The two leave together; what is later than this was lost, and its id may come again.
const WAIT_FOR: Duration = Duration::from_secs(2);

impl Joiner {
    /// Takes what came; gives a packet when it is complete.
    pub fn join(&mut self, datagram: Datagram, now: Instant) -> Option<(Tag, Bytes)> {
        let Datagram { tag, body } = datagram;
        let (id, half) = match body {
            Body::Whole(packet) => return Some((tag, packet)),
            Body::First(id, bytes) => (id, Half::First(bytes)),
            Body::Second(id, bytes) => (id, Half::Second(bytes)),
        };
        let other = self.waiting.remove(&(tag, id));
        let other = other.filter(|(since, _)| now.saturating_duration_since(*since) < WAIT_FOR);
        match (other, half) {
            (Some((_, Half::First(first))), Half::Second(second))
            | (Some((_, Half::Second(second))), Half::First(first)) => {
                let mut packet = BytesMut::with_capacity(first.len() + second.len());
                packet.put(first);
                packet.put(second);
                Some((tag, packet.freeze()))
            }
            (_, half) => {
                self.make_room(now);
                self.waiting.insert((tag, id), (now, half));
                None
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.waiting.len() < MAX_WAITING {
            return;
        }
        self.waiting.retain(|_, (since, _)| now.saturating_duration_since(*since) < WAIT_FOR);
        if self.waiting.len() >= MAX_WAITING {
            let oldest = self.waiting.iter().min_by_key(|(_, (since, _))| *since).map(|(key, _)| *key);
            oldest.and_then(|key| self.waiting.remove(&key));
        }
    }
}

#[cfg(test)]
mod tests;
