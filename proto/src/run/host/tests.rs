//! What a host does when things happen in order, late, twice, or never.

use proptest::prelude::*;

use super::*;
use crate::{
    id::{Name, SessionId},
    session::{
        Command, Phase, State,
        fixture::{SESSION, command, created, host_id, up},
        reconcile::Setup,
        slice,
    },
};

const HOSTS: &str = "nas 9000 image";
/// One machine with a checked service.
const WEB: &str = "web 1 256 checked=http:80";

fn share(state: &State) -> Arc<Share> {
    Arc::new(slice::share(state, host_id("nas")))
}

fn machine(name: &str) -> MachineName {
    name.parse().unwrap()
}

fn service() -> Name {
    "http".parse().unwrap()
}

fn settings(epoch: u64) -> Settings {
    Settings {
        epoch: Epoch(epoch),
        cpus: 1,
        memory_mib: 256,
        disk_mib: None,
        egress: crate::topology::Egress::None,
    }
}

fn starting(life: u64) -> Told {
    Told { life: Life(life), setup: Setup::Done, ..Told::default() }
}

fn booted(life: u64, began: u64) -> Told {
    Told { runs: true, began: Some(Moment(began)), booted: true, ..starting(life) }
}

fn crashed(told: Told) -> Told {
    Told { ended: Some(Ending { asked: false, clean: false, because: "QEMU got signal 9".into() }), ..told }
}

/// A host and the moment that it is told things at.
struct Story {
    host: Host,
    now: Moment,
    wake: Option<Moment>,
    reports: Vec<MachineReport>,
    /// The order of each machine that is not ended.
    orders: BTreeMap<MachineName, Order>,
    did: Vec<Effect>,
}

impl Story {
    /// An agent that has started with this share; nothing lies on the disk, the image is there.
    fn begun(state: &State, disk: &[(&str, Lies)]) -> Story {
        let (orders, did, reports) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut story = Story {
            host: Host::new(Rules::default(), Owner::default()),
            now: Moment(1_000_000),
            wake: None,
            reports,
            orders,
            did,
        };
        story.on(Event::Images([Digest([1; 32])].into()));
        story.on(Event::Share(share(state), BTreeSet::new()));
        story.on(Event::Begun(disk.iter().map(|(name, lies)| (machine(name), *lies)).collect()));
        story
    }

    /// The same, and everything was looked for and nothing runs.
    fn looked(state: &State, disk: &[(&str, Lies)]) -> Story {
        let mut story = Story::begun(state, disk);
        let looks: Vec<MachineName> = story.orders.keys().cloned().collect();
        for name in looks {
            let lies = disk.iter().find(|(there, _)| machine(there) == name).map_or(Lies::Nothing, |d| d.1);
            story.done(&name.to_string(), lies, Outcome::Gone(None));
        }
        story
    }

    /// A host whose `web-1` runs as life 1, and was first heard now.
    fn running() -> Story {
        let mut story = Story::looked(&up(created(), WEB, HOSTS), &[]);
        story.done("web-1", Lies::Nothing, Outcome::Granted(Epoch(1)));
        story.launched(1);
        story
    }

    fn launched(&mut self, life: u64) {
        let outcome = Outcome::Launched(settings(1), booted(life, self.now.0));
        self.done("web-1", Lies::Launched(settings(1)), outcome);
    }

    fn on(&mut self, event: Event) {
        for effect in self.host.on(event, self.now) {
            match &effect {
                Effect::Wake(at) => self.wake = *at,
                Effect::Report(_, reports) => self.reports = reports.clone(),
                Effect::Order(order) => {
                    let before = self.orders.insert(order.machine.clone(), order.clone());
                    assert_eq!(before, None, "one thing at a time");
                }
                _ => {}
            }
            self.did.push(effect);
        }
    }

    fn done(&mut self, name: &str, lies: Lies, outcome: Outcome) {
        let order = self.orders.remove(&machine(name)).unwrap();
        self.on(Event::Done { machine: machine(name), number: order.number, lies, outcome });
    }

