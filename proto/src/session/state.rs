//! The hard state of one session: one command in, the next state or a refusal out. Every voter runs
//! this on the same log, so it depends on nothing but its arguments.
//! It keeps what must never break: epochs and generations only grow, a machine that exists never
//! changes its host unless that is out of the mesh for good, an address belongs to one machine. It never plans: that is `plan`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id::{Epoch, Generation, HostId, MachineName},
    level::{Feature, Level},
    limits::{MAX_FILE_BYTES, MAX_FILES, MAX_KEEP_BYTES, MAX_KEPT_BYTES},
    run::{Mutant, Rules},
    session::{Command, Decision, Drop, Placement, Plan, Refused, Replace, SignedMandate, State},
    topology::{Contents, Intent},
};

/// Applies one command. A refused command leaves the state as it was.
pub fn apply(current: Option<State>, command: Command) -> (Option<State>, Result<(), Refused>) {
    apply_under(Rules::default(), current, command)
}

/// The same under these rules: a world may break one on purpose.
pub fn apply_under(
    rules: Rules,
    current: Option<State>,
    command: Command,
) -> (Option<State>, Result<(), Refused>) {
    match (current, command) {
        (None, Command::Create { id, name, stamp, ssh_seed }) => {
            let state = State {
                id,
                name,
                stamp,
                version: 1,
                recovery: 0,
                intent: None,
                plan: None,
                epochs: BTreeMap::new(),
                granted: BTreeMap::new(),
                addresses: BTreeMap::new(),
                stopped: BTreeSet::new(),
                starts: BTreeMap::new(),
                drops: BTreeMap::new(),
                ended: false,
                ssh_seed,
                contents: Contents::default(),
                level: Level::FIRST,
                out: BTreeSet::new(),
                mandate: None,
            };
            (Some(state), Ok(()))
        }
        (None, _) => (None, Err(Refused::Existence)),
        (Some(mut state), command) => {
            let outcome = change(rules, &mut state, command);
            (Some(state), outcome)
        }
    }
}

/// Tells whether `host` may start this incarnation for the first time. Asked on a state that a
/// quorum round has just confirmed.
pub fn may_start(state: &State, host: HostId, machine: &MachineName, epoch: Epoch) -> bool {
    let listed = state.placement(machine).is_some_and(|p| p.host == host && p.epoch == epoch);
    let there = listed && !state.out.contains(&host);
    there && !state.ended && !state.stopped.contains(machine) && !state.drops.contains_key(machine)
}

impl State {
    /// Gives the current plan's generation, 0 before the first plan.
    pub fn generation(&self) -> Generation {
        self.plan.as_ref().map_or(Generation(0), |plan| plan.generation)
    }

    /// Finds a machine in the current plan.
    pub fn placement(&self, machine: &MachineName) -> Option<&Placement> {
        self.plan.as_ref()?.placement(machine)
    }

    /// Gives the highest epoch that the machine ever had, 0 if it never existed.
    pub fn highest_epoch(&self, machine: &MachineName) -> Epoch {
        self.epochs.get(machine).copied().unwrap_or_default()
    }

    /// Tells whether the machine's current incarnation was ever allowed to start.
    pub fn started(&self, machine: &MachineName) -> bool {
        let granted = self.placement(machine).is_some_and(|p| self.granted.get(machine) == Some(&p.epoch));
        granted && !self.lost(machine)
    }

    /// Tells whether the machine's current incarnation is on a host that is out for good, and its disk with it.
    pub fn lost(&self, machine: &MachineName) -> bool {
        self.placement(machine).is_some_and(|p| self.out.contains(&p.host))
    }

    /// Gives what this state becomes once it is written that these hosts are out; `None` = nothing changes, because
    /// they have nothing of it, that is written already, or not everybody who reads it would understand.
    pub fn without(&self, out: &BTreeSet<HostId>) -> Option<(State, Vec<Command>)> {
        if self.ended || !self.level.allows(Feature::Out) {
            return None;
        }
        let placed = self.plan.iter().flat_map(|plan| &plan.placements).map(|p| p.host);
        let gone: BTreeSet<HostId> =
            placed.chain(self.dropping()).filter(|host| out.contains(host)).collect();
        let new: Vec<HostId> = gone.difference(&self.out).copied().collect();
        if new.is_empty() {
            return None;
        }
        let mut state = self.clone();
        new.iter().for_each(|host| leaves(&mut state, *host));
        Some((state, new.into_iter().map(|host| Command::Out { host }).collect()))
    }

