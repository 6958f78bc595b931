//! What the agent that leads does: it hands out shares, answers hosts, keeps the voters, and turns a
//! user's topology into a committed plan. Everything it decides is a rule of `proto`.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::Arc,
};

use proto::{
    id::{Digest, Epoch, HostId, SessionId},
    run::Mutant,
    session::{
        Accelerator, Command, HostFacts, ImageFacts, Inventory, Refused, Replace, plan, slice, state,
        voters::{self, Candidate},
    },
    topology::Intent,
};

use super::{Event, Key, Message, World};

/// Without a leader for so long, a voter that reaches a majority takes over.
const ELECTION_MS: u64 = 2_000;

/// The one image of this world.
pub fn image() -> ImageFacts {
    ImageFacts { digest: Digest([1; 32]), size: 64 << 20, arch: "x86_64".into() }
}

impl World {
    /// Votes: takes over when there was no leader for too long, steps down when someone else leads.
    pub(super) fn vote(&mut self, id: HostId, session: SessionId) {
        let (reached, now) = (self.reached(id), self.now);
        let Some(quorum) = self.quorums.get_mut(&session) else { return };
        let (leader, term) = (quorum.leader, quorum.term);
        let led = leader.is_some_and(|leader| {
            let leads = |host: &super::host::Host| {
                host.agent.as_ref().is_some_and(|a| a.leading.get(&session) == Some(&term))
            };
            reached.contains(&leader) && self.hosts.get(&leader).is_some_and(leads)
        });
        let voter = quorum.voters.contains(&id);
        let committed = quorum.committed.clone().map(|state| (session, state));
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(agent) = &mut host.agent else { return };
        if led {
            agent.led_at.insert(session, now);
            if leader != Some(id) {
                agent.leading.remove(&session);
            }
            if voter {
                host.disk.replicas.extend(committed);
            }
            return;
        }
        let led_at = agent.led_at.get(&session).copied().unwrap_or(agent.since);
        if voter && quorum.majority(&reached) && now.since_ms(led_at) >= ELECTION_MS {
            agent.leading.insert(session, quorum.elect(id));
            agent.led_at.insert(session, now);
            host.disk.replicas.extend(committed);
            self.tell(Some(id), || "coordinates the session".into());
        }
    }

    /// Does what a coordinator does in one turn of its loop.
    pub(super) fn coordinate(&mut self, id: HostId, session: SessionId) {
        let Some(term) = self.leading(id, session) else { return };
        self.notice(id);
        let reached = self.reached(id);
        let leads = self.quorums.get(&session).is_some_and(|q| q.confirm(id, term, &reached).is_ok());
        if leads {
            self.choose_voters(id, session, &reached);
            if self.rules.broken(Mutant::MovesHeldMachines) {
                self.move_held_machines(id, session);
            }
        }
        let Some(host) = self.hosts.get(&id) else { return };
        let (Some(agent), Some(state)) = (&host.agent, host.disk.replicas.get(&session)) else { return };
        let version = |member: &HostId| {
            let word = agent.view.get(member).and_then(|record| record.sessions.get(&session));
            if *member == id { host.version(session) } else { word.map_or(0, |word| word.version) }
        };
        let behind: Vec<HostId> = self.names.keys().copied().filter(|m| version(m) < state.version).collect();
        let shares: Vec<_> = behind.into_iter().map(|m| (m, Arc::new(slice::share(state, m)))).collect();
        for (member, share) in shares {
            if member == id {
                self.take_share(id, share)
            } else {
                self.send(id, member, Message::PutShare(share))
            }
        }
    }

    /// Tells people which hosts the coordinator stopped hearing, or hears again.
    fn notice(&mut self, id: HostId) {
        let Some(host) = self.hosts.get(&id) else { return };
        let Some(agent) = &host.agent else { return };
        let lost: BTreeSet<HostId> =
            agent.heard.keys().copied().filter(|other| !host.hears(*other, self.now)).collect();
        let before = agent.lost.clone();
        for gone in lost.difference(&before) {
            let name = self.name(*gone);
            self.tell(Some(id), || format!("does not hear {name} any more"));
        }
        for back in before.difference(&lost) {
            let name = self.name(*back);
            self.tell(Some(id), || format!("hears {name} again"));
        }
        if let Some(agent) = self.agent_mut(id) {
            agent.lost = lost;
        }
    }

