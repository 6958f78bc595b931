//! Reads chitchat 0.11.2's wire format, as its own decoder does, without trusting a length in it.
//! Little-endian integers, strings with a u16 length, deltas as a stream of packed blocks.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{DropBecause, GossipId, Unpack};

/// A chitchat message.
pub(super) enum Frame<'a> {
    Syn { cluster: &'a str, digest: Digest },
    SynAck { digest: Digest, delta: Delta },
    Ack { delta: Delta },
    BadCluster,
}

/// What a host knows of each id.
pub(super) type Digest = Vec<(GossipId, Entry)>;

/// News, one part for each id.
pub(super) type Delta = Vec<Part>;

/// Its versions are left out: they shape what chitchat answers and are not kept by it.
pub(super) struct Entry {
    pub heartbeat: u64,
}

pub(super) struct Part {
    pub id: GossipId,
    pub last_gc_version: u64,
    pub from_version: u64,
    pub ops: Vec<Op>,
}

pub(super) enum Op {
    KeyValue { key: String, value_bytes: usize, version: u64 },
    MaxVersion(u64),
}

const MAGIC: u16 = 45_139;
/// The largest block that chitchat unpacks.
const MAX_BLOCK_BYTES: usize = u16::MAX as usize;
/// The block that chitchat writes.
const BLOCK_BYTES: usize = 16_384;
/// Magic, version, kind.
const HEAD_BYTES: usize = 4;

/// Reads one whole frame.
pub(super) fn frame<'a>(bytes: &'a [u8], unpack: &Unpack, limit: usize) -> Result<Frame<'a>, DropBecause> {
    let mut reader = Reader(bytes);
    if reader.u16()? != MAGIC || reader.u8()? != 0 {
        return Err(DropBecause::Malformed("magic or version"));
    }
    let frame = match reader.u8()? {
        0 => {
            let digest = reader.digest()?;
            Frame::Syn { digest, cluster: reader.text()? }
        }
        1 => {
            let digest = reader.digest()?;
            Frame::SynAck { digest, delta: reader.delta(unpack, limit)? }
        }
        2 => Frame::Ack { delta: reader.delta(unpack, limit)? },
        3 => Frame::BadCluster,
        _ => return Err(DropBecause::Malformed("message type")),
    };
    if reader.0.is_empty() { Ok(frame) } else { Err(DropBecause::Malformed("bytes left over")) }
}

