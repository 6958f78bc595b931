//! What the leader of a session's Raft group does: it tells gossip who leads, brings every member
//! its share, keeps the voters right, and buries the session once nothing of it is left. It never
//! plans by itself: plans come from `requests`, when a person asks.
//! A second coordinator would be wasteful, not dangerous: shares carry versions, writes go through Raft.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{MemberView, quorum::Group};
use proto::{
    facts::Fact,
    id::{HostId, Name, SessionId},
    session::{State, slice, voters},
    trust::{Statement, Tombstone},
    wire::{
        record::{Body, HeadRecord, RecordKey},
        rpc::{Answer, Request},
    },
};
use tokio::task::JoinSet;

use super::hub::Hub;

/// Between two looks at voters and at shares that did not arrive. Changes are acted on at once.
const TICK: Duration = Duration::from_secs(1);
/// A member answers a new share after one fsync; slower ones are asked again at the next tick.
const DELIVERY: Duration = Duration::from_secs(5);
/// A new voter must fetch the whole log; a change of voters that takes longer is tried again.
const CHANGE: Duration = Duration::from_secs(20);

struct Coordinator {
    hub: Hub,
    session: SessionId,
    group: Group,
    /// The version that each member has acknowledged to this leader.
    acknowledged: BTreeMap<HostId, u64>,
    deliveries: JoinSet<(HostId, Option<u64>)>,
    delivering: BTreeSet<HostId>,
    /// When each member was last seen up; one never seen counts from this task's start.
    heard: BTreeMap<HostId, Instant>,
    since: Instant,
    leader: Option<HostId>,
    voters: BTreeSet<HostId>,
}

/// Runs until the daemon ends or the session is buried. Idle while another host leads.
pub async fn run(hub: Hub, session: SessionId, group: Group) {
    let mut coordinator = Coordinator {
        hub,
        session,
        group,
        acknowledged: BTreeMap::new(),
        deliveries: JoinSet::new(),
        delivering: BTreeSet::new(),
        heard: BTreeMap::new(),
        since: Instant::now(),
        leader: None,
        voters: BTreeSet::new(),
    };
    coordinator.run().await;
}

