//! What is asked of a coordinator, and how it is answered: who may start, what was removed, what a person
//! wishes, what a topology would become and becomes. Every answer stands on a quorum round or on a write, and
//! every question is safe to repeat: plans name their parent, drops are forgotten once.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    facts::Fact,
    id::{Epoch, Generation, HostId, MachineName, SessionId},
    run::{Mutant, Rules, birth},
    session::{
        Command, Decision, Inventory, Plan, Proposal, Refused, Replace, SignedMandate, State, plan, slice,
        state, understood::understood,
    },
    topology::{Contents, Intent},
    wire::rpc::{Answer, Refusal, Request},
};

/// Two people may commit at once; each retry plans on what the other committed.
const PLAN_TRIES: u32 = 4;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// The hard state.
    State,
    /// What would this topology become?
    Plan(Box<Intent>, Replace),
    /// Make this topology true.
    Up {
        /// The topology.
        intent: Box<Intent>,
        /// The bytes of its files, at least those that the session does not keep yet.
        contents: Contents,
        /// The generation that the user saw.
        index: Option<u64>,
        /// Whose started disks may be lost.
        replace: Replace,
        /// What the operator signed.
        mandate: Option<SignedMandate>,
    },
    /// End the session, as the operator signed it.
    Down(Option<SignedMandate>),
    /// Start or stop a machine, as the operator signed it.
    Wish(MachineName, bool, Option<SignedMandate>),
    /// May this host start this incarnation for the first time?
    MayStart(HostId, MachineName, Epoch),
    /// This host removed this incarnation.
    Dropped(HostId, MachineName, Epoch),
}

impl Ask {
    /// Reads what a member asks of the coordinator; a request of another kind comes back.
    pub fn of(from: HostId, request: Request) -> Result<(SessionId, Ask), Request> {
        Ok(match request {
            Request::State(session) => (session, Ask::State),
            Request::Plan { session, intent, replace } => (session, Ask::Plan(intent, replace)),
            Request::Up { session, intent, index, replace, contents, mandate } => (
                session,
                Ask::Up { intent, contents, index, replace, mandate: mandate.map(|signed| *signed) },
            ),
            Request::Down { session, mandate } => (session, Ask::Down(mandate.map(|signed| *signed))),
            Request::Wish { session, machine, run, mandate } => {
                (session, Ask::Wish(machine, run, mandate.map(|signed| *signed)))
            }
            Request::MayStart { session, machine, epoch } => (session, Ask::MayStart(from, machine, epoch)),
            Request::Dropped { session, machine, epoch } => (session, Ask::Dropped(from, machine, epoch)),
            other => return Err(other),
        })
    }
}

/// What the question waited for.
#[derive(Clone, Debug)]
pub enum Event {
    /// A quorum round ended: the state, or why there is none.
    Read(Result<Arc<State>, Refusal>),
    /// What the mesh offers now.
    Offered(Box<Inventory>),
    /// A write ended.
    Written(Result<(), Refusal>),
}

/// What is to be done for the question.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read the state through a quorum round.
    Read,
    /// Gather what the mesh offers.
    Gather,
    /// Write this into the hard state.
    Write(Box<Command>),
    /// Tell a fact.
    Tell(Fact),
    /// Answer. It is the last.
    Answer(Box<Answer>),
}

/// One question under way.
#[derive(Clone, Debug)]
pub struct Question {
    session: SessionId,
    ask: Ask,
    rules: Rules,
    /// How often a plan was made for it.
    tries: u32,
    read: Option<Arc<State>>,
    proposal: Option<Box<Proposal>>,
    /// What is still to be written, after what is being written.
    writes: VecDeque<Command>,
}

impl Question {
    /// Begins.
    pub fn new(session: SessionId, ask: Ask, rules: Rules) -> (Question, Vec<Effect>) {
        let first = match &ask {
            Ask::Down(mandate) => Effect::Write(Box::new(Decision::End.entry(mandate.clone()))),
            Ask::Wish(machine, run, mandate) => {
                let wish = Decision::Wish { machine: machine.clone(), run: *run };
                Effect::Write(Box::new(wish.entry(mandate.clone())))
            }
            Ask::Dropped(host, machine, epoch) => {
                let (machine, host, epoch) = (machine.clone(), *host, *epoch);
                Effect::Write(Box::new(Command::Dropped { machine, host, epoch }))
            }
            Ask::Plan(intent, _) | Ask::Up { intent, .. } => match flaws(intent) {
                Some(refusal) => Effect::Answer(Box::new(Answer::Refused(refusal))),
                None => Effect::Read,
            },
            Ask::State | Ask::MayStart(..) => Effect::Read,
        };
        (
            Question { session, ask, rules, tries: 0, read: None, proposal: None, writes: VecDeque::new() },
            vec![first],
        )
    }