    /// Lets the time pass until the host wants to be woken; gives how long that was.
    fn sleep(&mut self) -> u64 {
        let until = self.wake.take().unwrap();
        let slept = until.since_ms(self.now);
        self.now = self.now.max(until);
        self.on(Event::Woken);
        slept
    }

    #[track_caller]
    fn ordered(&self, name: &str) -> Action {
        self.orders[&machine(name)].action.clone()
    }

    fn phase(&self) -> Phase {
        self.reports[0].phase
    }

    fn says(&self) -> String {
        self.reports[0].reason.clone().unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        matches!(self.did.last(), Some(Effect::Forget | Effect::Rest))
    }
}

#[test]
fn nothing_is_begun_or_said_before_everything_was_looked_for() {
    let state = up(created(), "db 1 256\nweb 1 256", HOSTS);
    let mut story = Story::begun(&state, &[("web-1", Lies::Launched(settings(1)))]);
    assert_eq!(story.ordered("db-1"), Action::Find { patient: true });
    assert_eq!(story.ordered("web-1"), Action::Find { patient: true });
    story.done("db-1", Lies::Nothing, Outcome::Gone(None));
    assert!(story.orders.len() == 1 && story.reports.is_empty());
    let outcome = Outcome::Adopted(settings(1), booted(1, 5));
    story.done("web-1", Lies::Launched(settings(1)), outcome);
    assert_eq!(story.ordered("db-1"), Action::Ask(Epoch(1)));
    let adopted = |effect: &Effect| matches!(effect, Effect::Tell(Fact::MachineAdopted { .. }));
    assert!(story.did.iter().any(adopted) && story.did.contains(&Effect::Watch(machine("web-1"))));
    assert_eq!(story.reports[1].phase, Phase::Ready);
}

#[test]
fn a_lost_directory_does_not_hide_what_runs() {
    // Nothing lies here, and yet the share speaks of it.
    let story = Story::begun(&up(created(), WEB, HOSTS), &[]);
    assert_eq!(story.orders[&machine("web-1")].epoch, Epoch(1));
}

#[test]
fn an_intent_that_cannot_be_read_is_taken_for_what_its_last_process_or_the_share_says() {
    let state = up(created(), WEB, HOSTS);
    let story = Story::begun(&state, &[("web-1", Lies::Unclear(Some(Epoch(4))))]);
    assert_eq!(story.orders[&machine("web-1")].epoch, Epoch(4));
    let story = Story::begun(&state, &[("web-1", Lies::Unclear(None))]);
    assert_eq!(story.orders[&machine("web-1")].epoch, Epoch(1));
    // What was known before stands above both.
    let mut story = Story::running();
    story.on(Event::Told(machine("web-1"), crashed(booted(1, 0))));
    story.sleep();
    story.done("web-1", Lies::Unclear(Some(Epoch(9))), Outcome::Failed("no space".into()));
    story.sleep();
    assert_eq!(story.orders[&machine("web-1")].epoch, Epoch(1));
}

#[test]
fn a_crashed_machine_is_restarted_after_its_back_off_and_no_sooner() {
    let mut story = Story::running();
    for (life, pause) in [(1, 1_000), (2, 2_000), (3, 4_000)] {
        story.now = story.now.plus_ms(7_000);
        story.on(Event::Told(machine("web-1"), crashed(booted(life, story.now.0 - 7_000))));
        assert!(story.orders.is_empty() && story.says().contains(&format!("after {} s", pause / 1000)));
        assert_eq!(story.sleep(), pause);
        assert!(matches!(story.ordered("web-1"), Action::Launch { after: Some(_), .. }));
        story.launched(life + 1);
    }
    // A long run forgets what was before.
    let began = story.now.0;
    story.now = story.now.plus_ms(3_600_000);
    story.on(Event::Told(machine("web-1"), crashed(booted(4, began))));
    assert_eq!(story.sleep(), 1_000);
}

