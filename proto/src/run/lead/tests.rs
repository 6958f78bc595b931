//! What a coordinator does, event by event.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    question::{Ask, Question},
    *,
};
use crate::{
    id::Name,
    limits::{MAX_FILE_BYTES, VOTER_SILENT_MS},
    session::{
        Command, Refused, Replace,
        fixture::{SESSION, command, created, host_id, intent, inventory, up},
    },
    topology::{Content, Contents, FileSpec, Group, ImageRef, Intent, Probe, Ready},
    wire::rpc::{Answer, Refusal},
};

const NOW: Moment = Moment(10_000);
const GROUPS: &str = "db 1 256\nweb 2 256 needs=db";
const HOSTS: &str = "nas 9000 image\nattic 9000 image\ncellar 9000 image";

/// A session that runs, seen by `nas`, which leads with these voters. `-` is away, `*` may run and store alone.
fn seen(members: &str, voters: &[(u64, &str)]) -> Overview {
    let member = |word: &str| {
        let (name, down) = word.strip_suffix('-').map_or((word, false), |name| (name, true));
        let (name, may) = match name.strip_suffix('*') {
            Some(name) => (name, May::only([Capability::Run, Capability::Store])),
            None => (name, May::ALL),
        };
        (
            host_id(name),
            Member { name: name.parse().unwrap(), up: !down, steady: true, level: Some(LEVEL), may },
        )
    };
    Overview {
        group: Standing {
            leader: Some(host_id("nas")),
            leading: true,
            term: 3,
            voters: voters.iter().map(|(node, name)| (*node, host_id(name))).collect(),
            outdated: BTreeSet::new(),
            place: Place::Inside,
            stopped: None,
        },
        state: Some(Arc::new(raised())),
        members: members.split_whitespace().map(member).collect(),
        out: BTreeSet::new(),
        buried: false,
        shared: true,
    }
}

/// A session that runs and has the level of these members.
fn raised() -> State {
    raised_to(LEVEL)
}

fn raised_to(level: Level) -> State {
    command(up(created(), GROUPS, HOSTS), Command::Raise { level })
}

fn lead() -> Lead {
    let (lead, begun) = Lead::new(host_id("nas"), Rules::default(), NOW);
    assert_eq!(begun, [Effect::Announce(None)], "what an earlier process said is taken back");
    lead
}

fn look(lead: &mut Lead, seen: &Overview, now: Moment) -> Vec<Effect> {
    let effects = lead.on(Event::Look(Box::new(seen.clone())), now);
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Wake(_))).collect()
}

fn delivered(effects: &[Effect]) -> Vec<HostId> {
    let to = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver(to, _) => Some(*to),
        _ => None,
    });
    to.collect()
}

#[test]
fn who_leads_says_so_once_and_brings_everybody_a_share() {
    let (mut lead, seen) = (lead(), seen("nas attic cellar-", &[(1, "nas")]));
    let first = look(&mut lead, &seen, NOW);
    let Some(Effect::Announce(Some(head))) = first.iter().find(|e| matches!(e, Effect::Announce(_))) else {
        panic!("{first:?}")
    };
    assert_eq!((head.term, head.voters.clone()), (3, vec![host_id("nas")]));
    let mut to = delivered(&first);
    to.sort();
    assert_eq!(to, [host_id("attic"), host_id("nas")], "to those that are up");
    assert_eq!(look(&mut lead, &seen, NOW.plus_ms(100)), [], "nothing is said twice");
    let version = seen.state.as_ref().unwrap().version;
    lead.on(Event::Delivered(host_id("nas"), Some(version)), NOW);
    lead.on(Event::Delivered(host_id("attic"), None), NOW);
    assert_eq!(look(&mut lead, &seen, NOW.plus_ms(100)), []);
    assert_eq!(delivered(&look(&mut lead, &seen, NOW.plus_ms(600))), [host_id("attic")]);
}

