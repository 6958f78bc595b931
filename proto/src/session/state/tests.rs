//! What may be committed, and what is refused.

use super::*;
use crate::session::{Made, Replace};
use crate::{
    id::{Digest, Name, SessionId},
    level::LEVEL,
    session::{Guard, Prefix, overlay},
    time::Timestamp,
    topology::{Egress, Failover, Group, ImageRef, Place, Restart, Topology},
};

const NAS: HostId = HostId([1; 32]);
const ATTIC: HostId = HostId([2; 32]);
const SUBNET: Prefix = Prefix { base: std::net::Ipv4Addr::new(10, 64, 7, 0), len: 24 };

fn created() -> State {
    let create = Command::Create {
        id: SessionId([9; 16]),
        name: "shop".parse().unwrap(),
        stamp: Timestamp(1),
        ssh_seed: [0; 32],
    };
    apply(None, create).0.unwrap()
}

fn intent(count: u32) -> Intent {
    let group = Group {
        image: ImageRef::Named("tiny".into()),
        cpus: 1,
        memory_mib: 256,
        disk_mib: None,
        count,
        role: None,
        needs: BTreeSet::new(),
        failover: Failover::Hold,
        restart: Restart::Always,
        place: Place::default(),
        setup: vec![],
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        ssh_keys: vec![],
        user: None,
        services: BTreeMap::new(),
        egress: Egress::None,
    };
    let name: Name = "web".parse().unwrap();
    Intent {
        topology: Topology { session: "shop".parse().unwrap(), groups: [(name, group)].into() },
        files: BTreeMap::new(),
        ssh_keys: BTreeMap::new(),
    }
}

/// A plan from lines such as `web-1 nas 1 10.64.7.10`.
fn plan(parent: u64, machines: &[(&str, HostId, u64, u8)]) -> Plan {
    let placement = |&(machine, host, epoch, last): &(&str, HostId, u64, u8)| {
        let machine: MachineName = machine.parse().unwrap();
        Placement {
            mac: overlay::mac(SessionId([9; 16]), &machine),
            machine,
            host,
            epoch: Epoch(epoch),
            address: std::net::Ipv4Addr::new(10, 64, 7, last),
            image: Digest([3; 32]),
            image_size: 1,
            image_name: ImageRef::Named("tiny".into()),
            guard: Guard::Hold,
            because: String::new(),
            disk_mib: None,
            made: made(epoch),
        }
    };
    Plan {
        generation: Generation(parent + 1),
        parent: Generation(parent),
        subnet: SUBNET,
        placements: machines.iter().map(placement).collect(),
        level: Level::FIRST,
    }
}

fn made(epoch: u64) -> Made {
    let digest = Digest([epoch as u8; 32]);
    Made { setup: digest, files: digest, env: digest, ssh_keys: digest, user: None }
}

fn apply_plan(intent: Intent, plan: Plan) -> Command {
    Command::Apply { intent, plan, replace: Replace::default() }
}

fn commit(state: State, plan: Plan) -> (State, Result<(), Refused>) {
    let count = plan.placements.len() as u32;
    let (state, outcome) = apply(Some(state), apply_plan(intent(count), plan));
    (state.unwrap(), outcome)
}

fn done(state: State, command: Command) -> State {
    let (state, outcome) = apply(Some(state), command);
    assert_eq!(outcome, Ok(()));
    state.unwrap()
}

fn running() -> State {
    let (state, outcome) = commit(created(), plan(0, &[("web-1", NAS, 1, 10), ("web-2", ATTIC, 1, 11)]));
    assert_eq!(outcome, Ok(()));
    state
}

fn dropped(state: State, machine: &str, host: HostId, epoch: u64) -> State {
    let command = Command::Dropped { machine: machine.parse().unwrap(), host, epoch: Epoch(epoch) };
    apply(Some(state), command).0.unwrap()
}

