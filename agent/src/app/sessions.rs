//! Sessions as people ask for them. A new session is born on the host that is asked; everything
//! after that goes to its coordinator.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proto::{
    id::{HostId, Name, SessionId},
    picture::{Change, acks, images, level, rows},
    reasons::Why,
    run::birth::Failure,
    session::{Mandate, Proposal, Replace, Share, State},
    topology::{Intent, Parcel},
    trust::{Statement, Tombstone},
    wire::{
        api::{self, Error, Kind},
        rpc::{Answer, Refusal, Request},
    },
};

use super::{ApiResult, App, refused};
use crate::session::birth::Born;

/// How long an answer waits for the words of others.
const SAID: Duration = Duration::from_millis(400);

impl App {
    /// Tells every session this host knows.
    pub async fn sessions(&self) -> ApiResult<api::Sessions> {
        Ok(api::Sessions { sessions: self.session_rows() })
    }

    pub(super) fn session_rows(&self) -> Vec<api::SessionRow> {
        let picture = self.picture();
        let row = |share: &Arc<Share>| {
            rows::session(&picture, share, self.inner.sessions.coordinator(share.session))
        };
        let mut rows: Vec<api::SessionRow> = picture.shares.values().map(row).collect();
        rows.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        rows
    }

    /// Finds what a session is called `name` here, if exactly one is.
    fn named(&self, intent: &Intent) -> ApiResult<Option<SessionId>> {
        let name = &intent.topology.session;
        self.inner.sessions.called(name).map_err(|several| many(name, &several))
    }

    /// Tells what `up` would do. Obstacles are part of an `Ok` report.
    pub async fn plan(&self, intent: Intent, replace: Replace) -> ApiResult<api::PlanReport> {
        let name = intent.topology.session.to_string();
        let Some(session) = self.named(&intent)? else {
            let proposal = self.inner.sessions.propose(fresh_id(), &intent, &replace).await;
            return Ok(self.report(&name, &proposal, 0));
        };
        let what = format!("{name} was not planned");
        let index = self.hard_state(session, &what).await?.generation().0;
        let request = Request::Plan { session, intent: Box::new(intent), replace };
        match self.inner.sessions.ask(session, request).await {
            Ok(Answer::Proposal(proposal)) => Ok(self.report(&name, &proposal, index)),
            Ok(answer) => Err(unexpected(&what, &answer)),
            Err(refusal) => Err(refused(what, refusal)),
        }
    }

    /// Commits a topology. With obstacles nothing is committed and `id` is `None`.
    pub async fn up(&self, parcel: Parcel, replace: Replace, index: Option<u64>) -> ApiResult<api::UpAnswer> {
        let (app, what) = (self.clone(), format!("{} was not started", parcel.intent.topology.session));
        // In a task of its own: who asks may go away at any moment, and half a session must not stay.
        let done = tokio::spawn(async move { app.up_alone(parcel, replace, index).await }).await;
        done.unwrap_or_else(|error| {
            Err(Error::new(Kind::Failed, what).because(error.to_string()).next("agent session list"))
        })
    }

    async fn up_alone(
        &self,
        parcel: Parcel,
        replace: Replace,
        index: Option<u64>,
    ) -> ApiResult<api::UpAnswer> {
        let name = parcel.intent.topology.session.clone();
        let session = match self.inner.sessions.begin(parcel.clone(), index).await {
            Born::Exists(session) => session,
            Born::Several(several) => return Err(many(&name, &several)),
            Born::New(session, proposal) => return Ok(self.applied(name.as_str(), session, &proposal)),
            Born::Failed(failure) => return Err(unborn(&name, failure)),
        };
        let what = format!("{name} was not changed");
        let Parcel { intent, contents } = parcel;
        let means = images::meaning(&self.picture());
        let wanted = |share: &Share| Some(Mandate::up(session, Some(share), (&intent, &replace), &means));
        let request = |mandate| Request::Up {
            session,
            intent: Box::new(intent.clone()),
            index,
            replace: replace.clone(),
            contents: contents.clone(),
            mandate,
        };
        match self.inner.sessions.decide(session, wanted, request).await {
            Ok(Answer::Applied(proposal)) => Ok(self.applied(name.as_str(), session, &proposal)),
            Ok(answer) => Err(unexpected(&what, &answer)),
            Err(refusal) => Err(refused(what, refusal)),
        }
    }

    fn applied(&self, name: &str, session: SessionId, proposal: &Proposal) -> api::UpAnswer {
        let generation = proposal.plan.as_ref().map(|plan| plan.generation.0);
        let plan = self.report(name, proposal, generation.unwrap_or(0));
        api::UpAnswer { id: generation.is_some().then_some(session), generation, plan }
    }

