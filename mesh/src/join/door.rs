//! The member's side of a join: proves itself, checks the stranger's proof, and admits it or asks an
//! issuer that can. Bounded in number, rate and time, because anybody may knock: `proto::trust::knocks` says how often.
//! Strangers are served in the order in which they came.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use iroh::{
    TransportAddr,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use proto::{
    facts::Fact,
    id::HostId,
    reasons::Code,
    trust::{
        Admission, JoinAnswer, JoinHello, JoinOffer, JoinProof, JoinRefusal, Statement, Transcript,
        join::{JOIN_VERSION, admit, restore},
        knocks::{Knock, Knocks, MAX_IN_LINE, Source},
    },
    wire::{
        record::{Body, Reach, RecordKey},
        rpc::{Answer, Request},
    },
};
use tokio::sync::{Semaphore, broadcast, watch};

use super::{BUSY, BUSY_WORDS, DOOR_TIMEOUT, Ready, Welcome, channel, receive, send};
use crate::{
    clock::Clock,
    gossip::Records,
    identity::{self, Identity},
    members::roster::{self, Roster},
    transport::{rpc, swarm::Streams, threshold::Threshold},
};

/// Strangers that are served at once.
const MAX_AT_ONCE: usize = 8;
/// How long a stranger stands in line before it is asked to come again.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// When it may come again then.
const AGAIN_MS: u64 = 1_000;
/// How long one issuer may think about a forwarded join.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(4);
/// What a connection is closed with when all is said.
const DONE: (u32, &[u8]) = (0, b"done");

/// What the door needs to let anybody in.
#[derive(Clone)]
pub(crate) struct Door {
    inner: Arc<Inner>,
}

struct Inner {
    identity: Identity,
    roster: Arc<Roster>,
    streams: Streams,
    records: watch::Receiver<Arc<Records>>,
    facts: broadcast::Sender<Fact>,
    /// What was said of tokens while this host was away, it hears first.
    threshold: Threshold,
    line: Semaphore,
    slots: Semaphore,
    knocks: Mutex<Knocks>,
    /// One decision at a time: the last use of a token is had by one.
    deciding: Mutex<()>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl ProtocolHandler for Door {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let source = source(&connection);
        let Inner { line, slots, .. } = &*self.inner;
        let _place = match (self.knock(&source), line.try_acquire()) {
            (Knock::Busy { again_ms }, _) => return turn_away(&connection, again_ms),
            (Knock::Enter, Err(_)) => return turn_away(&connection, AGAIN_MS),
            (Knock::Enter, Ok(place)) => place,
        };
        // First come, first served.
        let Ok(Ok(_slot)) = tokio::time::timeout(LINE_TIMEOUT, slots.acquire()).await else {
            return turn_away(&connection, AGAIN_MS);
        };
        match tokio::time::timeout(DOOR_TIMEOUT, self.attend(&connection, &source)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a join ended early"),
            Err(_) => tracing::debug!("a join took too long"),
        }
        // The stranger's connection ends here, whatever it hoped for.
        connection.close(DONE.0.into(), DONE.1);
        Ok(())
    }
}

/// Asks a stranger to come again.
fn turn_away(connection: &Connection, again_ms: u64) -> Result<(), AcceptError> {
    connection.close(BUSY.into(), format!("{BUSY_WORDS}{again_ms} ms").as_bytes());
    Ok(())
}

/// Tells where a stranger comes from.
fn source(connection: &Connection) -> Source {
    let paths = connection.paths();
    let ways: Vec<TransportAddr> = paths.iter().map(|path| path.remote_addr().clone()).collect();
    let address = ways.iter().find_map(|way| match way {
        TransportAddr::Ip(address) => Some(Source::of(address.ip())),
        _ => None,
    });
    let relay = || {
        ways.iter().find_map(|way| match way {
            TransportAddr::Relay(url) => Some(Source::Relay(url.to_string())),
            _ => None,
        })
    };
    address.or_else(relay).unwrap_or(Source::Other)
}

