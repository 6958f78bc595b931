//! The joining side: finds a member by the token, checks that it belongs to the token's mesh, proves
//! the token without showing it, and stores the new identity. Needs no daemon.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use iroh::{
    Endpoint, EndpointAddr, RelayConfig, RelayUrl, TransportAddr, Watcher,
    address_lookup::memory::MemoryLookup,
    endpoint::{Connection, ConnectionError},
};
use iroh_relay::RelayQuicConfig;
use proto::{
    facts::Fact,
    id::{HostId, Name},
    seal::Seed,
    trust::{
        Bootstrap, JoinAnswer, JoinHello, JoinOffer, JoinProof, JoinRefusal, MemberSet, Sealed, Token,
        TokenError, Transcript, join::JOIN_VERSION,
    },
    wire::record::{Reach, RelayOffer},
};
use tokio::sync::broadcast;

use super::{BUSY, BUSY_WORDS, Ready, Welcome, channel, receive, receive_welcome, send};
use crate::{
    clock::Clock,
    identity::{self, Identity, IdentityError},
    members::{cache::Cache, roster::unpack},
    reach::{pins::Pins, relay},
    transport::{
        endpoint::{self, BindError, Ports},
        protocols::JOIN,
    },
};

/// A member that can be reached answers within a second or two, through a relay too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);
/// All four messages, the time in line and a forward to an issuer included.
const TALK_TIMEOUT: Duration = Duration::from_secs(25);
/// How long a busy door is tried.
const BUSY_FOR: Duration = Duration::from_secs(120);
/// How long one try waits at most, whatever the door says.
const BUSY_AT_MOST_MS: u64 = 20_000;
/// The same where it does not say.
const BUSY_USUALLY_MS: u64 = 1_000;
/// A relay's refusal is final once a direct way had so much time to open.
const DIRECT_HEAD_START: Duration = Duration::from_millis(1500);
/// What a handshake with another host than the one that was dialled ends with.
const WRONG_KEY: &str = "invalid peer certificate";
/// How often the relay is asked whether it refused.
const RELAY_LOOK: Duration = Duration::from_millis(100);
/// How long a user waits for the endpoint's goodbyes; it goes on saying them in the background.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A join to be tried. Not `Debug`: the token is a secret.
pub struct Joining {
    /// The data directory that gets the identity.
    pub data: PathBuf,
    /// The text of the token.
    pub token: String,
    /// The label that this host wishes.
    pub name: Name,
    /// Where to bind.
    pub ports: Ports,
}

/// How a join ended that was not refused.
#[derive(Clone)]
pub enum Joined {
    /// This host is a member now.
    Member {
        /// Its identity, stored.
        identity: Box<Identity>,
        /// The mesh's label.
        mesh_name: Option<Name>,
    },
    /// No issuer could be reached. Token and name are kept; the same join tried later goes on.
    Pending {
        /// The issuers' labels.
        issuers: Vec<Name>,
    },
}

/// Why this host is no member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The text is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The identity cannot be made or stored.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The mesh, or this host itself, says no.
    #[error("the join was refused")]
    Refused(#[from] JoinRefusal),
    /// A relay lets no one in by this token.
    #[error("the join was refused: {0}")]
    RefusedByRelay(String),
    /// Too many hosts join at once.
    #[error("too many hosts join at once; the door opens again in {0} ms")]
    Busy(u64),
    /// None of the token's members answers.
    #[error("none of the members that the token names can be reached: {0}")]
    Unreachable(String),
}

/// Joins the token's mesh and stores the identity.
pub async fn join(joining: Joining) -> Result<Joined, JoinError> {
    let token: Token = joining.token.parse()?;
    if identity::exists(&joining.data) {
        return Err(IdentityError::Exists.into());
    }
    let seed = identity::host_seed(&joining.data)?;
    let caller = Caller { token, seed, name: joining.name, certificate: None, ports: joining.ports };
    match caller.call().await? {
        Told::Pending(issuers) => {
            identity::set_pending(&joining.data, &caller.token.to_string(), &caller.name)?;
            Ok(Joined::Pending { issuers })
        }
        Told::Admitted(let_in) => {
            let (identity, mesh_name) = caller.store(&joining.data, Vec::new(), *let_in)?;
            Ok(Joined::Member { identity: Box::new(identity), mesh_name })
        }
    }
}

