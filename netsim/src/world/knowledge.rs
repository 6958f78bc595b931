//! What an agent knows of sessions: gathers what `run::knowledge` looks at and carries out what it says.

use std::{collections::BTreeMap, sync::Arc};

use proto::{
    id::{HostId, SessionId},
    picture::{Input, heads},
    run::{
        Rules,
        knowledge::{Effect, Event as Learned, Kept, Knowledge, View},
    },
    session::Share,
    wire::rpc::{Answer, Request},
};

use super::{Event, World, calls::For, host::Host};

impl World {
    /// Begins with what is on the disk.
    pub(super) fn knowledge_of(host: &Host, rules: Rules) -> Knowledge {
        let (shares, voices) = ((*host.disk.shares).clone(), host.disk.voices.clone());
        let contents = host.disk.contents.clone();
        Knowledge::new(host.id, rules, Kept { shares, voices, contents })
    }

    /// Looks at what the mesh says, if that changed or a moment came.
    pub(super) fn look_out(&mut self, id: HostId, woken: bool) {
        self.look(id);
        let view = self.view_of(id);
        let Some(agent) = self.agent_mut(id) else { return };
        if woken || agent.seen_view.as_ref() != Some(&view) {
            agent.seen_view = Some(view.clone());
            self.learn(id, Learned::Look(Box::new(view)));
        }
    }

    fn view_of(&self, id: HostId) -> View {
        let Some(host) = self.hosts.get(&id) else { return View::default() };
        let Some(picture) = host.agent.as_ref().map(|agent| &agent.picture) else { return View::default() };
        let mut said: BTreeMap<SessionId, BTreeMap<_, _>> = BTreeMap::new();
        for (by, session) in heads::speakers(picture) {
            let head = heads::said(picture, by, session).cloned();
            said.entry(session).or_default().extend(head.map(|head| (by, head)));
        }
        let named = |log: &super::quorum::Log| log.voters.values().copied().collect();
        View {
            heads: said,
            births: self.births.clone(),
            buried: host.disk.buried.clone(),
            named: host.disk.logs.iter().map(|(session, log)| (*session, named(log))).collect(),
            members: picture.present().map(|(host, _)| host).collect(),
            out: picture.out.keys().copied().collect(),
            up: picture.up().map(|(host, _)| host).collect(),
            ..View::default()
        }
    }

    /// Lets an agent's knowledge take an event, and carries out what follows.
    pub(super) fn learn(&mut self, id: HostId, event: Learned) {
        let now = self.here(id);
        let Some(agent) = self.agent_mut(id) else { return };
        for effect in agent.knowledge.on(event, now) {
            self.carry_out_learned(id, effect);
        }
    }

    fn carry_out_learned(&mut self, id: HostId, effect: Effect) {
        let Some(agent) = self.agent_mut(id) else { return };
        let run = agent.run;
        match effect {
            Effect::Answer(ticket, result) => {
                let Some(back) = agent.tickets.remove(&ticket) else { return };
                self.reply(id, back, result.map_or_else(Answer::Refused, |()| Answer::Done));
            }
            Effect::OpenLog(ticket, session) => {
                let Some(back) = agent.tickets.remove(&ticket) else { return };
                let node = self.open_log(id, session);
                self.reply(id, back, Answer::Voter { node });
            }
            Effect::Store(share, voices) => {
                if agent.seen_view.as_ref().is_some_and(|view| view.buried.contains(&share.session)) {
                    self.history.took_buried(id, &share.name);
                }
                let takes = self.random.between(1, 30);
                self.after(takes, Event::Stored(id, run, share, voices));
            }
            Effect::Show(share) => self.show(id, share),
            Effect::Fetch(session, from, content) => {
                let request = Request::Content { session, content, offset: 0 };
                self.call(id, from, request, For::Content(session, content));
            }
            Effect::Unsigned(share, _, unsigned) => {
                self.tell(Some(id), || format!("a share of {} is refused: {unsigned}", share.name));
            }
            Effect::Lacks(share, because) => {
                self.tell(Some(id), || format!("files of {} lack: {because}", share.name));
            }
            Effect::Pull(session, from) => {
                self.call(id, from, Request::GetShare(session), For::Pull(session));
            }
            Effect::AskVoices(session, of) => {
                self.call(id, of, Request::Voices(session), For::Voices(session));
            }
            Effect::KeepVoices(session, voices) => {
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.disk.voices.insert(session, voices);
                }
            }
            Effect::Wake(at) => self.look_later(id, None, at),
        }
    }

    /// A share reached the disk.
    pub(super) fn stored(
        &mut self,
        id: HostId,
        share: Arc<Share>,
        voices: Option<std::collections::BTreeSet<HostId>>,
    ) {
        let session = share.session;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.disk.voices.extend(voices.map(|voices| (session, voices)));
        let named = share.named();
        let here = host.disk.contents.entry(session).or_default();
        here.retain(|content| named.contains(content));
        if here.len() < named.len() {
            self.history.unfetched(id, &share.name);
        }
        Arc::make_mut(&mut host.disk.shares).insert(session, share);
        self.learn(id, Learned::Stored(session, Ok(())));
    }

    /// Removes everything of a buried session from a host on which nothing of it runs.
    pub(super) fn forget(&mut self, id: HostId, session: SessionId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        Arc::make_mut(&mut host.disk.shares).remove(&session);
        host.disk.voices.remove(&session);
        host.disk.contents.remove(&session);
        host.disk.logs.remove(&session);
        let Some(agent) = &mut host.agent else { return };
        let mut reports = (*agent.picture.reports).clone();
        reports.remove(&session);
        agent.take_in(Input::Reports(Arc::new(reports)));
        agent.leaders.remove(&session);
        agent.leads.remove(&session);
        agent.heads.remove(&session);
        agent.leading.remove(&session);
        self.history.share_gone(id, session);
        self.learn(id, Learned::Forgotten(session));
    }
}