    /// Lists the hosts that still have something to remove.
    fn dropping(&self) -> impl Iterator<Item = HostId> {
        self.drops.values().flatten().map(|drop| drop.host)
    }

    /// Tells whether nothing of an ended session is left on any host.
    pub fn gone(&self) -> bool {
        self.ended && self.drops.is_empty()
    }
}

impl Plan {
    /// Finds a machine.
    pub fn placement(&self, machine: &MachineName) -> Option<&Placement> {
        let at = self.placements.binary_search_by(|p| p.machine.cmp(machine)).ok()?;
        self.placements.get(at)
    }
}

fn change(rules: Rules, state: &mut State, command: Command) -> Result<(), Refused> {
    // Once operators sign, nothing that they decide is taken without.
    let decides = matches!(command, Command::Apply { .. } | Command::Wish { .. } | Command::End);
    if decides && state.mandate.is_some() && !state.ended {
        return Err(Refused::Mandate { current: number(state) });
    }
    decide(rules, state, command)
}

fn decide(rules: Rules, state: &mut State, command: Command) -> Result<(), Refused> {
    match command {
        Command::Signed { mandate, decision } => signed(rules, state, mandate, decision),
        Command::Create { .. } => Err(Refused::Existence),
        Command::Apply { intent, plan, replace } => adopt(rules, state, intent, plan, &replace),
        Command::Grant { machine, host, epoch } => {
            if !may_start(state, host, &machine, epoch) {
                return Err(Refused::NoStart(machine));
            }
            // No share shows it, so the version stays.
            state.granted.insert(machine, epoch);
            Ok(())
        }
        Command::Wish { machine, run } => {
            alive(state)?;
            state.placement(&machine).ok_or_else(|| Refused::NoMachine(machine.clone()))?;
            // A start that changes nothing else still tells its host to try now.
            let changed = if run {
                state.stopped.remove(&machine);
                *state.starts.entry(machine).or_default() += 1;
                true
            } else {
                state.stopped.insert(machine)
            };
            state.version += u64::from(changed);
            Ok(())
        }
        Command::Dropped { machine, host, epoch } => {
            forget_drop(state, &machine, host, epoch);
            Ok(())
        }
        Command::Keep(contents) => keep(state, contents),
        // Never compared with what this program understands: programs of every level must come to the same state.
        Command::Raise { level } => {
            alive(state)?;
            let raised = state.level.max(level);
            state.version += u64::from(raised != state.level);
            state.level = raised;
            Ok(())
        }
        Command::Out { host } => {
            alive(state)?;
            leaves(state, host);
            Ok(())
        }
        Command::End => {
            alive(state)?;
            state.ended = true;
            state.contents = Contents::default();
            state.version += 1;
            let placements = state.plan.iter().flat_map(|plan| &plan.placements);
            let there = placements.filter(|p| !state.out.contains(&p.host));
            let all: Vec<_> = there.map(|p| (p.machine.clone(), p.host, p.epoch)).collect();
            all.into_iter().for_each(|(machine, host, epoch)| must_drop(state, machine, host, epoch));
            Ok(())
        }
    }
}

/// Takes what was signed with what follows from it. Whether it covers that, hosts judge: each of them reads it anyway.
fn signed(
    rules: Rules,
    state: &mut State,
    mandate: SignedMandate,
    decision: Decision,
) -> Result<(), Refused> {
    alive(state)?;
    let current = number(state);
    let new = mandate.read().filter(|new| new.session == state.id && new.number == current.saturating_add(1));
    let parent = state.mandate.as_ref().map(SignedMandate::digest);
    let Some(new) = new.filter(|new| new.parent == parent) else { return Err(Refused::Mandate { current }) };
    // Or no host would take what follows from it, and nothing could be written any more that they take.
    let fits = match &decision {
        Decision::End => new.ended,
        Decision::Wish { machine, run } => !new.ended && new.stopped.contains(machine) != *run,
        Decision::Apply { .. } => !new.ended,
    };
    if !fits {
        return Err(Refused::Unsafe("its mandate says something else".into()));
    }
    let version = state.version;
    decide(rules, state, decision.entry(None))?;
    state.mandate = Some(mandate);
    state.version = state.version.max(version + 1);
    Ok(())
}

fn number(state: &State) -> u64 {
    state.mandate.as_ref().and_then(SignedMandate::read).map_or(0, |mandate| mandate.number)
}

