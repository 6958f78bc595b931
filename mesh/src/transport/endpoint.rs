//! The one iroh endpoint of this host, on ports that are chosen once and kept: routers and
//! firewalls remember them, and so do tokens that were handed out.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, RelayMap, RelayMode,
    address_lookup::memory::MemoryLookup,
    endpoint::{
        BindOpts, Builder, ConnectOptions, Connection, PortmapperConfig, QuicTransportConfig, presets,
    },
};

use crate::{
    disk,
    identity::Identity,
    reach::pins::Pins,
    transport::{gate::Gate, protocols::LIBP2P},
};

/// The pair that is tried first: UDP for paths and TCP for the relay on the first, UDP for address
/// discovery on the second.
pub const FIRST_PORT: u16 = 7440;
/// Pairs that are tried. More agents than this on one computer is a test, which asks for any port.
const PAIRS: u16 = 40;
/// Who dialled a connection of packets and streams lets each way be heard so often.
const PATH_BEAT: Duration = Duration::from_secs(1);
/// The same on the connection that every two hosts keep, where the gate's pulses keep the way in use alive.
const REST_BEAT: Duration = Duration::from_secs(4);
/// Who was dialled hears the other beat, and takes over where it does not; short connections, of images and joins, have
/// no other. iroh allows five seconds at most.
const ANSWERING_BEAT: Duration = Duration::from_millis(4_500);
/// A silent path is dropped after this time, so a killed host is noticed in seconds.
const PATH_SILENCE: Duration = Duration::from_secs(5);
/// Longer than a path's: an interrupted host may come back by another path.
const CONNECTION_SILENCE: Duration = Duration::from_secs(8);
/// Where a relay leads to the host too, a direct path is given up after two missed beats: what is under way then goes
/// on through the relay, and loses nothing. Without one it would end the connection.
const PATH_SILENCE_BESIDE_RELAY: Duration = Duration::from_millis(2_600);

/// Which ports to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// This port and the next one, or the next free pair; remembered.
    Fixed(u16),
    /// Whatever is free, on loopback only, remembered too: for tests.
    Loopback,
}

/// A port and the one after it; 0 = any two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair(pub(crate) u16);

impl Pair {
    /// Whatever is free.
    pub(crate) const ANY: Pair = Pair(0);

    /// Gives the port of address discovery.
    pub(crate) fn second(self) -> u16 {
        if self == Pair::ANY { 0 } else { self.0.saturating_add(1) }
    }
}

/// Why the endpoint does not come up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// None of the pairs is free.
    #[error("cannot bind: no free pair of ports between {0} and {last}", last = .0.saturating_add(2 * PAIRS))]
    NoPorts(u16),
    /// Something else.
    #[error("cannot bind: {0}")]
    Iroh(String),
}

/// Lists the pairs in the order in which they are tried: the one that was used before comes first.
pub(crate) fn pairs(data: &Path, ports: Ports) -> Vec<Pair> {
    let stored = disk::read(&data.join("mesh/ports")).ok().flatten();
    let stored = stored.and_then(|bytes| String::from_utf8(bytes).ok());
    let remembered = stored.and_then(|text| text.trim().parse().ok()).filter(|port| *port > 0).map(Pair);
    let others: Vec<Pair> = match ports {
        Ports::Fixed(first) => (0..PAIRS).map_while(|pair| first.checked_add(2 * pair)).map(Pair).collect(),
        Ports::Loopback => vec![Pair::ANY],
    };
    // A port that the settings do not lead to any more is forgotten.
    let remembered = remembered.filter(|pair| ports == Ports::Loopback || others.contains(pair));
    let rest = others.into_iter().filter(|pair| Some(*pair) != remembered);
    remembered.into_iter().chain(rest).collect()
}

/// Notes the endpoint's port for the next start.
pub(crate) fn remember(data: &Path, endpoint: &Endpoint) -> io::Result<()> {
    match endpoint.bound_sockets().first() {
        Some(bound) => disk::replace(&data.join("mesh/ports"), format!("{}\n", bound.port()).as_bytes()),
        None => Ok(()),
    }
}

/// Binds a member's endpoint, gated.
pub(crate) async fn bind(
    identity: &Identity,
    at: (Ports, Pair),
    gate: Gate,
    pins: &Pins,
    lookup: &MemoryLookup,
) -> Result<Endpoint, BindError> {
    let builder = base(identity.secret_key(), pins, lookup).hooks(gate);
    finish(builder, at).await
}

/// Binds the endpoint of a stranger, on any port, for one join.
pub(crate) async fn bind_stranger(
    key: iroh::SecretKey,
    ports: Ports,
    pins: &Pins,
    lookup: &MemoryLookup,
) -> Result<Endpoint, BindError> {
    finish(base(key, pins, lookup), (ports, Pair::ANY)).await
}

fn base(key: iroh::SecretKey, pins: &Pins, lookup: &MemoryLookup) -> Builder {
    Endpoint::builder(presets::Minimal)
        .secret_key(key)
        // Relays are learned and inserted while it runs.
        .relay_mode(RelayMode::Custom(RelayMap::empty()))
        .address_lookup(lookup.clone())
        .ca_tls_config(pins.tls())
        .portmapper_config(PortmapperConfig::Disabled)
        .transport_config(transport(PATH_SILENCE, ANSWERING_BEAT))
}

/// Connects to a member.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    to: impl Into<EndpointAddr>,
    alpn: &[u8],
) -> io::Result<Connection> {
    let to = to.into();
    let known = endpoint.remote_info(to.id).await;
    let relays = known.is_some_and(|known| known.addrs().any(|address| address.addr().is_relay()));
    let silence = match relays || to.relay_urls().next().is_some() {
        true => PATH_SILENCE_BESIDE_RELAY,
        false => PATH_SILENCE,
    };
    let beat = if alpn == LIBP2P { REST_BEAT } else { PATH_BEAT };
    let options = ConnectOptions::new().with_transport_config(transport(silence, beat));
    let connecting = endpoint.connect_with_opts(to, alpn, options).await.map_err(io::Error::other)?;
    connecting.await.map_err(io::Error::other)
}

fn transport(path_silence: Duration, beat: Duration) -> QuicTransportConfig {
    let silence = CONNECTION_SILENCE.try_into().expect("eight seconds fit a QUIC time-out");
    QuicTransportConfig::builder()
        .default_path_keep_alive_interval(beat)
        .default_path_max_idle_timeout(path_silence)
        .keep_alive_interval(beat)
        .max_idle_timeout(Some(silence))
        .build()
}

/// Binds on all addresses, or on loopback.
async fn finish(builder: Builder, (ports, pair): (Ports, Pair)) -> Result<Endpoint, BindError> {
    let wrong = |error: &dyn std::fmt::Display| BindError::Iroh(error.to_string());
    let v4 = match ports {
        Ports::Fixed(_) => Ipv4Addr::UNSPECIFIED,
        Ports::Loopback => Ipv4Addr::LOCALHOST,
    };
    let builder = builder
        .clear_ip_transports()
        .bind_addr(SocketAddr::from((v4, pair.0)))
        .map_err(|error| wrong(&error))?;
    let builder = match ports {
        // Hosts without IPv6 exist; hosts without IPv4 do too, but not without its socket.
        Ports::Fixed(_) => builder
            .bind_addr_with_opts(
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, pair.0)),
                BindOpts::default().set_is_required(false),
            )
            .map_err(|error| wrong(&error))?,
        Ports::Loopback => builder,
    };
    builder.bind().await.map_err(|error| BindError::Iroh(format!("{error:#}")))
}