    /// Answers a host that asks for its share, from what this voter has: it may be old.
    pub(super) fn give_share(&mut self, id: HostId, to: HostId, session: SessionId) {
        let replica = self.hosts.get(&id).and_then(|host| host.disk.replicas.get(&session).cloned());
        if let (Some(_), Some(state)) = (self.leading(id, session), replica) {
            self.send(id, to, Message::PutShare(Arc::new(slice::share(&state, to))));
        }
    }

    /// Answers `MayStart` after a quorum round.
    pub(super) fn may_start(&mut self, id: HostId, from: HostId, machine: Key, epoch: Epoch) {
        let (session, name) = machine.clone();
        let Some(term) = self.leading(id, session) else { return };
        let Some(quorum) = self.quorums.get(&session) else { return };
        if quorum.confirm(id, term, &self.reached(id)).is_err() {
            return;
        }
        let Some(state) = &quorum.committed else { return };
        let may = state::may_start(state, from, &name, epoch);
        let grant = Command::Grant { machine: name, host: from, epoch };
        if may && self.commit(id, session, grant) != Some(true) {
            return;
        }
        self.send(id, from, Message::MayStartAnswer(machine, epoch, may));
    }

    /// Commits that a host removed an incarnation, and says so.
    pub(super) fn dropped(&mut self, id: HostId, from: HostId, machine: Key, epoch: Epoch) {
        let (session, name) = machine.clone();
        if self.commit(id, session, Command::Dropped { machine: name, host: from, epoch }).is_some() {
            self.history.dropped(from, &machine, epoch);
            self.send(id, from, Message::DroppedAnswer(machine));
        }
    }

    /// Plans what a user wants, from what the coordinator knows; it reaches the log a moment later,
    /// perhaps after another one.
    pub(super) fn plan(&mut self, asked: HostId, session: SessionId, intent: Intent, replace: Replace) {
        let leader = self.hosts.get(&asked).and_then(|host| host.coordinator(session));
        let Some((leader, _)) = leader.filter(|(leader, _)| self.reached(asked).contains(leader)) else {
            return self.tell(Some(asked), || "up: no coordinator can be reached".into());
        };
        let inventory = self.inventory(leader, session);
        let replica = |host: &super::host::Host| host.disk.replicas.get(&session).cloned();
        let Some(state) = self.hosts.get(&leader).and_then(replica) else { return };
        let may = if self.rules.broken(Mutant::ReplacesUnasked) { Replace::all() } else { replace.clone() };
        let proposal = plan::propose(session, Some(&state), (&intent, &may), &inventory);
        for obstacle in &proposal.obstacles {
            self.tell(Some(asked), || format!("up: {}: {}", obstacle.machine, obstacle.because));
        }
        for change in &proposal.unasked {
            self.tell(Some(asked), || format!("up: {}: {}; nobody said so", change.machine, change.because));
        }
        let Some(plan) = proposal.plan else { return };
        for change in &proposal.changes {
            let action = format!("{:?}", change.action).to_lowercase();
            let host = self.name(change.host);
            self.tell(Some(leader), || {
                format!(
                    "plan {}: {action} {} on {host} ({})",
                    plan.generation, change.machine, change.because
                )
            });
        }
        let delay = self.random.between(10, 100);
        self.after(delay, Event::Commit(leader, session, Box::new(Command::Apply { intent, plan, replace })));
    }

    /// Writes a command into the log, if this host may. `None` = it may not, or there is no quorum.
    fn commit(&mut self, id: HostId, session: SessionId, mut command: Command) -> Option<bool> {
        let term = self.leading(id, session)?;
        let reached = self.reached(id);
        let mut told = None;
        if let Command::Apply { replace, .. } = &mut command {
            told = Some(replace.clone());
            if self.rules.broken(Mutant::ReplacesUnasked) {
                *replace = Replace::all();
            }
        }
        let outcome = self.quorums.get_mut(&session)?.commit(id, term, &reached, command).ok()?;
        if let Err(Refused::Unsafe(because)) = &outcome {
            self.history.unsafe_plan(because);
        }
        if let Err(refused) = &outcome {
            self.tell(Some(id), || format!("refused: {refused}"));
        }
        if let (Ok(()), Some(told)) = (&outcome, told) {
            self.history.told(session, told);
        }
        self.copy(session, &reached);
        Some(outcome.is_ok())
    }

