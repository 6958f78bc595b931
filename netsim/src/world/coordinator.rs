//! The agent beside a session's log: gathers what `run::lead` looks at and carries out what it says, and
//! answers what is asked of a coordinator by `run::lead::question`.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use proto::{
    facts::Fact,
    id::{HostId, SessionId},
    level::Level,
    picture,
    run::lead::{
        Effect, Event as Happened, Lead, Member, Overview, Place, Standing,
        question::{self, Ask, Question},
    },
    session::{Command, Proposal, Refused, Replace},
    wire::rpc::{Refusal, Request},
};

use super::{Event, World, calls::For, quorum::Log};

/// A question that a coordinator is about to answer.
#[derive(Clone, Debug)]
pub struct Asked {
    question: Question,
    session: SessionId,
    back: (HostId, u64),
    ask: Ask,
}

impl World {
    /// Lists the logs of a session that an agent reaches now, its own included.
    pub(super) fn reached_logs(&self, from: HostId, session: SessionId) -> BTreeSet<u64> {
        let open = |host: &HostId| {
            let log = self.hosts.get(host)?.disk.logs.get(&session)?;
            (!log.closed).then_some(log.node)
        };
        self.reached(from).iter().filter_map(open).collect()
    }

    /// Opens this host's log of a session, makes it when it is missing. Gives its number.
    pub(super) fn open_log(&mut self, id: HostId, session: SessionId) -> u64 {
        let (number, rules, now) = (self.number(), self.rules, self.here(id));
        let Some(host) = self.hosts.get_mut(&id) else { return number };
        let log = host.disk.logs.entry(session).or_insert_with(|| Log { node: number, ..Log::default() });
        let node = log.node;
        let Some(agent) = &mut host.agent else { return node };
        if let Entry::Vacant(place) = agent.leads.entry(session) {
            let (lead, begun) = Lead::new(id, rules, now);
            place.insert(lead);
            agent.seen.remove(&session);
            self.lead_out(id, session, begun);
        }
        node
    }

    /// Lets a coordinator's machine look, if what it looks at changed or a moment came.
    pub(super) fn look_after(&mut self, id: HostId, session: SessionId, woken: bool) {
        self.look(id);
        let Some(seen) = self.seen_by(id, session) else { return };
        let Some(agent) = self.agent_mut(id) else { return };
        if woken || agent.seen.get(&session) != Some(&seen) {
            agent.seen.insert(session, seen.clone());
            self.lead_on(id, session, Happened::Look(Box::new(seen)));
        }
    }

    fn seen_by(&self, id: HostId, session: SessionId) -> Option<Overview> {
        let (host, quorum) = (self.hosts.get(&id)?, self.quorums.get(&session)?);
        let (agent, log) = (host.agent.as_ref()?, host.disk.logs.get(&session)?);
        let picture = &agent.picture;
        let member = |(id, member): (&HostId, &picture::Member)| {
            let steady = picture.host_record(*id).is_some_and(|record| record.steady);
            (
                *id,
                Member {
                    name: member.name.clone(),
                    up: member.is_up(),
                    steady,
                    level: member.level,
                    may: member.may,
                },
            )
        };
        let place = match log.voters.contains_key(&log.node) {
            true if log.removed => Place::Removed,
            true => Place::Inside,
            false => Place::Outside,
        };
        let group = Standing {
            leader: agent.leaders.get(&session).copied(),
            leading: agent.leading.contains_key(&session) && !log.closed,
            term: agent.leading.get(&session).copied().unwrap_or(quorum.term),
            voters: log.voters.clone(),
            outdated: BTreeSet::new(),
            place,
            stopped: log.closed.then(|| "no space".to_owned()),
        };
        Some(Overview {
            group,
            state: log.state.clone(),
            members: picture.members.iter().map(member).collect(),
            out: picture.out.keys().copied().collect(),
            buried: host.disk.buried.contains(&session),
            shared: host.disk.shares.contains_key(&session),
        })
    }