fn refused(state: State, plan: Plan) -> String {
    let (after, outcome) = commit(state.clone(), plan);
    assert_eq!(after, state, "a refused command changes nothing");
    outcome.unwrap_err().to_string()
}

#[test]
fn a_session_is_created_once_and_first() {
    let (none, outcome) = apply(None, Command::End);
    assert_eq!((none, outcome), (None, Err(Refused::Existence)));
    let again = Command::Create {
        id: SessionId([8; 16]),
        name: "shop".parse().unwrap(),
        stamp: Timestamp(2),
        ssh_seed: [1; 32],
    };
    assert_eq!(apply(Some(created()), again), (Some(created()), Err(Refused::Existence)));
}

#[test]
fn of_two_plans_for_one_parent_the_second_is_refused() {
    let text = refused(running(), plan(0, &[("web-1", NAS, 1, 10)]));
    assert_eq!(text, "the plan changed meanwhile: it is generation 1, this one was made for 0");
}

#[test]
fn generations_follow_each_other() {
    let mut skips = plan(1, &[("web-1", NAS, 1, 10), ("web-2", ATTIC, 1, 11)]);
    skips.generation = Generation(7);
    assert_eq!(refused(running(), skips), "the plan is not safe: generation 7 does not follow 1");
}

#[test]
fn a_machine_that_exists_keeps_its_host() {
    let text = refused(running(), plan(1, &[("web-1", ATTIC, 2, 10), ("web-2", ATTIC, 1, 11)]));
    assert_eq!(text, "the plan is not safe: web-1 would change its host without being removed there first");
}

#[test]
fn epochs_only_grow_by_one() {
    for epoch in [0, 3] {
        let text = refused(running(), plan(1, &[("web-1", NAS, epoch, 10), ("web-2", ATTIC, 1, 11)]));
        assert_eq!(text, format!("the plan is not safe: web-1: epoch {epoch} does not follow 1"));
    }
}

#[test]
fn an_incarnation_keeps_its_content() {
    let mut changed = plan(1, &[("web-1", NAS, 1, 10), ("web-2", ATTIC, 1, 11)]);
    changed.placements[0].image = Digest([4; 32]);
    assert_eq!(refused(running(), changed), "the plan is not safe: web-1: epoch 1 exists with other content");
}

#[test]
fn a_replaced_machine_starts_after_the_old_one_is_dropped() {
    let (state, outcome) = commit(running(), plan(1, &[("web-1", NAS, 2, 10), ("web-2", ATTIC, 1, 11)]));
    assert_eq!(outcome, Ok(()));
    let web: MachineName = "web-1".parse().unwrap();
    assert_eq!(state.drops[&web], [Drop { host: NAS, epoch: Epoch(1) }]);
    assert!(!may_start(&state, NAS, &web, Epoch(2)));
    let state = dropped(state, "web-1", ATTIC, 1);
    assert!(!may_start(&state, NAS, &web, Epoch(2)), "only the host that had it can say so");
    let state = dropped(state, "web-1", NAS, 1);
    assert!(may_start(&state, NAS, &web, Epoch(2)));
    assert!(!may_start(&state, NAS, &web, Epoch(1)), "the old incarnation never again");
    assert!(!may_start(&state, ATTIC, &web, Epoch(2)), "nowhere else");
}

#[test]
fn a_removed_machine_comes_back_elsewhere_only_after_it_was_dropped() {
    let (state, _) = commit(running(), plan(1, &[("web-1", NAS, 1, 10)]));
    let back = plan(2, &[("web-1", NAS, 1, 10), ("web-2", NAS, 2, 11)]);
    assert_eq!(
        refused(state.clone(), back.clone()),
        "the plan is not safe: web-2: an older incarnation is not removed yet from another host"
    );
    let state = dropped(state, "web-2", ATTIC, 1);
    assert_eq!(commit(state, back).1, Ok(()));
}