#[test]
fn a_machine_whose_shim_does_not_say_since_when_it_runs_was_first_heard_then() {
    let mut story = Story::running();
    story.on(Event::Told(machine("web-1"), Told { began: None, ..booted(1, 0) }));
    story.now = story.now.plus_ms(60_000);
    story.on(Event::Woken);
    assert!(
        story.says().contains("http does not answer on port 80, 60 s after the start"),
        "{}",
        story.says()
    );
}

#[test]
fn what_time_alone_changes_is_said_in_its_moment() {
    let mut story = Story::running();
    assert_eq!(story.says(), "http is not ready yet");
    assert_eq!(story.sleep(), 60_000, "the grace of its check");
    assert!(story.says().contains("does not answer"));
    assert_eq!(story.wake, None, "nothing more changes by time alone");
}

#[test]
fn a_check_counts_for_the_process_that_it_asked() {
    let mut story = Story::running();
    let probed = |life| Event::Probed(machine("web-1"), Life(life), service(), true);
    story.on(probed(1));
    assert_eq!(story.phase(), Phase::Ready);
    story.on(Event::Told(machine("web-1"), crashed(booted(1, 0))));
    story.sleep();
    story.launched(2);
    assert_eq!(story.phase(), Phase::Booted, "the process is another one");
    story.on(probed(1));
    assert_eq!(story.phase(), Phase::Booted, "the answer is late");
    story.on(probed(2));
    assert_eq!(story.phase(), Phase::Ready);
}

#[test]
fn an_end_is_counted_once_however_often_it_is_told() {
    let mut story = Story::running();
    for _ in 0..3 {
        story.on(Event::Told(machine("web-1"), crashed(booted(1, story.now.0))));
    }
    assert!(story.says().contains("try 2 follows after 1 s"), "{}", story.says());
}

#[test]
fn what_answers_and_has_ended_already_does_not_run() {
    let mut story = Story::running();
    let before = story.now.0;
    story.on(Event::Told(machine("web-1"), crashed(booted(1, before))));
    story.sleep();
    story.done(
        "web-1",
        Lies::Launched(settings(1)),
        Outcome::Adopted(settings(1), crashed(booted(1, before))),
    );
    assert!(story.says().contains("try 2 follows after 1 s"), "counted once: {}", story.says());
    assert_eq!(story.sleep(), 1_000);
    assert!(matches!(story.ordered("web-1"), Action::Launch { after: Some(_), .. }));
}

#[test]
fn what_is_out_of_sight_is_neither_dead_nor_forgotten() {
    let mut story = Story::running();
    story.on(Event::Silent(machine("web-1"), Life(7), "silent".into()));
    assert_eq!(story.phase(), Phase::Booted, "it speaks of another process");
    story.on(Event::Silent(machine("web-1"), Life(1), "silent".into()));
    assert_eq!(story.phase(), Phase::Running);
    assert!(story.says().contains("unknown to us: silent"));
    assert!(story.did.contains(&Effect::Release(machine("web-1"))));
    for _ in 0..3 {
        assert_eq!(story.sleep(), 2_000);
        assert_eq!(story.ordered("web-1"), Action::Find { patient: true });
        story.done("web-1", Lies::Launched(settings(1)), Outcome::Unseen("still silent".into()));
    }
    story.now = story.now.plus_ms(5 * 60_000);
    story.on(Event::Woken);
    assert_eq!(story.ordered("web-1"), Action::Find { patient: false });
    story.done("web-1", Lies::Launched(settings(1)), Outcome::Gone(Some(crashed(booted(1, 0)))));
    assert!(story.says().contains("QEMU got signal 9"));
}

#[test]
fn a_persons_start_waits_out_no_back_off() {
    let mut story = Story::running();
    for life in 1..7 {
        story.on(Event::Told(machine("web-1"), crashed(booted(life, story.now.0))));
        story.sleep();
        story.launched(life + 1);
    }
    story.on(Event::Told(machine("web-1"), crashed(booted(7, story.now.0))));
    assert!(story.orders.is_empty() && story.phase() == Phase::Failed);
    let mut state = up(created(), WEB, HOSTS);
    for run in [false, true] {
        state = command(state, Command::Wish { machine: machine("web-1"), run });
    }
    story.on(Event::Share(share(&state), BTreeSet::new()));
    assert_eq!(story.ordered("web-1"), Action::Launch { epoch: Epoch(1), after: None });
}

