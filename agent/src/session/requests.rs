//! What other members ask about sessions, and how it is answered. Every request is safe to repeat:
//! shares carry versions, plans name their parent, drops are forgotten once.
//!
//! Who may ask: only a host with a voice in the session may bring a share or ask for a voter. `Up`,
//! `Down` and `Wish` are what an operator does on any member, so any member may ask for them.

use std::{sync::Arc, time::Duration};

use mesh::{
    Mesh,
    quorum::{Group, ReadError, Wire, WriteError},
};
use proto::{
    id::{HostId, Name, SessionId},
    picture::inventory,
    run::{
        Rules,
        lead::{
            self,
            question::{Ask, Effect, Event, Question},
        },
    },
    session::{Command, Proposal, Replace, State, plan},
    topology::Intent,
    wire::rpc::{Answer, Refusal, Request},
};

use super::{actions::words, contents, sessions::Sessions};

/// A write waits for one round trip and two disks; this is many of them on a slow relay.
const WRITE: Duration = Duration::from_secs(5);
/// A quorum round: one round trip to the median voter.
const READ: Duration = Duration::from_secs(3);

/// Answers a request of a member.
pub async fn answer(sessions: &Sessions, from: HostId, request: Request) -> Answer {
    let request = match Ask::of(from, request) {
        Ok((session, ask)) => return coordinate(sessions, session, ask).await,
        Err(request) => request,
    };
    let result = match request {
        Request::Ping => Ok(Answer::Done),
        Request::PutShare(share) => sessions.known.accept(from, *share).await.map(|()| Answer::Done),
        Request::GetShare(session) => share_for(sessions, session, from),
        Request::OpenVoter { session, .. } if !sessions.known.hears(session, from).await => {
            Err(Refusal::NoVoice)
        }
        Request::OpenVoter { session, name, outdated } => {
            open_voter(sessions, session, &name, outdated).await
        }
        Request::Content { session, content, offset } => {
            let votes = sessions.known.voices(session).contains(&from);
            contents::answer(sessions, session, (from, votes), (content, offset)).await.map(Answer::Content)
        }
        Request::Voices(session) => Ok(Answer::Voices(sessions.known.voices(session))),
        // Answered above, or by the mesh itself.
        _ => Err(Refusal::Failed("this is not a question about sessions".into())),
    };
    result.unwrap_or_else(Answer::Refused)
}

/// Plans with what the mesh offers now.
pub fn propose(
    sessions: &Sessions,
    session: SessionId,
    state: Option<&State>,
    wanted: (&Intent, &Replace),
) -> Proposal {
    plan::propose(session, state, wanted, &inventory::inventory(&sessions.picture(), session))
}

/// Carries Raft messages of one session over the mesh.
pub fn raft_wire(mesh: &Mesh, session: SessionId) -> Wire {
    let mesh = mesh.clone();
    Wire::new(move |to, frame, within| {
        let mesh = mesh.clone();
        Box::pin(
            async move { mesh.raft(to, session, frame, within).await.map_err(|error| error.to_string()) },
        )
    })
}

/// A voter's own applied state is good enough: shares are ordered, and a newer one follows.
fn share_for(sessions: &Sessions, session: SessionId, host: HostId) -> Result<Answer, Refusal> {
    let group = sessions.table.log(session).ok_or(Refusal::UnknownSession)?;
    let state = group.state().borrow().clone();
    lead::share_for(state.as_deref(), host).map(|share| Answer::Share(Box::new(share)))
}

/// Answers what only the coordinator may: the rules are those of `proto::run::lead::question`.
async fn coordinate(sessions: &Sessions, session: SessionId, ask: Ask) -> Answer {
    let (mut question, mut effects) = Question::new(session, ask, Rules::default());
    loop {
        let mut next = None;
        for effect in effects {
            match effect {
                Effect::Read => next = Some(Event::Read(read(sessions, session).await)),
                Effect::Gather => {
                    sessions.offers_known().await;
                    next = Some(Event::Offered(Box::new(inventory::inventory(&sessions.picture(), session))));
                }
                Effect::Write(command) => {
                    next = Some(Event::Written(write(sessions, session, *command).await))
                }
                // Nobody listening is no error.
                Effect::Tell(fact) => drop(sessions.deps().facts.send(fact)),
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
    sessions: &Sessions,
    session: SessionId,
    name: &Name,
    outdated: Option<u64>,
) -> Result<Answer, Refusal> {
    let opened = sessions.table.open_voter(session, outdated).await;
    let group = opened.map_err(|error| Refusal::Failed(format!("{name}: {}", words(&error))))?;
    Ok(Answer::Voter { node: group.node_id() })
}

fn group(sessions: &Sessions, session: SessionId) -> Result<Group, Refusal> {
    let known = sessions.share(session).is_some();
    let unknown = if known {
        Refusal::NotCoordinator { leader: sessions.coordinator(session) }
    } else {
        Refusal::UnknownSession
    };
    sessions.table.log(session).ok_or(unknown)
}

/// Says why a log that was closed answers nothing.
fn stopped(because: &str) -> Refusal {
    Refusal::Failed(format!("the coordinator cannot write the session's log: {because}"))
}

/// Reads the hard state through a quorum round.
async fn read(sessions: &Sessions, session: SessionId) -> Result<Arc<State>, Refusal> {
    let group = group(sessions, session)?;
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
pub async fn write(sessions: &Sessions, session: SessionId, command: Command) -> Result<(), Refusal> {
    let group = group(sessions, session)?;
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