/// Writes a frame that was read once more, without what it says of some ids. News are not packed then.
pub(super) fn without(
    bytes: &[u8],
    unpack: &Unpack,
    limit: usize,
    ids: &BTreeSet<GossipId>,
) -> Result<Vec<u8>, DropBecause> {
    let mut reader = Reader(bytes);
    let mut out = reader.take(HEAD_BYTES)?.to_vec();
    let kind = out.last().copied();
    if matches!(kind, Some(0 | 1)) {
        reader.keep_digest(ids, &mut out)?;
    }
    match kind {
        Some(1 | 2) => reader.keep_delta(unpack, limit, ids, &mut out)?,
        _ => out.extend_from_slice(reader.0),
    }
    Ok(out)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DropBecause> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(DropBecause::Malformed("too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DropBecause> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DropBecause::Malformed("too short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, DropBecause> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, DropBecause> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, DropBecause> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a str, DropBecause> {
        let length = self.u16()?;
        let bytes = self.take(length.into())?;
        std::str::from_utf8(bytes).map_err(|_| DropBecause::Malformed("text"))
    }

    fn id(&mut self) -> Result<GossipId, DropBecause> {
        let node = self.text()?.to_owned();
        let generation = self.u64()?;
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>()?)),
            _ => return Err(DropBecause::Malformed("address")),
        };
        Ok(GossipId { node, generation, address: SocketAddr::new(ip, self.u16()?) })
    }

    fn entry(&mut self) -> Result<(GossipId, Entry), DropBecause> {
        let id = self.id()?;
        let heartbeat = self.u64()?;
        let (_last_gc_version, _max_version) = (self.u64()?, self.u64()?);
        Ok((id, Entry { heartbeat }))
    }

    fn digest(&mut self) -> Result<Digest, DropBecause> {
        let count = self.u16()?;
        (0..count).map(|_| self.entry()).collect()
    }

    fn keep_digest(&mut self, ids: &BTreeSet<GossipId>, out: &mut Vec<u8>) -> Result<(), DropBecause> {
        let (mut kept, mut entries) = (0_u16, Vec::new());
        for _ in 0..self.u16()? {
            let before = self.0;
            let (id, _) = self.entry()?;
            if !ids.contains(&id) {
                kept += 1;
                entries.extend_from_slice(self.since(before));
            }
        }
        out.extend(kept.to_le_bytes());
        out.extend(entries);
        Ok(())
    }

    fn keep_delta(
        &mut self,
        unpack: &Unpack,
        limit: usize,
        ids: &BTreeSet<GossipId>,
        out: &mut Vec<u8>,
    ) -> Result<(), DropBecause> {
        let bytes = self.unpacked(unpack, limit)?;
        let (mut reader, mut delta, mut kept) = (Reader(&bytes), Delta::new(), Vec::new());
        while !reader.0.is_empty() {
            let before = reader.0;
            reader.op(&mut delta)?;
            if delta.last().is_some_and(|part| !ids.contains(&part.id)) {
                kept.extend_from_slice(reader.since(before));
            }
        }
        for block in kept.chunks(BLOCK_BYTES) {
            out.push(2);
            out.extend((block.len() as u16).to_le_bytes());
            out.extend_from_slice(block);
        }
        out.push(0);
        Ok(())
    }

    /// Gives what was read since `before` was what is left.
    fn since<'b>(&self, before: &'b [u8]) -> &'b [u8] {
        before.get(..before.len() - self.0.len()).unwrap_or_default()
    }

    /// Reads the blocks of a delta, to the mark that ends them.
    fn unpacked(&mut self, unpack: &Unpack, limit: usize) -> Result<Vec<u8>, DropBecause> {
        let mut bytes = Vec::new();
        loop {
            let packed = match self.u8()? {
                0 => break,
                1 => true,
                2 => false,
                _ => return Err(DropBecause::Malformed("block type")),
            };
            let length = self.u16()?;
            let block = self.take(length.into())?;
            if packed {
                let unpacked = unpack(block, MAX_BLOCK_BYTES).ok_or(DropBecause::Malformed("block"))?;
                bytes.extend(unpacked);
            } else {
                bytes.extend_from_slice(block);
            }
            if bytes.len() > limit {
                return Err(DropBecause::TooLarge);
            }
        }
        Ok(bytes)
    }

    fn delta(&mut self, unpack: &Unpack, limit: usize) -> Result<Delta, DropBecause> {
        let bytes = self.unpacked(unpack, limit)?;
        let mut reader = Reader(&bytes);
        let mut delta = Delta::new();
        while !reader.0.is_empty() {
            reader.op(&mut delta)?;
        }
        Ok(delta)
    }

    fn op(&mut self, delta: &mut Delta) -> Result<(), DropBecause> {
        let orphan = DropBecause::Malformed("a change without a host");
        match self.u8()? {
            0 => {
                let (id, last_gc_version, from_version) = (self.id()?, self.u64()?, self.u64()?);
                delta.push(Part { id, last_gc_version, from_version, ops: Vec::new() });
            }
            1 => {
                let key = self.text()?.to_owned();
                let value_bytes = self.text()?.len();
                let version = self.u64()?;
                if self.u8()? > 2 {
                    return Err(DropBecause::Malformed("deletion status"));
                }
                let part = delta.last_mut().ok_or(orphan)?;
                part.ops.push(Op::KeyValue { key, value_bytes, version });
            }
            2 => {
                let version = self.u64()?;
                delta.last_mut().ok_or(orphan)?.ops.push(Op::MaxVersion(version));
            }
            _ => return Err(DropBecause::Malformed("operation")),
        }
        Ok(())
    }
}