#[test]
fn addresses_belong_to_machines_until_they_are_dropped() {
    let inside = |last| plan(1, &[("web-1", NAS, 1, 10), ("web-2", ATTIC, 1, last)]);
    assert!(refused(running(), inside(10)).contains("10.64.7.10 is given twice"));
    assert!(refused(running(), inside(1)).contains("10.64.7.1 is no address of 10.64.7.0/24"));
    let (state, _) = commit(running(), plan(1, &[("web-1", NAS, 1, 10)]));
    assert!(
        refused(state.clone(), plan(2, &[("web-1", NAS, 1, 11)]))
            .contains("its address 10.64.7.10 would change")
    );
    let takes = |state: State, parent: u64| {
        // The topology knows another group instead of web-2, which takes the address of web-2.
        let plan = plan(parent, &[("app-1", ATTIC, 1, 11), ("web-1", NAS, 1, 10)]);
        let mut intent = intent(1);
        let group = intent.topology.groups.values().next().unwrap().clone();
        intent.topology.groups.insert("app".parse().unwrap(), group);
        apply(Some(state), apply_plan(intent, plan))
    };
    let text = takes(state.clone(), 2).1.unwrap_err().to_string();
    assert_eq!(text, "the plan is not safe: app-1: 10.64.7.11 still belongs to web-2");
    let (state, outcome) = takes(dropped(state, "web-2", ATTIC, 1), 2);
    assert_eq!(outcome, Ok(()));
    let state = state.unwrap();
    assert!(!state.addresses.contains_key(&"web-2".parse().unwrap()));
}

#[test]
fn the_plan_holds_exactly_the_topologys_machines() {
    let (after, outcome) = apply(Some(created()), apply_plan(intent(2), plan(0, &[("web-1", NAS, 1, 10)])));
    assert_eq!(after.unwrap(), created());
    assert_eq!(
        outcome.unwrap_err().to_string(),
        "the plan is not safe: the plan's machines are not those of the topology"
    );
}

#[test]
fn an_ended_session_drops_everything_and_starts_nothing() {
    let (state, outcome) = apply(Some(running()), Command::End);
    assert_eq!(outcome, Ok(()));
    let state = state.unwrap();
    let web: MachineName = "web-1".parse().unwrap();
    assert!(!may_start(&state, NAS, &web, Epoch(1)));
    assert!(!state.gone());
    assert_eq!(refused(state.clone(), plan(1, &[])), "the session has ended");
    let state = dropped(dropped(state, "web-1", NAS, 1), "web-2", ATTIC, 1);
    assert!(state.gone());
}

#[test]
fn the_version_grows_only_when_something_changed() {
    let wish =
        |state, run| apply(Some(state), Command::Wish { machine: "web-1".parse().unwrap(), run }).0.unwrap();
    let state = running();
    let before = state.version;
    let again = wish(state.clone(), true);
    assert_eq!((again.version, again.starts.len()), (before + 1, 1), "its host is told to try now");
    let stopped = wish(state, false);
    assert_eq!(stopped.version, before + 1);
    assert_eq!(wish(stopped.clone(), false).version, before + 1);
    assert!(!may_start(&stopped, NAS, &"web-1".parse().unwrap(), Epoch(1)));
    assert_eq!(dropped(stopped.clone(), "web-1", NAS, 1).version, before + 1, "nothing was to be dropped");
    let unknown = Command::Wish { machine: "db-1".parse().unwrap(), run: true };
    assert_eq!(apply(Some(stopped), unknown).1.unwrap_err().to_string(), "the session has no machine db-1");
}

