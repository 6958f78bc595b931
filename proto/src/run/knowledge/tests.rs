//! What a host takes, believes and asks for, event by event.

use proptest::prelude::*;

use super::*;
use crate::{
    id::{Generation, Name},
    limits::{MAX_KEEP_BYTES, MAX_PIECE_BYTES},
    session::{
        Command, Replace, State,
        fixture::{SESSION, command, created, host_id, intent, inventory, up},
        plan,
    },
    time::Timestamp,
    topology::{Contents, FileSpec},
};

const NOW: Moment = Moment(50_000);

fn share(version: u64) -> Box<Share> {
    let state = State { version, ..up(created(), "web 1 256", "nas 9000 image") };
    Box::new(slice::share(&state, host_id("me")))
}

fn head(term: u64, version: u64, voters: &[&str]) -> HeadRecord {
    HeadRecord {
        name: "shop".parse::<Name>().unwrap(),
        stamp: Timestamp(1),
        term,
        recovery: 0,
        version,
        generation: Generation(1),
        voters: voters.iter().map(|name| host_id(name)).collect(),
        ended: false,
    }
}

/// A mesh of `me`, `nas`, `attic`, `cellar` and `liar`, in which `nas` began the session.
fn view(heads: &[(&str, HeadRecord)]) -> View {
    let members: BTreeSet<HostId> = ["me", "nas", "attic", "cellar", "liar"].map(host_id).into();
    let heads = heads.iter().map(|(host, head)| (host_id(host), head.clone())).collect();
    View {
        heads: [(SESSION, heads)].into(),
        births: [(SESSION, vec![host_id("nas")])].into(),
        up: members.clone(),
        members,
        ..View::default()
    }
}

fn knowledge(view: View) -> Knowledge {
    let mut knowledge = Knowledge::new(host_id("me"), Rules::default(), Kept::default());
    knowledge.on(Event::Look(Box::new(view)), NOW);
    knowledge
}

fn without_wakes(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Wake(_))).collect()
}

fn offer(knowledge: &mut Knowledge, from: &str, version: u64, now: Moment) -> Vec<Effect> {
    let wants = Wants::Share(share(version));
    without_wakes(knowledge.on(Event::Asked { ticket: version, from: host_id(from), wants }, now))
}

/// Offers a share and lets the write end well.
fn give(knowledge: &mut Knowledge, version: u64) {
    let effects = offer(knowledge, "nas", version, NOW);
    assert!(effects.iter().any(|e| matches!(e, Effect::Store(..))), "{effects:?}");
    let shown = knowledge.on(Event::Stored(SESSION, Ok(())), NOW);
    assert!(shown.iter().any(|e| matches!(e, Effect::Show(share) if share.version == version)));
    assert!(shown.contains(&Effect::Answer(version, Ok(()))));
}

#[test]
fn who_may_not_vote_is_not_believed_and_makes_nobody_believed() {
    let mut muted = view(&[("nas", head(3, 9, &["nas", "attic"])), ("liar", head(9, 9, &["liar"]))]);
    muted.mute = ["nas", "liar"].map(host_id).into();
    let mut one = knowledge(muted.clone());
    assert_eq!(offer(&mut one, "nas", 9, NOW.plus_ms(BIRTH_MS)).first(), None, "it waits for a voice");
    assert!(!one.believes(SESSION, host_id("nas")) && !one.believes(SESSION, host_id("attic")));
    assert_eq!((one.voices(SESSION), one.head(SESSION)), (BTreeSet::new(), None));
    assert_eq!(one.doubted(), BTreeSet::new(), "nobody is asked about those that may not speak");
    // Also one that was believed before.
    muted.mute = BTreeSet::new();
    let mut one = knowledge(muted.clone());
    give(&mut one, 10);
    assert!(one.believes(SESSION, host_id("attic")));
    muted.mute = ["nas", "attic"].map(host_id).into();
    one.on(Event::Look(Box::new(muted)), NOW);
    assert!(!one.believes(SESSION, host_id("attic")) && !one.believes(SESSION, host_id("nas")));
    assert_eq!(one.head(SESSION), None);
}

