//! The embedded relay and its address discovery: served by a host that others can reach, for
//! members, and for a minute for strangers who prove a live token. What it carries is encrypted end
//! to end; it sees who talks to whom, nothing else.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use data_encoding::BASE64URL_NOPAD;
use iroh::EndpointId;
use iroh_relay::server::{
    self, Access, AccessControl, ClientRequest, ConnectionId, Server, clients::Clients,
};
use proto::{
    id::{Digest, HostId},
    seal::{Domain, PublicKey, Seed, Sig, verify},
    time::{Moment, Timestamp},
    trust::{GrantState, JoinRefusal, join::EARLY},
    wire::record::RelayOffer,
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    clock::Clock,
    disk, identity,
    members::roster::{Roll, Roster},
    reach::dialback::{DIALLED, Word},
    transport::{
        endpoint::{Pair, Ports},
        gate::Gate,
    },
};

/// How long a stranger may stay: a join takes a second or two.
const STRANGER_STAY_MS: u64 = 60_000;
/// Strangers by one token within that.
const STRANGERS_PER_TOKEN: usize = 10;
/// Admissions that are remembered; with more, new strangers wait.
const MAX_ADMISSIONS: usize = 1024;
/// How long an admission is remembered, so that its token text is good once only.
const REMEMBERED_MS: u64 = 3_600_000;
/// What a member reads that a host does not serve which was away.
const AWAY: &str = "this host was away, and has not heard from the mesh yet";

/// Whether to serve a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serve {
    /// When an interface has a public address.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// A relay that runs.
#[derive(Debug)]
pub(crate) struct Relay {
    server: Server,
    /// Its TCP port.
    pub(crate) port: u16,
    pub(crate) offer: RelayOffer,
    /// Ends with the relay.
    _expelling: AbortOnDropHandle<()>,
    /// The same.
    _cutting: AbortOnDropHandle<()>,
}

/// The relay that was served after the start, to be ended with the mesh; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(Arc<Mutex<Option<Relay>>>);

impl Standing {
    /// Keeps it.
    pub(crate) fn keep(&self, relay: Relay) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(relay);
    }

    /// Gives it away.
    pub(crate) fn take(&self) -> Option<Relay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A relay of this host that others are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    /// What they are told.
    pub(crate) offer: RelayOffer,
    /// Its port on loopback, where the router may not lead this host back to itself.
    pub(crate) inside: Option<u16>,
}

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error("cannot make the certificate of address discovery: {0}")]
    Certificate(String),
    #[error("cannot use the certificate file")]
    File(#[from] std::io::Error),
    #[error("cannot serve: {0}")]
    Spawn(String),
}

