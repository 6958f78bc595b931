//! How a session begins: on the host that is asked, which plans it first and is its only voter. Others hear of it
//! once its birth stands in its log; what fails before its first plan is committed is taken back whole.
//!
//! `asked -> Gather -> (obstacles: End) | OpenLog -> Write(Create) -> State -> Write(Raise)? -> Write(Keep)* ->
//! Write(Apply) -> Show -> End`;
//! from `OpenLog` on a failure leads to `GiveUp`, then `End`.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    facts::Fact,
    id::{HostId, Name, SessionId},
    level::{Feature, Level},
    picture::Shares,
    session::{Command, Decision, Inventory, Proposal, Replace, SignedMandate, plan, understood::understood},
    time::Timestamp,
    topology::{Contents, Intent, Parcel},
    trust::Genesis,
    wire::{record::HeadRecord, rpc::Refusal},
};

/// Finds the session that is called so here. Several may be, once parts of a mesh come together: all of them.
pub fn called<'a>(
    name: &Name,
    shares: &Shares,
    heads: impl IntoIterator<Item = (SessionId, &'a HeadRecord)>,
) -> Result<Option<SessionId>, BTreeSet<SessionId>> {
    let here = shares.values().filter(|share| share.name == *name && !share.ended).map(|share| share.session);
    let heads = heads.into_iter().filter(|(_, head)| head.name == *name && !head.ended);
    let mut ids: BTreeSet<SessionId> = here.chain(heads.map(|(session, _)| session)).collect();
    if ids.len() > 1 { Err(ids) } else { Ok(ids.pop_first()) }
}

/// Gives the fact that a plan is committed now.
pub fn committed(session: &Name, proposal: &Proposal) -> Option<Fact> {
    let generation = proposal.plan.as_ref()?.generation;
    Some(Fact::PlanCommitted { session: session.clone(), generation })
}

/// What tells a session from all others.
#[derive(Clone, Debug, PartialEq)]
pub struct Seeds {
    /// The host on which it is born.
    pub host: HostId,
    /// What its identity is made of, with that host.
    pub salt: [u8; 16],
    /// When.
    pub stamp: Timestamp,
    /// Where its keys come from.
    pub ssh_seed: [u8; 32],
    /// What the operator signed of it, for a session whose hosts all know mandates.
    pub mandate: Option<SignedMandate>,
}

/// What the birth waited for.
#[derive(Clone, Debug)]
pub enum Event {
    /// What the mesh offers now.
    Offered(Box<Inventory>),
    /// Its log is open, and this host leads it.
    Opened(Result<(), String>),
    /// A write ended.
    Written(Result<(), Refusal>),
    /// Its birth is stated.
    Stated(Result<(), String>),
    /// This host has its share and shows it.
    Shown(Result<(), Refusal>),
}

/// What is to be done for the birth.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Gather what the mesh offers.
    Gather,
    /// Open a log with this host as its only voter, and wait until it leads.
    OpenLog,
    /// Write this into the hard state.
    Write(Box<Command>),
    /// State its birth: others take shares only from hosts that this names.
    State(Genesis),
    /// Let this host take its share: whoever asked looks at the session at once.
    Show,
    /// Take back what was done. The last write may stand although nobody heard of it, so that others have
    /// shares: the end is stated.
    GiveUp,
    /// Tell a fact.
    Tell(Fact),
    /// It is over: the proposal, without a plan if there were obstacles.
    End(Result<Box<Proposal>, Failure>),
}

/// Why no session was born.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Its user saw the plan of a session that is no more.
    Stale,
    /// Its own log or host said no.
    Refused(Refusal),
    /// Something failed; its words.
    Failed(String),
}

/// One birth under way.
#[derive(Clone, Debug)]
pub struct Birth {
    session: SessionId,
    seeds: Seeds,
    intent: Intent,
    contents: Contents,
    proposal: Proposal,
    /// What is still to be written before the first plan stands.
    writes: VecDeque<Command>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Asked,
    Opening,
    Creating,
    Stating,
    Planning,
    Showing,
    Over,
}