#[test]
fn an_image_is_fetched_once_for_all_that_want_it() {
    let state = up(created(), "web 3 64", HOSTS);
    let mut story = Story::looked(&state, &[]);
    story.orders.clear();
    let mut host = Host::new(Rules::default(), Owner::default());
    let mut did = host.on(Event::Share(share(&state), BTreeSet::new()), Moment(1));
    did.extend(host.on(Event::Begun(BTreeMap::new()), Moment(1)));
    for order in orders(&did) {
        let Order { machine, number, .. } = order;
        let done = Event::Done { machine, number, lies: Lies::Nothing, outcome: Outcome::Gone(None) };
        did.extend(host.on(done, Moment(1)));
    }
    let fetches = |did: &[Effect]| did.iter().filter(|e| matches!(e, Effect::Fetch { .. })).count();
    assert_eq!(fetches(&did), 1);
    let failed = host.on(Event::Fetched(Digest([1; 32]), Err("nobody has it".into())), Moment(2));
    assert_eq!(fetches(&failed), 0, "not at once");
    assert!(failed.contains(&Effect::Wake(Some(Moment(1_002)))));
    assert_eq!(fetches(&host.on(Event::Woken, Moment(1_002))), 1);
    let here = host.on(Event::Fetched(Digest([1; 32]), Ok(())), Moment(1_003));
    assert_eq!(orders(&here).len(), 3, "all of them ask for their first start");
}

fn orders(effects: &[Effect]) -> Vec<Order> {
    let order = |effect: &Effect| match effect {
        Effect::Order(order) => Some(order.clone()),
        _ => None,
    };
    effects.iter().filter_map(order).collect()
}

#[test]
fn a_removal_that_the_coordinator_knows_is_not_told_again_at_once() {
    let state = command(up(created(), WEB, HOSTS), Command::End);
    let mut story = Story::looked(&state, &[]);
    assert_eq!(story.ordered("web-1"), Action::ReportDropped(Epoch(1)));
    story.done("web-1", Lies::Nothing, Outcome::Reported);
    assert!(story.orders.is_empty(), "its next share is on the way");
    assert_eq!(story.sleep(), ASK_AGAIN_MS);
    assert_eq!(story.ordered("web-1"), Action::ReportDropped(Epoch(1)), "or it was lost");
}

#[test]
fn what_is_buried_is_removed_to_the_last_machine_and_then_forgotten() {
    let mut story = Story::running();
    story.on(Event::Buried);
    assert_eq!(story.ordered("web-1"), Action::Remove(Epoch(u64::MAX)));
    story.done("web-1", Lies::Launched(settings(1)), Outcome::Failed("the disk does not answer".into()));
    assert!(!story.is_over());
    assert_eq!(story.sleep(), 1_000);
    story.done("web-1", Lies::Nothing, Outcome::Removed);
    assert!(story.is_over());
    assert_eq!(story.host.on(Event::Woken, story.now), []);
}

#[test]
fn an_action_that_is_under_way_ends_before_a_buried_session_is_cleared_away() {
    let mut story = Story::looked(&up(created(), WEB, HOSTS), &[]);
    story.done("web-1", Lies::Nothing, Outcome::Granted(Epoch(1)));
    story.on(Event::Buried);
    assert!(matches!(story.ordered("web-1"), Action::Launch { .. }));
    story.launched(1);
    assert_eq!(story.ordered("web-1"), Action::Remove(Epoch(u64::MAX)));
}