    fn report(&self, session: &str, proposal: &Proposal, index: u64) -> api::PlanReport {
        let images = images::all(&self.picture());
        let change = |change: &proto::session::Change| api::PlanChange {
            machine: change.machine.clone(),
            action: change.action,
            how: change.how,
            host: self.name(change.host),
            because: change.because.clone(),
            why: Some(Why::told(change.why.as_ref(), &change.because)),
        };
        let rejection = |rejection: &proto::session::Rejection| api::PlanRejection {
            machine: rejection.machine.clone(),
            host: self.name(rejection.host),
            because: rejection.because.clone(),
            why: Some(Why::told(rejection.why.as_ref(), &rejection.because)),
        };
        let obstacle = |obstacle: &proto::session::Obstacle| api::PlanObstacle {
            machine: obstacle.machine.clone(),
            because: obstacle.because.clone(),
            why: Some(Why::told(obstacle.why.as_ref(), &obstacle.because)),
        };
        let fetch = |(host, digest, bytes): &(HostId, proto::id::Digest, u64)| {
            let image = images.iter().find(|image| image.facts.digest == *digest);
            let named = image.and_then(|image| image.names.first().cloned());
            api::PlanFetch {
                host: self.name(*host),
                image: named.unwrap_or_else(|| digest.short()),
                bytes: *bytes,
            }
        };
        api::PlanReport {
            session: session.to_owned(),
            changes: proposal.changes.iter().map(change).collect(),
            rejected: proposal.rejected.iter().map(rejection).collect(),
            obstacles: proposal.obstacles.iter().map(obstacle).collect(),
            replaces: proposal.unasked.iter().map(change).collect(),
            fetch: proposal.fetch.iter().map(fetch).collect(),
            index,
            notes: notes(proposal),
        }
    }

    pub(super) fn share(&self, session: SessionId) -> ApiResult<Arc<Share>> {
        self.picture().share(session).cloned().ok_or_else(|| {
            Error::new(Kind::NotFound, format!("there is no session {session}")).next("agent session list")
        })
    }

    /// Tells how a session is, as this host sees it.
    pub async fn session_status(&self, session: SessionId) -> ApiResult<api::SessionStatus> {
        let share = self.share(session)?;
        self.listen_for(&share).await;
        Ok(self.status_of(&share))
    }

    pub(super) fn status_of(&self, share: &Share) -> api::SessionStatus {
        let picture = self.picture();
        let voters = self.inner.sessions.voters(share.session);
        let mut voters: Vec<String> = voters.into_iter().map(|host| self.name(host)).collect();
        voters.sort();
        api::SessionStatus {
            id: share.session,
            name: share.name.to_string(),
            state: rows::state(&picture, share),
            generation: share.generation.0,
            coordinator: self.inner.sessions.coordinator(share.session).map(|host| self.name(host)),
            voters,
            subnet: Some(share.directory.subnet.to_string()),
            machines: rows::machines(&picture, share),
            services: self.service_rows(share),
            level: share.level,
            below: level::below(&picture, share.level),
        }
    }

    /// Tells how a session is and whether every up host says that it sees the same.
    pub async fn up_progress(&self, session: SessionId) -> ApiResult<api::UpProgress> {
        let share = self.share(session)?;
        // Before the status: it may only be newer than this says.
        let picture = self.picture();
        let names = |hosts: BTreeSet<HostId>| hosts.into_iter().map(|host| picture.name(host)).collect();
        let behind: Vec<String> = names(acks::behind(&picture, &share));
        let (fetching, away) = (rows::fetching(&picture, &share), names(rows::away(&picture, &share)));
        let status = self.status_of(&share);
        Ok(api::UpProgress { status, everywhere: behind.is_empty(), behind, fetching, away })
    }

    /// Commits the end of a session.
    pub async fn down(&self, session: SessionId) -> ApiResult<api::DownProgress> {
        let what = "the session was not ended";
        if self.inner.sessions.lost(session) {
            return self.bury(session, what).await;
        }
        let request = |mandate| Request::Down { session, mandate };
        match self.inner.sessions.decide(session, Mandate::end, request).await {
            Ok(Answer::Done) => self.down_progress(session).await,
            Ok(answer) => Err(unexpected(what, &answer)),
            Err(Refusal::NoQuorum) => Err(self.no_quorum(session, what)),
            Err(refusal) => Err(refused(what, refusal)),
        }
    }

    /// States the end of a session whose voters are out of the mesh: every host removes what it has of it.
    async fn bury(&self, session: SessionId, what: &str) -> ApiResult<api::DownProgress> {
        let mesh = &self.inner.mesh;
        let share = self.share(session)?;
        let mandate = Mandate::end(&share).map(|end| mesh.mandate(&end));
        let end = Tombstone { session, made: mesh.now(), mandate };
        match mesh.say(&Statement::Tombstone(end)) {
            Ok(()) => self.down_progress(session).await,
            Err(error) => Err(self.not_said(what, &error).await),
        }
    }

