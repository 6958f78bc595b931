//! What the leader of a session's Raft group does: it tells gossip who leads, brings every member
//! its share, keeps the voters right, and buries the session once nothing of it is left. It never
//! plans by itself: plans come from `requests`, when a person asks.
//! A second coordinator would be wasteful, not dangerous: shares carry versions, writes go through Raft.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use mesh::{
    MemberView,
    quorum::{Group, Lead},
};
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
use tokio::task::{JoinError, JoinSet};

use super::{actions::words, deliveries::Deliveries, hub::Hub};

/// Between two looks at voters and at shares that did not arrive. Changes are acted on at once.
const TICK: Duration = Duration::from_secs(1);
/// A member answers a new share after one fsync; slower ones are asked again later.
const DELIVERY: Duration = Duration::from_secs(5);
/// A new voter must fetch the whole log; a change of voters that takes longer is tried again.
const CHANGE: Duration = Duration::from_secs(20);
/// Pause after a change of voters that failed: the host that was to come needs as long to come back.
const CHANGE_AGAIN: Duration = Duration::from_secs(5);
/// How often the voters are asked whether they still have the store they vote with. One that lost
/// it is up, and no silence would ever replace it.
const VERIFY: Duration = Duration::from_secs(60);
/// A log that no leader takes in for this long is removed: longer than any change of voters.
const ORPHAN: Duration = Duration::from_secs(120);

/// Longest pause between two tries to open a log again.
const REOPEN_LAST: Duration = Duration::from_secs(16);

struct Coordinator {
    hub: Hub,
    session: SessionId,
    group: Group,
    shares: Deliveries,
    deliveries: JoinSet<(HostId, Option<u64>)>,
    /// The change of voters that is under way, one at most.
    change: JoinSet<bool>,
    /// No change of voters before this moment.
    change_after: Instant,
    /// When the voters are verified next.
    verify_at: Instant,
    /// When each member was last seen up; one never seen counts from this task's start.
    heard: BTreeMap<HostId, Instant>,
    since: Instant,
    /// Since when this host is no member of the group.
    outside: Option<Instant>,
    /// What gossip was told last.
    head: Option<HeadRecord>,
    leader: Option<HostId>,
    voters: BTreeSet<HostId>,
    /// Whether it was told that the session's end cannot be stated.
    told_unstated: bool,
}