/// Who wants to become a member, and what it can show for it.
pub(super) struct Caller {
    /// Of the mesh, or made of its root key.
    pub(super) token: Token,
    pub(super) seed: Seed,
    pub(super) name: Name,
    /// What the root key signed for this host, where it is the token.
    pub(super) certificate: Option<Sealed>,
    pub(super) ports: Ports,
}

impl Caller {
    /// Tries until somebody says yes or no, or nobody answers.
    pub(super) async fn call(&self) -> Result<Told, JoinError> {
        let started = Clock.moment();
        loop {
            let told = match self.attempt(&self.token).await {
                Err(JoinError::Unreachable(because)) if because.contains(WRONG_KEY) => {
                    self.apart().await.ok_or(JoinError::Unreachable(because))
                }
                told => told,
            };
            match told {
                Err(JoinError::Busy(ms)) if Clock.moment().since(started) < BUSY_FOR => {
                    // Hosts that came together do not come again together.
                    let ms = ms.min(BUSY_AT_MOST_MS);
                    let pause = Duration::from_millis(rand::random_range(ms / 2..=ms + ms / 2));
                    tokio::time::sleep(pause).await;
                }
                told => return told,
            }
        }
    }

    /// Tries all that a token names, with an endpoint for this one time.
    async fn attempt(&self, token: &Token) -> Result<Told, JoinError> {
        let (facts, _) = broadcast::channel::<Fact>(1);
        let pins = Pins::new(facts);
        let lookup = MemoryLookup::with_provenance("token");
        let key = iroh::SecretKey::from_bytes(&self.seed.0);
        let endpoint = endpoint::bind_stranger(key, self.ports, &pins, &lookup).await?;
        let told = Stranger { token, caller: self, endpoint: &endpoint }.try_all(&pins, &lookup).await;
        let closing = tokio::spawn(async move { endpoint.close().await });
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::debug!("the endpoint of the join is still closing");
        }
        told
    }

    /// Tries every way of the token by itself. Another host at one of the addresses, as in a home with the same numbers,
    /// answers first with its own key, and that ends a dial whatever other ways it has. Gives `None` when none leads in.
    async fn apart(&self) -> Option<Told> {
        let alone = |entry: &Bootstrap, addresses: Vec<SocketAddr>, relay: Option<RelayOffer>| Token {
            bootstrap: vec![Bootstrap { host: entry.host, addresses, relay }],
            ..self.token.clone()
        };
        let ways = self.token.bootstrap.iter().flat_map(|entry| {
            let direct = entry.addresses.iter().map(move |address| alone(entry, vec![*address], None));
            direct.chain(entry.relay.iter().map(move |relay| alone(entry, Vec::new(), Some(relay.clone()))))
        });
        let trying = ways.map(|token| async move { self.attempt(&token).await });
        let mut trying: FuturesUnordered<_> = trying.collect();
        let mut pending = None;
        while let Some(told) = trying.next().await {
            match told {
                Ok(admitted @ Told::Admitted(_)) => return Some(admitted),
                Ok(told) => pending = Some(told),
                Err(error) => tracing::debug!(%error, "one way of the token"),
            }
        }
        pending
    }

    /// Stores the new identity, with what this host knew before, and where to find the others. Gives the mesh's label
    /// too.
    pub(super) fn store(
        &self,
        data: &Path,
        known: Vec<Sealed>,
        let_in: LetIn,
    ) -> Result<(Identity, Option<Name>), JoinError> {
        let now = Clock.timestamp();
        let statements = [known, let_in.chain, unpack(&let_in.welcome.statements)].concat();
        let mut set = MemberSet::new(self.token.mesh);
        set.apply_all(statements.clone(), now);
        let me = HostId(self.seed.public());
        if !set.contains(me) {
            return Err(JoinRefusal::Failed("the mesh sent no certificate for this host".to_owned()).into());
        }
        let mut reaches: BTreeMap<HostId, Reach> = self.token.bootstrap.iter().map(reach).collect();
        reaches.extend(let_in.welcome.reaches);
        reaches.remove(&me);
        let identity = identity::adopt(data, self.token.mesh, self.seed.clone(), statements, now)?;
        if let Err(error) = Cache::load(data).update(reaches, |host| set.contains(*host)) {
            tracing::warn!(%error, "cannot remember the members' addresses");
        }
        Ok((identity, set.name().cloned()))
    }
}

