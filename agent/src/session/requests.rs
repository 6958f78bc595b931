//! What other members ask about sessions, and how it is answered. Every request is safe to repeat:
//! shares carry versions, plans name their parent, drops are forgotten once.
//!
//! Who may ask: `Request::needs` says what the asker's certificate must allow, also when this host asks itself; and
//! only a host with a voice in the session may bring a share or ask for a voter.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh::quorum::{Group, ReadError, WriteError};
use proto::{
    id::{HostId, Name, SessionId},
    picture::inventory,
    run::{
        Rules,
        knowledge::route,
        lead::{
            self,
            question::{Ask, Effect, Event, Question},
        },
    },
    session::{Command, Proposal, Replace, State, plan},
    topology::Intent,
    wire::rpc::{Answer, Refusal, Request},
};

use tokio::sync::watch;

use super::{contents, ground::Ground, known::Known, login, store::Store, table::Table};
use crate::host::words::words;

/// A write waits for one round trip and two disks; this is many of them on a slow relay.
const WRITE: Duration = Duration::from_secs(5);
/// A quorum round: one round trip to the median voter.
const READ: Duration = Duration::from_secs(3);

/// A proof of QEMU takes a second; one that hangs is ended by its own time-outs.
pub const OFFER_WAIT: Duration = Duration::from_secs(5);

/// What answers are made of.
#[derive(Clone)]
pub struct Requests {
    /// What every task stands on.
    pub ground: Ground,
    /// What is believed of all.
    pub known: Known,
    /// What is here of all.
    pub table: Table,
    /// Shares and contents on disk.
    pub store: Store,
    /// Whether gossip knows by now what this host offers.
    pub offered: watch::Receiver<bool>,
}

impl Requests {
    /// Waits until this host knows what it offers itself: right after the start its QEMU is still
    /// being proved, and a plan would call it unfit. The proof is bounded, and so is this.
    pub async fn offers_known(&self) {
        let mut offered = self.offered.clone();
        let known = offered.wait_for(|offered| *offered);
        if tokio::time::timeout(OFFER_WAIT, known).await.is_err() {
            tracing::warn!("planning without knowing what this host offers: its QEMU is not proved yet");
        }
    }

    /// Finds the session that is called so here; `Err` = several are.
    pub fn called(&self, name: &Name) -> Result<Option<SessionId>, BTreeSet<SessionId>> {
        let believed = self.known.all();
        proto::run::birth::called(name, &self.ground.picture().shares, believed.heads())
    }

    /// Names the coordinator of a session as far as this host can tell.
    pub fn coordinator(&self, session: SessionId) -> Option<HostId> {
        let led = self.table.log(session).and_then(|group| group.lead().borrow().leader);
        route::coordinator(led, self.known.head(session).map(|(host, _)| host))
    }
}

/// Answers a request of a member.
pub async fn answer(all: &Requests, from: HostId, request: Request) -> Answer {
    if let Err(refusal) = all.ground.judge(from, request.needs()) {
        return Answer::Refused(refusal);
    }
    if request.mandate().is_some_and(|(session, mandate)| !mandate.is_by(from, session)) {
        let because = "the mandate is not signed by the host that brings it";
        return Answer::Refused(Refusal::Unsigned(because.into()));
    }
    let request = match Ask::of(from, request) {
        Ok((session, ask)) => return coordinate(all, session, ask).await,
        Err(request) => request,
    };
    let result = match request {
        Request::Ping => Ok(Answer::Done),
        Request::PutShare(share) => all.known.accept(from, *share).await.map(|()| Answer::Done),
        Request::GetShare(session) => share_for(all, session, from),
        Request::OpenVoter { session, .. } if !all.known.hears(session, from).await => Err(Refusal::NoVoice),
        Request::OpenVoter { session, name, outdated } => open_voter(all, session, &name, outdated).await,
        Request::Content { session, content, offset } => {
            let votes = all.known.voices(session).contains(&from);
            let from_disk = (&all.ground, &all.table, &all.store);
            contents::answer(from_disk, session, (from, votes), (content, offset)).await.map(Answer::Content)
        }
        Request::LoginKeys { session, machine } => login::keys((&all.ground, &all.store), session, &machine)
            .await
            .map(|own| Answer::LoginKeys { own }),
        Request::Login { session, machine, question } => {
            let files = (&all.ground, &all.store);
            login::login(files, from, (session, &machine), &question).await.map(Answer::Login)
        }
        Request::Voices(session) => Ok(Answer::Voices(all.known.voices(session))),
        // Answered above, or by the mesh itself.
        _ => Err(Refusal::Failed("this is not a question about sessions".into())),
    };
    result.unwrap_or_else(Answer::Refused)
}