#[test]
fn a_member_that_may_not_vote_is_asked_for_no_log_and_what_it_is_brought_opens_no_machine() {
    let (mut lead, seen) = (lead(), seen("nas attic* cellar* shed*", &[(1, "nas")]));
    let first = look(&mut lead, &seen, NOW);
    assert!(!first.iter().any(|effect| matches!(effect, Effect::AskVoter { .. })), "{first:?}");
    let brought = |to: &str| {
        let share = first.iter().find_map(|effect| match effect {
            Effect::Deliver(host, share) if *host == host_id(to) => Some(share.clone()),
            _ => None,
        });
        share.expect("everybody is brought one")
    };
    let (full, part, none) = (brought("nas"), brought("attic"), brought("shed"));
    assert!(full.ssh_seed != [0; 32] && part.ssh_seed == [0; 32] && none.ssh_seed == [0; 32]);
    assert!(
        !part.machines.is_empty() && part.directory == full.directory,
        "its machines have to find others"
    );
    assert!(none.machines.is_empty() && none.directory.groups.is_empty(), "{:?}", none.directory);
    assert_eq!(none.version, full.version, "it says what it has, like all");
}

#[test]
fn who_leads_no_more_takes_its_word_back_and_begins_anew_when_it_leads_again() {
    let (mut lead, mut seen) = (lead(), seen("nas attic", &[(1, "nas")]));
    look(&mut lead, &seen, NOW);
    for host in ["nas", "attic"] {
        lead.on(Event::Delivered(host_id(host), Some(99)), NOW);
    }
    (seen.group.leading, seen.group.leader) = (false, Some(host_id("attic")));
    let effects = look(&mut lead, &seen, NOW);
    assert!(effects.contains(&Effect::Announce(None)), "{effects:?}");
    seen.group.leading = true;
    assert_eq!(delivered(&look(&mut lead, &seen, NOW)).len(), 2);
}

#[test]
fn the_voters_grow_with_the_mesh_one_change_at_a_time() {
    let (mut lead, seen) = (lead(), seen("nas attic cellar", &[(1, "nas")]));
    let effects = look(&mut lead, &seen, NOW);
    let asked: Vec<_> = effects.iter().filter(|e| matches!(e, Effect::AskVoter { .. })).collect();
    assert_eq!(asked.len(), 3);
    assert!(!look(&mut lead, &seen, NOW).iter().any(|e| matches!(e, Effect::AskVoter { .. })));
    let mut last = Vec::new();
    for (host, node) in [("nas", 1), ("attic", 2), ("cellar", 3)] {
        last = lead.on(Event::Voter { change: 1, host: host_id(host), node: Some(node) }, NOW);
    }
    let voters: BTreeMap<u64, HostId> =
        [(1, host_id("nas")), (2, host_id("attic")), (3, host_id("cellar"))].into();
    assert_eq!(last, [Effect::SetVoters { change: 1, voters }]);
    lead.on(Event::VotersSet { change: 1, well: false }, NOW);
    let again = |effects: Vec<Effect>| effects.iter().any(|e| matches!(e, Effect::AskVoter { .. }));
    assert!(!again(look(&mut lead, &seen, NOW.plus_ms(4_000))));
    assert!(again(look(&mut lead, &seen, NOW.plus_ms(5_000))));
}

#[test]
fn a_voter_is_replaced_by_its_silence_and_that_counts_while_another_host_leads() {
    let voters = [(1, "nas"), (2, "attic"), (3, "cellar")];
    let (mut lead, mut seen) = (lead(), seen("nas attic- cellar desk", &voters));
    seen.group.leading = false;
    look(&mut lead, &seen, NOW);
    seen.group.leading = true;
    let wants_desk = |effects: Vec<Effect>| {
        effects.iter().any(|e| matches!(e, Effect::AskVoter { host, .. } if *host == host_id("desk")))
    };
    assert!(!wants_desk(look(&mut lead, &seen, NOW.plus_ms(30_000))));
    assert!(wants_desk(look(&mut lead, &seen, NOW.plus_ms(VOTER_SILENT_MS))));
}

#[test]
fn voters_are_asked_for_their_logs_well_within_a_minute() {
    let voters = [(1, "nas"), (2, "attic"), (3, "cellar")];
    let (mut lead, seen) = (lead(), seen("nas attic cellar", &voters));
    let asks = |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::AskVoter { .. })).count();
    assert_eq!(asks(&look(&mut lead, &seen, NOW.plus_ms(39_000))), 0);
    assert_eq!(asks(&look(&mut lead, &seen, NOW.plus_ms(40_000))), 3);
}

#[test]
fn a_voter_whose_log_is_older_than_its_word_is_told_which_one() {
    let voters = [(1, "nas"), (2, "attic"), (3, "cellar")];
    let (mut lead, mut seen) = (lead(), seen("nas attic cellar", &voters));
    seen.group.outdated.insert(2);
    let told = look(&mut lead, &seen, NOW.plus_ms(40_000));
    let asked = |name, outdated| Effect::AskVoter { change: 1, host: host_id(name), outdated };
    assert!(told.contains(&asked("attic", Some(2))) && told.contains(&asked("cellar", None)), "{told:?}");
}