#[test]
fn a_share_is_shown_when_it_is_written_down_and_older_ones_are_refused() {
    let mut knowledge = knowledge(view(&[]));
    let first = offer(&mut knowledge, "nas", 5, NOW);
    let voices = Some(BTreeSet::from([host_id("nas")]));
    assert_eq!(first, [Effect::Store(Arc::new(*share(5)), voices)]);
    assert!(knowledge.share(SESSION).is_none(), "not before it is on the disk");
    knowledge.on(Event::Stored(SESSION, Ok(())), NOW);
    assert_eq!(offer(&mut knowledge, "nas", 4, NOW), [Effect::Answer(4, Err(Refusal::Older))]);
    assert_eq!(offer(&mut knowledge, "nas", 5, NOW), [Effect::Answer(5, Ok(()))], "again is no error");
    let next = offer(&mut knowledge, "nas", 6, NOW);
    assert_eq!(next, [Effect::Store(Arc::new(*share(6)), None)]);
    let failed = knowledge.on(Event::Stored(SESSION, Err("no space".into())), NOW);
    assert!(matches!(&failed[..], [Effect::Answer(6, Err(Refusal::Failed(_))), ..]), "{failed:?}");
    assert_eq!(knowledge.share(SESSION).unwrap().version, 5);
}

#[test]
fn one_share_is_written_at_a_time() {
    let mut knowledge = knowledge(view(&[]));
    offer(&mut knowledge, "nas", 6, NOW);
    assert_eq!(offer(&mut knowledge, "nas", 7, NOW), []);
    assert_eq!(offer(&mut knowledge, "nas", 5, NOW), []);
    let then = without_wakes(knowledge.on(Event::Stored(SESSION, Ok(())), NOW));
    let stored = |effect: &&Effect| matches!(effect, Effect::Store(share, None) if share.version == 7);
    assert_eq!(then.iter().filter(stored).count(), 1, "{then:?}");
    let last = knowledge.on(Event::Stored(SESSION, Ok(())), NOW);
    assert!(last.contains(&Effect::Answer(5, Err(Refusal::Older))), "{last:?}");
}

#[test]
fn nobody_without_a_voice_brings_a_share_or_opens_a_log() {
    let mut knowledge = knowledge(view(&[("liar", head(9, 9, &["liar"]))]));
    assert_eq!(offer(&mut knowledge, "liar", 9, NOW), [Effect::Answer(9, Err(Refusal::NoVoice))]);
    let asked = |from| Event::Asked { ticket: 1, from: host_id(from), wants: Wants::Log(SESSION) };
    let refused = without_wakes(knowledge.on(asked("liar"), NOW));
    assert_eq!(refused, [Effect::Answer(1, Err(Refusal::NoVoice))]);
    assert_eq!(without_wakes(knowledge.on(asked("nas"), NOW)), [Effect::OpenLog(1, SESSION)]);
    assert!(knowledge.head(SESSION).is_none());
}

#[test]
fn a_birth_is_waited_for_a_moment() {
    let mut unborn = view(&[]);
    unborn.births.clear();
    let mut knowledge = knowledge(unborn.clone());
    assert_eq!(offer(&mut knowledge, "nas", 1, NOW), []);
    let born = knowledge.on(Event::Look(Box::new(view(&[]))), NOW.plus_ms(1_000));
    assert!(born.iter().any(|effect| matches!(effect, Effect::Store(..))), "{born:?}");
    let mut knowledge = self::knowledge(unborn.clone());
    assert_eq!(offer(&mut knowledge, "nas", 1, NOW), []);
    let late = without_wakes(knowledge.on(Event::Look(Box::new(unborn)), NOW.plus_ms(BIRTH_MS)));
    assert_eq!(late, [Effect::Answer(1, Err(Refusal::NoVoice))]);
}

#[test]
fn what_waits_is_bounded() {
    let mut unborn = view(&[]);
    unborn.births.clear();
    let mut knowledge = knowledge(unborn);
    for _ in 0..MAX_HELD {
        assert_eq!(offer(&mut knowledge, "nas", 1, NOW), []);
    }
    let refused = offer(&mut knowledge, "nas", 1, NOW);
    assert!(matches!(&refused[..], [Effect::Answer(1, Err(Refusal::Failed(_)))]), "{refused:?}");
}

