//! The shell of `proto::run::lead`: beside every log of a session on this host it looks at what the machine
//! asks for, and carries out what it says. Nothing here decides.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use mesh::{Clock, quorum::Group};
use proto::{
    id::{HostId, SessionId},
    level::Level,
    picture::Change,
    run::{
        Rules,
        lead::{Effect, Event, Lead, Member, Overview, Place, Standing},
    },
    session::{Command, Share},
    time::Moment,
    trust::{Statement, Tombstone},
    wire::{
        record::{Body, RecordKey},
        rpc::{Answer, Request},
    },
};
use tokio::task::JoinSet;

use super::{
    ground::Ground,
    requests::{self, Requests},
};
use crate::host::words::words;

/// A member answers a new share after one fsync; slower ones are asked again later.
const DELIVERY: Duration = Duration::from_secs(5);
/// A new voter must fetch the whole log; a change of voters that takes longer is tried again.
const CHANGE: Duration = Duration::from_secs(20);

struct Coordinator {
    ground: Ground,
    /// What this host answers itself, and the log and what is believed of it.
    here: Requests,
    session: SessionId,
    group: Group,
    lead: Lead,
    /// What was begun and tells the machine when it ended.
    work: JoinSet<Event>,
    wake: Option<Moment>,
    /// Whether it was told that the session's end cannot be stated.
    told_unstated: bool,
}

/// Runs until the daemon ends, the session is buried, or another log takes this one's place.
pub async fn run(here: Requests, session: SessionId, group: Group) {
    let (lead, begun) = Lead::new(here.ground.me(), Rules::default(), Clock.moment());
    let (ground, work) = (here.ground.clone(), JoinSet::new());
    let mut this = Coordinator { ground, here, session, group, lead, work, wake: None, told_unstated: false };
    if this.carry_out(begun).await {
        this.run().await;
    }
}