impl Door {
    pub(crate) fn new(
        identity: Identity,
        roster: Arc<Roster>,
        streams: Streams,
        records: watch::Receiver<Arc<Records>>,
        (facts, threshold): (broadcast::Sender<Fact>, Threshold),
    ) -> Door {
        let (line, slots) = (Semaphore::new(MAX_IN_LINE), Semaphore::new(MAX_AT_ONCE));
        let (knocks, deciding) = (Mutex::default(), Mutex::default());
        let inner =
            Inner { identity, roster, streams, records, facts, threshold, line, slots, knocks, deciding };
        Door { inner: Arc::new(inner) }
    }

    fn knock(&self, source: &Source) -> Knock {
        let in_line = MAX_IN_LINE - self.inner.line.available_permits();
        let mut knocks = self.inner.knocks.lock().unwrap_or_else(PoisonError::into_inner);
        knocks.knock(source, in_line, Clock.moment())
    }

    async fn attend(&self, connection: &Connection, source: &Source) -> io::Result<()> {
        let (mut out, mut input) = connection.accept_bi().await.map_err(io::Error::other)?;
        let hello: JoinHello = receive(&mut input).await?;
        let roll = self.inner.roster.roll();
        let me = self.inner.identity.host();
        let offer = JoinOffer {
            version: JOIN_VERSION,
            nonce: rand::random(),
            chain: roll.set.chain(me),
            time: self.inner.roster.now(),
        };
        send(&mut out, &offer).await?;
        if hello.version != JOIN_VERSION {
            return Err(io::Error::other(format!("a stranger speaks version {}", hello.version)));
        }
        let proof: JoinProof = receive(&mut input).await?;
        let transcript = Transcript {
            mesh: self.inner.identity.mesh,
            joiner: identity::host_of_endpoint(&connection.remote_id()),
            member: me,
            hello: hello.nonce,
            offer: offer.nonce,
            channel: channel(connection)?,
        };
        let answer = self.answer(&transcript, &proof).await;
        if matches!(&answer, JoinAnswer::Refused(JoinRefusal::Proof | JoinRefusal::UnknownToken)) {
            let mut knocks = self.inner.knocks.lock().unwrap_or_else(PoisonError::into_inner);
            knocks.wrong(source, Clock.moment());
        }
        if let JoinAnswer::Refused(because) = &answer {
            let (because, why) = (because.to_string(), Some(Code::of(because)));
            self.inner.facts.send(Fact::JoinRefused { because, why }).ok();
        }
        send(&mut out, &answer).await?;
        if matches!(answer, JoinAnswer::Admitted(_)) {
            let Ready {} = receive(&mut input).await?;
            send(&mut out, &self.welcome()).await?;
        }
        out.finish().map_err(io::Error::other)?;
        // Until the stranger has read it all, or gave up.
        connection.closed().await;
        Ok(())
    }

    /// Finds somebody who can decide: this host if it is an issuer, then the other issuers. An
    /// issuer that does not know the token yet leaves it to the next.
    async fn answer(&self, transcript: &Transcript, proof: &JoinProof) -> JoinAnswer {
        let roll = self.inner.roster.roll();
        if roll.set.is_root(&proof.token) {
            return self.restore(transcript, proof).unwrap_or_else(JoinAnswer::Refused);
        }
        let me = self.inner.identity.host();
        let mut last = None;
        if roll.set.is_issuer(me) && self.inner.threshold.opens().await {
            match self.decide(transcript, proof) {
                JoinAnswer::Refused(JoinRefusal::UnknownToken) => last = Some(JoinRefusal::UnknownToken),
                decided => return decided,
            }
        }
        let connected = self.inner.streams.connected().borrow().clone();
        let others = roll.members.values().filter(|member| member.is_issuer() && member.host != me);
        for issuer in others.filter(|issuer| connected.contains(&issuer.host)) {
            match self.forward(issuer.host, transcript, proof).await {
                Some(JoinAnswer::Refused(JoinRefusal::UnknownToken)) => {
                    last = Some(JoinRefusal::UnknownToken);
                }
                Some(JoinAnswer::Admitted(chain)) => {
                    self.inner.roster.take(chain.clone(), Some(issuer.host));
                    return JoinAnswer::Admitted(chain);
                }
                Some(decided) => return decided,
                None => {}
            }
        }
        last.map_or(JoinAnswer::Pending { issuers: roll.issuers() }, JoinAnswer::Refused)
    }

