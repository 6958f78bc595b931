//! What the rest of the agent may ask of sessions: two narrow handles, and each has no power beside its methods.
//! The tasks of sessions are reached through nothing else.

use std::{collections::BTreeSet, time::Duration};

use mesh::{RpcError, quorum::Group};
use proto::{
    id::{HostId, Name, SessionId},
    level::Feature,
    picture::{Change, Picture},
    run::lead,
    session::{Mandate, Proposal, Refused, Replace, Share, SignedMandate, voters},
    topology::{Intent, Parcel},
    wire::rpc::{Answer, Refusal, Request},
};

pub use super::requests::OFFER_WAIT;
use super::{
    asking::Asking,
    birth::{Births, Born},
    requests::{self, Requests},
};

/// Operators that decide at once: each tries again on what the other decided.
const SIGN_TRIES: u32 = 4;
/// One round trip to a host that people wait for.
const HOST: Duration = Duration::from_secs(2);
/// How long this host's own share may be behind what another operator decided.
const SHARED: Duration = Duration::from_secs(3);

/// What people may ask of sessions, through the local API.
#[derive(Clone)]
pub struct ForPeople {
    pub(super) asking: Asking,
    pub(super) requests: Requests,
    pub(super) births: Births,
}

impl ForPeople {
    /// Finds the session that is called so here; `Err` = several are.
    pub fn called(&self, name: &Name) -> Result<Option<SessionId>, BTreeSet<SessionId>> {
        self.requests.called(name)
    }

    /// Keeps machines of this host from being started: it leaves its mesh. `false` takes it back.
    pub fn leave(&self, leaves: bool) {
        self.requests.ground.leaving.send_replace(leaves);
    }

    /// Plans a session that does not exist.
    pub async fn propose(&self, session: SessionId, intent: &Intent, replace: &Replace) -> Proposal {
        self.requests.offers_known().await;
        requests::propose(&self.requests, session, None, (intent, replace))
    }

    /// Begins a session here, unless there is one of this name. It goes on also when whoever asked goes away.
    pub async fn begin(&self, parcel: Parcel, index: Option<u64>) -> Born {
        self.births.begin(parcel, index).await
    }

    /// Asks the coordinator of a session, following its hints, for a bounded time.
    pub async fn ask(&self, session: SessionId, request: Request) -> Result<Answer, Refusal> {
        self.asking.ask(session, request).await
    }

    /// Asks one host, which may be this one. An error says that it did not answer.
    pub async fn ask_host(&self, host: HostId, request: Request) -> Result<Answer, RpcError> {
        let ground = &self.requests.ground;
        match host == ground.me() {
            true => Ok(requests::answer(&self.requests, host, request).await),
            false => ground.mesh.call(host, request, HOST).await,
        }
    }

    /// Asks the same with what an operator on this host signs for it, once everybody in the session knows mandates. One
    /// who is overtaken by another operator signs again, when this host has that one's share.
    pub async fn decide(
        &self,
        session: SessionId,
        mandate: impl Fn(&Share) -> Option<Mandate>,
        request: impl Fn(Option<Box<SignedMandate>>) -> Request,
    ) -> Result<Answer, Refusal> {
        let ground = &self.requests.ground;
        let mut tries = 0;
        loop {
            tries += 1;
            let share = ground.share(session).filter(|share| share.level.allows(Feature::Mandates));
            let signed =
                share.and_then(|share| mandate(&share)).map(|wanted| Box::new(ground.mesh.mandate(&wanted)));
            let answer = self.ask(session, request(signed)).await;
            let Err(Refusal::State(Refused::Mandate { current })) = answer else { return answer };
            let of = move |change: &Change| *change == Change::Session(session);
            let has = |picture: &Picture| {
                let share = picture.share(session).and_then(|share| share.mandate.as_ref()?.read());
                share.is_some_and(|known| known.number >= current)
            };
            if tries == SIGN_TRIES {
                return answer;
            }
            if !ground.pictures.until(of, SHARED, has).await {
                return self.why_behind(session).await.and(answer);
            }
        }
    }

    /// Tells why this host's share is behind its own log, if it is this host's fault: its disk may be full.
    async fn why_behind(&self, session: SessionId) -> Result<(), Refusal> {
        let (ground, log) = (&self.requests.ground, self.requests.table.log(session));
        let state = log.and_then(|log| log.state().borrow().clone());
        let (Some(state), Some(from)) = (state, self.coordinator(session)) else { return Ok(()) };
        let share = lead::share_for(Some(&*state), ground.me(), ground.may(ground.me()))?;
        self.requests.known.accept(from, share).await
    }

    /// Names the coordinator of a session as far as this host can tell.
    pub fn coordinator(&self, session: SessionId) -> Option<HostId> {
        self.requests.coordinator(session)
    }

    /// Names who votes in a session, by this host's own log or by what gossip says.
    pub fn voters(&self, session: SessionId) -> BTreeSet<HostId> {
        match self.requests.table.log(session) {
            Some(log) => log.lead().borrow().voters.values().copied().collect(),
            None => self
                .requests
                .known
                .head(session)
                .map(|(_, head)| head.voters)
                .unwrap_or_default()
                .into_iter()
                .collect(),
        }
    }

    /// Tells whether so many voters of a session are out of the mesh that nobody can write its state ever again.
    pub fn lost(&self, session: SessionId) -> bool {
        let out = self.requests.ground.picture().out.keys().copied().collect();
        voters::lost(&self.voters(session), &self.requests.known.voices(session), &out)
    }

    /// Tells whether a statement says that the session has ended and nothing of it is left.
    pub fn buried(&self, session: SessionId) -> bool {
        self.requests.ground.buried(session)
    }

    /// Tells whether anything of a session is here.
    pub fn here(&self, session: SessionId) -> bool {
        self.requests.ground.share(session).is_some() || self.requests.table.log(session).is_some()
    }

    /// Names the sessions whose log on this host cannot be opened, and why.
    pub fn closed(&self) -> Vec<(String, String)> {
        let name = |session: SessionId| {
            let share = self.requests.ground.share(session);
            share.map_or_else(|| session.to_string(), |share| share.name.to_string())
        };
        self.requests
            .table
            .all_closed()
            .into_iter()
            .map(|(session, because)| (name(session), because))
            .collect()
    }

    /// Names the sessions whose log on this host has stopped, and why.
    pub fn stopped(&self) -> Vec<(String, String)> {
        self.requests.table.stopped()
    }
}

/// What other members may ask of sessions.
#[derive(Clone)]
pub struct ForMembers {
    pub(super) requests: Requests,
}

impl ForMembers {
    /// Answers a request.
    pub async fn answer(&self, from: HostId, request: Request) -> Answer {
        requests::answer(&self.requests, from, request).await
    }

    /// Gives the log that a member's Raft message is for, if one is here and the member has a voice.
    pub fn log(&self, from: HostId, session: SessionId) -> Option<Group> {
        self.requests.table.log(session).filter(|_| self.requests.known.has_voice(session, from))
    }
}