#[test]
fn a_started_disk_is_replaced_only_when_told() {
    let web: MachineName = "web-1".parse().unwrap();
    let grant = |host, epoch| Command::Grant { machine: web.clone(), host, epoch: Epoch(epoch) };
    let (state, outcome) = apply(Some(running()), grant(ATTIC, 1));
    assert_eq!(outcome, Err(Refused::NoStart(web.clone())), "another host has it");
    let (state, outcome) = apply(state, grant(NAS, 1));
    assert_eq!(outcome, Ok(()));
    let state = state.unwrap();
    assert_eq!(state.version, running().version, "no share shows it");
    let next = plan(1, &[("web-1", NAS, 2, 10), ("web-2", ATTIC, 2, 11)]);
    let text = refused(state.clone(), next.clone());
    assert_eq!(text, "web-1 was started and nobody said that its disk may be replaced");
    for replace in [Replace::all(), Replace { all: false, machines: [web.clone()].into() }] {
        let command = Command::Apply { intent: intent(2), plan: next.clone(), replace };
        let (after, outcome) = apply(Some(state.clone()), command);
        assert_eq!(outcome, Ok(()));
        assert!(!after.unwrap().started(&web), "the new incarnation was not started");
    }
    let other = Replace { all: false, machines: ["web-2".parse().unwrap()].into() };
    let command = Command::Apply { intent: intent(2), plan: next, replace: other };
    assert_eq!(apply(Some(state.clone()), command).1, Err(Refused::Started(web.clone())));
    // Nobody asks twice for what a removed incarnation had.
    let (state, outcome) = commit(state, plan(1, &[]));
    assert_eq!((outcome, state.granted.len()), (Ok(()), 0));
}

#[test]
fn a_disk_never_shrinks() {
    let with = |disk_mib, generation| {
        let mut plan = plan(generation, &[("web-1", NAS, 1, 10), ("web-2", ATTIC, 1, 11)]);
        plan.placements[0].disk_mib = disk_mib;
        plan
    };
    let (state, outcome) = commit(running(), with(Some(900), 1));
    assert_eq!(outcome, Ok(()));
    assert!(refused(state.clone(), with(Some(800), 2)).contains("web-1: its disk would shrink"));
    assert!(refused(state, with(None, 2)).contains("web-1: its disk would shrink"));
}

#[test]
fn bytes_are_kept_before_the_topology_that_names_them_and_go_with_the_last_that_does() {
    let mut contents = Contents::default();
    let file = contents.add(b"one");
    let with_file = |count| {
        let mut intent = intent(count);
        intent.files.insert("x".into(), file);
        intent
    };
    let state = created();
    let first = plan(0, &[("web-1", NAS, 1, 10)]);
    let early = apply(Some(state.clone()), apply_plan(with_file(1), first.clone())).1;
    assert_eq!(early, Err(Refused::Lacks("x".into())));
    let state = done(state, Command::Keep(contents.clone()));
    let state = done(state, apply_plan(with_file(1), first));
    assert_eq!(state.contents, contents);
    let state = done(state, apply_plan(intent(1), plan(1, &[("web-1", NAS, 1, 10)])));
    assert_eq!(state.contents, Contents::default());
}

#[test]
fn what_a_session_keeps_is_bounded() {
    let mut state = created();
    let mut large = Contents::default();
    large.add(&vec![0; MAX_FILE_BYTES + 1]);
    assert_eq!(apply(Some(state.clone()), Command::Keep(large)).1, Err(Refused::Full));
    for number in 0..100_u8 {
        let mut contents = Contents::default();
        contents.add(&vec![number; MAX_FILE_BYTES]);
        state = done(state, Command::Keep(contents));
        assert!(state.contents.bytes() <= MAX_KEPT_BYTES, "{number}");
    }
}

#[test]
fn the_level_never_falls_and_whoever_has_a_share_hears_of_it() {
    let raise = |level: u32| Command::Raise { level: level.into() };
    let state = created();
    assert_eq!(state.level, Level::FIRST);
    let raised = done(state.clone(), raise(2));
    assert_eq!((raised.level, raised.version), (2.into(), state.version + 1));
    let same = done(done(raised.clone(), raise(2)), raise(1));
    assert_eq!(same, raised);
    let far = done(raised.clone(), raise(900));
    assert_eq!(far.level, 900.into(), "what this program understands decides nothing here");
    assert_eq!(apply(Some(done(raised, Command::End)), raise(3)).1, Err(Refused::Ended));
}

