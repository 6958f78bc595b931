//! Questions between agents, in the words of `/mesh/rpc/1`: asked over a network that loses them, answered by
//! the same machines that answer in an agent, given up after a while. Who asks a coordinator goes where
//! `run::knowledge::route` says.

use proto::{
    id::{HostId, SessionId},
    run::{
        knowledge::{
            self, Source,
            route::{Route, Step},
            source,
        },
        lead::{self, question::Ask},
    },
    topology::Content,
    trust::May,
    wire::rpc::{Answer, Refusal, Request},
};

use super::{Event, Key, Message, World, fault::FILES};

/// A question without an answer is given up after this time.
const CALL_MS: u64 = 5_000;

/// What an answer is for.
#[derive(Clone, Debug)]
pub enum For {
    /// A share of this version was brought by the session's coordinator.
    Delivery(SessionId, u64),
    /// A change of voters asked for a log.
    Voter(SessionId, u64),
    /// A share was asked for.
    Pull(SessionId),
    /// Bytes of files were asked for.
    Content(SessionId, Content),
    /// It was asked who is believed.
    Voices(SessionId),
    /// A question on its way to a coordinator.
    Route(u64),
    /// Nothing.
    Nobody,
}

/// Who asks a coordinator.
#[derive(Clone, Debug)]
pub enum Asker {
    /// Work for a machine, with its number.
    Machine(Key, u64),
    /// A user, and what for.
    User(String),
}

/// A question on its way to a session's coordinator.
#[derive(Clone, Debug)]
pub struct Routed {
    route: Route,
    session: SessionId,
    request: Request,
    asker: Asker,
}

impl World {
    /// Asks another agent, or this one.
    pub(super) fn call(&mut self, from: HostId, to: HostId, request: Request, wants: For) {
        let number = self.number();
        let Some(agent) = self.agent_mut(from) else { return };
        agent.calls.insert(number, (to, wants));
        let run = agent.run;
        self.send_call(from, to, Message::Request(number, Box::new(request)));
        self.after(CALL_MS, Event::Expire(from, run, number));
    }

    pub(super) fn reply(&mut self, from: HostId, (to, number): (HostId, u64), answer: Answer) {
        self.send_call(from, to, Message::Answer(number, Box::new(answer)));
    }

    fn send_call(&mut self, from: HostId, to: HostId, message: Message) {
        if from == to {
            self.after(1, Event::Arrive(from, to, message))
        } else {
            self.send(from, to, message)
        }
    }

    /// A question arrived.
    pub(super) fn requested(&mut self, id: HostId, from: HostId, number: u64, request: Request) {
        let back = (from, number);
        let request = match Ask::of(from, request) {
            Ok((session, ask)) => return self.question(id, back, session, ask),
            Err(request) => request,
        };
        let wants = match request {
            Request::PutShare(share) => knowledge::Wants::Share(share),
            Request::OpenVoter { session, .. } => knowledge::Wants::Log(session),
            Request::GetShare(session) => {
                let log = self.hosts.get(&id).and_then(|host| host.disk.logs.get(&session));
                let share = lead::share_for(log.and_then(|log| log.state.as_deref()), from, May::ALL);
                let answer = share.map_or_else(Answer::Refused, |share| Answer::Share(Box::new(share)));
                return self.reply(id, back, answer);
            }
            Request::Content { session, content, .. } => {
                let answer = self.content(id, from, session, content);
                return self.reply(id, back, answer.map_or_else(Answer::Refused, Answer::Content));
            }
            Request::Voices(session) => {
                let voices = self.agent_mut(id).map(|agent| agent.knowledge.voices(session));
                return self.reply(id, back, Answer::Voices(voices.unwrap_or_default()));
            }
            _ => return self.reply(id, back, Answer::Done),
        };
        let ticket = self.number();
        let Some(agent) = self.agent_mut(id) else { return };
        agent.tickets.insert(ticket, back);
        self.learn(id, knowledge::Event::Asked { ticket, from, wants });
    }

    /// Finds bytes for a member, where they may be had.
    fn content(
        &mut self,
        id: HostId,
        from: HostId,
        session: SessionId,
        content: Content,
    ) -> Result<Vec<u8>, Refusal> {
        let host = self.hosts.get(&id).ok_or(Refusal::UnknownSession)?;
        let believed = host.agent.as_ref().is_some_and(|agent| agent.knowledge.believes(session, from));
        let state = host.disk.logs.get(&session).and_then(|log| log.state.as_deref());
        let share = host.disk.shares.get(&session).map(|share| &**share);
        match source(state, share, (from, believed), &content)? {
            Source::Log(bytes) => Ok(bytes.to_vec()),
            Source::Disk => {
                let here = host.disk.contents.get(&session).is_some_and(|here| here.contains(&content));
                let all = FILES.iter().find(|bytes| Content::of(bytes) == content).filter(|_| here);
                all.map(|bytes| bytes.to_vec()).ok_or(Refusal::NoContent)
            }
        }
    }