    /// Takes in a host that has the root key. That needs no issuer: there may be none left.
    fn restore(&self, transcript: &Transcript, proof: &JoinProof) -> Result<JoinAnswer, JoinRefusal> {
        transcript.check(proof)?;
        let roster = &self.inner.roster;
        let certificate = restore(&roster.roll().set, transcript.joiner, proof)?;
        roster.take(vec![certificate], Some(transcript.joiner));
        let set = &roster.roll().set;
        match set.is_issuer(transcript.joiner) {
            true => Ok(JoinAnswer::Admitted(set.chain(transcript.joiner))),
            false => Err(JoinRefusal::Failed("its certificate does not count here".to_owned())),
        }
    }

    async fn forward(
        &self,
        issuer: HostId,
        transcript: &Transcript,
        proof: &JoinProof,
    ) -> Option<JoinAnswer> {
        let request =
            Request::Join { transcript: Box::new(transcript.clone()), proof: Box::new(proof.clone()) };
        match rpc::call(&self.inner.streams, issuer, &request, FORWARD_TIMEOUT).await.ok()? {
            Answer::Join(answer) => Some(*answer),
            _ => None,
        }
    }

    /// Decides as an issuer about a join, at this door or another member's.
    pub(crate) fn decide(&self, transcript: &Transcript, proof: &JoinProof) -> JoinAnswer {
        match self.try_admit(transcript, proof) {
            Ok(answer) => answer,
            Err(because) => JoinAnswer::Refused(because),
        }
    }

    fn try_admit(&self, transcript: &Transcript, proof: &JoinProof) -> Result<JoinAnswer, JoinRefusal> {
        let Inner { identity, roster, .. } = &*self.inner;
        if transcript.mesh != identity.mesh {
            return Err(JoinRefusal::Proof);
        }
        transcript.check(proof)?;
        let _one = self.inner.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        let roll = roster.roll();
        if !roll.set.is_issuer(identity.host()) {
            return Ok(JoinAnswer::Pending { issuers: roll.issuers() });
        }
        let admission = admit(&roll.set, transcript.joiner, proof, identity.holds_root(), roster.now())?;
        let signed = match (admission, identity.root()) {
            (Admission::Known, _) => None,
            (Admission::ByRoot(certificate), Some(root)) => Some((certificate, root)),
            (Admission::ByRoot(_), None) => return Err(JoinRefusal::Failed("no root key here".to_owned())),
            (Admission::ByHost(certificate), _) => Some((certificate, &identity.seed)),
        };
        if let Some((certificate, seed)) = signed {
            let said = roster.say(&Statement::Certificate(certificate), seed);
            said.map_err(|error| JoinRefusal::Failed(error.in_full()))?;
        }
        Ok(JoinAnswer::Admitted(roster.roll().set.chain(transcript.joiner)))
    }

    fn welcome(&self) -> Welcome {
        let records = self.inner.records.borrow().clone();
        let reach = |((host, key), body): (&(HostId, RecordKey), &Body)| match (key, body) {
            (RecordKey::Host, Body::Host(record)) => Some((*host, record.reach.clone())),
            _ => None,
        };
        let reaches: Vec<(HostId, Reach)> = records.iter().filter_map(reach).collect();
        // Certificates come first. What does not fit comes with the first comparison.
        Welcome { statements: roster::pack(&self.inner.roster.roll().set.all()), reaches }
    }
}
