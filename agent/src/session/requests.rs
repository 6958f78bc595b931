//! What other members ask about sessions, and how it is answered. Every request is safe to repeat:
//! shares carry versions, plans name their parent, drops are forgotten once.
//!
//! Who may ask: only a host with a voice in the session may bring a share or ask for a voter. `Up`,
//! `Down` and `Wish` are what an operator does on any member, so any member may ask for them.

use std::time::Duration;

use mesh::{
    Mesh,
    quorum::{Group, ReadError, Wire, WriteError},
};
use proto::{
    facts::Fact,
    id::{Epoch, HostId, MachineName, Name, SessionId},
    picture::{images, inventory, readiness},
    session::{Command, Proposal, Refused, Replace, State, plan, slice, state},
    topology::Intent,
    wire::rpc::{Answer, Refusal, Request},
};

use super::{actions::words, hub::Hub};
use crate::session::hub::COORDINATOR_WAIT;

/// A write waits for one round trip and two disks; this is many of them on a slow relay.
const WRITE: Duration = Duration::from_secs(5);
/// A quorum round: one round trip to the median voter.
const READ: Duration = Duration::from_secs(3);
/// Two people may commit at once; each retry plans on what the other committed.
const PLAN_TRIES: u32 = 4;

/// Answers a request of a member.
pub async fn answer(hub: &Hub, from: HostId, request: Request) -> Answer {
    let result = match request {
        Request::Ping => Ok(Answer::Done),
        Request::PutShare(share) => hub.accept(from, *share).await.map(|()| Answer::Done),
        Request::GetShare(session) => share_for(hub, session, from),
        Request::KnowsImage { name, digest } => {
            let known = images::meanings(&hub.picture());
            Ok(Answer::Knows(known.get(&name).is_some_and(|(known, _)| *known == digest)))
        }
        Request::View(session) => Ok(view(hub, session)),
        Request::State(session) => {
            read(hub, session).await.map(|(_, state)| Answer::State(Box::new(State::clone(&state))))
        }
        Request::Plan { session, intent, replace } => match read(hub, session).await {
            Ok((_, state)) => {
                hub.offers_known().await;
                Ok(Answer::Proposal(Box::new(propose(hub, session, Some(&state), (&intent, &replace)))))
            }
            Err(refusal) => Err(refusal),
        },
        Request::Up { session, intent, index, replace } => up(hub, session, (*intent, replace), index).await,
        Request::Down(session) => match write(hub, session, Command::End).await {
            Ok(()) | Err(Refusal::State(Refused::Ended)) => Ok(Answer::Done),
            Err(refusal) => Err(refusal),
        },
        Request::Wish { session, machine, run } => {
            write(hub, session, Command::Wish { machine, run }).await.map(|()| Answer::Done)
        }
        Request::MayStart { session, machine, epoch } => {
            grant(hub, session, from, (machine, epoch)).await.map(Answer::MayStart)
        }
        Request::Dropped { session, machine, epoch } => {
            let command = Command::Dropped { machine, host: from, epoch };
            write(hub, session, command).await.map(|()| Answer::Done)
        }
        Request::OpenVoter { session, .. } if !hub.hears(session, from).await => Err(Refusal::NoVoice),
        Request::OpenVoter { session, name, outdated } => open_voter(hub, session, &name, outdated).await,
        Request::Voices(session) => Ok(Answer::Voices(hub.voices(session))),
        // Answered by the mesh itself.
        Request::Compare { .. } | Request::Statements { .. } | Request::Join { .. } => {
            Err(Refusal::Failed("this is not a question about sessions".into()))
        }
    };
    result.unwrap_or_else(Answer::Refused)
}