    /// Carries out [`Event::Commit`].
    pub(super) fn commit_by(&mut self, id: HostId, session: SessionId, command: Command) {
        let what = match &command {
            Command::Apply { plan, .. } => format!("plan {} is committed", plan.generation),
            Command::Wish { machine, run } => {
                format!("{machine} shall {}", if *run { "run" } else { "stop" })
            }
            _ => "the session's end is committed".to_owned(),
        };
        match self.commit(id, session, command) {
            Some(true) => self.tell(Some(id), || what),
            Some(false) => {}
            None => self.tell(Some(id), || "no quorum: nothing is committed".into()),
        }
    }

    /// Copies the log to the voters that can be reached.
    fn copy(&mut self, session: SessionId, reached: &BTreeSet<HostId>) {
        let Some(quorum) = self.quorums.get(&session) else { return };
        for voter in quorum.voters.intersection(reached) {
            if let Some(host) = self.hosts.get_mut(voter) {
                host.disk.replicas.extend(quorum.committed.clone().map(|state| (session, state)));
            }
        }
    }

    fn choose_voters(&mut self, id: HostId, session: SessionId, reached: &BTreeSet<HostId>) {
        let Some(host) = self.hosts.get(&id) else { return };
        let Some(quorum) = self.quorums.get_mut(&session) else { return };
        let Some(agent) = &host.agent else { return };
        let candidate = |member: &HostId| {
            let heard = agent.heard.get(member).copied().unwrap_or_default();
            let up = host.hears(*member, self.now);
            let silent_ms = if up { 0 } else { self.now.since_ms(heard) };
            (*member, Candidate { up, steady: true, silent_ms })
        };
        let candidates: BTreeMap<HostId, Candidate> = self.names.keys().map(candidate).collect();
        let chosen = voters::choose(&candidates, &quorum.voters, id);
        // A change needs a majority of the old and of the new voters.
        let enough = chosen.intersection(reached).count() * 2 > chosen.len();
        if chosen != quorum.voters && enough {
            quorum.voters = chosen.clone();
            self.copy(session, reached);
            let names: Vec<String> = chosen.iter().map(|v| self.name(*v)).collect();
            self.tell(Some(id), || format!("voters are {}", names.join(", ")));
        }
    }

    fn inventory(&self, leader: HostId, session: SessionId) -> Inventory {
        let Some(host) = self.hosts.get(&leader) else { return Inventory::default() };
        let has_image = |member: &HostId| {
            let record = host.agent.as_ref().and_then(|agent| agent.view.get(member));
            if *member == leader { host.disk.image } else { record.is_some_and(|record| record.image) }
        };
        let used = |member: &HostId| {
            let record = host.agent.as_ref().and_then(|agent| agent.view.get(member));
            let words = record.iter().flat_map(|record| &record.sessions);
            words.filter(|(of, _)| **of != session).map(|(_, word)| word.memory_mib).sum()
        };
        let facts = |other: &super::host::Host| HostFacts {
            name: other.name.clone(),
            up: host.hears(other.id, self.now),
            arch: "x86_64".into(),
            accelerator: Some(Accelerator::Kvm),
            cpus: 4,
            memory_mib: other.memory_mib,
            disk_mib: 100_000,
            disk_kept_mib: 0,
            runs_machines: true,
            memory_used_mib: used(&other.id),
            tags: BTreeMap::new(),
            images: has_image(&other.id).then_some(image().digest).into_iter().collect(),
            prefixes: vec![],
            rtt_ms: None,
        };
        Inventory {
            hosts: self.hosts.values().map(|other| (other.id, facts(other))).collect(),
            images: [("tiny".to_owned(), image())].into(),
        }
    }

    pub(super) fn leading(&self, id: HostId, session: SessionId) -> Option<u64> {
        self.hosts.get(&id)?.agent.as_ref()?.leading.get(&session).copied()
    }

    /// The mutant that hard state exists to prevent: machines of silent hosts start elsewhere.
    fn move_held_machines(&mut self, id: HostId, session: SessionId) {
        let Some(host) = self.hosts.get(&id) else { return };
        let Some(quorum) = self.quorums.get_mut(&session) else { return };
        let Some(mut state) = quorum.committed.as_deref().cloned() else { return };
        let Some(plan) = &mut state.plan else { return };
        let mut moved = false;
        for p in plan.placements.iter_mut().filter(|p| !host.hears(p.host, self.now)) {
            (p.host, p.epoch) = (id, p.epoch.next());
            state.epochs.insert(p.machine.clone(), p.epoch);
            moved = true;
        }
        if moved {
            state.version += 1;
            plan.generation = plan.generation.next();
            quorum.committed = Some(Rc::new(state));
            self.copy(session, &self.reached(id));
        }
    }
}