#[test]
fn a_host_has_so_many_sessions_and_no_more() {
    let mut knowledge = knowledge(view(&[]));
    for number in 0..=MAX_SESSIONS as u8 {
        let session = SessionId([number; 16]);
        let share = Share { session, ..*share(1) };
        let wants = Wants::Share(Box::new(share));
        let effects = knowledge.on(Event::Asked { ticket: 1, from: host_id("me"), wants }, NOW);
        let taken = effects.iter().any(|effect| matches!(effect, Effect::Store(..)));
        assert_eq!(taken, usize::from(number) < MAX_SESSIONS, "{number}");
        knowledge.on(Event::Stored(session, Ok(())), NOW);
    }
}

#[test]
fn nothing_of_a_buried_session_is_taken_or_asked_for() {
    let mut buried = view(&[("nas", head(1, 9, &["nas"]))]);
    buried.buried.insert(SESSION);
    let mut knowledge = knowledge(buried.clone());
    assert_eq!(offer(&mut knowledge, "nas", 9, NOW), [Effect::Answer(9, Err(Refusal::UnknownSession))]);
    assert_eq!(knowledge.on(Event::Look(Box::new(buried)), NOW.plus_ms(9_000)), []);
}

#[test]
fn the_newest_head_of_those_that_are_believed_counts() {
    let heads = [
        ("nas", head(3, 8, &["nas", "attic"])),
        ("attic", head(4, 7, &["attic"])),
        ("liar", head(9, 99, &["liar"])),
    ];
    let knowledge = knowledge(view(&heads));
    assert_eq!(knowledge.head(SESSION).map(|(host, _)| host), Some(host_id("attic")));
    assert_eq!(knowledge.voices(SESSION), [host_id("nas"), host_id("attic")].into());
}

fn pulls(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Pull(..)))
}

#[test]
fn a_share_that_does_not_arrive_is_asked_for_with_pauses_that_grow() {
    let behind = view(&[("nas", head(1, 9, &["nas"]))]);
    let mut knowledge = knowledge(behind.clone());
    let look =
        |knowledge: &mut Knowledge, now| pulls(&knowledge.on(Event::Look(Box::new(behind.clone())), now));
    assert!(!look(&mut knowledge, NOW.plus_ms(PATIENCE_MS - 1)), "it is pushed first");
    let mut now = NOW.plus_ms(PATIENCE_MS);
    assert!(look(&mut knowledge, now));
    for pause in [700, 1_400, 2_800, 5_600, 10_000, 10_000] {
        assert!(!look(&mut knowledge, now.plus_ms(14_000)), "one question at a time");
        knowledge.on(Event::Pulled(SESSION, host_id("nas"), None), now);
        assert!(!look(&mut knowledge, now.plus_ms(pause - 1)), "{pause}");
        now = now.plus_ms(pause);
        assert!(look(&mut knowledge, now), "{pause}");
    }
    let came = knowledge.on(Event::Pulled(SESSION, host_id("nas"), Some(share(9))), now);
    assert!(came.iter().any(|effect| matches!(effect, Effect::Store(..))), "{came:?}");
    knowledge.on(Event::Stored(SESSION, Ok(())), now);
    assert!(!pulls(&knowledge.on(Event::Look(Box::new(behind)), now.plus_ms(60_000))));
}

#[test]
fn who_is_not_believed_is_asked_about_and_those_that_are_believed_decide() {
    let mut knowledge = knowledge(view(&[]));
    give(&mut knowledge, 1);
    let look = |knowledge: &mut Knowledge, now| {
        knowledge.on(Event::Look(Box::new(view(&[("attic", head(7, 9, &["attic"]))]))), now)
    };
    let asked = look(&mut knowledge, NOW);
    assert!(asked.contains(&Effect::AskVoices(SESSION, host_id("nas"))), "{asked:?}");
    assert!(!look(&mut knowledge, NOW).iter().any(|e| matches!(e, Effect::AskVoices(..))));
    let said = BTreeSet::from([host_id("nas"), host_id("attic"), host_id("stranger")]);
    let now = NOW.plus_ms(10);
    let kept = knowledge.on(Event::Said(SESSION, host_id("nas"), Some(said)), now);
    let both = BTreeSet::from([host_id("nas"), host_id("attic")]);
    assert!(kept.contains(&Effect::KeepVoices(SESSION, both)), "members only: {kept:?}");
    assert_eq!(knowledge.head(SESSION).map(|(host, _)| host), Some(host_id("attic")));
    assert_eq!(knowledge.doubted(), BTreeSet::new());
}