#[test]
fn an_agent_that_ends_waits_for_what_would_be_left_half_made_and_for_nothing_else() {
    let mut asks = Story::looked(&up(created(), WEB, HOSTS), &[]);
    assert_eq!(asks.ordered("web-1"), Action::Ask(Epoch(1)));
    asks.on(Event::Ending);
    assert!(asks.is_over());

    let mut launches = Story::looked(&up(created(), WEB, HOSTS), &[]);
    launches.done("web-1", Lies::Nothing, Outcome::Granted(Epoch(1)));
    launches.on(Event::Ending);
    launches.on(Event::Woken);
    assert!(!launches.is_over() && matches!(launches.ordered("web-1"), Action::Launch { .. }));
    launches.launched(1);
    assert!(launches.is_over());
}

#[test]
fn the_same_is_said_once() {
    let mut story = Story::running();
    let said = |story: &Story| story.did.iter().filter(|e| matches!(e, Effect::Report(..))).count();
    let before = said(&story);
    for _ in 0..5 {
        story.on(Event::Woken);
        story.on(Event::Told(machine("web-1"), booted(1, story.now.0)));
    }
    assert_eq!(said(&story), before);
}

/// Any event that may reach a host, of two machines, three lives and some orders.
fn events() -> impl Strategy<Value = Event> {
    let names = prop_oneof![Just(machine("db-1")), Just(machine("web-1"))];
    let told = (0..3u64, any::<[bool; 4]>(), any::<Option<u64>>()).prop_map(
        |(life, [runs, booted, over, asked], began)| {
            let ending = Ending { asked, clean: booted, because: "an end".into() };
            let began = began.map(Moment);
            Told { life: Life(life), runs, began, booted, ended: over.then_some(ending), ..Told::default() }
        },
    );
    let lies = prop_oneof![
        Just(Lies::Nothing),
        (0..4u64).prop_map(|epoch| Lies::Launched(settings(epoch))),
        any::<Option<u64>>().prop_map(|epoch| Lies::Unclear(epoch.map(Epoch))),
    ];
    let outcomes = prop_oneof![
        Just(Outcome::Failed("no".into())),
        (0..3u64).prop_map(|epoch| Outcome::Granted(Epoch(epoch))),
        told.clone().prop_map(|told| Outcome::Launched(settings(1), told)),
        told.clone().prop_map(|told| Outcome::Adopted(settings(1), told)),
        Just(Outcome::Unseen("silent".into())),
        proptest::option::of(told.clone()).prop_map(Outcome::Gone),
        proptest::option::of(told.clone()).prop_map(Outcome::Stopped),
        Just(Outcome::Removed),
        Just(Outcome::Reported),
    ];
    let states = || {
        let first = up(created(), "db 1 256\nweb 1 256 needs=db checked=http:80", HOSTS);
        let smaller = up(first.clone(), "db 1 256", HOSTS);
        let stopped = command(first.clone(), Command::Wish { machine: machine("db-1"), run: false });
        let ended = command(first.clone(), Command::End);
        [first, smaller, stopped, ended].map(|state| share(&state))
    };
    let shares = states();
    prop_oneof![
        proptest::collection::btree_map(names.clone(), lies.clone(), 0..2).prop_map(Event::Begun),
        (0..4usize, any::<bool>()).prop_map(move |(which, ready)| {
            let ready = if ready { [machine("db-1")].into() } else { BTreeSet::new() };
            Event::Share(shares[which].clone(), ready)
        }),
        any::<bool>().prop_map(|all| Event::Ready(if all {
            [machine("db-1")].into()
        } else {
            BTreeSet::new()
        })),
        any::<bool>().prop_map(|here| Event::Images(here.then_some(Digest([1; 32])).into_iter().collect())),
        any::<u64>().prop_map(|bytes| Event::Arrived([(Digest([1; 32]), bytes)].into())),
        Just(Event::Woken),
        (names.clone(), told).prop_map(|(name, told)| Event::Told(name, told)),
        (names.clone(), 0..3u64).prop_map(|(name, life)| Event::Silent(name, Life(life), "silent".into())),
        (names.clone(), 0..3u64, any::<bool>()).prop_map(|(name, life, passed)| Event::Probed(
            name,
            Life(life),
            service(),
            passed
        )),
        any::<bool>().prop_map(|well| {
            Event::Fetched(Digest([1; 32]), if well { Ok(()) } else { Err("no holder".into()) })
        }),
        (names, 0..12u64, lies, outcomes).prop_map(|(machine, number, lies, outcome)| Event::Done {
            machine,
            number,
            lies,
            outcome
        }),
    ]
}