pub(super) enum Told {
    Admitted(Box<LetIn>),
    Pending(Vec<Name>),
}

/// What a new member was told.
pub(super) struct LetIn {
    chain: Vec<Sealed>,
    welcome: Welcome,
}

struct Stranger<'a> {
    token: &'a Token,
    caller: &'a Caller,
    endpoint: &'a Endpoint,
}

impl Stranger<'_> {
    /// Knocks at all members at once and talks to the first that opens; to the next if that fails.
    async fn try_all(&self, pins: &Pins, lookup: &MemoryLookup) -> Result<Told, JoinError> {
        let certificates = self.token.bootstrap.iter().filter_map(|entry| entry.relay.as_ref());
        pins.set(certificates.map(|relay| relay.certificate));
        let mut knocking = FuturesUnordered::new();
        for (index, entry) in self.token.bootstrap.iter().enumerate() {
            if let Some(id) = identity::endpoint_id(&entry.host) {
                lookup.set_endpoint_info(self.ways(id, entry, index).await);
                knocking.push(self.knock(id, entry.host));
            }
        }
        let mut failures: Vec<String> = Vec::new();
        let (mut pending, mut busy, mut other) = (None, None, None);
        let mut watch = tokio::time::interval(RELAY_LOOK);
        let started = Clock.moment();
        loop {
            // Cancel-safe: a set of futures that is polled in place, and an interval.
            let knocked = tokio::select! {
                knocked = knocking.next() => knocked,
                _ = watch.tick() => match self.denied().filter(|_| Clock.moment().since(started) > DIRECT_HEAD_START) {
                    Some(because) => return Err(JoinError::RefusedByRelay(because)),
                    None => continue,
                },
            };
            let (host, connection) = match knocked {
                None => break,
                Some(Ok(open)) => open,
                Some(Err(failure)) => {
                    failures.push(failure);
                    continue;
                }
            };
            let talk = tokio::time::timeout(TALK_TIMEOUT, self.talk(&connection, host)).await;
            busy = busy.or(turned_away(&connection));
            connection.close(0u32.into(), b"done");
            match talk {
                Ok(Ok(told @ Told::Admitted(_))) => return Ok(told),
                Ok(Ok(Told::Pending(issuers))) => pending = Some(issuers),
                // A token is known to its maker first, the others hear of it a moment later; and who was a member when
                // it was made may be in another mesh now.
                Ok(Err(Failure::Refused(because))) if self.goes_on(&because) => {
                    other = other.filter(|other| *other != JoinRefusal::NotMember).or(Some(because));
                }
                Ok(Err(Failure::Refused(because))) => return Err(because.into()),
                Ok(Err(Failure::Broken(error))) => failures.push(format!("{}: {error}", host.short())),
                Err(_) => failures.push(format!("{}: no answer within {TALK_TIMEOUT:?}", host.short())),
            }
        }
        match (busy, pending, other, self.denied()) {
            (Some(ms), ..) => Err(JoinError::Busy(ms)),
            (_, Some(issuers), ..) => Ok(Told::Pending(issuers)),
            (_, _, Some(because), _) => Err(because.into()),
            (.., Some(because)) => Err(JoinError::RefusedByRelay(because)),
            _ if failures.is_empty() => Err(JoinError::Unreachable("the token names none".to_owned())),
            _ => Err(JoinError::Unreachable(failures.join("; "))),
        }
    }

    /// Tells whether another member may say something else. Of those who have the root key no single one decides.
    fn goes_on(&self, because: &JoinRefusal) -> bool {
        self.caller.certificate.is_some()
            || matches!(because, JoinRefusal::UnknownToken | JoinRefusal::NotMember)
    }

    /// Lists the ways to a member. A relay gets an alias of its URL: iroh reads an admission once
    /// for each URL, and this one must not stick to the relay's real name.
    async fn ways(&self, id: iroh::EndpointId, entry: &Bootstrap, index: usize) -> EndpointAddr {
        let mut ways: Vec<TransportAddr> = entry.addresses.iter().copied().map(TransportAddr::Ip).collect();
        if let Some(offer) = &entry.relay {
            let alias = format!("{}/?join={index}", offer.url.trim_end_matches('/'));
            match alias.parse::<RelayUrl>() {
                Ok(url) => {
                    let host = HostId(self.caller.seed.public());
                    let admission = relay::admission(&self.token.seed, host, Clock.timestamp());
                    let config = RelayConfig::new(url.clone(), Some(RelayQuicConfig::new(offer.qad_port)));
                    let config = Arc::new(config.with_auth_token(admission));
                    self.endpoint.insert_relay(url.clone(), config).await;
                    ways.push(TransportAddr::Relay(url));
                }
                Err(error) => tracing::debug!(%error, "the token's relay URL is malformed"),
            }
        }
        EndpointAddr::from_parts(id, ways)
    }

    async fn knock(&self, id: iroh::EndpointId, host: HostId) -> Result<(HostId, Connection), String> {
        let connecting = self.endpoint.connect(id, JOIN);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok((host, connection)),
            Ok(Err(error)) => Err(format!("{}: {error:#}", host.short())),
            Err(_) => Err(format!("{}: no answer within {CONNECT_TIMEOUT:?}", host.short())),
        }
    }

    async fn talk(&self, connection: &Connection, member: HostId) -> Result<Told, Failure> {
        let (mut out, mut input) = connection.open_bi().await.map_err(io::Error::other)?;
        let hello = JoinHello { version: JOIN_VERSION, nonce: rand::random() };
        send(&mut out, &hello).await?;
        let offer: JoinOffer = receive(&mut input).await?;
        // Before anything is revealed: is this a member of the mesh that the token is for?
        offer.check(self.token.mesh, member, Clock.timestamp())?;
        let transcript = Transcript {
            mesh: self.token.mesh,
            joiner: HostId(self.caller.seed.public()),
            member,
            hello: hello.nonce,
            offer: offer.nonce,
            channel: channel(connection)?,
        };
        let Caller { name, seed, certificate, .. } = self.caller;
        let proof = transcript.prove(name.clone(), &self.token.seed, seed);
        let proof = JoinProof { certificate: certificate.clone(), ..proof };
        send(&mut out, &proof).await?;
        match receive(&mut input).await? {
            JoinAnswer::Admitted(chain) => {
                send(&mut out, &Ready {}).await?;
                let welcome = receive_welcome(&mut input).await?;
                Ok(Told::Admitted(Box::new(LetIn { chain, welcome })))
            }
            JoinAnswer::Pending { issuers } => Ok(Told::Pending(issuers)),
            JoinAnswer::Refused(because) => Err(Failure::Refused(because)),
        }
    }

    /// Gives the reason of a relay that turned this stranger away.
    fn denied(&self) -> Option<String> {
        let homes = self.endpoint.home_relay_status().get();
        homes.iter().find_map(|home| home.auth_denied_reason().map(str::to_owned))
    }
}

/// Reads when a busy door may be tried again.
fn turned_away(connection: &Connection) -> Option<u64> {
    let ConnectionError::ApplicationClosed(close) = connection.close_reason()? else { return None };
    if close.error_code != BUSY.into() {
        return None;
    }
    let text = String::from_utf8_lossy(&close.reason).into_owned();
    let number = text.strip_prefix(BUSY_WORDS).and_then(|rest| rest.strip_suffix(" ms"));
    Some(number.and_then(|number| number.parse().ok()).unwrap_or(BUSY_USUALLY_MS))
}

enum Failure {
    Refused(JoinRefusal),
    Broken(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Broken(error)
    }
}

impl From<JoinRefusal> for Failure {
    fn from(because: JoinRefusal) -> Failure {
        Failure::Refused(because)
    }
}

fn reach(entry: &Bootstrap) -> (HostId, Reach) {
    let relays = entry.relay.iter().map(|relay| relay.url.clone()).collect();
    (entry.host, Reach { addresses: entry.addresses.clone(), relays, serves: entry.relay.clone() })
}