#[test]
fn one_member_alone_convinces_nobody_when_nobody_believed_is_there() {
    let mut away = view(&[("attic", head(7, 9, &["attic"]))]);
    away.up.remove(&host_id("nas"));
    let mut knowledge = knowledge(away);
    let said = |host| Event::Said(SESSION, host_id(host), Some([host_id("attic")].into()));
    knowledge.on(said("liar"), NOW);
    let ended = NOW.plus_ms(20_000);
    let silent = |host| Event::Said(SESSION, host_id(host), None);
    knowledge.on(silent("cellar"), NOW);
    knowledge.on(silent("attic"), ended);
    assert_eq!(knowledge.voices(SESSION), [host_id("nas")].into());
    for host in ["liar", "cellar", "attic"] {
        knowledge.on(said(host), ended);
    }
    assert_eq!(knowledge.voices(SESSION), [host_id("nas"), host_id("attic")].into(), "several do");
}

/// Draws an event, sensible or not.
fn event() -> impl Strategy<Value = (u64, Event)> {
    let host = || prop::sample::select(vec!["me", "nas", "attic", "liar", "stranger"]);
    let session = || (0..3u8).prop_map(|number| SessionId([number + 6; 16]));
    let looked = (prop::collection::vec((host(), 0..5u64, host()), 0..4), any::<[bool; 2]>());
    let looked = looked.prop_map(|(heads, [born, buried])| {
        let heads: Vec<_> = heads.iter().map(|(host, n, voter)| (*host, head(*n, *n, &[voter]))).collect();
        let mut view = view(&heads);
        view.births.retain(|_, _| born);
        view.buried.extend(buried.then_some(SESSION));
        Event::Look(Box::new(view))
    });
    let drawn = move || (session(), 0..9u64);
    let share = move || drawn().prop_map(|(session, version)| Box::new(Share { session, ..*share(version) }));
    let asked = (0..9u64, host(), share(), any::<bool>()).prop_map(|(ticket, from, share, log)| {
        let wants = if log { Wants::Log(share.session) } else { Wants::Share(share) };
        Event::Asked { ticket, from: host_id(from), wants }
    });
    let stored = (session(), any::<bool>())
        .prop_map(|(session, well)| Event::Stored(session, well.then_some(()).ok_or_else(String::new)));
    let pulled = (session(), host(), prop::option::of(share()))
        .prop_map(|(session, host, share)| Event::Pulled(session, host_id(host), share));
    let said = (session(), host(), prop::option::of(host())).prop_map(|(session, host, said)| {
        Event::Said(session, host_id(host), said.map(|said| [host_id(said)].into()))
    });
    let forgotten = session().prop_map(Event::Forgotten);
    let events = prop_oneof![3 => looked, 3 => asked, 3 => stored, 2 => pulled, 2 => said, 1 => forgotten];
    (0..6_000u64, events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_order_of_events_is_borne_and_no_share_goes_back(events in prop::collection::vec(event(), 1..60)) {
        let (mut knowledge, mut now) = (knowledge(view(&[])), NOW);
        let mut shown: BTreeMap<SessionId, u64> = BTreeMap::new();
        for (later, event) in events {
            now = now.plus_ms(later);
            if let Event::Forgotten(session) = &event {
                shown.remove(session);
            }
            for effect in knowledge.on(event, now) {
                match effect {
                    Effect::Wake(at) => prop_assert!(at >= now),
                    Effect::Show(share) => {
                        let before = shown.insert(share.session, share.version);
                        prop_assert!(before.is_none_or(|before| before < share.version));
                    }
                    Effect::Pull(_, from) => prop_assert!(from != host_id("me")),
                    _ => {}
                }
            }
            prop_assert!(knowledge.held.len() <= MAX_HELD);
        }
    }
}

/// A share of `me` with two machines that have these files, and the state that it is cut from.
fn with_files(version: u64, texts: &[&str]) -> (Box<Share>, State) {
    let (mut intent, mut contents) = (intent("web 3 256"), Contents::default());
    let group = intent.topology.groups.values_mut().next().unwrap();
    for text in texts {
        let source = (*text).to_owned();
        intent.files.insert(source.clone(), contents.add(text.as_bytes()));
        group.files.insert(format!("/etc/{text}"), FileSpec { source, mode: 0o644, owner: None });
    }
    let state = command(created(), Command::Keep(contents));
    let inventory = inventory("me 600 image\nattic 300 image");
    let plan = plan::propose(SESSION, Some(&state), (&intent, &Replace::all()), &inventory).plan.unwrap();
    let state = command(state, Command::Apply { intent, plan, replace: Replace::all() });
    let state = State { version, ..state };
    (Box::new(slice::share(&state, host_id("me"))), state)
}

fn fetches(effects: &[Effect]) -> Vec<(HostId, Content)> {
    let fetch = |effect: &Effect| match effect {
        Effect::Fetch(_, host, content) => Some((*host, *content)),
        _ => None,
    };
    effects.iter().filter_map(fetch).collect()
}

fn bring(knowledge: &mut Knowledge, share: &Share, now: Moment) -> Vec<Effect> {
    let wants = Wants::Share(Box::new(share.clone()));
    knowledge.on(Event::Asked { ticket: share.version, from: host_id("nas"), wants }, now)
}

#[test]
fn a_share_counts_once_all_bytes_that_it_names_are_here_and_they_come_once() {
    let mut knowledge = knowledge(view(&[]));
    let (share, _) = with_files(5, &["one", "two"]);
    assert!(share.machines.len() >= 2, "{share:?}");
    let mut effects = bring(&mut knowledge, &share, NOW);
    for _ in 0..2 {
        let [(host, content)] = fetches(&effects)[..] else { panic!("{effects:?}") };
        assert_eq!(host, host_id("nas"));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Store(..))), "{effects:?}");
        effects = knowledge.on(Event::Fetched(SESSION, content, Ok(())), NOW);
    }
    assert!(fetches(&effects).is_empty(), "{effects:?}");
    assert!(effects.contains(&Effect::Store(Arc::new(*share), Some([host_id("nas")].into()))), "{effects:?}");
    let shown = knowledge.on(Event::Stored(SESSION, Ok(())), NOW);
    assert!(shown.contains(&Effect::Answer(5, Ok(()))), "{shown:?}");
    // What is here is not fetched again; what is new is.
    let (next, _) = with_files(6, &["two", "three"]);
    let effects = bring(&mut knowledge, &next, NOW);
    assert_eq!(fetches(&effects), [(host_id("nas"), Content::of(b"three"))]);
}

