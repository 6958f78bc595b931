//! A relay of strangers, as anybody may run one: plain, with address discovery, open to all. Agents fall back on it.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result};
use iroh_relay::server::{QuicConfig, RelayConfig, Server, ServerConfig};
use proto::id::Digest;
use rustls::pki_types::PrivateKeyDer;
use tokio::runtime::{Builder, Runtime};

/// A relay at work, in the network of the thread that started it. Dropping it ends it.
pub struct Relay {
    /// What stands behind its URL in `relay.fallback`: `#PORT-CERTIFICATE`.
    pub pinned: String,
    _server: Server,
    _runtime: Runtime,
}

/// Serves on a port by TCP, and address discovery on the next one by UDP.
pub fn start(port: u16) -> Result<Relay> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let made = rcgen::generate_simple_self_signed(vec!["relay.example".to_owned()])?;
    let (certificate, key) = (made.cert.der().to_vec(), made.signing_key.serialize_der());
    let digest = Digest::of(&certificate);
    let key = PrivateKeyDer::try_from(key).map_err(|error| anyhow::anyhow!("{error}"))?;
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key)?;
    let discovery = port.checked_add(1).context("the port after it is for address discovery")?;
    let at = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let mut quic = QuicConfig::new(at(discovery));
    quic.server_config = Some(tls);
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new(at(port)));
    config.quic = Some(quic);
    let spawned = runtime.block_on(Server::spawn(config));
    let server = spawned.map_err(|error| anyhow::anyhow!("cannot serve: {error:#}"))?;
    Ok(Relay { pinned: format!("#{discovery}-{digest}"), _server: server, _runtime: runtime })
}