#[test]
fn a_plan_that_was_made_before_a_raise_is_made_anew() {
    let raised = done(created(), Command::Raise { level: 2.into() });
    let early = plan(0, &[("web-1", NAS, 1, 10)]);
    assert_eq!(commit(raised.clone(), early.clone()).1, Err(Refused::Raised));
    assert_eq!(commit(raised, Plan { level: 2.into(), ..early }).1, Ok(()));
}

/// A session of the newest level whose web-1 was started on the attic.
fn placed() -> State {
    let raised = apply(Some(created()), Command::Raise { level: LEVEL }).0;
    let applied = Command::Apply {
        intent: intent(1),
        plan: Plan { level: LEVEL, ..plan(0, &[("web-1", ATTIC, 1, 10)]) },
        replace: Replace::default(),
    };
    let state = apply(raised, applied).0;
    let grant = Command::Grant { machine: "web-1".parse().unwrap(), host: ATTIC, epoch: Epoch(1) };
    apply(state, grant).0.unwrap()
}

fn moves(state: &State, machines: &[(&str, HostId, u64, u8)]) -> Result<(), Refused> {
    let plan = Plan { level: LEVEL, ..plan(1, machines) };
    let command = Command::Apply { intent: intent(1), plan, replace: Replace::default() };
    apply(Some(state.clone()), command).1
}

#[test]
fn a_machine_changes_its_host_only_when_that_is_out_and_with_the_next_epoch_and_its_address() {
    let state = placed();
    let elsewhere = [("web-1", NAS, 2, 10)];
    assert!(matches!(moves(&state, &elsewhere), Err(Refused::Unsafe(_))), "its host may come back");
    let (out, done) = apply(Some(state.clone()), Command::Out { host: ATTIC });
    let out = out.unwrap();
    assert_eq!((done, out.version), (Ok(()), state.version + 1));
    let web: MachineName = "web-1".parse().unwrap();
    assert!(out.lost(&web) && !out.started(&web) && !may_start(&out, ATTIC, &web, Epoch(1)));
    assert_eq!(moves(&out, &elsewhere), Ok(()));
    for wrong in [("web-1", NAS, 1, 10), ("web-1", NAS, 3, 10), ("web-1", NAS, 2, 11)] {
        assert!(matches!(moves(&out, &[wrong]), Err(Refused::Unsafe(_))), "{wrong:?}");
    }
    for back in [1, 2] {
        assert_eq!(moves(&out, &[("web-1", ATTIC, back, 10)]), Err(Refused::Out(ATTIC)));
    }
    let again = apply(Some(out.clone()), Command::Out { host: ATTIC }).0.unwrap();
    assert_eq!(again.version, out.version, "said twice it changes nothing");
}

#[test]
fn nothing_is_waited_for_from_a_host_that_is_out() {
    let out = apply(Some(placed()), Command::Out { host: ATTIC }).0;
    let (ended, done) = apply(out, Command::End);
    assert!(done.is_ok() && ended.unwrap().gone());
    let gone: BTreeSet<HostId> = [ATTIC].into();
    let removed = apply(Some(placed()), Command::Out { host: NAS }).0.unwrap();
    let (without, commands) = removed.without(&gone).unwrap();
    assert_eq!((without.out, commands), ([NAS, ATTIC].into(), vec![Command::Out { host: ATTIC }]));
    assert_eq!(placed().without(&[NAS].into()), None, "it has nothing of the session");
    let older = State { level: Level::from(6), ..placed() };
    assert_eq!(older.without(&gone), None, "not everybody would understand it");
}

#[test]
fn what_a_host_that_is_out_had_to_remove_is_forgotten() {
    let (state, _) = apply(Some(placed()), Command::End);
    let state = state.unwrap();
    assert_eq!(state.drops.len(), 1);
    let mut kept = State { ended: false, ..state };
    leaves(&mut kept, NAS);
    assert_eq!(kept.drops.len(), 1);
    leaves(&mut kept, ATTIC);
    assert!(kept.drops.is_empty());
}