impl Coordinator {
    async fn run(&mut self) {
        let (mut lead, mut state) = (self.group.lead(), self.group.state());
        let mut roll = self.ground.mesh.roll();
        let wakes = self.ground.pictures.wakes(|change| matches!(change, Change::Host(_)));
        let stop = self.ground.stop.clone();
        loop {
            self.wake = None;
            let seen = Event::Look(Box::new(self.look()));
            let effects = self.lead.on(seen, Clock.moment());
            if !self.carry_out(effects).await {
                return;
            }
            let wake = self.wake;
            let until = async move {
                match wake {
                    Some(at) => Clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Every arm only wakes the loop, and loses nothing when it is dropped: a token, watches, a join
            // set, a timer. What they tell is looked at above.
            let event = tokio::select! {
                () = stop.cancelled() => return,
                changed = lead.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Whom the log names is believed.
                    self.here.known.look();
                    None
                }
                changed = state.changed() => if changed.is_err() { return } else { None },
                () = wakes.changed() => None,
                changed = roll.changed() => if changed.is_err() { return } else { None },
                Some(ended) = self.work.join_next() => ended.ok(),
                () = until => None,
            };
            let effects = event.map(|event| self.lead.on(event, Clock.moment()));
            if !self.carry_out(effects.unwrap_or_default()).await {
                return;
            }
        }
    }

    fn look(&self) -> Overview {
        let (group, lead) = (&self.group, self.group.lead().borrow().clone());
        let inside = lead.voters.contains_key(&group.node_id()) || group.is_named();
        let place = match (inside, group.is_removed()) {
            (true, true) => Place::Removed,
            (true, false) => Place::Inside,
            (false, _) => Place::Outside,
        };
        let members = self.ground.mesh.members().borrow().clone();
        let member = |(id, member): (&HostId, &mesh::MemberView)| {
            let (up, level) = (member.is_up(), member.level);
            (*id, Member { name: member.name.clone(), up, steady: member.steady, level, may: member.may })
        };
        Overview {
            group: Standing {
                leader: lead.leader,
                leading: lead.leading,
                term: lead.term,
                voters: lead.voters,
                outdated: lead.outdated,
                place,
                stopped: lead.stopped,
            },
            state: group.state().borrow().clone(),
            members: members.hosts.iter().map(member).collect(),
            out: self.ground.picture().out.keys().copied().collect(),
            buried: self.ground.buried(self.session),
            shared: self.ground.share(self.session).is_some(),
        }
    }

    /// Tells whether this task goes on.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> bool {
        for effect in effects {
            match effect {
                Effect::Announce(head) => {
                    let body = head.map(|head| Body::Head(*head));
                    self.ground.mesh.publish(RecordKey::Head(self.session), body).await;
                }
                Effect::Deliver(to, share) => self.deliver(to, share),
                Effect::AskVoter { change, host, outdated } => self.ask_voter(change, host, outdated),
                Effect::SetVoters { change, voters } => self.set_voters(change, voters),
                Effect::Raise { raise, level } => self.raise(raise, level),
                Effect::Release { release, machine, host, epoch } => {
                    self.release(release, Command::Dropped { machine, host, epoch });
                }
                Effect::Bury => self.bury(),
                Effect::Tell(fact) => self.ground.tell(fact),
                Effect::Wake(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
                Effect::Reopen => {
                    if self.reopen().await {
                        return false;
                    }
                }
                Effect::Rest => return false,
                Effect::Forget => {
                    self.here.table.forget(self.session).await;
                    return false;
                }
                Effect::Retire => {
                    self.here.table.retire(self.session, self.group.clone()).await;
                    return false;
                }
            }
        }
        true
    }

    /// Begins work that ends with an event; one that panics ends with `failed`.
    fn begin(&mut self, work: impl Future<Output = Event> + Send + 'static, failed: Event) {
        let work = AssertUnwindSafe(work).catch_unwind();
        self.work.spawn(async move { work.await.unwrap_or(failed) });
    }

    fn deliver(&mut self, to: HostId, share: Box<Share>) {
        let here = self.here.clone();
        let work = async move { Event::Delivered(to, deliver(&here, to, share).await) };
        self.begin(work, Event::Delivered(to, None));
    }

    fn ask_voter(&mut self, change: u64, host: HostId, outdated: Option<u64>) {
        let (here, session) = (self.here.clone(), self.session);
        let name = self.group.state().borrow().as_ref().map(|state| state.name.clone());
        let work = async move {
            let mut node = None;
            if let Some(name) = name {
                let request = Request::OpenVoter { session, name, outdated };
                match call(&here, host, request).await {
                    Some(Answer::Voter { node: found }) => node = Some(found),
                    answer => tracing::info!(%session, %host, ?answer, "no answer about its log"),
                }
            }
            Event::Voter { change, host, node }
        };
        self.begin(work, Event::Voter { change, host, node: None });
    }

    fn set_voters(&mut self, change: u64, voters: BTreeMap<u64, HostId>) {
        let (group, session) = (self.group.clone(), self.session);
        // Apart from the loop: shares must not wait for a new voter's copy of the log.
        let work = async move {
            let set = group.set_voters(voters, CHANGE).await;
            if let Err(because) = &set {
                tracing::info!(%session, %because, "the voters stay as they are for now");
            }
            Event::VotersSet { change, well: set.is_ok() }
        };
        self.begin(work, Event::VotersSet { change, well: false });
    }

    fn raise(&mut self, raise: u64, level: Level) {
        let (here, session) = (self.here.clone(), self.session);
        let work = async move {
            let written = requests::write(&here, session, Command::Raise { level }).await;
            match &written {
                Ok(()) => tracing::info!(%session, %level, "the session's level is raised"),
                Err(because) => {
                    tracing::info!(%session, %because, "the session's level is not raised for now")
                }
            }
            Event::Raised { raise, well: written.is_ok() }
        };
        self.begin(work, Event::Raised { raise, well: false });
    }

    fn release(&mut self, release: u64, command: Command) {
        let (here, session) = (self.here.clone(), self.session);
        let work = async move {
            let written = requests::write(&here, session, command).await;
            if let Err(because) = &written {
                tracing::info!(%session, %because, "what a host had that is out is not written off for now");
            }
            Event::Released { release, well: written.is_ok() }
        };
        self.begin(work, Event::Released { release, well: false });
    }

    fn bury(&mut self) {
        let mesh = &self.ground.mesh;
        let mandate = self.group.state().borrow().as_ref().and_then(|state| state.mandate.clone());
        let tombstone = Tombstone { session: self.session, made: mesh.now(), mandate };
        match mesh.say(&Statement::Tombstone(tombstone)) {
            Ok(()) => self.told_unstated = false,
            // It is tried at every look; once is enough to be told.
            Err(error) if !std::mem::replace(&mut self.told_unstated, true) => {
                let because = words(&error);
                tracing::warn!(session = %self.session, because, "the session's end cannot be stated");
            }
            Err(_) => {}
        }
    }

    /// Opens the log again, with a new task in the place of this one. Tells whether it is open.
    async fn reopen(&mut self) -> bool {
        let session = self.session;
        let because = self.group.lead().borrow().stopped.clone().unwrap_or_default();
        tracing::error!(%session, because, "the session's log cannot be written; it is closed until it can");
        if self.here.table.reopen(session, self.group.clone()).await {
            tracing::info!(%session, "the session's log is open again");
            return true;
        }
        let effects = self.lead.on(Event::StillClosed, Clock.moment());
        self.wake = effects.into_iter().find_map(|effect| match effect {
            Effect::Wake(at) => Some(at),
            _ => None,
        });
        false
    }
}

/// Sends one member its share. Gives the version that it has now.
async fn deliver(here: &Requests, to: HostId, share: Box<Share>) -> Option<u64> {
    let (version, session) = (share.version, share.session);
    let answer = call(here, to, Request::PutShare(share)).await?;
    if let Answer::Refused(refusal) = &answer {
        tracing::info!(%session, host = %to, %refusal, "the share was not taken");
    }
    matches!(answer, Answer::Done).then_some(version)
}

/// Asks a member, which may be this host.
async fn call(here: &Requests, to: HostId, request: Request) -> Option<Answer> {
    if to == here.ground.me() {
        return Some(requests::answer(here, to, request).await);
    }
    match here.ground.mesh.call(to, request, DELIVERY).await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(host = %to, %error, "no answer");
            None
        }
    }
}
