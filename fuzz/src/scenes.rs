//! Targets with one reader each.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use etherparse::PacketBuilder;
use mesh::link::{Edge, EdgeConfig, Effect, Event, GATEWAY_MAC, HostNet, PortCodec, split};
use proto::{
    session::{Prefix, overlay},
    topology::Egress,
};

/// The MAC of the guest.
pub const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

const SUBNET_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x6d65, 0x7368, 7, 0, 0, 0, 0);

/// Makes the edge of a guest that may go to the internet.
pub fn edge(now: Instant) -> Edge {
    let config = EdgeConfig {
        guest_mac: GUEST,
        guest_address: [10, 64, 7, 2].into(),
        subnet: Prefix { base: [10, 64, 7, 0].into(), len: 24 },
        subnet_v6: SUBNET_V6,
        hostname: "web-1".into(),
        domain: "shop.mesh.internal".into(),
        search: vec!["shop.mesh.internal".into()],
        mtu: 1280,
        seed: 7,
        egress: Egress::Internet,
        host: Some(host()),
    };
    Edge::new(config, now)
}

/// What the guest must not reach besides what nobody does.
pub fn host() -> HostNet {
    HostNet {
        own: vec![([203, 0, 113, 9].into(), 32)],
        nearer: vec![([9, 9, 0, 0].into(), 16)],
        v6: true,
        ..HostNet::default()
    }
}

/// Cuts bytes into pieces: a length (two bytes, big-endian) before each, the last as long as it is.
pub fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        bytes = rest;
        Some(piece)
    })
}

/// Says whether an effect gives the guest a whole frame from the gateway, if it gives it one.
pub fn is_sound(effect: &Effect) -> bool {
    match effect {
        Effect::ToGuest(frame) => frame.len() <= 1280 + 14 && frame.get(6..12) == Some(&GATEWAY_MAC[..]),
        Effect::Packet(packet) if packet.first().is_some_and(|first| first >> 4 == 6) => {
            packet.get(8..24) == Some(&overlay::address_v6(SUBNET_V6, GUEST).octets()[..])
        }
        Effect::Packet(packet) => packet.get(12..16) == Some(&[10, 64, 7, 2][..]),
        _ => true,
    }
}

/// Frames of a guest. Most begin with its own MAC, or hardly one would come further.
pub fn frames(bytes: &[u8]) {
    let now = Instant::now();
    let mut edge = edge(now);
    for piece in pieces(bytes) {
        let mut frame = BytesMut::from(piece);
        if let Some(source) = frame.get_mut(6..12)
            && source[0] != 0xff
        {
            source.copy_from_slice(&GUEST);
        }
        assert!(edge.on(Event::Frames(vec![frame]), now).iter().all(is_sound));
    }
}

/// DHCP messages of a guest.
pub fn dhcp(bytes: &[u8]) {
    let now = Instant::now();
    let mut edge = edge(now);
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(GUEST, [0xff; 6]).ipv4([0; 4], [0xff; 4], 64).udp(68, 67);
    if packet.write(&mut frame, bytes).is_ok() {
        assert!(edge.on(Event::Frames(vec![BytesMut::from(&frame[..])]), now).iter().all(is_sound));
    }
}

/// Datagrams of another host, some of which are halves of packets.
pub fn datagrams(bytes: &[u8]) {
    let mut now = Instant::now();
    let (mut joiner, mut taken) = (split::Joiner::default(), 0);
    for piece in pieces(bytes) {
        now += Duration::from_millis(100);
        taken += piece.len();
        if let Some(datagram) = split::read(Bytes::copy_from_slice(piece))
            && let Some((_, packet)) = joiner.join(datagram, now)
        {
            assert!(packet.len() <= taken, "more came out than went in");
        }
    }
}

/// How others ask for connections into a machine: the header of a stream between hosts, SOCKS, and what shims and
/// agents tell each other.
pub fn handshakes(bytes: &[u8]) {
    use tokio_util::codec::Decoder;
    let Some((&which, bytes)) = bytes.split_first() else { return };
    match which % 3 {
        0 => mesh::fuzz::forward(bytes),
        1 => agent::fuzz::socks(bytes),
        _ => {
            let mut stream = BytesMut::from(bytes);
            while let Ok(Some(_)) = PortCodec.decode(&mut stream) {}
        }
    }
}

/// Frames of gossip of two members.
pub fn gossip(bytes: &[u8]) {
    mesh::fuzz::gossip(pieces(bytes));
}