    /// Says whom a session waits for that has no quorum, and what helps when one of them never comes back.
    fn no_quorum(&self, session: SessionId, what: &str) -> Error {
        let picture = self.picture();
        let voters = self.inner.sessions.voters(session).into_iter();
        let away: Vec<String> =
            voters.filter(|host| !picture.is_up(*host)).map(|host| picture.name(host)).collect();
        match away.first() {
            Some(first) => Error::new(Kind::Unreachable, what)
                .because(format!("{} does not answer, and votes in the session", away.join(", ")))
                .next(format!("start its agent; if it is gone for good: agent host remove {first}")),
            None => refused(what, Refusal::NoQuorum),
        }
    }

    /// Tells what is left of an ended session. A session that nobody knows any more is gone.
    pub async fn down_progress(&self, session: SessionId) -> ApiResult<api::DownProgress> {
        let picture = self.picture();
        let name = picture.share(session).map_or_else(|| session.to_string(), |share| share.name.to_string());
        let mut remaining = Vec::new();
        let (mut away, mut because) = (BTreeSet::new(), Vec::new());
        // Of one that is buried there is no state any more, or will not be in a moment.
        let state = match self.inner.sessions.buried(session) {
            true => Err(Refusal::UnknownSession),
            false => self.inner.sessions.ask(session, Request::State(session)).await,
        };
        match state {
            Ok(Answer::State(state)) => {
                for (machine, drops) in &state.drops {
                    // What is on a host that is out is written off in a moment.
                    for drop in drops.iter().filter(|drop| !picture.out.contains_key(&drop.host)) {
                        remaining
                            .push(api::Remaining { machine: machine.clone(), host: self.name(drop.host) });
                        if !picture.is_up(drop.host) {
                            away.insert(self.name(drop.host));
                        }
                    }
                }
            }
            Ok(answer) => return Err(unexpected("the session's end cannot be followed", &answer)),
            // Its voters have forgotten it, or are forgetting it just now.
            Err(Refusal::UnknownSession) => {}
            Err(refusal) if self.picture().share(session).is_some() => because.push(refusal.to_string()),
            Err(Refusal::NoQuorum | Refusal::NotCoordinator { .. }) => {}
            Err(refusal) => return Err(refused("the session's end cannot be followed", refusal)),
        }
        because.extend(self.troubles(remaining.iter().map(|left| left.host.as_str())).await);
        let only_away = remaining.iter().all(|left| away.contains(&left.host));
        if remaining.is_empty() && because.is_empty() {
            // Whoever asks comes again a moment later: most words arrive before that.
            let of = move |change: &Change| {
                matches!(change, Change::Seen(_) | Change::Host(_)) || *change == Change::Session(session)
            };
            self.inner.pictures.until(of, SAID, |_| self.left(session).is_empty()).await;
        }
        let behind = self.left(session);
        let gone = only_away && (!remaining.is_empty() || behind.is_empty());
        if gone {
            because.clear();
        }
        Ok(api::DownProgress {
            id: session,
            name,
            gone,
            remaining,
            away: away.into_iter().collect(),
            behind: behind.into_iter().map(|host| self.name(host)).collect(),
            because,
        })
    }

    /// Lists the hosts that are up and may have something of a session that ended, as far as they say. One that
    /// is away hears of the end when it returns.
    fn left(&self, session: SessionId) -> BTreeSet<HostId> {
        let here = self.inner.sessions.here(session);
        let others = acks::unaware_of_end(&self.picture(), session);
        others.into_iter().chain(here.then_some(self.inner.mesh.me())).collect()
    }

    /// Reads the hard state from the coordinator.
    pub(super) async fn hard_state(&self, session: SessionId, what: &str) -> ApiResult<Box<State>> {
        match self.inner.sessions.ask(session, Request::State(session)).await {
            Ok(Answer::State(state)) => Ok(state),
            Ok(answer) => Err(unexpected(what, &answer)),
            Err(refusal) => Err(refused(what, refusal)),
        }
    }
}

fn many(name: &Name, several: &BTreeSet<SessionId>) -> Error {
    let listed: Vec<String> = several.iter().map(SessionId::to_string).collect();
    Error::new(Kind::Refused, format!("{} sessions are called {name}", listed.len()))
        .because(format!("their ids are {}", listed.join(" and ")))
        .next("end one of them: agent session down ID")
}

fn unborn(name: &Name, failure: Failure) -> Error {
    let what = format!("{name} was not started");
    match failure {
        Failure::Stale => Error::new(Kind::Refused, what)
            .because("the plan was made for a session that does not exist any more")
            .next("agent session plan FILE"),
        Failure::Refused(refusal) => refused(what, refusal),
        Failure::Failed(because) => Error::new(Kind::Failed, what).because(because).next("agent doctor"),
    }
}

/// What a person should know before saying yes.
fn notes(proposal: &Proposal) -> Vec<String> {
    proposal.notes.clone()
}

fn fresh_id() -> SessionId {
    SessionId(rand::random())
}

pub(super) fn unexpected(what: &str, answer: &Answer) -> Error {
    tracing::warn!(?answer, "an answer of another kind");
    Error::new(Kind::Failed, what).because("the coordinator answered something else").next("agent events")
}