    /// Takes what it waited for and says what comes next.
    pub fn on(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::Read(Err(refusal)) => answer(Answer::Refused(refusal)),
            Event::Read(Ok(state)) => self.read(state),
            Event::Offered(inventory) => self.offered(&inventory),
            Event::Written(written) => self.written(written),
        }
    }

    /// Gives the plan that was made last, for people.
    pub fn proposal(&self) -> Option<&Proposal> {
        self.proposal.as_deref()
    }

    fn read(&mut self, state: Arc<State>) -> Vec<Effect> {
        self.read = Some(state.clone());
        match &self.ask {
            // Nobody who asks reads the files.
            Ask::State => {
                let contents = Contents::default();
                answer(Answer::State(Box::new(State { contents, ..State::clone(&state) })))
            }
            Ask::Plan(..) => vec![Effect::Gather],
            Ask::Up { index, .. } => {
                let current = state.generation();
                let stale = index.filter(|index| *index != current.0);
                match stale.filter(|_| !self.rules.broken(Mutant::CommitsUnseen)) {
                    Some(index) => {
                        let parent = Generation(index);
                        answer(Answer::Refused(Refusal::State(Refused::NotCurrent { current, parent })))
                    }
                    None => vec![Effect::Gather],
                }
            }
            Ask::MayStart(host, machine, epoch) => {
                let may = state::may_start(&state, *host, machine, *epoch);
                if !may || self.rules.broken(Mutant::GrantsUnwritten) {
                    return answer(Answer::MayStart(may));
                }
                // Written down before it is told: from then on there may be a disk that nobody throws away
                // unasked.
                let (machine, host, epoch) = (machine.clone(), *host, *epoch);
                vec![Effect::Write(Box::new(Command::Grant { machine, host, epoch }))]
            }
            Ask::Down(_) | Ask::Wish(..) | Ask::Dropped(..) => Vec::new(),
        }
    }

    fn offered(&mut self, inventory: &Inventory) -> Vec<Effect> {
        let Some(now) = self.read.clone() else { return Vec::new() };
        let (intent, replace) = match &self.ask {
            Ask::Plan(intent, replace) | Ask::Up { intent, replace, .. } => (intent, replace),
            _ => return Vec::new(),
        };
        let less = understood(intent, now.level);
        let intent = if self.rules.broken(Mutant::WritesUnderstoodByFew) { intent } else { &*less };
        let all = Replace::all();
        let may = if self.rules.broken(Mutant::ReplacesUnasked) { &all } else { replace };
        let mut proposal = plan::propose(self.session, Some(&now), (intent, may), inventory);
        if let Ask::Plan(..) = self.ask {
            return answer(Answer::Proposal(Box::new(proposal)));
        }
        if let Some(plan) = proposal.plan.as_mut().filter(|_| self.rules.broken(Mutant::MovesHeldMachines)) {
            move_held_machines(plan, inventory);
        }
        self.tries += 1;
        let planned = proposal.plan.clone();
        let same = planned.as_ref().zip(now.plan.as_ref()).is_some_and(|(new, old)| same(old, new));
        // A session whose mandate nobody stands for any more, or that has none yet, gets one with the next `up`.
        let signs = matches!(&self.ask, Ask::Up { mandate: Some(_), .. })
            && now.mandate.as_ref().is_none_or(|signed| inventory.out.contains(&signed.signer));
        if planned.is_none() || (same && !signs && now.intent.as_ref() == Some(intent)) {
            let plan = planned.and(now.plan.clone());
            self.proposal = Some(Box::new(Proposal { plan, ..proposal.clone() }));
            return answer(Answer::Applied(Box::new(self.proposal().cloned().unwrap_or(proposal))));
        }
        let (intent, replace) = (Intent::clone(intent), may.clone());
        let (keep, mandate) = match &self.ask {
            Ask::Up { contents, mandate, .. } => (keep(&now, &intent, contents), mandate.clone()),
            _ => (Ok(Vec::new()), None),
        };
        if let Some(refusal) = uncovered(&now, (&intent, planned.as_ref()), mandate.as_ref()) {
            return answer(Answer::Refused(refusal));
        }
        let keep = match keep {
            Ok(keep) => keep,
            Err(refusal) => return answer(Answer::Refused(refusal)),
        };
        self.proposal = Some(Box::new(proposal));
        // The plan was made as if this were written already.
        self.writes = now.without(&inventory.out).map(|(_, commands)| commands).unwrap_or_default().into();
        self.writes.extend(keep);
        self.writes.extend(planned.map(|plan| Decision::Apply { intent, plan, replace }.entry(mandate)));
        self.write()
    }

    fn write(&mut self) -> Vec<Effect> {
        self.writes.pop_front().map(|command| Effect::Write(Box::new(command))).into_iter().collect()
    }

    fn written(&mut self, written: Result<(), Refusal>) -> Vec<Effect> {
        let refusal = match (&self.ask, written) {
            (Ask::MayStart(..), Ok(())) => return answer(Answer::MayStart(true)),
            (Ask::MayStart(..), Err(Refusal::State(Refused::NoStart(_)))) => {
                return answer(Answer::MayStart(false));
            }
            (Ask::Down(_), Err(Refusal::State(Refused::Ended))) => return answer(Answer::Done),
            (Ask::Up { .. }, Ok(())) if !self.writes.is_empty() => return self.write(),
            (Ask::Up { .. }, Ok(())) => return self.committed(),
            (_, Ok(())) => return answer(Answer::Done),
            (_, Err(refusal)) => refusal,
        };
        let again = match (&self.ask, &refusal) {
            (Ask::Up { index, .. }, Refusal::State(Refused::NotCurrent { .. })) => index.is_none(),
            // A machine was allowed to start a moment ago: the next proposal says so.
            (Ask::Up { .. }, Refusal::State(Refused::Started(_) | Refused::Raised | Refused::Out(_))) => true,
            // Another topology came in between, and with it went what was kept for this one.
            (Ask::Up { .. }, Refusal::State(Refused::Lacks(_))) => true,
            _ => false,
        };
        if again && self.tries < PLAN_TRIES { vec![Effect::Read] } else { answer(Answer::Refused(refusal)) }
    }

    fn committed(&mut self) -> Vec<Effect> {
        let proposal = self.proposal.clone().unwrap_or_default();
        let fact = self.read.as_ref().and_then(|state| birth::committed(&state.name, &proposal));
        fact.map(Effect::Tell).into_iter().chain(answer(Answer::Applied(proposal))).collect()
    }
}