/// Takes a topology with the plan that makes it true.
fn adopt(
    rules: Rules,
    state: &mut State,
    intent: Intent,
    plan: Plan,
    replace: &Replace,
) -> Result<(), Refused> {
    alive(state)?;
    current(state, &plan)?;
    // Among its hosts may be one that does not understand the session any more.
    if plan.level < state.level {
        return Err(Refused::Raised);
    }
    if let Some((source, _)) = intent.files.iter().find(|(_, c)| state.contents.get(c).is_none()) {
        return Err(Refused::Lacks(source.clone()));
    }
    if let Some(p) = plan.placements.iter().find(|p| state.out.contains(&p.host)) {
        return Err(Refused::Out(p.host));
    }
    shape(&intent, &plan).map_err(Refused::Unsafe)?;
    let mut checked = plan.placements.iter().filter(|_| !rules.broken(Mutant::MovesHeldMachines));
    checked.try_for_each(|p| safe(state, p)).map_err(Refused::Unsafe)?;
    if let Some(p) = plan.placements.iter().find(|p| loses(state, p) && !replace.allows(&p.machine)) {
        return Err(Refused::Started(p.machine.clone()));
    }
    if state.plan.as_ref().is_some_and(|old| old.subnet != plan.subnet) {
        return Err(Refused::Unsafe("the session's network would change under its machines".into()));
    }
    replace_plan(rules, state, intent, plan);
    Ok(())
}

/// Keeps bytes for the next topology. They make room for themselves: what was kept for one that never came
/// goes first.
fn keep(state: &mut State, contents: Contents) -> Result<(), Refused> {
    alive(state)?;
    let large =
        contents.bytes() > MAX_KEEP_BYTES || contents.iter().any(|bytes| bytes.len() > MAX_FILE_BYTES);
    if large || contents.iter().len() > MAX_FILES {
        return Err(Refused::Full);
    }
    let many = state.contents.iter().len() + contents.iter().len() > 2 * MAX_FILES;
    if many || state.contents.bytes() + contents.bytes() > MAX_KEPT_BYTES {
        let named = state.intent.as_ref().map(Intent::named).unwrap_or_default();
        state.contents.retain(&named);
    }
    state.contents.extend(contents);
    Ok(())
}

/// Notes that a host is out for good. What was to be removed there is not waited for; what was placed there is lost,
/// and stays listed until a plan places it elsewhere.
fn leaves(state: &mut State, host: HostId) {
    let had = state.drops.len();
    state.drops.retain(|_, drops| {
        drops.retain(|drop| drop.host != host);
        !drops.is_empty()
    });
    state.version += u64::from(state.out.insert(host) || state.drops.len() != had);
}

fn alive(state: &State) -> Result<(), Refused> {
    if state.ended { Err(Refused::Ended) } else { Ok(()) }
}

fn current(state: &State, plan: &Plan) -> Result<(), Refused> {
    let current = state.generation();
    if plan.parent != current {
        return Err(Refused::NotCurrent { current, parent: plan.parent });
    }
    if plan.generation != current.next() {
        return Err(Refused::Unsafe(format!("generation {} does not follow {current}", plan.generation)));
    }
    Ok(())
}

/// Checks what can be seen without the old state: exactly the topology's machines, each once, each
/// with an address of its own.
fn shape(intent: &Intent, plan: &Plan) -> Result<(), String> {
    let placements = &plan.placements;
    if let Some(because) = intent.topology.too_many() {
        return Err(because);
    }
    if !placements.windows(2).all(|pair| pair[0].machine < pair[1].machine) {
        return Err("the machines are not sorted, or one is there twice".into());
    }
    if intent.topology.count() != placements.len() as u64 {
        return Err("the plan's machines are not those of the topology".into());
    }
    let planned: BTreeSet<_> = placements.iter().map(|p| p.machine.clone()).collect();
    if planned != intent.topology.machines().collect() {
        return Err("the plan's machines are not those of the topology".into());
    }
    let mut taken = BTreeSet::new();
    for p in placements {
        if !plan.subnet.holds_machine(p.address) {
            return Err(format!("{}: {} is no address of {}", p.machine, p.address, plan.subnet));
        }
        if !taken.insert(p.address) {
            return Err(format!("{}: {} is given twice", p.machine, p.address));
        }
    }
    Ok(())
}

