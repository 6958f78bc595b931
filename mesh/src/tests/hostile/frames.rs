//! Gossip frames as no honest host writes them.

use proto::{
    firewall::{self, GossipId},
    id::{HostId, MeshId},
};

/// A change in a delta.
pub(super) enum Change<'a> {
    Key(&'a str, &'a str, u64),
    Gone(&'a str, u64),
    Version(u64),
}

/// What a digest says of one start: heartbeat, deleted up to, version.
pub(super) type Told = (GossipId, [u64; 3]);

/// What a delta says of one start: deleted up to, known from, changes.
pub(super) struct Part<'a> {
    pub(super) id: GossipId,
    pub(super) deleted: u64,
    pub(super) from: u64,
    pub(super) changes: Vec<Change<'a>>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_le_bytes());
    out.extend(text.as_bytes());
}

fn id(out: &mut Vec<u8>, id: &GossipId) {
    text(out, &id.node);
    out.extend(id.generation.to_le_bytes());
    let std::net::IpAddr::V6(ip) = id.address.ip() else { panic!("gossip addresses are IPv6") };
    out.push(6);
    out.extend(ip.octets());
    out.extend(id.address.port().to_le_bytes());
}

fn digest(out: &mut Vec<u8>, entries: &[Told]) {
    out.extend((entries.len() as u16).to_le_bytes());
    for (who, numbers) in entries {
        id(out, who);
        numbers.iter().for_each(|number| out.extend(number.to_le_bytes()));
    }
}

fn delta(out: &mut Vec<u8>, parts: &[Part<'_>]) {
    let mut ops = Vec::new();
    for part in parts {
        ops.push(0);
        id(&mut ops, &part.id);
        ops.extend(part.deleted.to_le_bytes());
        ops.extend(part.from.to_le_bytes());
        for change in &part.changes {
            let (key, value, version, status) = match change {
                Change::Key(key, value, version) => (key, *value, version, 0),
                Change::Gone(key, version) => (key, "", version, 1),
                Change::Version(version) => {
                    ops.push(2);
                    ops.extend(version.to_le_bytes());
                    continue;
                }
            };
            ops.push(1);
            text(&mut ops, key);
            text(&mut ops, value);
            ops.extend(version.to_le_bytes());
            ops.push(status);
        }
    }
    for block in ops.chunks(16_384) {
        out.push(2);
        out.extend((block.len() as u16).to_le_bytes());
        out.extend(block);
    }
    out.push(0);
}

fn head(kind: u8) -> Vec<u8> {
    vec![0x53, 0xb0, 0, kind]
}

pub(super) fn syn(mesh: MeshId, entries: &[Told]) -> Vec<u8> {
    let mut out = head(0);
    digest(&mut out, entries);
    text(&mut out, &firewall::cluster(mesh));
    out
}

pub(super) fn syn_ack(entries: &[Told], parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = head(1);
    digest(&mut out, entries);
    delta(&mut out, parts);
    out
}

pub(super) fn ack(parts: &[Part<'_>]) -> Vec<u8> {
    let mut out = head(2);
    delta(&mut out, parts);
    out
}

/// A delta whose blocks unpack to far more than they are.
pub(super) fn bomb() -> Vec<u8> {
    let block = zstd::bulk::compress(&[0; 65_000], 0).unwrap();
    let mut out = head(2);
    for _ in 0..60_000 / (block.len() + 3) {
        out.push(1);
        out.extend((block.len() as u16).to_le_bytes());
        out.extend(&block);
    }
    out.push(0);
    out
}

/// Names a start, true or not.
pub(super) fn start(mesh: MeshId, host: HostId, generation: u64) -> GossipId {
    GossipId::new(mesh, host, generation)
}

/// One part that begins with nothing known.
pub(super) fn part(id: GossipId, changes: Vec<Change<'_>>) -> Part<'_> {
    Part { id, deleted: 0, from: 0, changes }
}