/// Runs until the daemon ends or the session is buried. Idle while another host leads.
pub async fn run(hub: Hub, session: SessionId, group: Group) {
    let now = Instant::now();
    let mut coordinator = Coordinator {
        hub,
        session,
        group,
        shares: Deliveries::default(),
        deliveries: JoinSet::new(),
        change: JoinSet::new(),
        change_after: now,
        verify_at: now + VERIFY,
        heard: BTreeMap::new(),
        since: now,
        outside: None,
        head: None,
        leader: None,
        voters: BTreeSet::new(),
        told_unstated: false,
    };
    // An earlier process may have led: what it told gossip is taken back.
    coordinator.hub.deps().mesh.publish(RecordKey::Head(session), None).await;
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
                Some(ended) = self.deliveries.join_next() => self.delivered(ended),
                Some(ended) = self.change.join_next() => self.changed(ended),
            }
            if self.hub.buried(self.session) {
                return self.bury_here().await;
            }
            self.listen();
            let now = lead.borrow_and_update().clone();
            if let Some(because) = &now.stopped {
                return self.start_over(because).await;
            }
            if self.has_no_place(&now) {
                return self.hub.retire(self.session, &self.group).await;
            }
            self.tell(now.leader, now.voters.values().copied().collect());
            let current = state.borrow_and_update().clone();
            match current {
                // Before the first plan there is nothing to tell: `up` writes it right after the birth.
                Some(state) if now.leading && state.plan.is_some() => self.lead(&state, now.term).await,
                _ => self.rest().await,
            }
        }
    }

    /// The log could not be written. As soon as the disk takes files it is opened again, with a new
    /// task in the place of this one.
    async fn start_over(&mut self, because: &str) {
        let session = self.session;
        tracing::error!(%session, because, "the session's log cannot be written; it is closed until it can");
        self.rest().await;
        let (stop, mut pause) = (self.hub.deps().stop.clone(), TICK);
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            if self.hub.buried(session) {
                return self.bury_here().await;
            }
            pause = (pause * 2).min(REOPEN_LAST);
            let store = self.hub.deps().store.clone();
            let takes_files = tokio::task::spawn_blocking(move || store.takes_files()).await;
            if takes_files.unwrap_or(false) && self.hub.reopen(session, &self.group).await {
                return tracing::info!(%session, "the session's log is open again");
            }
        }
    }

    /// With a share, the host's task clears the machines away and then everything.
    async fn bury_here(&self) {
        if self.hub.share(self.session).is_none() {
            self.hub.forget(self.session).await;
        }
    }

    /// Tells whether the group has taken this host out, or never took it in.
    fn has_no_place(&mut self, lead: &Lead) -> bool {
        if lead.voters.contains_key(&self.group.node_id()) || self.group.is_named() {
            self.outside = None;
            return self.group.is_removed();
        }
        self.outside.get_or_insert_with(Instant::now).elapsed() > ORPHAN
    }

    /// Notes who is there, also while another host leads: a new leader must know how long a voter
    /// has been silent.
    fn listen(&mut self) {
        let (members, now) = (self.hub.deps().mesh.members().borrow().clone(), Instant::now());
        self.heard.retain(|host, _| members.get(*host).is_some());
        self.heard.extend(members.up().map(|member| (member.id, now)));
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
        self.announce(Some(head)).await;
        self.deliver(state);
        self.keep_voters(state);
        self.bury(state);
    }

    async fn rest(&mut self) {
        self.announce(None).await;
        self.shares.forget();
        self.change.abort_all();
    }

    async fn announce(&mut self, head: Option<HeadRecord>) {
        if self.head != head {
            self.head = head.clone();
            self.hub.deps().mesh.publish(RecordKey::Head(self.session), head.map(Body::Head)).await;
        }
    }

    /// Sends every member that is up the newest share, unless it has it or one is on the way.
    fn deliver(&mut self, state: &Arc<State>) {
        let members = self.hub.deps().mesh.members().borrow().clone();
        let up = members.up().map(|member| member.id);
        for to in self.shares.due(up, state.version, Instant::now()) {
            self.shares.begun(to);
            let delivery = AssertUnwindSafe(deliver(self.hub.clone(), to, state.clone())).catch_unwind();
            // One that panics counts as not taken: its member is asked again.
            self.deliveries.spawn(async move { (to, delivery.await.unwrap_or(None)) });
        }
    }

    fn delivered(&mut self, ended: Result<(HostId, Option<u64>), JoinError>) {
        // Err only when the set is dropped.
        if let Ok((host, taken)) = ended {
            self.shares.ended(host, taken, Instant::now());
        }
    }

    /// Changes the voters when the mesh grew, or one was silent for too long or lost its store.
    fn keep_voters(&mut self, state: &State) {
        let now = Instant::now();
        if state.ended || self.voters.is_empty() || !self.change.is_empty() || now < self.change_after {
            return;
        }
        let members = self.hub.deps().mesh.members().borrow().clone();
        let candidate = |member: &MemberView| {
            let silent = now.saturating_duration_since(*self.heard.get(&member.id).unwrap_or(&self.since));
            let silent_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
            (member.id, voters::Candidate { up: member.is_up(), steady: member.steady, silent_ms })
        };
        let candidates = members.hosts.values().map(candidate).collect();
        let wanted = voters::choose(&candidates, &self.voters, self.hub.me());
        let verify = now >= self.verify_at;
        if wanted == self.voters && !verify {
            return;
        }
        self.verify_at = now + VERIFY;
        let (hub, session, group) = (self.hub.clone(), self.session, self.group.clone());
        let (name, up) = (state.name.clone(), members.up().map(|member| member.id).collect());
        // Apart from the loop: shares must not wait for a new voter's copy of the log.
        self.change.spawn(async move {
            let wish = Wish { session, name, wanted, up };
            let changed = change_voters(&hub, &group, &wish).await;
            if let Err(reason) = &changed {
                tracing::info!(session = %wish.name, reason, "the voters stay as they are for now");
            }
            changed.is_ok()
        });
    }

    fn changed(&mut self, ended: Result<bool, JoinError>) {
        if !matches!(ended, Ok(true)) {
            self.change_after = Instant::now() + CHANGE_AGAIN;
        }
    }

    /// Once every machine is gone and every member that is up has heard the end, the session is
    /// buried: a statement tells hosts that are away now.
    fn bury(&mut self, state: &State) {
        if !state.gone() {
            return;
        }
        let members = self.hub.deps().mesh.members().borrow().clone();
        if members.up().all(|member| self.shares.has(member.id, state.version)) {
            let tombstone = Tombstone { session: self.session, made: self.hub.deps().mesh.now() };
            match self.hub.deps().mesh.say(&Statement::Tombstone(tombstone)) {
                Ok(()) => self.told_unstated = false,
                // It is tried at every look; once is enough to be told.
                Err(error) if !std::mem::replace(&mut self.told_unstated, true) => {
                    let because = words(&error);
                    tracing::warn!(session = %state.name, because, "the session's end cannot be stated");
                }
                Err(_) => {}
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

/// Sends one member its share. Gives the version that it has now.
async fn deliver(hub: Hub, to: HostId, state: Arc<State>) -> Option<u64> {
    let request = Request::PutShare(Box::new(slice::share(&state, to)));
    let answer = if to == hub.me() {
        super::requests::answer(&hub, to, request).await
    } else {
        match hub.deps().mesh.call(to, request, DELIVERY).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(host = %to, %error, "the share was not delivered");
                return None;
            }
        }
    };
    if let Answer::Refused(refusal) = &answer {
        tracing::info!(session = %state.name, host = %to, %refusal, "the share was not taken");
    }
    matches!(answer, Answer::Done).then_some(state.version)
}

/// A change of voters.
struct Wish {
    session: SessionId,
    name: Name,
    wanted: BTreeSet<HostId>,
    up: BTreeSet<HostId>,
}

/// Makes the wanted hosts vote. A voter that is up and has another store than it voted with is taken
/// as a new one; one that does not answer keeps its place.
async fn change_voters(hub: &Hub, group: &Group, wish: &Wish) -> Result<(), String> {
    let mut nodes = group.lead().borrow().voters.clone();
    nodes.retain(|_, host| wish.wanted.contains(host));
    for host in wish.wanted.iter().filter(|host| **host != hub.me()) {
        let old = nodes.iter().find(|(_, known)| *known == host).map(|(node, _)| *node);
        if old.is_some() && !wish.up.contains(host) {
            continue;
        }
        let outdated = old.filter(|old| group.lead().borrow().outdated.contains(old));
        let request = Request::OpenVoter { session: wish.session, name: wish.name.clone(), outdated };
        let because = match hub.deps().mesh.call(*host, request, DELIVERY).await {
            Ok(Answer::Voter { node }) => {
                old.filter(|old| *old != node).map(|old| nodes.remove(&old));
                nodes.insert(node, *host);
                continue;
            }
            Ok(answer) => format!("{answer:?}"),
            Err(error) => error.to_string(),
        };
        if old.is_none() {
            return Err(format!("{} does not become a voter: {because}", host.short()));
        }
    }
    let change = group.set_voters(nodes, CHANGE);
    change.await.map_err(|error| error.to_string())
}