/// Checks one placement against the past: an incarnation never changes, a new one has the next
/// epoch, stays where undropped ones are, and takes nobody's address.
fn safe(state: &State, new: &Placement) -> Result<(), String> {
    let machine = &new.machine;
    let highest = state.highest_epoch(machine);
    let old = state.placement(machine);
    match old {
        // What was on a host that is out begins anew, wherever that is, under its address.
        Some(old) if state.lost(machine) && old.address != new.address => {
            return Err(format!("{machine}: its address {} would change", old.address));
        }
        Some(_) if state.lost(machine) && new.epoch != highest.next() => {
            return Err(format!("{machine}: epoch {} does not follow {highest}", new.epoch));
        }
        Some(_) if state.lost(machine) => {}
        Some(old) if old.host != new.host => {
            return Err(format!("{machine} would change its host without being removed there first"));
        }
        Some(old) if old.address != new.address => {
            return Err(format!("{machine}: its address {} would change", old.address));
        }
        Some(old) if old.epoch == new.epoch && (&old.image, &old.made) != (&new.image, &new.made) => {
            return Err(format!("{machine}: epoch {} exists with other content", old.epoch));
        }
        Some(old) if old.epoch == new.epoch && old.disk_mib > new.disk_mib => {
            return Err(format!("{machine}: its disk would shrink"));
        }
        Some(old) if old.epoch == new.epoch => {}
        _ if new.epoch != highest.next() => {
            return Err(format!("{machine}: epoch {} does not follow {highest}", new.epoch));
        }
        _ => {}
    }
    let elsewhere = |drop: &&Drop| drop.host != new.host;
    if state.drops.get(machine).into_iter().flatten().find(elsewhere).is_some() {
        return Err(format!("{machine}: an older incarnation is not removed yet from another host"));
    }
    let owner = state.addresses.iter().find(|(owner, address)| **address == new.address && *owner != machine);
    match owner {
        Some((owner, _)) if state.placement(owner).is_some() || state.drops.contains_key(owner) => {
            Err(format!("{machine}: {} still belongs to {owner}", new.address))
        }
        _ => Ok(()),
    }
}

/// Tells whether a placement takes the place of an incarnation that may have a disk.
fn loses(state: &State, new: &Placement) -> bool {
    state.started(&new.machine) && state.placement(&new.machine).is_some_and(|old| old.epoch != new.epoch)
}

/// Makes the plan current: what it leaves out or replaces must be dropped by its host.
fn replace_plan(rules: Rules, state: &mut State, intent: Intent, plan: Plan) {
    let old = state.plan.take().map(|old| old.placements).unwrap_or_default();
    for was in old {
        let now = plan.placement(&was.machine);
        let moves = rules.broken(Mutant::MovesHeldMachines) && now.is_some_and(|now| now.host != was.host);
        let lost = state.out.contains(&was.host);
        if now.is_none_or(|now| now.epoch != was.epoch) && !moves && !lost {
            must_drop(state, was.machine, was.host, was.epoch);
        }
    }
    let taken: BTreeSet<_> = plan.placements.iter().map(|p| p.address).collect();
    state.addresses.retain(|machine, address| plan.placement(machine).is_some() || !taken.contains(address));
    for p in &plan.placements {
        state.epochs.insert(p.machine.clone(), p.epoch);
        state.addresses.insert(p.machine.clone(), p.address);
    }
    state.stopped.retain(|machine| plan.placement(machine).is_some());
    state.starts.retain(|machine, _| plan.placement(machine).is_some());
    state.granted.retain(|machine, epoch| plan.placement(machine).is_some_and(|p| p.epoch == *epoch));
    state.contents.retain(&intent.named());
    state.intent = Some(intent);
    state.plan = Some(plan);
    state.version += 1;
}

fn must_drop(state: &mut State, machine: MachineName, host: HostId, epoch: Epoch) {
    let drops = state.drops.entry(machine).or_default();
    match drops.iter_mut().find(|drop| drop.host == host) {
        Some(drop) => drop.epoch = drop.epoch.max(epoch),
        None => drops.push(Drop { host, epoch }),
    }
}

fn forget_drop(state: &mut State, machine: &MachineName, host: HostId, epoch: Epoch) {
    let Some(drops) = state.drops.get_mut(machine) else { return };
    let before = drops.len();
    drops.retain(|drop| drop.host != host || drop.epoch > epoch);
    state.version += u64::from(drops.len() != before);
    if drops.is_empty() {
        state.drops.remove(machine);
    }
}

#[cfg(test)]
mod tests;