    /// An answer arrived, or none will.
    pub(super) fn replied(&mut self, id: HostId, number: u64, answer: Option<Answer>) {
        let Some((to, wants)) = self.agent_mut(id).and_then(|agent| agent.calls.remove(&number)) else {
            return;
        };
        match wants {
            For::Delivery(session, version) => {
                let taken = matches!(answer, Some(Answer::Done)).then_some(version);
                self.lead_on(id, session, lead::Event::Delivered(to, taken));
            }
            For::Voter(session, change) => {
                let node = match answer {
                    Some(Answer::Voter { node }) => Some(node),
                    _ => None,
                };
                self.lead_on(id, session, lead::Event::Voter { change, host: to, node });
            }
            For::Pull(session) => {
                let share = match answer {
                    Some(Answer::Share(share)) => Some(share),
                    _ => None,
                };
                self.learn(id, knowledge::Event::Pulled(session, to, share));
            }
            For::Content(session, content) => {
                let ended = match answer {
                    Some(Answer::Content(bytes)) if Content::of(&bytes) == content => Ok(()),
                    Some(Answer::Refused(refusal)) => Err(refusal.to_string()),
                    _ => Err("no answer".to_owned()),
                };
                if ended.is_ok()
                    && let Some(host) = self.hosts.get_mut(&id)
                {
                    host.disk.contents.entry(session).or_default().insert(content);
                }
                self.learn(id, knowledge::Event::Fetched(session, content, ended));
            }
            For::Voices(session) => {
                let said = match answer {
                    Some(Answer::Voices(said)) => Some(said),
                    _ => None,
                };
                self.learn(id, knowledge::Event::Said(session, to, said));
            }
            For::Route(number) => {
                let Some(agent) = self.agent_mut(id) else { return };
                let Some(routed) = agent.routes.get_mut(&number) else { return };
                match routed.route.answered(to, answer) {
                    Some(result) => self.arrived(id, number, result),
                    None => self.route_on(id, number),
                }
            }
            For::Nobody => {}
        }
    }

    /// Asks a session's coordinator, wherever it is.
    pub(super) fn ask_coordinator(&mut self, id: HostId, session: SessionId, request: Request, asker: Asker) {
        let (number, now) = (self.number(), self.here(id));
        let Some(agent) = self.agent_mut(id) else { return };
        agent.routes.insert(number, Routed { route: Route::new(now), session, request, asker });
        self.route_on(id, number);
    }

    /// Takes a question one step further.
    pub(super) fn route_on(&mut self, id: HostId, number: u64) {
        let now = self.here(id);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let routed = host.agent.as_ref().and_then(|agent| agent.routes.get(&number));
        let Some(session) = routed.map(|routed| routed.session) else { return };
        let coordinator = host.coordinator(session);
        let known = host.disk.shares.contains_key(&session) || host.disk.logs.contains_key(&session);
        let Some(agent) = &mut host.agent else { return };
        let run = agent.run;
        let Some(routed) = agent.routes.get_mut(&number) else { return };
        let request = routed.request.clone();
        match routed.route.next(coordinator, known, now) {
            Step::Ask(to) => self.call(id, to, request, For::Route(number)),
            Step::Pause(at) => self.after(at.since_ms(now), Event::Route(id, run, number)),
            Step::GiveUp(refusal) => self.arrived(id, number, Err(refusal)),
        }
    }

    /// A question came to its end.
    fn arrived(&mut self, id: HostId, number: u64, result: Result<Answer, Refusal>) {
        let Some(routed) = self.agent_mut(id).and_then(|agent| agent.routes.remove(&number)) else { return };
        match routed.asker {
            Asker::Machine(machine, order) => {
                let asked = self.agent_mut(id).and_then(|agent| agent.asked.get(&machine));
                if asked.is_some_and(|(number, _)| *number == order) {
                    self.machine_answered(id, machine, result);
                }
            }
            Asker::User(what) => {
                if let Err(refusal) = result {
                    self.tell(Some(id), || format!("{what}: {refusal}"));
                }
            }
        }
    }
}
