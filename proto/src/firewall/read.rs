//! Reads chitchat 0.11.2's wire format, as its own decoder does, without trusting a length in it, and writes what
//! is left of a frame. Little-endian integers, strings with a u16 length, deltas as a stream of packed blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{DropBecause, GossipId, Unpack};

/// A chitchat message.
pub(super) enum Frame {
    Syn { cluster: String, digest: Digest },
    SynAck { digest: Digest, delta: Delta },
    Ack { delta: Delta },
    BadCluster,
}

/// What a host knows of each id.
pub(super) type Digest = Vec<Entry>;

/// News, one part for each id.
pub(super) type Delta = Vec<Part>;

/// The versions shape what chitchat answers and are not kept by it.
pub(super) struct Entry {
    pub id: GossipId,
    pub heartbeat: u64,
    pub last_gc_version: u64,
    pub max_version: u64,
}

pub(super) struct Part {
    pub id: GossipId,
    pub last_gc_version: u64,
    pub from_version: u64,
    pub ops: Vec<Op>,
}

pub(super) enum Op {
    KeyValue { key: String, value: String, version: u64, status: u8 },
    MaxVersion(u64),
}

impl Op {
    /// Gives the version that it leads to.
    pub(super) fn version(&self) -> u64 {
        match self {
            Op::KeyValue { version, .. } | Op::MaxVersion(version) => *version,
        }
    }
}

const MAGIC: u16 = 45_139;
/// The largest block that chitchat unpacks.
const MAX_BLOCK_BYTES: usize = u16::MAX as usize;
/// The block that chitchat writes.
const BLOCK_BYTES: usize = 16_384;
/// Blocks of one delta: four times what those of a full frame have that compress well.
const MAX_BLOCKS: usize = 160;

/// Reads one whole frame.
pub(super) fn frame(bytes: &[u8], unpack: &Unpack, limit: usize) -> Result<Frame, DropBecause> {
    let mut reader = Reader(bytes);
    if reader.u16()? != MAGIC || reader.u8()? != 0 {
        return Err(DropBecause::Malformed("magic or version"));
    }
    let frame = match reader.u8()? {
        0 => {
            let digest = reader.digest()?;
            Frame::Syn { digest, cluster: reader.text()?.to_owned() }
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

/// Writes a frame. News are not packed.
pub(super) fn write(frame: &Frame) -> Vec<u8> {
    let mut out = MAGIC.to_le_bytes().to_vec();
    out.push(0);
    match frame {
        Frame::Syn { cluster, digest } => {
            out.push(0);
            write_digest(digest, &mut out);
            write_text(cluster, &mut out);
        }
        Frame::SynAck { digest, delta } => {
            out.push(1);
            write_digest(digest, &mut out);
            write_delta(delta, &mut out);
        }
        Frame::Ack { delta } => {
            out.push(2);
            write_delta(delta, &mut out);
        }
        Frame::BadCluster => out.push(3),
    }
    out
}

/// What was read fits its length again.
fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_id(id: &GossipId, out: &mut Vec<u8>) {
    write_text(&id.node, out);
    out.extend(id.generation.to_le_bytes());
    match id.address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
    out.extend(id.address.port().to_le_bytes());
}

fn write_digest(digest: &Digest, out: &mut Vec<u8>) {
    out.extend((digest.len() as u16).to_le_bytes());
    for entry in digest {
        write_id(&entry.id, out);
        for number in [entry.heartbeat, entry.last_gc_version, entry.max_version] {
            out.extend(number.to_le_bytes());
        }
    }
}

fn write_delta(delta: &Delta, out: &mut Vec<u8>) {
    let mut ops = Vec::new();
    for part in delta {
        ops.push(0);
        write_id(&part.id, &mut ops);
        ops.extend(part.last_gc_version.to_le_bytes());
        ops.extend(part.from_version.to_le_bytes());
        for op in &part.ops {
            match op {
                Op::KeyValue { key, value, version, status } => {
                    ops.push(1);
                    write_text(key, &mut ops);
                    write_text(value, &mut ops);
                    ops.extend(version.to_le_bytes());
                    ops.push(*status);
                }
                Op::MaxVersion(version) => {
                    ops.push(2);
                    ops.extend(version.to_le_bytes());
                }
            }
        }
    }
    for block in ops.chunks(BLOCK_BYTES) {
        out.push(2);
        out.extend((block.len() as u16).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.push(0);
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

    fn entry(&mut self) -> Result<Entry, DropBecause> {
        let id = self.id()?;
        let (heartbeat, last_gc_version, max_version) = (self.u64()?, self.u64()?, self.u64()?);
        Ok(Entry { id, heartbeat, last_gc_version, max_version })
    }

    fn digest(&mut self) -> Result<Digest, DropBecause> {
        let count = self.u16()?;
        (0..count).map(|_| self.entry()).collect()
    }

    /// Reads the blocks of a delta, to the mark that ends them.
    fn unpacked(&mut self, unpack: &Unpack, limit: usize) -> Result<Vec<u8>, DropBecause> {
        let mut bytes = Vec::new();
        for _ in 0..=MAX_BLOCKS {
            let packed = match self.u8()? {
                0 => return Ok(bytes),
                1 => true,
                2 => false,
                _ => return Err(DropBecause::Malformed("block type")),
            };
            let length = self.u16()?;
            let block = self.take(length.into())?;
            let room = limit.saturating_sub(bytes.len());
            if room == 0 {
                return Err(DropBecause::TooLarge);
            }
            if packed {
                let unpacked =
                    unpack(block, room.min(MAX_BLOCK_BYTES)).ok_or(DropBecause::Malformed("block"))?;
                bytes.extend(unpacked);
            } else {
                bytes.extend_from_slice(block);
            }
        }
        Err(DropBecause::TooLarge)
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
                let value = self.text()?.to_owned();
                let (version, status) = (self.u64()?, self.u8()?);
                let part = delta.last_mut().ok_or(orphan)?;
                part.ops.push(Op::KeyValue { key, value, version, status });
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