/// Plans with what the mesh offers now.
pub fn propose(
    hub: &Hub,
    session: SessionId,
    state: Option<&State>,
    wanted: (&Intent, &Replace),
) -> Proposal {
    plan::propose(session, state, wanted, &inventory::inventory(&hub.picture(), session))
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
fn share_for(hub: &Hub, session: SessionId, host: HostId) -> Result<Answer, Refusal> {
    let group = hub.group(session).ok_or(Refusal::UnknownSession)?;
    let state = group.state().borrow().clone().ok_or(Refusal::UnknownSession)?;
    Ok(Answer::Share(Box::new(slice::share(&state, host))))
}

fn view(hub: &Hub, session: SessionId) -> Answer {
    match hub.share(session) {
        None => Answer::View { version: 0, acted: 0, machines: Vec::new() },
        Some(share) => {
            let picture = hub.picture();
            let acted = picture.reports.get(&session).map_or(0, |acted| acted.version);
            let machines = readiness::known(&picture, &share).into_values().cloned().collect();
            Answer::View { version: share.version, acted, machines }
        }
    }
}

/// Allows a host to start an incarnation for the first time. That is written down before it is told:
/// from then on there may be a disk that nobody throws away unasked.
async fn grant(
    hub: &Hub,
    session: SessionId,
    host: HostId,
    (machine, epoch): (MachineName, Epoch),
) -> Result<bool, Refusal> {
    let (_, now) = read(hub, session).await?;
    if !state::may_start(&now, host, &machine, epoch) {
        return Ok(false);
    }
    match write(hub, session, Command::Grant { machine, host, epoch }).await {
        Ok(()) => Ok(true),
        Err(Refusal::State(Refused::NoStart(_))) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

async fn up(
    hub: &Hub,
    session: SessionId,
    (intent, replace): (Intent, Replace),
    index: Option<u64>,
) -> Result<Answer, Refusal> {
    let mut outcome = Err(Refusal::NoQuorum);
    for _ in 0..PLAN_TRIES {
        let (_, now) = read(hub, session).await?;
        if let Some(index) = index.filter(|index| *index != now.generation().0) {
            let (current, parent) = (now.generation(), proto::id::Generation(index));
            return Err(Refusal::State(Refused::NotCurrent { current, parent }));
        }
        hub.offers_known().await;
        let proposal = propose(hub, session, Some(&now), (&intent, &replace));
        let Some(plan) = proposal.plan.clone() else { return Ok(Answer::Applied(Box::new(proposal))) };
        if now.intent.as_ref() == Some(&intent) && now.plan.as_ref().is_some_and(|old| same(old, &plan)) {
            return Ok(Answer::Applied(Box::new(Proposal { plan: now.plan.clone(), ..proposal })));
        }
        let command = Command::Apply { intent: intent.clone(), plan, replace: replace.clone() };
        outcome = write(hub, session, command).await.map(|()| {
            committed(hub, &now.name, &proposal);
            Answer::Applied(Box::new(proposal))
        });
        match outcome {
            Err(Refusal::State(Refused::NotCurrent { .. })) if index.is_none() => {}
            // It was allowed to start a moment ago: the next proposal says so.
            Err(Refusal::State(Refused::Started(_))) => {}
            outcome => return outcome,
        }
    }
    outcome
}

/// Tells that a plan is committed now.
pub fn committed(hub: &Hub, session: &Name, proposal: &Proposal) {
    let Some(plan) = &proposal.plan else { return };
    let fact = Fact::PlanCommitted { session: session.clone(), generation: plan.generation };
    // Nobody listening is no error.
    let _heard = hub.deps().facts.send(fact);
}

/// Whether a plan would change nothing but its number.
fn same(old: &proto::session::Plan, new: &proto::session::Plan) -> bool {
    old.subnet == new.subnet && old.placements == new.placements
}

async fn open_voter(
    hub: &Hub,
    session: SessionId,
    name: &Name,
    outdated: Option<u64>,
) -> Result<Answer, Refusal> {
    let opened = hub.open_voter(session, outdated).await;
    let group = opened.map_err(|error| Refusal::Failed(format!("{name}: {}", words(&error))))?;
    Ok(Answer::Voter { node: group.node_id() })
}

fn group(hub: &Hub, session: SessionId) -> Result<Group, Refusal> {
    let known = hub.share(session).is_some();
    let unknown = if known {
        Refusal::NotCoordinator { leader: hub.coordinator(session) }
    } else {
        Refusal::UnknownSession
    };
    hub.group(session).ok_or(unknown)
}

/// Says why a log that was closed answers nothing.
fn stopped(because: &str) -> Refusal {
    Refusal::Failed(format!("the coordinator cannot write the session's log: {because}"))
}

/// Reads the hard state through a quorum round.
async fn read(hub: &Hub, session: SessionId) -> Result<(u64, std::sync::Arc<State>), Refusal> {
    let group = group(hub, session)?;
    match group.read(READ).await {
        Ok((state, term)) => Ok((term, state)),
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
pub async fn write(hub: &Hub, session: SessionId, command: Command) -> Result<(), Refusal> {
    let group = group(hub, session)?;
    match group.write(command, WRITE.min(COORDINATOR_WAIT)).await {
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