impl Birth {
    /// Begins with a topology that was checked where it came in. `index` is the generation that the user saw, if that matters.
    pub fn new(session: SessionId, seeds: Seeds, parcel: Parcel, index: Option<u64>) -> (Birth, Vec<Effect>) {
        let (Parcel { intent, contents }, writes) = (parcel, VecDeque::new());
        let (proposal, step) = (Proposal::default(), Step::Asked);
        let mut birth = Birth { session, seeds, intent, contents, proposal, writes, step };
        let effects = match index {
            Some(1..) => birth.end(Err(Failure::Stale)),
            _ => vec![Effect::Gather],
        };
        (birth, effects)
    }

    /// Takes what it waited for and says what comes next. What it does not wait for changes nothing.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match (self.step, event) {
            (Step::Asked, Event::Offered(inventory)) => self.offered(&inventory),
            (Step::Opening, Event::Opened(Err(because))) => self.give_up(Failure::Failed(because)),
            (Step::Opening, Event::Opened(Ok(()))) => {
                let (id, name) = (self.session, self.intent.topology.session.clone());
                let (stamp, ssh_seed) = (self.seeds.stamp, self.seeds.ssh_seed);
                self.go(
                    Step::Creating,
                    Effect::Write(Box::new(Command::Create { id, name, stamp, ssh_seed })),
                )
            }
            (Step::Creating, Event::Written(Ok(()))) => self.go(Step::Stating, Effect::State(self.genesis())),
            (Step::Stating, Event::Stated(Err(because))) => {
                self.give_up(Failure::Failed(format!("its birth cannot be stated: {because}")))
            }
            (Step::Stating, Event::Stated(Ok(()))) => self.apply(),
            (Step::Planning, Event::Written(Ok(()))) => self.write(),
            (Step::Creating | Step::Planning, Event::Written(Err(refusal))) => {
                self.give_up(Failure::Refused(refusal))
            }
            (Step::Showing, Event::Shown(Err(refusal))) => self.give_up(Failure::Refused(refusal)),
            (Step::Showing, Event::Shown(Ok(()))) => {
                let fact = committed(&self.intent.topology.session, &self.proposal).map(Effect::Tell);
                fact.into_iter().chain(self.end(Ok(()))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Gives the plan that was made, for people.
    pub fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    fn offered(&mut self, inventory: &Inventory) -> Vec<Effect> {
        let wanted = (&self.intent, &Replace::default());
        self.proposal = plan::propose(self.session, None, wanted, inventory);
        match self.proposal.plan {
            Some(_) => self.go(Step::Opening, Effect::OpenLog),
            None => self.end(Ok(())),
        }
    }

    fn genesis(&self) -> Genesis {
        Genesis {
            session: self.session,
            salt: self.seeds.salt,
            name: self.intent.topology.session.clone(),
            stamp: self.seeds.stamp,
            voters: vec![self.seeds.host],
            bound: self.mandate().is_some(),
        }
    }

    /// Gives what was signed, where everybody understands that.
    fn mandate(&self) -> Option<SignedMandate> {
        let level = self.proposal.plan.as_ref().map_or(Level::FIRST, |plan| plan.level);
        self.seeds.mandate.clone().filter(|_| level.allows(Feature::Mandates))
    }

    fn apply(&mut self) -> Vec<Effect> {
        let Some(plan) = self.proposal.plan.clone() else { return self.end(Ok(())) };
        // First of all, so that what needs the level may follow.
        let level = plan.level;
        let raise =
            (level > Level::FIRST && level.allows(Feature::Raise)).then_some(Command::Raise { level });
        let (intent, replace) = (understood(&self.intent, level).into_owned(), Replace::default());
        let parts = std::mem::take(&mut self.contents).parts(&intent.named());
        self.writes = raise.into_iter().chain(parts.into_iter().map(Command::Keep)).collect();
        self.writes.push_back(Decision::Apply { intent, plan, replace }.entry(self.mandate()));
        self.write()
    }

    fn write(&mut self) -> Vec<Effect> {
        match self.writes.pop_front() {
            Some(command) => self.go(Step::Planning, Effect::Write(Box::new(command))),
            None => self.go(Step::Showing, Effect::Show),
        }
    }

    fn go(&mut self, step: Step, effect: Effect) -> Vec<Effect> {
        self.step = step;
        vec![effect]
    }

    fn give_up(&mut self, failure: Failure) -> Vec<Effect> {
        std::iter::once(Effect::GiveUp).chain(self.end(Err(failure))).collect()
    }

    fn end(&mut self, ended: Result<(), Failure>) -> Vec<Effect> {
        self.step = Step::Over;
        vec![Effect::End(ended.map(|()| Box::new(self.proposal.clone())))]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::session::{
        Refused, State,
        fixture::{SESSION, created, host_id, intent, inventory, up},
        slice,
    };

    const HOSTS: &str = "attic 900 image\nnas 900 image";

    fn seeds() -> Seeds {
        Seeds { host: host_id("nas"), salt: [1; 16], stamp: Timestamp(7), ssh_seed: [2; 32], mandate: None }
    }

    fn begin(topology: &str, index: Option<u64>) -> (Birth, Vec<Effect>) {
        let parcel = Parcel { intent: intent(topology), contents: Contents::default() };
        Birth::new(SESSION, seeds(), parcel, index)
    }

    fn offered() -> Event {
        Event::Offered(Box::new(inventory(HOSTS)))
    }

    /// Says in a few words what is done for a birth that gets these answers.
    fn story(topology: &str, answers: Vec<Event>) -> String {
        let (mut birth, mut effects) = begin(topology, None);
        let mut told = Vec::new();
        let mut answers = answers.into_iter();
        loop {
            told.extend(effects.iter().map(|effect| match effect {
                Effect::Gather => "gather".to_owned(),
                Effect::OpenLog => "open".to_owned(),
                Effect::Write(command) => match **command {
                    Command::Create { .. } => "create".to_owned(),
                    Command::Apply { .. } => "apply".to_owned(),
                    Command::Raise { .. } => "raise".to_owned(),
                    ref other => format!("{other:?}"),
                },
                Effect::State(genesis) => format!("state {}", genesis.voters.len()),
                Effect::Show => "show".to_owned(),
                Effect::GiveUp => "give up".to_owned(),
                Effect::Tell(_) => "tell".to_owned(),
                Effect::End(Ok(proposal)) => format!("end {}", proposal.plan.is_some()),
                Effect::End(Err(failure)) => format!("{failure:?}"),
            }));
            match answers.next() {
                Some(answer) => effects = birth.on(answer),
                None => return told.join(", "),
            }
        }
    }

    fn answers(last: Event) -> Vec<Event> {
        let all = [
            offered(),
            Event::Opened(Ok(())),
            Event::Written(Ok(())),
            Event::Stated(Ok(())),
            Event::Written(Ok(())),
            Event::Written(Ok(())),
            Event::Shown(Ok(())),
        ];
        let until = |event: &Event| std::mem::discriminant(event) != std::mem::discriminant(&last);
        let mut begun: Vec<Event> = all.into_iter().take_while(until).collect();
        begun.push(last);
        begun
    }

    #[test]
    fn a_session_is_planned_then_written_then_stated_then_shown() {
        let told = story("web 1 256", answers(Event::Shown(Ok(()))));
        assert_eq!(told, "gather, open, create, state 1, raise, apply, show, tell, end true");
    }

    #[test]
    fn the_bytes_of_its_files_are_kept_in_parts_before_the_first_plan() {
        let (mut intent, mut contents) = (intent("web 1 256"), Contents::default());
        for text in ["a", "b", "c"] {
            intent.files.insert(text.into(), contents.add(text.repeat(200_000).as_bytes()));
        }
        let (mut birth, _) =
            Birth::new(SESSION, seeds(), Parcel { intent, contents: contents.clone() }, None);
        let mut state = created();
        let mut kept = Vec::new();
        for event in answers(Event::Shown(Ok(()))).into_iter().take(5) {
            kept = birth.on(event);
        }
        for lacks in [3, 1] {
            let [Effect::Write(command)] = &kept[..] else { panic!("{kept:?}") };
            assert!(matches!(**command, Command::Keep(_)), "{lacks}");
            state = command_of(state, command);
            kept = birth.on(Event::Written(Ok(())));
        }
        assert_eq!(state.contents, contents);
        let [Effect::Write(command)] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!(command_of(state, command).contents, contents, "what is named stays");
        assert_eq!(birth.on(Event::Written(Ok(()))), [Effect::Show]);
    }

    fn command_of(state: State, command: &Command) -> State {
        crate::session::fixture::command(state, command.clone())
    }

    #[test]
    fn where_an_older_program_runs_a_session_begins_at_what_that_understands() {
        let (mut birth, _) = begin("web 1 256 internet", None);
        let mixed = Event::Offered(Box::new(inventory("attic 900 level=1\nnas 900 image")));
        let mut written = birth.on(mixed);
        for event in answers(Event::Shown(Ok(()))).into_iter().skip(1).take(3) {
            written = birth.on(event);
        }
        let [Effect::Write(command)] = &written[..] else { panic!("{written:?}") };
        let Command::Apply { intent: less, .. } = &**command else { panic!("{command:?}") };
        assert_eq!((less, command.feature()), (&intent("web 1 256"), None));
    }

    #[test]
    fn nothing_is_begun_that_cannot_be_planned() {
        assert_eq!(story("web 1 4000", vec![offered()]), "gather, end false");
    }

    #[test]
    fn what_fails_before_the_first_plan_is_committed_is_taken_back() {
        let full = || "the disk is full".to_owned();
        let told = story("web 1 256", answers(Event::Opened(Err(full()))));
        assert_eq!(told, "gather, open, give up, Failed(\"the disk is full\")");
        let told = story("web 1 256", answers(Event::Written(Err(Refusal::NoQuorum))));
        assert_eq!(told, "gather, open, create, give up, Refused(NoQuorum)");
        let told = story("web 1 256", answers(Event::Stated(Err(full()))));
        assert!(told.ends_with("state 1, give up, Failed(\"its birth cannot be stated: the disk is full\")"));
        let mut late = answers(Event::Shown(Err(Refusal::Older)));
        assert!(story("web 1 256", late.clone()).ends_with("apply, show, give up, Refused(Older)"));
        late[5] = Event::Written(Err(Refusal::State(Refused::Ended)));
        late.truncate(6);
        assert!(story("web 1 256", late).ends_with("apply, give up, Refused(State(Ended))"));
    }

    #[test]
    fn a_plan_of_a_session_that_is_no_more_begins_no_other() {
        assert_eq!(begin("web 1 256", Some(3)).1, [Effect::End(Err(Failure::Stale))]);
        assert_eq!(begin("web 1 256", Some(0)).1, [Effect::Gather]);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_changes_nothing() {
        let (mut birth, _) = begin("web 1 256", None);
        assert_eq!(birth.on(Event::Written(Ok(()))), []);
        assert_eq!(birth.on(Event::Shown(Ok(()))), []);
        assert_eq!(birth.on(offered()), [Effect::OpenLog]);
        assert_eq!(birth.on(offered()), []);
    }

    #[test]
    fn a_name_is_found_among_shares_and_heads_and_two_of_one_name_are_told_apart() {
        let state = up(created(), "web 1 256", HOSTS);
        let share = Arc::new(slice::share(&state, host_id("nas")));
        let shares: Shares = [(SESSION, share)].into();
        let head = |ended: bool| HeadRecord {
            name: state.name.clone(),
            stamp: Timestamp(0),
            term: 1,
            recovery: 0,
            version: 1,
            generation: Default::default(),
            voters: vec![],
            ended,
        };
        let (living, ended, other) = (head(false), head(true), SessionId([9; 16]));
        assert_eq!(called(&state.name, &shares, []), Ok(Some(SESSION)));
        assert_eq!(called(&state.name, &Shares::new(), [(other, &living)]), Ok(Some(other)));
        assert_eq!(called(&state.name, &Shares::new(), [(other, &ended)]), Ok(None));
        assert_eq!(called(&"else".parse().unwrap(), &shares, []), Ok(None));
        assert_eq!(called(&state.name, &shares, [(other, &living)]), Err([SESSION, other].into()));
    }
}