impl Relay {
    /// Serves on the pair's ports, to be offered under `address`.
    pub(crate) async fn serve(
        data: &Path,
        (ports, pair): (Ports, Pair),
        address: IpAddr,
        (gate, roster, word): (&Gate, &Arc<Roster>, &Word),
    ) -> Result<Relay, RelayError> {
        let (strangers, staying) = mpsc::channel(MAX_ADMISSIONS);
        let doorkeeper = Arc::new(Doorkeeper {
            gate: gate.clone(),
            roster: roster.clone(),
            word: word.clone(),
            strangers,
            admitted: Mutex::default(),
        });
        let wildcards: &[IpAddr] = match ports {
            // [::] takes both families; a kernel without IPv6 has only the other.
            Ports::Fixed(_) => &[IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            Ports::Loopback => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
        };
        let mut failure = String::new();
        for wildcard in wildcards {
            let (tls, certificate) = tls(data)?;
            let mut relay = server::RelayConfig::new(SocketAddr::from((*wildcard, pair.0)));
            relay.access = doorkeeper.clone();
            let mut quic = server::QuicConfig::new(SocketAddr::from((*wildcard, pair.second())));
            quic.server_config = Some(tls);
            let mut config = server::ServerConfig::default();
            config.relay = Some(relay);
            config.quic = Some(quic);
            match Server::spawn(config).await {
                Ok(server) => return Relay::running(server, (address, certificate), (gate, roster), staying),
                Err(error) => failure = format!("{error:#}"),
            }
        }
        Err(RelayError::Spawn(failure))
    }

    fn running(
        server: Server,
        (address, certificate): (IpAddr, Digest),
        (gate, roster): (&Gate, &Arc<Roster>),
        staying: mpsc::Receiver<Stranger>,
    ) -> Result<Relay, RelayError> {
        let missing = || RelayError::Spawn("the server has no address".to_owned());
        let http = server.http_addr().ok_or_else(missing)?.port();
        let qad_port = server.quic_addr().ok_or_else(missing)?.port();
        let service = server.relay_service().ok_or_else(missing)?;
        let (clients, roll) = (service.clients().clone(), roster.watch());
        let expelling = tokio::spawn(expel(staying, clients.clone(), gate.clone()));
        let cutting = tokio::spawn(cut_off(roll, clients));
        let url = format!("http://{}", SocketAddr::new(address, http));
        let offer = RelayOffer { url, qad_port, certificate };
        Ok(Relay {
            server,
            port: http,
            offer,
            _expelling: AbortOnDropHandle::new(expelling),
            _cutting: AbortOnDropHandle::new(cutting),
        })
    }

    /// Ends the relay and cuts its clients; dropping it would not.
    pub(crate) async fn shutdown(self) {
        if let Err(error) = self.server.shutdown().await {
            tracing::debug!(error = format!("{error:#}"), "the relay ended badly");
        }
    }
}

/// Gives the TLS of address discovery and its certificate's hash. The certificate is made once: others know it by its
/// hash, which this host signs. A pair that cannot be used is worth nothing to anybody, and a new one takes its place.
fn tls(data: &Path) -> Result<(rustls::ServerConfig, Digest), RelayError> {
    let (certificate_file, key_file) = (data.join("mesh/relay.crt"), data.join("mesh/relay.key"));
    if let (Some(certificate), Some(key)) = (disk::read(&certificate_file)?, disk::read(&key_file)?) {
        match with_pair(certificate, key) {
            Ok(made) => return Ok(made),
            Err(error) => tracing::warn!(
                file = %key_file.display(), %error,
                "the certificate of address discovery and its key are damaged; new ones are made"
            ),
        }
    }
    let made = rcgen::generate_simple_self_signed(vec!["relay.mesh.internal".to_owned()])
        .map_err(|error| RelayError::Certificate(error.to_string()))?;
    let (certificate, key) = (made.cert.der().to_vec(), made.signing_key.serialize_der());
    disk::replace(&key_file, &key)?;
    disk::replace(&certificate_file, &certificate)?;
    with_pair(certificate, key)
}

fn with_pair(certificate: Vec<u8>, key: Vec<u8>) -> Result<(rustls::ServerConfig, Digest), RelayError> {
    let digest = Digest::of(&certificate);
    let wrong = |error: &dyn fmt::Display| RelayError::Certificate(error.to_string());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key).map_err(|error| wrong(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.into()], key)
        .map_err(|error| wrong(&error))?;
    // With a ticket a client would come back without asking its verifier.
    config.send_tls13_tickets = 0;
    Ok((config, digest))
}

/// Decides who may use the relay.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    gate: Gate,
    roster: Arc<Roster>,
    word: Word,
    strangers: mpsc::Sender<Stranger>,
    admitted: Mutex<HashMap<(HostId, PublicKey), Moment>>,
}

/// A stranger that was let in, and until when it may stay.
#[derive(Debug)]
struct Stranger {
    id: EndpointId,
    connection: ConnectionId,
    until: Moment,
}

/// Cuts strangers off that stayed too long and are no members now. All stay equally long, so the first to come is the
/// first to go.
async fn expel(mut staying: mpsc::Receiver<Stranger>, clients: Clients, gate: Gate) {
    while let Some(stranger) = staying.recv().await {
        Clock.sleep_until(stranger.until).await;
        if !gate.is_member(&identity::host_of_endpoint(&stranger.id)) {
            clients.disconnect(stranger.id, Some(stranger.connection));
        }
    }
}

/// Cuts hosts off that are out of the mesh.
async fn cut_off(mut roll: watch::Receiver<Arc<Roll>>, clients: Clients) {
    while roll.changed().await.is_ok() {
        let now = roll.borrow_and_update().clone();
        for id in now.out.keys().filter_map(identity::endpoint_id) {
            clients.disconnect(id, None);
        }
    }
}