/// Says what of a plan the mandate does not cover: hosts would refuse their shares, and nobody would know before.
fn uncovered(
    now: &State,
    (intent, plan): (&Intent, Option<&Plan>),
    mandate: Option<&SignedMandate>,
) -> Option<Refusal> {
    let (mandate, plan) = (mandate?.read()?, plan?);
    let (intent, contents) = (Some(intent.clone()), Contents::default());
    let next = State { intent, plan: Some(plan.clone()), contents, drops: Default::default(), ..now.clone() };
    let hosts: BTreeSet<HostId> = plan.placements.iter().map(|placement| placement.host).collect();
    let judge = |host| mandate.covers(&slice::share(&next, host), Some(&slice::share(now, host)));
    let unsigned = hosts.into_iter().find_map(|host| judge(host).err())?;
    Some(Refusal::Unsigned(format!("what was signed does not fit the plan: {unsigned}; try again")))
}

/// Gives the entries that a topology's bytes need before it: those that are not kept yet must have come.
fn keep(now: &State, intent: &Intent, contents: &Contents) -> Result<Vec<Command>, Refusal> {
    let mut lacking = intent.named();
    lacking.retain(|content| now.contents.get(content).is_none());
    if let Some((source, _)) =
        intent.files.iter().find(|(_, content)| lacking.contains(content) && contents.get(content).is_none())
    {
        return Err(Refusal::State(Refused::Lacks(source.clone())));
    }
    Ok(contents.parts(&lacking).into_iter().map(Command::Keep).collect())
}

/// Refuses what no file could have said: a member may be mistaken, and the planner believes what it reads.
fn flaws(intent: &Intent) -> Option<Refusal> {
    let flaws = intent.flaws();
    let first = flaws.first()?;
    let more = if flaws.len() > 1 { format!(" (and {} more)", flaws.len() - 1) } else { String::new() };
    Some(Refusal::Invalid(format!("{}: {}{more}", first.what, first.hint)))
}

fn answer(answer: Answer) -> Vec<Effect> {
    vec![Effect::Answer(Box::new(answer))]
}

/// Whether a plan would change nothing but its number.
fn same(old: &Plan, new: &Plan) -> bool {
    old.subnet == new.subnet && old.placements == new.placements
}

/// What no coordinator does: machines of hosts that are not heard begin anew elsewhere.
fn move_held_machines(plan: &mut Plan, inventory: &Inventory) {
    let up = |host: &HostId| inventory.hosts.get(host).is_some_and(|facts| facts.up);
    let Some(to) = inventory.hosts.keys().copied().find(|host| up(host)) else { return };
    for placement in plan.placements.iter_mut().filter(|placement| !up(&placement.host)) {
        (placement.host, placement.epoch) = (to, placement.epoch.next());
    }
}