#[test]
fn a_session_is_buried_only_when_nothing_is_left_and_everybody_who_is_up_knows() {
    let (mut lead, mut seen) = (lead(), seen("nas attic cellar-", &[(1, "nas")]));
    let ended = command(up(created(), GROUPS, HOSTS), Command::End);
    let gone = ended.drops.clone().into_iter().fold(ended.clone(), |state, (machine, drops)| {
        let drop = drops[0].clone();
        command(state, Command::Dropped { machine, host: drop.host, epoch: drop.epoch })
    });
    let buries = |effects: Vec<Effect>| effects.contains(&Effect::Bury);
    seen.state = Some(Arc::new(ended));
    for host in ["nas", "attic"] {
        lead.on(Event::Delivered(host_id(host), Some(99)), NOW);
    }
    assert!(!buries(look(&mut lead, &seen, NOW)), "machines are left");
    let mut lead = self::lead();
    seen.state = Some(Arc::new(gone));
    assert!(!buries(look(&mut lead, &seen, NOW)), "nobody knows");
    for host in ["nas", "attic"] {
        lead.on(Event::Delivered(host_id(host), Some(99)), NOW);
    }
    assert!(buries(look(&mut lead, &seen, NOW)));
    assert!(buries(look(&mut lead, &seen, NOW)), "until it is known");
    seen.buried = true;
    assert_eq!(look(&mut lead, &seen, NOW), [Effect::Announce(None), Effect::Rest]);
    seen.shared = false;
    assert_eq!(look(&mut lead, &seen, NOW), [Effect::Forget]);
}

#[test]
fn a_log_without_a_place_is_removed_after_two_minutes_or_at_once_when_it_was_taken_out() {
    let (mut lead, mut seen) = (lead(), seen("nas attic", &[(2, "attic")]));
    (seen.group.place, seen.group.leading, seen.state) = (Place::Outside, false, None);
    assert_eq!(look(&mut lead, &seen, NOW), []);
    assert_eq!(look(&mut lead, &seen, NOW.plus_ms(ORPHAN_MS)), []);
    seen.group.place = Place::Inside;
    assert_eq!(look(&mut lead, &seen, NOW.plus_ms(ORPHAN_MS)), []);
    seen.group.place = Place::Outside;
    assert_eq!(look(&mut lead, &seen, NOW.plus_ms(ORPHAN_MS + 1)), [], "it counts from anew");
    assert_eq!(look(&mut lead, &seen, NOW.plus_ms(2 * ORPHAN_MS + 2)), [Effect::Retire]);
    seen.group.place = Place::Removed;
    assert_eq!(look(&mut self::lead(), &seen, NOW), [Effect::Retire]);
}

#[test]
fn a_log_that_cannot_be_written_is_opened_again_after_pauses_that_grow() {
    let (mut lead, mut seen) = (lead(), seen("nas attic", &[(1, "nas")]));
    look(&mut lead, &seen, NOW);
    seen.group.stopped = Some("no space".into());
    assert_eq!(look(&mut lead, &seen, NOW), [Effect::Announce(None)]);
    let mut now = NOW.plus_ms(REOPEN_FIRST_MS);
    assert_eq!(look(&mut lead, &seen, now), [Effect::Reopen]);
    for pause in [2_000, 4_000, 8_000, 16_000, 16_000] {
        assert_eq!(look(&mut lead, &seen, now.plus_ms(99_000)), [], "one try at a time");
        assert_eq!(lead.on(Event::StillClosed, now), [Effect::Wake(now.plus_ms(pause))]);
        assert_eq!(look(&mut lead, &seen, now.plus_ms(pause - 1)), []);
        now = now.plus_ms(pause);
        assert_eq!(look(&mut lead, &seen, now), [Effect::Reopen]);
    }
}