#[test]
fn others_are_asked_when_one_does_not_give_and_people_are_told_when_nobody_does() {
    let heads = [("nas", head(1, 5, &["nas", "cellar"]))];
    let mut knowledge = knowledge(view(&heads));
    let (share, _) = with_files(5, &["one"]);
    let (mut effects, mut now) = (bring(&mut knowledge, &share, NOW), NOW);
    let (mut asked, mut told) = (BTreeSet::new(), 0);
    for _ in 0..20 {
        told += effects.iter().filter(|effect| matches!(effect, Effect::Lacks(..))).count();
        if let [(host, content)] = fetches(&effects)[..] {
            asked.insert(host);
            effects = knowledge.on(Event::Fetched(SESSION, content, Err("gone".into())), now);
        } else {
            now = now.plus_ms(10_000);
            effects = knowledge.on(Event::Look(Box::new(view(&heads))), now);
        }
    }
    // Who brought it, who votes, and who runs machines with the same files.
    assert_eq!(asked, ["nas", "cellar", "attic"].map(host_id).into());
    assert_eq!(told, 1, "once for each share");
    assert!(knowledge.share(SESSION).is_none());
}

#[test]
fn all_that_bring_one_share_wait_for_its_bytes_together() {
    let mut knowledge = knowledge(view(&[]));
    let (share, _) = with_files(5, &["one"]);
    let bring = |knowledge: &mut Knowledge, ticket| {
        let wants = Wants::Share(share.clone());
        without_wakes(knowledge.on(Event::Asked { ticket, from: host_id("nas"), wants }, NOW))
    };
    bring(&mut knowledge, 1);
    for ticket in 2..=8 {
        assert_eq!(bring(&mut knowledge, ticket), [], "{ticket}");
    }
    assert_eq!(bring(&mut knowledge, 9), [Effect::Answer(9, Err(Refusal::Gathering))], "so many and no more");
    knowledge.on(Event::Fetched(SESSION, Content::of(b"one"), Ok(())), NOW);
    let shown = knowledge.on(Event::Stored(SESSION, Ok(())), NOW);
    for ticket in 1..=8 {
        assert!(shown.contains(&Effect::Answer(ticket, Ok(()))), "{ticket}: {shown:?}");
    }
}

