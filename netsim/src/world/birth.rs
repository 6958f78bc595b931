//! How a session begins in the world: gathers what `run::birth` waits for and carries out what it says, all of it in
//! one moment. What a birth that is cut off leaves behind is tested with real agents.

use proto::{
    facts::Fact,
    id::{HostId, SessionId},
    run::{
        birth::{Birth, Effect, Event, Seeds},
        knowledge, lead,
    },
    session::{Command, Replace},
    topology::Parcel,
    trust::May,
    wire::rpc::Refusal,
};

use super::{
    World,
    quorum::{Log, Quorum},
};

impl World {
    /// Begins a session on a host that runs an agent.
    pub(super) fn begin(&mut self, id: HostId, session: SessionId, parcel: Parcel) {
        let stamp = self.hosts.get(&id).map(|host| host.wall(self.now)).unwrap_or_default();
        let seeds = Seeds { host: id, salt: [0; 16], stamp, ssh_seed: [0; 32], mandate: None };
        let (mut birth, mut effects) = Birth::new(session, seeds, parcel, None);
        while !effects.is_empty() {
            let mut next = None;
            for effect in effects {
                match effect {
                    Effect::Gather => {
                        next = Some(Event::Offered(Box::new(self.inventory(id, session))));
                    }
                    Effect::OpenLog => next = Some(Event::Opened(self.found_log(id, session))),
                    Effect::Write(command) => {
                        next = Some(Event::Written(self.write_birth(id, session, *command)));
                    }
                    Effect::State(genesis) => {
                        self.births.insert(session, genesis.voters);
                        next = Some(Event::Stated(Ok(())));
                    }
                    Effect::Show => next = Some(Event::Shown(self.show_born(id, session))),
                    Effect::GiveUp => self.take_back(id, session),
                    Effect::Tell(Fact::PlanCommitted { generation, .. }) => {
                        self.tell_proposal(id, birth.proposal());
                        self.tell(Some(id), || format!("plan {generation} is committed"));
                    }
                    Effect::Tell(_) => {}
                    Effect::End(Ok(proposal)) if proposal.plan.is_none() => self.tell_proposal(id, &proposal),
                    Effect::End(Ok(_)) => {}
                    Effect::End(Err(failure)) => self.tell(Some(id), || format!("up: {failure:?}")),
                }
            }
            effects = next.map(|event| birth.on(event)).unwrap_or_default();
        }
    }

    /// Makes a log with this host as its only voter, which leads at once.
    fn found_log(&mut self, id: HostId, session: SessionId) -> Result<(), String> {
        let node = self.number();
        let Some(host) = self.hosts.get_mut(&id).filter(|host| !host.full) else {
            return Err("no space".into());
        };
        let mut quorum = Quorum { voters: [(node, id)].into(), ..Quorum::default() };
        let (term, voters) = (quorum.elect(id), quorum.voters.clone());
        host.disk.logs.insert(session, Log { node, voters, ..Log::default() });
        self.quorums.insert(session, quorum);
        if let Some(agent) = self.agent_mut(id) {
            agent.leading.insert(session, term);
            agent.leaders.insert(session, id);
        }
        self.open_log(id, session);
        Ok(())
    }

    fn write_birth(&mut self, id: HostId, session: SessionId, command: Command) -> Result<(), Refusal> {
        let plan = match &command {
            Command::Apply { plan, .. } => Some(plan.parent.0),
            _ => None,
        };
        self.commit(id, session, command)?;
        if let Some(parent) = plan {
            self.history.told(session, Replace::default());
            self.history.seen(parent, parent);
        }
        Ok(())
    }

    /// Lets the host take its own share; it is on the disk a moment later.
    fn show_born(&mut self, id: HostId, session: SessionId) -> Result<(), Refusal> {
        let share = Box::new(lead::share_for(self.committed(session).map(|state| &**state), id, May::ALL)?);
        self.look_out(id, true);
        let (ticket, wants) = (self.number(), knowledge::Wants::Share(share));
        self.learn(id, knowledge::Event::Asked { ticket, from: id, wants });
        Ok(())
    }

    fn take_back(&mut self, id: HostId, session: SessionId) {
        self.births.remove(&session);
        self.quorums.remove(&session);
        self.forget(id, session);
    }
}