/// Plays one question: `states` are what the quorum rounds give, `written` what the writes give.
fn ask(ask: Ask, states: Vec<State>, written: Vec<Result<(), Refused>>) -> (Answer, Vec<Command>) {
    let (mut states, mut written) = (states.into_iter(), written.into_iter());
    let (mut question, mut effects) = Question::new(SESSION, ask, Rules::default());
    let mut commands = Vec::new();
    loop {
        let event = match effects.pop().expect("a question ends with its answer") {
            question::Effect::Answer(answer) => return (*answer, commands),
            question::Effect::Read => {
                question::Event::Read(states.next().map(Arc::new).ok_or(Refusal::NoQuorum))
            }
            question::Effect::Gather => question::Event::Offered(Box::new(inventory(HOSTS))),
            question::Effect::Write(command) => {
                commands.push(*command);
                question::Event::Written(written.next().unwrap().map_err(Refusal::State))
            }
            question::Effect::Tell(_) => continue,
        };
        effects = question.on(event);
    }
}

fn wanted(groups: &str, index: Option<u64>) -> Ask {
    let contents = Contents::default();
    Ask::Up { intent: Box::new(intent(groups)), contents, index, replace: Replace::default(), mandate: None }
}

#[test]
fn a_first_start_is_written_down_before_it_is_told() {
    let state = up(created(), GROUPS, HOSTS);
    let placed = state.plan.as_ref().unwrap().placements[0].clone();
    let may = |host| Ask::MayStart(host, placed.machine.clone(), placed.epoch);
    let (answer, commands) = ask(may(placed.host), vec![state.clone()], vec![Ok(())]);
    assert_eq!(answer, Answer::MayStart(true));
    assert!(matches!(commands[..], [Command::Grant { .. }]));
    let (answer, commands) = ask(may(host_id("nowhere")), vec![state.clone()], vec![]);
    assert_eq!((answer, commands), (Answer::MayStart(false), vec![]));
    let raced = Err(Refused::NoStart(placed.machine.clone()));
    assert_eq!(ask(may(placed.host), vec![state], vec![raced]).0, Answer::MayStart(false));
    let unsure = ask(may(placed.host), vec![], vec![]).0;
    assert_eq!(unsure, Answer::Refused(Refusal::NoQuorum));
}

#[test]
fn a_topology_is_planned_again_when_somebody_was_quicker_unless_its_user_named_the_plan() {
    let state = up(created(), GROUPS, HOSTS);
    let current = state.generation();
    let raced = || Err(Refused::NotCurrent { current, parent: current });
    let twice = vec![state.clone(), state.clone()];
    let (answer, commands) = ask(wanted("db 2 256", None), twice.clone(), vec![raced(), Ok(())]);
    assert!(matches!(answer, Answer::Applied(_)) && commands.len() == 2, "{answer:?}");
    let index = Some(current.0);
    let (answer, commands) = ask(wanted("db 2 256", index), twice, vec![raced()]);
    assert!(matches!(answer, Answer::Refused(Refusal::State(Refused::NotCurrent { .. }))));
    assert_eq!(commands.len(), 1);
    let (answer, commands) = ask(wanted("db 2 256", Some(current.0 - 1)), vec![state.clone()], vec![]);
    assert!(matches!(answer, Answer::Refused(Refusal::State(Refused::NotCurrent { .. }))));
    assert_eq!(commands, [], "nothing is planned over a plan that nobody saw");
    let always: Vec<_> = (0..9).map(|_| raced()).collect();
    let states = vec![state; 9];
    let (answer, commands) = ask(wanted("db 2 256", None), states, always);
    assert!(matches!(answer, Answer::Refused(_)) && commands.len() == 4, "it gives up");
}

#[test]
fn what_changes_nothing_is_not_written() {
    let state = up(created(), GROUPS, HOSTS);
    let (answer, commands) = ask(wanted(GROUPS, None), vec![state.clone()], vec![]);
    let Answer::Applied(proposal) = answer else { panic!("{answer:?}") };
    assert_eq!((proposal.plan, commands), (state.plan.clone(), vec![]));
    let (answer, commands) = ask(wanted("web 1 900000", None), vec![state], vec![]);
    let Answer::Applied(proposal) = answer else { panic!("{answer:?}") };
    assert!(proposal.plan.is_none() && !proposal.obstacles.is_empty() && commands.is_empty());
}

/// Names a file of the largest size, and so many bytes more.
fn large(more: u64) -> Content {
    Content { size: MAX_FILE_BYTES as u64 + more, ..Content::of(b"x") }
}

fn file(mode: u32) -> FileSpec {
    FileSpec { source: "x".into(), mode, owner: None }
}