    /// Lets a coordinator's machine take an event, and carries out what follows.
    pub(super) fn lead_on(&mut self, id: HostId, session: SessionId, event: Happened) {
        let now = self.here(id);
        let Some(lead) = self.agent_mut(id).and_then(|agent| agent.leads.get_mut(&session)) else { return };
        let effects = lead.on(event, now);
        self.lead_out(id, session, effects);
    }

    fn lead_out(&mut self, id: HostId, session: SessionId, effects: Vec<Effect>) {
        for effect in effects {
            self.lead_out_one(id, session, effect);
        }
    }

    fn lead_out_one(&mut self, id: HostId, session: SessionId, effect: Effect) {
        let Some(agent) = self.agent_mut(id) else { return };
        let run = agent.run;
        match effect {
            Effect::Announce(head) => {
                agent.heads.remove(&session);
                agent.heads.extend(head.map(|head| (session, *head)));
            }
            Effect::Deliver(to, share) => {
                let wants = For::Delivery(session, share.version);
                self.call(id, to, Request::PutShare(share), wants);
            }
            Effect::AskVoter { change, host, outdated } => {
                let name = "voter".parse().expect("a valid name");
                self.call(
                    id,
                    host,
                    Request::OpenVoter { session, name, outdated },
                    For::Voter(session, change),
                );
            }
            Effect::SetVoters { change, voters } => {
                let takes = self.random.between(10, 500);
                self.after(takes, Event::SetVoters(id, run, session, change, voters));
            }
            Effect::Raise { raise, level } => {
                let takes = self.random.between(1, 20);
                self.after(takes, Event::Raise(id, run, session, raise, level));
            }
            Effect::Release { release, machine, host, epoch } => {
                let takes = self.random.between(1, 20);
                let command = Command::Dropped { machine, host, epoch };
                self.after(takes, Event::Release(id, run, session, release, Box::new(command)));
            }
            Effect::Bury => {
                self.check_burial(session);
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.disk.buried.insert(session);
                }
            }
            Effect::Tell(Fact::VotersChanged { voters, .. }) if agent.leading.contains_key(&session) => {
                let names: Vec<String> = voters.iter().map(ToString::to_string).collect();
                self.tell(Some(id), || format!("voters are {}", names.join(", ")));
            }
            Effect::Tell(_) => {}
            Effect::Reopen => self.reopen(id, session),
            Effect::Wake(at) => self.look_later(id, Some(session), at),
            Effect::Rest => drop(agent.leads.remove(&session)),
            Effect::Forget => self.forget(id, session),
            Effect::Retire => {
                agent.leads.remove(&session);
                agent.leading.remove(&session);
                // Whom a log follows that is gone is nobody's word any more.
                agent.leaders.remove(&session);
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.disk.logs.remove(&session);
                }
            }
        }
    }

    /// The entry that raises a session's level reaches the log, if a majority can be reached.
    pub(super) fn raise(&mut self, id: HostId, session: SessionId, raise: u64, level: Level) {
        let written = self.commit(id, session, Command::Raise { level });
        if written.is_ok() {
            self.tell(Some(id), || format!("the session is of level {level}"));
        }
        self.lead_on(id, session, Happened::Raised { raise, well: written.is_ok() });
    }

    /// The entry that writes off what a lost host had reaches the log, if a majority can be reached.
    pub(super) fn release(&mut self, id: HostId, session: SessionId, release: u64, command: Command) {
        let well = self.commit(id, session, command).is_ok();
        self.lead_on(id, session, Happened::Released { release, well });
    }

    /// Opens a log again that could not be written, if the disk takes files by now.
    fn reopen(&mut self, id: HostId, session: SessionId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let full = host.full;
        let (Some(log), Some(agent)) = (host.disk.logs.get_mut(&session), &mut host.agent) else { return };
        if full {
            return self.lead_on(id, session, Happened::StillClosed);
        }
        log.closed = false;
        agent.leads.remove(&session);
        self.open_log(id, session);
    }

    /// Carries a change of voters to its end.
    pub(super) fn set_voters(
        &mut self,
        id: HostId,
        session: SessionId,
        change: u64,
        voters: BTreeMap<u64, HostId>,
    ) {
        let logs = self.reached_logs(id, session);
        let term = self.leading(id, session);
        let quorum = self.quorums.get_mut(&session);
        let before = quorum.as_ref().map(|quorum| quorum.voters.clone()).unwrap_or_default();
        let set = term.zip(quorum).map(|(term, quorum)| quorum.change((id, term), &logs, voters));
        let well = matches!(set, Some(Ok(())));
        if well {
            self.check_voters(id, session, &before);
            self.check_levels(session);
            self.copy(id, session);
        }
        self.lead_on(id, session, Happened::VotersSet { change, well });
    }

    /// Begins to answer what is asked of a coordinator.
    pub(super) fn question(&mut self, id: HostId, back: (HostId, u64), session: SessionId, ask: Ask) {
        let number = self.number();
        let (question, effects) = Question::new(session, ask.clone(), self.rules);
        let Some(agent) = self.agent_mut(id) else { return };
        agent.questions.insert(number, Asked { question, session, back, ask });
        self.go_on(id, number, effects);
    }

    fn go_on(&mut self, id: HostId, number: u64, effects: Vec<question::Effect>) {
        for effect in effects {
            let Some(agent) = self.agent_mut(id) else { return };
            let run = agent.run;
            let Some(asked) = agent.questions.get(&number) else { return };
            let (session, back) = (asked.session, asked.back);
            match effect {
                question::Effect::Read => {
                    let read = self.read(id, session);
                    self.question_on(id, number, question::Event::Read(read));
                }
                question::Effect::Gather => {
                    let inventory = Box::new(self.inventory(id, session));
                    self.question_on(id, number, question::Event::Offered(inventory));
                }
                question::Effect::Write(command) => {
                    self.tell_plan(id, number);
                    let plans = matches!(*command, Command::Apply { .. });
                    let takes = self.random.between(if plans { 10 } else { 1 }, if plans { 100 } else { 20 });
                    self.after(takes, Event::Write(id, run, number, command));
                }
                question::Effect::Tell(Fact::PlanCommitted { generation, .. }) => {
                    self.tell(Some(id), || format!("plan {generation} is committed"));
                }
                question::Effect::Tell(_) => {}
                question::Effect::Answer(answer) => {
                    self.tell_plan(id, number);
                    if let Some(agent) = self.agent_mut(id) {
                        agent.questions.remove(&number);
                    }
                    self.reply(id, back, *answer);
                }
            }
        }
    }

    fn question_on(&mut self, id: HostId, number: u64, event: question::Event) {
        let Some(asked) = self.agent_mut(id).and_then(|agent| agent.questions.get_mut(&number)) else {
            return;
        };
        let effects = asked.question.on(event);
        self.go_on(id, number, effects);
    }

    /// A quorum round.
    fn read(&self, id: HostId, session: SessionId) -> Result<std::sync::Arc<proto::session::State>, Refusal> {
        let (term, quorum) = self.voice(id, session)?;
        quorum.confirm(id, term, &self.reached_logs(id, session)).map_err(|_| Refusal::NoQuorum)?;
        quorum.committed.clone().ok_or(Refusal::UnknownSession)
    }

    /// Gives the term in which this host leads a session, or says who does.
    fn voice(&self, id: HostId, session: SessionId) -> Result<(u64, &super::quorum::Quorum), Refusal> {
        let host = self.hosts.get(&id).ok_or(Refusal::UnknownSession)?;
        let known = host.disk.shares.contains_key(&session) || host.disk.logs.contains_key(&session);
        let leading = self.leading(id, session).zip(self.quorums.get(&session));
        leading.ok_or(match known {
            true => Refusal::NotCoordinator { leader: host.coordinator(session).filter(|host| *host != id) },
            false => Refusal::UnknownSession,
        })
    }

    /// A write of a question reaches the log, if a majority can be reached.
    pub(super) fn write(&mut self, id: HostId, number: u64, command: Command) {
        let asked = self.hosts.get(&id).and_then(|host| host.agent.as_ref()?.questions.get(&number)).cloned();
        let Some(asked) = asked else { return };
        let written = self.commit(id, asked.session, command.clone());
        match &written {
            Ok(()) => self.note_write(id, &asked, &command),
            Err(Refusal::State(refused)) => {
                if let Refused::Unsafe(because) = refused {
                    self.history.unsafe_plan(because);
                }
                self.tell(Some(id), || format!("refused: {refused}"));
            }
            Err(_) => self.tell(Some(id), || "no quorum: nothing is committed".into()),
        }
        self.question_on(id, number, question::Event::Written(written));
    }

    fn note_write(&mut self, id: HostId, asked: &Asked, command: &Command) {
        match (&asked.ask, command) {
            (Ask::Up { replace, index, .. }, Command::Apply { plan, .. }) => {
                self.history.told(asked.session, Replace::clone(replace));
                self.history.seen(index.unwrap_or(plan.parent.0), plan.parent.0);
            }
            (_, Command::Dropped { machine, host, epoch }) => {
                self.history.dropped(*host, &(asked.session, machine.clone()), *epoch);
            }
            (_, Command::Wish { machine, run }) => {
                self.tell(Some(id), || format!("{machine} shall {}", if *run { "run" } else { "stop" }));
            }
            (_, Command::End) => self.tell(Some(id), || "the session's end is committed".to_owned()),
            _ => {}
        }
    }

    /// Writes a command into the log, if this host may.
    pub(super) fn commit(&mut self, id: HostId, session: SessionId, command: Command) -> Result<(), Refusal> {
        let (term, _) = self.voice(id, session)?;
        let (logs, rules) = (self.reached_logs(id, session), self.rules);
        let quorum = self.quorums.get_mut(&session).ok_or(Refusal::UnknownSession)?;
        let outcome = quorum.commit((id, term), &logs, command, rules).map_err(|_| Refusal::NoQuorum)?;
        self.check_levels(session);
        self.copy(id, session);
        outcome.map_err(Refusal::State)
    }

    /// Copies the log to the voters that can be reached.
    fn copy(&mut self, by: HostId, session: SessionId) {
        let reached = self.reached(by);
        let Some(quorum) = self.quorums.get(&session) else { return };
        for id in reached {
            let log = self.hosts.get_mut(&id).and_then(|host| host.disk.logs.get_mut(&session));
            if let Some(log) = log.filter(|log| quorum.voters.contains_key(&log.node) && !log.closed) {
                (log.state, log.voters) = (quorum.committed.clone(), quorum.voters.clone());
            }
        }
    }

    /// Tells people what a plan would do that a question made, once.
    fn tell_plan(&mut self, id: HostId, number: u64) {
        if self.log.is_none() {
            return;
        }
        let asked = self.hosts.get(&id).and_then(|host| host.agent.as_ref()?.questions.get(&number));
        let Some(proposal) = asked.and_then(|asked| asked.question.proposal()).cloned() else { return };
        let said = self
            .agent_mut(id)
            .is_some_and(|agent| !agent.told.insert((number, proposal.plan.clone().map(|p| p.generation))));
        if !said {
            self.tell_proposal(id, &proposal);
        }
    }

    /// Tells people what a plan would do.
    pub(super) fn tell_proposal(&mut self, id: HostId, proposal: &Proposal) {
        for obstacle in &proposal.obstacles {
            self.tell(Some(id), || format!("up: {}: {}", obstacle.machine, obstacle.because));
        }
        for change in &proposal.unasked {
            self.tell(Some(id), || format!("up: {}: {}; nobody said so", change.machine, change.because));
        }
        let Some(plan) = &proposal.plan else { return };
        for change in &proposal.changes {
            let action = format!("{:?}", change.action).to_lowercase();
            let (host, because) = (self.name(change.host), &change.because);
            let text = format!("plan {}: {action} {} on {host} ({because})", plan.generation, change.machine);
            self.tell(Some(id), || text);
        }
    }

    pub(super) fn leading(&self, id: HostId, session: SessionId) -> Option<u64> {
        self.hosts.get(&id)?.agent.as_ref()?.leading.get(&session).copied()
    }
}