impl Coordinator {
    async fn run(&mut self) {
        let (mut lead, mut state) = (self.group.lead(), self.group.state());
        let mut members = self.hub.deps().mesh.members();
        let mut tick = tokio::time::interval(TICK);
        let stop = self.hub.deps().stop.clone();
        loop {
            // Every arm only wakes the loop: what to do is read from the watches below.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = lead.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                changed = members.changed() => if changed.is_err() { return },
                _ = tick.tick() => {}
                Some(delivered) = self.deliveries.join_next() => self.delivered(delivered),
            }
            if self.hub.buried(self.session) {
                return;
            }
            let now = lead.borrow_and_update().clone();
            self.tell(now.leader, now.voters.values().copied().collect());
            let current = state.borrow_and_update().clone();
            match current {
                // Before the first plan there is nothing to tell: `up` writes it right after the birth.
                Some(state) if now.leading && state.plan.is_some() => self.lead(&state, now.term).await,
                _ => self.rest().await,
            }
        }
    }

    async fn lead(&mut self, state: &Arc<State>, term: u64) {
        let head = HeadRecord {
            name: state.name.clone(),
            stamp: state.stamp,
            term,
            recovery: state.recovery,
            version: state.version,
            generation: state.generation(),
            voters: self.voters.iter().copied().collect(),
            ended: state.ended,
        };
        self.hub.deps().mesh.publish(RecordKey::Head(self.session), Some(Body::Head(head))).await;
        self.deliver(state);
        self.keep_voters(state).await;
        self.bury(state).await;
    }

    async fn rest(&mut self) {
        self.hub.deps().mesh.publish(RecordKey::Head(self.session), None).await;
        self.acknowledged.clear();
    }

    /// Sends every member that is up the newest share, unless it has it or one is on the way.
    fn deliver(&mut self, state: &Arc<State>) {
        let members = self.hub.deps().mesh.members().borrow().clone();
        for member in members.up() {
            let has = self.acknowledged.get(&member.id).copied().unwrap_or(0);
            if has >= state.version || !self.delivering.insert(member.id) {
                continue;
            }
            let share = slice::share(state, member.id);
            let (hub, to, version) = (self.hub.clone(), member.id, state.version);
            self.deliveries.spawn(async move {
                let request = Request::PutShare(Box::new(share));
                let answer = if to == hub.me() {
                    super::requests::answer(&hub, to, request).await
                } else {
                    match hub.deps().mesh.call(to, request, DELIVERY).await {
                        Ok(answer) => answer,
                        Err(error) => {
                            tracing::debug!(host = %to, %error, "the share was not delivered");
                            return (to, None);
                        }
                    }
                };
                (to, matches!(answer, Answer::Done).then_some(version))
            });
        }
    }

    fn delivered(&mut self, delivered: Result<(HostId, Option<u64>), tokio::task::JoinError>) {
        let Ok((host, version)) = delivered else { return };
        self.delivering.remove(&host);
        if let Some(version) = version {
            self.acknowledged.insert(host, version);
        }
    }

    /// Changes the voters when the mesh grew or one was silent for too long.
    async fn keep_voters(&mut self, state: &State) {
        if state.ended {
            return;
        }
        let members = self.hub.deps().mesh.members().borrow().clone();
        let now = Instant::now();
        for member in members.up() {
            self.heard.insert(member.id, now);
        }
        let candidate = |member: &MemberView| {
            let silent = now.saturating_duration_since(*self.heard.get(&member.id).unwrap_or(&self.since));
            let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
            (member.id, voters::Candidate { up: member.is_up(), steady: member.steady, silent_ms })
        };
        let candidates = members.hosts.values().map(candidate).collect();
        let wanted = voters::choose(&candidates, &self.voters, self.hub.me());
        if wanted == self.voters || self.voters.is_empty() {
            return;
        }
        if let Err(reason) = self.change_voters(state, &wanted).await {
            tracing::info!(session = %state.name, reason, "the voters stay as they are for now");
        }
    }

    async fn change_voters(&self, state: &State, wanted: &BTreeSet<HostId>) -> Result<(), String> {
        let mut nodes = self.group.lead().borrow().voters.clone();
        nodes.retain(|_, host| wanted.contains(host));
        for host in wanted {
            if nodes.values().any(|known| known == host) {
                continue;
            }
            let request = Request::OpenVoter { session: self.session, name: state.name.clone() };
            match self.hub.deps().mesh.call(*host, request, DELIVERY).await {
                Ok(Answer::Voter { node }) => nodes.insert(node, *host),
                Ok(answer) => return Err(format!("{} does not become a voter: {answer:?}", host.short())),
                Err(error) => return Err(format!("{} does not become a voter: {error}", host.short())),
            };
        }
        let change = self.group.set_voters(nodes, CHANGE);
        change.await.map_err(|error| error.to_string())
    }

    /// Once every machine is gone and every member that is up has heard the end, the session is
    /// buried: a statement tells hosts that are away now.
    async fn bury(&mut self, state: &State) {
        if !state.gone() {
            return;
        }
        let members = self.hub.deps().mesh.members().borrow().clone();
        let heard =
            |host: HostId| self.acknowledged.get(&host).is_some_and(|version| *version >= state.version);
        if members.up().all(|member| heard(member.id)) {
            let tombstone = Tombstone { session: self.session, made: self.hub.deps().mesh.now() };
            if let Err(error) = self.hub.deps().mesh.say(&Statement::Tombstone(tombstone)) {
                tracing::warn!(session = %state.name, %error, "the session's end cannot be stated");
            }
        }
    }

    fn tell(&mut self, leader: Option<HostId>, voters: BTreeSet<HostId>) {
        let mesh = &self.hub.deps().mesh;
        let name = |host: &HostId| -> Option<Name> { mesh.members().borrow().name(*host) };
        let Some(session) = self.group.state().borrow().as_ref().map(|state| state.name.clone()) else {
            return;
        };
        if leader != self.leader && leader.is_some() {
            self.leader = leader;
            if let Some(coordinator) = leader.as_ref().and_then(name) {
                let _heard = self
                    .hub
                    .deps()
                    .facts
                    .send(Fact::CoordinatorChanged { session: session.clone(), coordinator });
            }
        }
        if voters != self.voters {
            let voters_named = voters.iter().filter_map(name).collect();
            self.voters = voters;
            let _heard = self.hub.deps().facts.send(Fact::VotersChanged { session, voters: voters_named });
        }
    }
}