fn plan_and_up(intent: Intent) -> [Ask; 2] {
    let plan = Ask::Plan(Box::new(intent.clone()), Replace::default());
    let (intent, contents, replace) = (Box::new(intent), Contents::default(), Replace::all());
    [plan, Ask::Up { intent, contents, index: None, replace, mandate: None }]
}

#[test]
fn what_no_file_could_have_said_is_refused_before_anything_is_planned() {
    let group = |intent: &mut Intent, change: fn(&mut Group)| {
        intent.topology.groups.values_mut().for_each(change);
    };
    let check = |change: &dyn Fn(&mut Intent), because: &str| {
        let mut wrong = intent("web 1 256 checked=http:80\ndb 1 256");
        change(&mut wrong);
        for asked in plan_and_up(wrong) {
            let (_, effects) = Question::new(SESSION, asked, Rules::default());
            let [question::Effect::Answer(answer)] = &effects[..] else { panic!("{effects:?}") };
            let Answer::Refused(Refusal::Invalid(said)) = &**answer else { panic!("{answer:?}") };
            assert!(said.contains(because), "{said:?} instead of {because:?}");
        }
    };
    check(&|i| group(i, |g| g.count = u32::MAX), "8589934590 machines");
    check(&|i| group(i, |g| g.count = 0), "count = 0");
    check(&|i| group(i, |g| g.cpus = 0), "cpus = 0");
    check(&|i| group(i, |g| g.memory_mib = u64::MAX), "memory = 18446744073709551615");
    check(&|i| group(i, |g| g.disk_mib = Some(u64::MAX)), "disk = 18446744073709551615");
    let ready = |i: &mut Intent, change: fn(&mut Ready)| {
        let groups = i.topology.groups.values_mut();
        groups.flat_map(|g| g.services.values_mut()).flat_map(|s| &mut s.ready).for_each(change);
    };
    check(&|i| ready(i, |r| r.interval_ms = 0), "interval = 0");
    check(&|i| ready(i, |r| r.grace_ms = u64::MAX), "grace = 18446744073709551615");
    check(&|i| ready(i, |r| r.probe = Probe::Http("/ HTTP/1.1\r\nX: y".into())), "what to ask");
    let both = || ["web".parse::<Name>().unwrap(), "db".parse().unwrap()];
    let needs = |i: &mut Intent| {
        let [web, db] = both();
        i.topology.groups.get_mut(&web).unwrap().needs = [db.clone()].into();
        i.topology.groups.get_mut(&db).unwrap().needs = [web].into();
    };
    check(&needs, "in a circle: db -> web -> db");
    check(&|i| group(i, |g| drop(g.env.insert("A;reboot".into(), String::new()))), "no name of a variable");
    check(&|i| group(i, |g| g.setup.push("a\0b".into())), "NUL");
    check(&|i| group(i, |g| g.image = ImageRef::Named("../tiny".into())), "no image name");
    check(&|i| group(i, |g| g.files = [("/../etc".into(), file(0o644))].into()), "no plain path");
    check(&|i| group(i, |g| g.files = [("/etc/x".into(), file(u32::MAX))].into()), "no file mode");
    check(&|i| i.files.extend([("x".into(), large(1))]), "262145 bytes");
    let many = |i: &mut Intent| i.files.extend((0..17).map(|n| (n.to_string(), large(0))));
    check(&many, "4456448 bytes");
    let lines = |i: &mut Intent| drop(i.ssh_keys.insert(both()[0].clone(), vec!["ssh-rsa A\nB".into()]));
    check(&lines, "more than a line");
    let groups = |i: &mut Intent| {
        let one = i.topology.groups.values().next().unwrap().clone();
        i.topology.groups.extend((0..101).map(|n| (format!("g{n}").parse().unwrap(), one.clone())));
    };
    check(&groups, "103 groups");
    check(&|i| i.topology.groups.clear(), "no machines");
    check(&|i| i.topology.session = "localhost".parse().unwrap(), "reserved");
}

#[test]
fn an_end_that_was_committed_before_is_an_end() {
    assert_eq!(ask(Ask::Down(None), vec![], vec![Err(Refused::Ended)]).0, Answer::Done);
    assert_eq!(ask(Ask::Down(None), vec![], vec![Ok(())]).0, Answer::Done);
}