/// Plans with what the mesh offers now.
pub fn propose(
    all: &Requests,
    session: SessionId,
    state: Option<&State>,
    wanted: (&Intent, &Replace),
) -> Proposal {
    plan::propose(session, state, wanted, &inventory::inventory(&all.ground.picture(), session))
}

/// A voter's own applied state is good enough: shares are ordered, and a newer one follows.
fn share_for(all: &Requests, session: SessionId, host: HostId) -> Result<Answer, Refusal> {
    let group = all.table.log(session).ok_or(Refusal::UnknownSession)?;
    let state = group.state().borrow().clone();
    lead::share_for(state.as_deref(), host, all.ground.may(host)).map(|share| Answer::Share(Box::new(share)))
}

/// Answers what only the coordinator may: the rules are those of `proto::run::lead::question`.
async fn coordinate(all: &Requests, session: SessionId, ask: Ask) -> Answer {
    let (mut question, mut effects) = Question::new(session, ask, Rules::default());
    loop {
        let mut next = None;
        for effect in effects {
            match effect {
                Effect::Read => next = Some(Event::Read(read(all, session).await)),
                Effect::Gather => {
                    all.offers_known().await;
                    next =
                        Some(Event::Offered(Box::new(inventory::inventory(&all.ground.picture(), session))));
                }
                Effect::Write(command) => next = Some(Event::Written(write(all, session, *command).await)),
                Effect::Tell(fact) => all.ground.tell(fact),
                Effect::Answer(answer) => return *answer,
            }
        }
        let Some(event) = next else {
            return Answer::Refused(Refusal::Failed("the question came to no answer".into()));
        };
        effects = question.on(event);
    }
}

async fn open_voter(
    all: &Requests,
    session: SessionId,
    name: &Name,
    outdated: Option<u64>,
) -> Result<Answer, Refusal> {
    let opened = all.table.open_voter(session, outdated).await;
    let group = opened.map_err(|error| Refusal::Failed(format!("{name}: {}", words(&error))))?;
    Ok(Answer::Voter { node: group.node_id() })
}

fn group(all: &Requests, session: SessionId) -> Result<Group, Refusal> {
    let known = all.ground.share(session).is_some();
    let unknown = if known {
        Refusal::NotCoordinator { leader: all.coordinator(session) }
    } else {
        Refusal::UnknownSession
    };
    all.table.log(session).ok_or(unknown)
}

/// Says why a log that was closed answers nothing.
fn stopped(because: &str) -> Refusal {
    Refusal::Failed(format!("the coordinator cannot write the session's log: {because}"))
}

/// Reads the hard state through a quorum round.
async fn read(all: &Requests, session: SessionId) -> Result<Arc<State>, Refusal> {
    let group = group(all, session)?;
    match group.read(READ).await {
        Ok((state, _)) => Ok(state),
        Err(ReadError::NotLeader { leader }) => Err(Refusal::NotCoordinator { leader }),
        Err(ReadError::Empty) => Err(Refusal::UnknownSession),
        Err(ReadError::Stopped(because)) => Err(stopped(&because)),
        Err(error) => {
            tracing::debug!(%session, %error, "no quorum round");
            Err(Refusal::NoQuorum)
        }
    }
}

/// Writes one command and waits until a quorum has it.
pub async fn write(all: &Requests, session: SessionId, command: Command) -> Result<(), Refusal> {
    let group = group(all, session)?;
    match group.write(command, WRITE).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(refused)) => Err(Refusal::State(refused)),
        Err(WriteError::NotLeader { leader }) => Err(Refusal::NotCoordinator { leader }),
        Err(WriteError::Stopped(because)) => Err(stopped(&because)),
        Err(error @ WriteError::TooLarge(_)) => Err(Refusal::Failed(error.to_string())),
        Err(error) => {
            tracing::debug!(%session, %error, "the write was not answered");
            Err(Refusal::NoQuorum)
        }
    }
}