proptest! {
    #[test]
    fn any_order_of_events_is_legal(
        events in proptest::collection::vec((events(), 0..90_000u64), 0..80),
        last in prop_oneof![Just(Event::Buried), Just(Event::Ending)],
    ) {
        let mut host = Host::new(Rules::default(), Owner::default());
        let (mut now, mut busy) = (Moment(50), BTreeMap::<MachineName, u64>::new());
        let mut begun = false;
        for (event, later) in events.into_iter().chain([(last, 1)]) {
            now = now.plus_ms(later);
            begun |= matches!(event, Event::Begun(_));
            if let Event::Done { machine, number, .. } = &event
                && busy.get(machine) == Some(number)
            {
                busy.remove(machine);
            }
            for effect in host.on(event, now) {
                match effect {
                    Effect::Order(order) => {
                        prop_assert!(begun, "before the agent had begun");
                        prop_assert_eq!(order.share.session, SESSION);
                        let before = busy.insert(order.machine.clone(), order.number);
                        prop_assert_eq!(before, None, "{} is busy", order.machine);
                    }
                    Effect::Wake(Some(at)) => prop_assert!(at > now, "a moment that is over"),
                    Effect::Report(_, reports) => prop_assert!(reports.len() <= 2),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn a_session_of_no_machines_is_forgotten_as_soon_as_it_is_buried() {
    let mut story = Story::begun(&created(), &[]);
    assert_eq!(story.host.share.as_ref().map(|share| share.session), Some(SessionId([7; 16])));
    story.on(Event::Buried);
    assert!(story.is_over());
}

#[test]
fn a_machine_goes_into_the_hosts_network_only_where_its_owner_allows_it() {
    let session = command(created(), Command::Raise { level: crate::level::LEVEL });
    let state = up(session, "web 1 256 lan\ndb 1 256 internet", "nas 9000 image lan");
    let asks = |owner: Owner| -> Vec<String> {
        let mut host = Host::new(Rules::default(), owner);
        let now = Moment(1_000_000);
        let mut orders = Vec::new();
        host.on(Event::Images([Digest([1; 32])].into()), now);
        let mut effects = host.on(Event::Share(share(&state), BTreeSet::new()), now);
        effects.extend(host.on(Event::Begun(BTreeMap::new()), now));
        while let Some(effect) = effects.pop() {
            let Effect::Order(Order { machine, number, action, .. }) = effect else { continue };
            match action {
                Action::Find { .. } => {
                    let outcome = Outcome::Gone(None);
                    effects
                        .extend(host.on(Event::Done { machine, number, lies: Lies::Nothing, outcome }, now));
                }
                action => orders.push(format!("{machine} {action:?}")),
            }
        }
        orders.sort();
        orders
    };
    assert_eq!(asks(Owner { lan: true, ..Owner::default() }), ["db-1 Ask(Epoch(1))", "web-1 Ask(Epoch(1))"]);
    assert_eq!(asks(Owner::default()), ["db-1 Ask(Epoch(1))"]);
    assert_eq!(asks(Owner { lan: true, no_machines: true }), [] as [&str; 0], "its owner gives it to none");
}

#[test]
fn a_host_that_is_out_stops_what_runs_and_starts_nothing_again() {
    let mut story = Story::running();
    story.on(Event::Out);
    assert!(matches!(story.orders[&machine("web-1")].action, Action::Stop { .. }), "{:?}", story.orders);
    story.done("web-1", Lies::Launched(settings(1)), Outcome::Stopped(None));
    story.on(Event::Share(share(&up(created(), WEB, HOSTS)), BTreeSet::new()));
    assert_eq!(story.orders, [].into(), "whatever a share says");
}