#[test]
fn a_newer_share_takes_the_place_of_one_that_waits() {
    let mut knowledge = knowledge(view(&[]));
    let (old, _) = with_files(5, &["one"]);
    bring(&mut knowledge, &old, NOW);
    let (new, _) = with_files(6, &["two"]);
    assert!(fetches(&bring(&mut knowledge, &new, NOW)).is_empty(), "one question at a time");
    let failed = Event::Fetched(SESSION, Content::of(b"one"), Err("gone".into()));
    let effects = knowledge.on(failed, NOW);
    assert!(effects.contains(&Effect::Answer(5, Err(Refusal::Older))), "{effects:?}");
    assert_eq!(fetches(&effects), [(host_id("nas"), Content::of(b"two"))]);
}

#[test]
fn bytes_that_a_disk_lost_are_fetched_again() {
    let (share, _) = with_files(5, &["one"]);
    let shares = [(SESSION, Arc::new(*share))].into();
    let kept = Kept { shares, voices: [(SESSION, [host_id("nas")].into())].into(), ..Kept::default() };
    let mut knowledge = Knowledge::new(host_id("me"), Rules::default(), kept);
    let effects = knowledge.on(Event::Look(Box::new(view(&[]))), NOW);
    assert_eq!(fetches(&effects), [(host_id("nas"), Content::of(b"one"))]);
    let effects = knowledge.on(Event::Fetched(SESSION, Content::of(b"one"), Ok(())), NOW);
    assert!(fetches(&effects).is_empty() && !effects.iter().any(|e| matches!(e, Effect::Store(..))));
}

#[test]
fn only_voters_and_hosts_with_such_a_machine_get_its_bytes() {
    let (share, state) = with_files(5, &["one"]);
    let (one, two) = (Content::of(b"one"), Content::of(b"two"));
    let from = |name: &str, votes| (host_id(name), votes);
    let log = Ok(Source::Log(state.contents.get(&one).unwrap().clone()));
    for asker in [from("me", false), from("attic", false), from("cellar", true)] {
        assert_eq!(source(Some(&state), None, asker, &one), log);
        assert_eq!(source(None, Some(&share), asker, &one), Ok(Source::Disk));
        assert!(source(Some(&state), Some(&share), asker, &two).is_err());
    }
    let liar = source(Some(&state), Some(&share), from("liar", false), &one);
    assert_eq!(liar, Err(Refusal::NoVoice));
    let bytes = vec![7; MAX_PIECE_BYTES + 5];
    assert_eq!(piece(&bytes, 0).len(), MAX_PIECE_BYTES);
    assert_eq!(piece(&bytes, MAX_PIECE_BYTES as u64).len(), 5);
    assert!(piece(&bytes, u64::MAX).is_empty());
}

#[test]
fn many_large_files_of_many_machines_fit_the_largest_message() {
    let (mut intent, mut contents) = (intent("web 3 256"), Contents::default());
    let group = intent.topology.groups.values_mut().next().unwrap();
    for number in 0..12_u8 {
        let source = number.to_string();
        intent.files.insert(source.clone(), contents.add(&vec![number; 250 * 1024]));
        group.files.insert(format!("/etc/{number}"), FileSpec { source, mode: 0o644, owner: None });
    }
    let mut state = created();
    for part in contents.parts(&intent.named()) {
        assert!(part.bytes() <= MAX_KEEP_BYTES);
        state = command(state, Command::Keep(part));
    }
    let inventory = inventory("me 900 image");
    let plan = plan::propose(SESSION, Some(&state), (&intent, &Replace::all()), &inventory).plan.unwrap();
    let state = command(state, Command::Apply { intent, plan, replace: Replace::all() });
    let share = slice::share(&state, host_id("me"));
    assert_eq!(share.machines.len(), 3);
    assert!(crate::wire::encode(&share).len() < 16 * 1024, "{}", crate::wire::encode(&share).len());
}