/// Draws an event for a coordinator, sensible or not.
fn event() -> impl Strategy<Value = (u64, Event)> {
    let host = || prop::sample::select(vec!["nas", "attic", "cellar", "desk"]).prop_map(host_id);
    let looked = (any::<[bool; 6]>(), 0..4u8, prop::collection::vec(any::<bool>(), 4)).prop_map(|drawn| {
        let ([leading, buried, shared, stopped, stated, ended], place, up) = drawn;
        let names = ["nas", "attic", "cellar", "desk"].into_iter().zip(up);
        let members: Vec<_> =
            names.map(|(name, up)| format!("{name}{}", if up { "" } else { "-" })).collect();
        let mut seen = seen(&members.join(" "), &[(1, "nas"), (2, "attic")]);
        if ended {
            seen.state = Some(Arc::new(command(self::up(created(), GROUPS, HOSTS), Command::End)));
        }
        (seen.group.leading, seen.buried, seen.shared) = (leading, buried, shared);
        seen.group.stopped = stopped.then(|| "no space".to_owned());
        seen.state = seen.state.filter(|_| stated);
        seen.group.place = [Place::Inside, Place::Inside, Place::Outside, Place::Removed][usize::from(place)];
        Event::Look(Box::new(seen))
    });
    let taken = (host(), prop::option::of(0..9u64)).prop_map(|(host, taken)| Event::Delivered(host, taken));
    let voter = (0..5u64, host(), prop::option::of(0..9u64)).prop_map(|(change, host, node)| Event::Voter {
        change,
        host,
        node,
    });
    let set = (0..5u64, any::<bool>()).prop_map(|(change, well)| Event::VotersSet { change, well });
    (0..70_000u64, prop_oneof![4 => looked, 1 => taken, 2 => voter, 1 => set, 1 => Just(Event::StillClosed)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_events_is_borne(events in prop::collection::vec(event(), 1..40)) {
        let (mut lead, mut now) = (lead(), NOW);
        for (later, event) in events {
            now = now.plus_ms(later);
            let leads = matches!(&event, Event::Look(seen) if seen.group.leading && !seen.buried);
            for effect in lead.on(event, now) {
                match effect {
                    Effect::Wake(at) => prop_assert!(at >= now),
                    Effect::Announce(Some(_)) | Effect::Deliver(..) | Effect::Bury => prop_assert!(leads),
                    Effect::SetVoters { voters, .. } => prop_assert!(!voters.is_empty()),
                    _ => {}
                }
            }
        }
    }
}

/// Gives the seen of a session of the first level, whose members told these levels.
fn seen_at(levels: &[(&str, u32)], voters: &[(u64, &str)]) -> Overview {
    let names: Vec<&str> = levels.iter().map(|(name, _)| *name).collect();
    let mut seen = seen(&names.join(" "), voters);
    seen.state = Some(Arc::new(up(created(), GROUPS, HOSTS)));
    for (name, level) in levels {
        seen.members.get_mut(&host_id(name)).unwrap().level = Some((*level).into());
    }
    seen
}

fn raises(effects: &[Effect]) -> Vec<(u64, u32)> {
    let raise = |effect: &Effect| match effect {
        Effect::Raise { raise, level } => Some((*raise, (*level).into())),
        _ => None,
    };
    effects.iter().filter_map(raise).collect()
}

fn asks(effects: &[Effect]) -> BTreeSet<HostId> {
    let asked = |effect: &Effect| match effect {
        Effect::AskVoter { host, .. } => Some(*host),
        _ => None,
    };
    effects.iter().filter_map(asked).collect()
}

#[test]
fn a_session_is_raised_once_all_members_understand_more_also_those_that_are_away() {
    let mut seen = seen_at(&[("nas", 2), ("attic", 2), ("cellar", 1)], &[(1, "nas")]);
    let cellar = seen.members.get_mut(&host_id("cellar")).unwrap();
    cellar.up = false;
    let mut lead = lead();
    assert_eq!(raises(&look(&mut lead, &seen, NOW)), []);
    seen.members.get_mut(&host_id("cellar")).unwrap().level = Some(2.into());
    lead.on(Event::VotersSet { change: 1, well: true }, NOW);
    assert_eq!(raises(&look(&mut lead, &seen, NOW)), [(1, 2)]);
    assert_eq!(raises(&look(&mut lead, &seen, NOW)), [], "one at a time");
    lead.on(Event::Raised { raise: 1, well: false }, NOW);
    assert_eq!(raises(&look(&mut lead, &seen, NOW)), [], "a pause after one that failed");
    assert_eq!(raises(&look(&mut lead, &seen, NOW.plus_ms(5_000))), [(2, 2)]);
    lead.on(Event::Raised { raise: 2, well: true }, NOW.plus_ms(5_000));
    seen.state = Some(Arc::new(raised()));
    assert_eq!(raises(&look(&mut lead, &seen, NOW.plus_ms(5_000))), []);
}

#[test]
fn who_does_not_lead_raises_nothing_and_an_ended_session_stays_as_it_is() {
    let mut seen = seen_at(&[("nas", 2), ("attic", 2)], &[(1, "nas")]);
    seen.group.leading = false;
    assert_eq!(raises(&look(&mut lead(), &seen, NOW)), []);
    seen.group.leading = true;
    seen.state = Some(Arc::new(command(up(created(), GROUPS, HOSTS), Command::End)));
    assert_eq!(raises(&look(&mut lead(), &seen, NOW)), []);
}

#[test]
fn a_raise_and_a_change_of_voters_wait_for_each_other() {
    let mut seen = seen_at(&[("nas", 2), ("attic", 1), ("cellar", 2)], &[(1, "nas")]);
    let mut lead = lead();
    assert_eq!(asks(&look(&mut lead, &seen, NOW)).len(), 3, "all of them understand this session");
    seen.members.get_mut(&host_id("attic")).unwrap().level = Some(2.into());
    assert_eq!(raises(&look(&mut lead, &seen, NOW)), [], "a change is under way");
    lead.on(Event::VotersSet { change: 1, well: true }, NOW);
    let next = look(&mut lead, &seen, NOW);
    assert_eq!((raises(&next), asks(&next).len()), (vec![(1, 2)], 0));
    assert_eq!(asks(&look(&mut lead, &seen, NOW)).len(), 0, "a raise is under way");
    lead.on(Event::Raised { raise: 1, well: false }, NOW);
    assert_eq!(asks(&look(&mut lead, &seen, NOW)).len(), 3);
}

#[test]
fn who_does_not_understand_the_session_is_not_asked_to_vote_and_still_gets_its_share() {
    let mut seen = seen_at(&[("nas", 2), ("attic", 2), ("cellar", 2), ("desk", 1)], &[(1, "nas")]);
    seen.state = Some(Arc::new(raised_to(2.into())));
    seen.members.remove(&host_id("cellar"));
    let told = look(&mut lead(), &seen, NOW);
    assert_eq!(asks(&told), [].into(), "two that understand it are too few for three voters");
    assert!(delivered(&told).contains(&host_id("desk")));
    seen.members.get_mut(&host_id("desk")).unwrap().level = Some(2.into());
    assert_eq!(asks(&look(&mut lead(), &seen, NOW)).len(), 3);
}

#[test]
fn a_voter_that_has_not_told_its_level_yet_is_kept_and_nobody_else_is_taken_in_like_that() {
    let voters = [(1, "nas"), (2, "attic"), (3, "cellar")];
    let mut seen = seen_at(&[("nas", 2), ("attic", 2), ("cellar", 2), ("desk", 2)], &voters);
    seen.state = Some(Arc::new(raised_to(2.into())));
    seen.members.get_mut(&host_id("cellar")).unwrap().level = None;
    assert_eq!(asks(&look(&mut lead(), &seen, NOW)), [].into());
    let cellar = seen.members.get_mut(&host_id("cellar")).unwrap();
    cellar.level = Some(1.into());
    assert!(asks(&look(&mut lead(), &seen, NOW)).contains(&host_id("desk")), "it has an older program now");
    seen.members.get_mut(&host_id("desk")).unwrap().level = None;
    assert_eq!(asks(&look(&mut lead(), &seen, NOW)), [].into());
}

#[test]
fn a_voter_that_is_out_is_replaced_at_once_and_gets_no_share() {
    let voters = [(1, "nas"), (2, "attic"), (3, "cellar")];
    let mut seen = seen("nas attic- cellar desk", &voters);
    assert_eq!(asks(&look(&mut lead(), &seen, NOW)), [].into(), "it may come back");
    seen.out.insert(host_id("attic"));
    let told = look(&mut lead(), &seen, NOW);
    assert_eq!(asks(&told), [host_id("nas"), host_id("cellar"), host_id("desk")].into());
    // Also while its word still comes, and while it is still listed.
    seen.members.get_mut(&host_id("attic")).unwrap().up = true;
    let told = look(&mut lead(), &seen, NOW);
    assert!(!asks(&told).contains(&host_id("attic")) && !delivered(&told).contains(&host_id("attic")));
}

#[test]
fn where_too_few_are_left_the_voters_become_fewer() {
    let mut seen = seen("nas cellar", &[(1, "nas"), (2, "attic"), (3, "cellar")]);
    seen.out.insert(host_id("attic"));
    let mut lead = lead();
    assert_eq!(asks(&look(&mut lead, &seen, NOW)), [host_id("nas")].into());
    let voter = Event::Voter { change: 1, host: host_id("nas"), node: Some(1) };
    let set = lead.on(voter, NOW);
    assert_eq!(set, [Effect::SetVoters { change: 1, voters: [(1, host_id("nas"))].into() }]);
}

#[test]
fn a_level_is_not_held_down_by_a_host_that_is_out() {
    let mut seen = seen_at(&[("nas", 2), ("attic", 1)], &[(1, "nas")]);
    assert_eq!(raises(&look(&mut lead(), &seen, NOW)), []);
    seen.out.insert(host_id("attic"));
    assert_eq!(raises(&look(&mut lead(), &seen, NOW)), [(1, 2)]);
}

#[test]
fn what_a_host_that_is_out_had_to_remove_is_written_off_one_by_one_and_the_session_is_buried() {
    let (mut lead, mut seen) = (lead(), seen("nas cellar", &[(1, "nas")]));
    let mut state = command(up(created(), GROUPS, "attic 9000 image"), Command::End);
    for host in ["nas", "cellar"] {
        lead.on(Event::Delivered(host_id(host), Some(99)), NOW);
    }
    let released = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Release { release, machine, host, epoch } => {
                Some((*release, Command::Dropped { machine: machine.clone(), host: *host, epoch: *epoch }))
            }
            _ => None,
        })
    };
    seen.state = Some(Arc::new(state.clone()));
    assert_eq!(released(&look(&mut lead, &seen, NOW)), None, "one that is away removes it when it returns");
    seen.out.insert(host_id("attic"));
    let first = released(&look(&mut lead, &seen, NOW)).unwrap();
    assert_eq!(released(&look(&mut lead, &seen, NOW)), None, "one at a time");
    lead.on(Event::Released { release: first.0, well: false }, NOW);
    assert_eq!(released(&look(&mut lead, &seen, NOW)), None, "a pause after one that failed");
    let mut now = NOW.plus_ms(5_000);
    for left in (0..3).rev() {
        let (release, dropped) = released(&look(&mut lead, &seen, now)).unwrap();
        state = command(state, dropped);
        assert_eq!(state.drops.len(), left);
        seen.state = Some(Arc::new(state.clone()));
        now = now.plus_ms(1);
        lead.on(Event::Released { release, well: true }, now);
    }
    for host in ["nas", "cellar"] {
        lead.on(Event::Delivered(host_id(host), Some(99)), now);
    }
    assert!(look(&mut lead, &seen, now).contains(&Effect::Bury));
}