impl Doorkeeper {
    /// Lets a stranger in once for each of its admissions.
    fn admit(&self, host: HostId, text: Option<&str>) -> Result<(), String> {
        let text = text.ok_or("not a member, and no token shown")?;
        let token = check_admission(text, host).ok_or("the token's proof does not hold")?;
        let roll = self.roster.roll();
        let refusal = match roll.set.grant_state(&token, self.roster.now()) {
            GrantState::Live { .. } => None,
            // Whoever restores the mesh by its root key.
            GrantState::Unknown if roll.set.is_root(&token) => None,
            GrantState::NotYet => Some(JoinRefusal::Failed(EARLY.to_owned())),
            GrantState::Expired => Some(JoinRefusal::Expired),
            GrantState::Revoked => Some(JoinRefusal::Revoked),
            GrantState::UsedUp => Some(JoinRefusal::UsedUp),
            GrantState::Unknown => Some(JoinRefusal::UnknownToken),
        };
        if let Some(refusal) = refusal {
            return Err(refusal.to_string());
        }
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Clock.moment();
        admitted.retain(|_, since| now.since_ms(*since) < REMEMBERED_MS);
        match admitted.get(&(host, token)) {
            Some(since) if now.since_ms(*since) < STRANGER_STAY_MS => return Ok(()),
            Some(_) => return Err("the minute for joining is over".to_owned()),
            None => {}
        }
        let recent = |((_, key), since): &(&(HostId, PublicKey), &Moment)| {
            *key == token && now.since_ms(**since) < STRANGER_STAY_MS
        };
        if admitted.iter().filter(recent).count() >= STRANGERS_PER_TOKEN || admitted.len() >= MAX_ADMISSIONS {
            return Err(JoinRefusal::Busy.to_string());
        }
        admitted.insert((host, token), now);
        Ok(())
    }
}

impl AccessControl for Doorkeeper {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let id = request.endpoint_id();
        let host = identity::host_of_endpoint(&id);
        // Issuers bring the word for which others wait.
        if self.roster.roll().set.is_issuer(host) {
            return Access::Allow;
        }
        if self.gate.is_member(&host) {
            return match self.gate.lets_in(&host).await {
                true => Access::Allow,
                false => Access::Deny { reason: Some(AWAY.to_owned()) },
            };
        }
        // Who dials back wants no more than to be heard.
        if request.auth_token().is_some_and(|text| self.word.is_said(&text)) {
            return Access::Deny { reason: Some(DIALLED.to_owned()) };
        }
        if let Err(because) = self.admit(host, request.auth_token().as_deref()) {
            tracing::debug!(?host, %because, "relay refused");
            return Access::Deny { reason: Some(because) };
        }
        let until = Clock.moment().plus_ms(STRANGER_STAY_MS);
        let stranger = Stranger { id, connection: request.connection_id(), until };
        match self.strangers.try_send(stranger) {
            Ok(()) => Access::Allow,
            Err(_) => Access::Deny { reason: Some(JoinRefusal::Busy.to_string()) },
        }
    }
}

/// Gives the text by which a stranger shows a relay that it holds a token: good for one host key.
pub(crate) fn admission(token: &Seed, host: HostId, now: Timestamp) -> String {
    let time = now.0.to_be_bytes();
    let sig = token.sign(Domain::RelayAdmission, &[&host.0, &time]);
    let bytes = [&token.public()[..], &time, &sig.0].concat();
    BASE64URL_NOPAD.encode(&bytes)
}

/// Gives the token's public key if the text is a proof of it by this host. The time in it only
/// makes texts differ; the relay's own clock bounds the stay.
fn check_admission(text: &str, host: HostId) -> Option<PublicKey> {
    let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
    let (token, rest) = bytes.split_first_chunk::<32>()?;
    let (time, sig) = rest.split_first_chunk::<8>()?;
    let sig = Sig(sig.try_into().ok()?);
    verify(token, Domain::RelayAdmission, &[&host.0, time], &sig).then_some(*token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admission_is_good_for_one_host_only() {
        let (token, host) = (Seed([1; 32]), HostId([2; 32]));
        let text = admission(&token, host, Timestamp(5));
        assert_eq!(check_admission(&text, host), Some(token.public()));
        assert_eq!(check_admission(&text, HostId([3; 32])), None);
        assert_eq!(check_admission(&text[1..], host), None);
        assert_eq!(check_admission("", host), None);
    }

    #[test]
    fn the_certificate_of_address_discovery_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mesh")).unwrap();
        let first = tls(dir.path()).unwrap().1;
        assert_eq!(tls(dir.path()).unwrap().1, first);
    }

    #[test]
    fn a_damaged_pair_of_address_discovery_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mesh")).unwrap();
        for (file, bytes) in [("relay.key", &b""[..]), ("relay.crt", b""), ("relay.key", b"nonsense")] {
            let before = tls(dir.path()).unwrap().1;
            std::fs::write(dir.path().join("mesh").join(file), bytes).unwrap();
            let after = tls(dir.path()).unwrap().1;
            assert_ne!(after, before, "{file}");
            assert_eq!(tls(dir.path()).unwrap().1, after, "{file}");
        }
    }
}
