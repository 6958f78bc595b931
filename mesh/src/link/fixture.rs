//! What the tests of one card share: a guest, and the edge that it stands at.

use std::time::Instant;

use proto::{session::Prefix, topology::Egress};

use super::{Edge, EdgeConfig, HostNet};

/// The guest's card.
pub const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
/// Its address.
pub const ME: [u8; 4] = [10, 64, 7, 2];

/// A guest that may go nowhere outside of its session, on a host with no network.
pub fn config() -> EdgeConfig {
    EdgeConfig {
        guest_mac: GUEST,
        guest_address: ME.into(),
        subnet: Prefix { base: [10, 64, 7, 0].into(), len: 24 },
        subnet_v6: "fd00:6d65:7368:7::".parse().unwrap(),
        hostname: "web-1".into(),
        domain: "shop.mesh.internal".into(),
        search: vec!["shop.mesh.internal".into(), "mesh.internal".into()],
        mtu: 1280,
        seed: 7,
        egress: Egress::None,
        host: Some(HostNet::default()),
    }
}

/// The edge of such a guest, and the moment at which it was made.
pub fn edge(config: EdgeConfig) -> (Edge, Instant) {
    let now = Instant::now();
    (Edge::new(config, now), now)
}