#[test]
fn a_host_that_is_out_itself_leads_nothing_any_more() {
    let (mut lead, mut seen) = (lead(), seen("nas attic", &[(1, "nas")]));
    seen.out.insert(host_id("nas"));
    let told = look(&mut lead, &seen, NOW);
    assert!(told.iter().all(|effect| matches!(effect, Effect::Tell(_))), "{told:?}");
}

#[test]
fn a_plan_without_a_host_that_is_out_is_written_with_that() {
    let raised = command(created(), Command::Raise { level: LEVEL });
    let state = up(raised, GROUPS, "attic 9000 image");
    let (mut question, _) = Question::new(SESSION, wanted(GROUPS, None), Rules::default());
    question.on(question::Event::Read(Ok(Arc::new(state.clone()))));
    let offered = inventory("attic out\nnas 9000 image");
    let mut effects = question.on(question::Event::Offered(Box::new(offered)));
    let (mut written, mut state) = (Vec::new(), state);
    while let [question::Effect::Write(next)] = &effects[..] {
        state = command(state, Command::clone(next));
        written.push(matches!(**next, Command::Out { .. }));
        effects = question.on(question::Event::Written(Ok(())));
    }
    assert_eq!(written, [true, false]);
    assert!(state.plan.unwrap().placements.iter().all(|p| p.host == host_id("nas") && p.epoch.0 == 2));
}
