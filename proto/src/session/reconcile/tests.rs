//! What a host does next, and what it says.

use expect_test::{Expect, expect};

use super::*;
use crate::{
    level::LEVEL,
    session::{
        Command, State,
        fixture::{command, created, host_id, up},
        slice,
    },
};

const HOSTS: &str = "nas 9000 image";

fn shop() -> State {
    up(created(), "web 1 256 needs=db checked=http:80\ndb 1 256", HOSTS)
}

fn machine(name: &str) -> MachineName {
    name.parse().unwrap()
}

/// Prints what `nas` does and says at second 100, given what it sees of `web-1`.
fn act(state: &State, ready: &[&str], seen: Seen) -> String {
    let share = slice::share(state, host_id("nas"));
    let now = Moment(100_000);
    let web = machine("web-1");
    let observed = Observed {
        machines: [(web.clone(), seen.clone())].into(),
        ready: ready.iter().map(|name| machine(name)).collect(),
    };
    let actions = reconcile(&share, &observed, now);
    let action = actions.iter().find(|(machine, _)| *machine == web).map(|(_, action)| action);
    let action = action.map_or("nothing".to_owned(), |action| format!("{action:?}"));
    let Some(spec) = share.machines.iter().find(|spec| spec.machine == web) else { return action };
    let waits = order::waits_for(&share.directory, &web, |m| observed.ready.contains(m));
    let (phase, reason) = phase(spec, &seen, &waits, now);
    format!("{action}\n{phase:?} {}", reason.map(|reason| reason.to_string()).unwrap_or_default())
        .trim_end()
        .to_owned()
}

fn check(ready: &[&str], seen: Seen, expected: Expect) {
    expected.assert_eq(&act(&shop(), ready, seen));
}

fn settings(epoch: u64) -> Option<Settings> {
    Some(Settings { epoch: Epoch(epoch), cpus: 1, memory_mib: 256, disk_mib: None, egress: Egress::None })
}

fn here() -> Seen {
    Seen { image: Image::Complete, ..Seen::default() }
}

fn launched(shim: ShimProcess) -> Seen {
    Seen { launched: settings(1), shim, ..here() }
}

fn running(booted: bool, ready: &[&str]) -> ShimProcess {
    let ready = ready.iter().map(|name| name.parse().unwrap()).collect();
    ShimProcess::Running { since: Moment(90_000), booted, v6: false, setup: Setup::Done, ready, paused: None }
}

fn ended(asked: bool, clean: bool) -> ShimProcess {
    ShimProcess::Ended { at: Moment(99_500), asked, clean, because: "QEMU got signal 9".into() }
}

#[test]
fn the_image_comes_first_even_while_others_are_waited_for() {
    check(
        &[],
        Seen::default(),
        expect![[r#"
        Fetch
        Fetching"#]],
    );
    check(
        &[],
        Seen { image: Image::Fetching { percent: 47 }, ..Seen::default() },
        expect![[r#"
        Wait { until: None }
        Fetching 40 % of the image is here"#]],
    );
}

#[test]
fn a_first_start_waits_for_its_needs_then_for_the_coordinators_word() {
    check(
        &[],
        here(),
        expect![[r#"
        Wait { until: None }
        Waiting needs db, not ready yet"#]],
    );
    check(
        &["db-1"],
        here(),
        expect![[r#"
        Ask(Epoch(1))
        Waiting asks the coordinator for its first start"#]],
    );
    check(
        &["db-1"],
        Seen { granted: Some(Epoch(1)), ..here() },
        expect![[r#"
        Launch { epoch: Epoch(1), after: None }
        Starting"#]],
    );
}

#[test]
fn what_was_never_made_here_asks_before_its_start_whatever_was_thought_to_run() {
    for asked in [true, false] {
        let seen = Seen { shim: ended(asked, true), ends: 0, ..here() };
        assert!(act(&shop(), &["db-1"], seen).starts_with("Ask(Epoch(1))"));
    }
}

#[test]
fn the_word_for_another_incarnation_does_not_count() {
    check(
        &["db-1"],
        Seen { granted: Some(Epoch(2)), ..here() },
        expect![[r#"
            Ask(Epoch(1))
            Waiting asks the coordinator for its first start"#]],
    );
}

#[test]
fn where_no_machine_may_run_none_starts_and_none_is_ended() {
    for why in [Forbidden::Owner, Forbidden::Member] {
        let forbidden = |seen: Seen| Seen { forbidden: Some(why), ..seen };
        let waits = format!("Wait {{ until: None }}\nWaiting {}", why.because());
        let granted = Seen { granted: Some(Epoch(1)), ..here() };
        for seen in
            [Seen::default(), here(), granted, launched(ShimProcess::None), launched(ended(true, true))]
        {
            assert_eq!(act(&shop(), &["db-1"], forbidden(seen)), waits);
        }
        let runs = launched(running(true, &["http"]));
        assert_eq!(act(&shop(), &["db-1"], forbidden(runs.clone())), act(&shop(), &["db-1"], runs));
    }
}

#[test]
fn a_machine_that_is_to_go_where_the_owner_lets_none_neither_starts_nor_runs() {
    let forbidden = |seen: Seen| Seen { forbidden: Some(Forbidden::Lan), ..seen };
    let told = "its host's owner lets no machine into the host's network; policy.lan = true in the host's \
                config.toml allows it, egress = \"internet\" does without";
    let waits = format!("Wait {{ until: None }}\nWaiting {told}");
    let fell = ShimProcess::Ended { at: Moment(0), asked: false, clean: false, because: "it fell".into() };
    let granted = Seen { granted: Some(Epoch(1)), ..here() };
    let (absent, moved) = (Seen::default(), Seen { image: Image::Absent, ..launched(ShimProcess::None) });
    for seen in [absent, here(), granted, moved, launched(ShimProcess::None), launched(ended(true, true))] {
        assert_eq!(act(&shop(), &["db-1"], forbidden(seen)), waits);
    }
    let runs = act(&shop(), &["db-1"], forbidden(launched(running(true, &["http"]))));
    let stop = "Stop { because: \"the owner of this host lets no machine into the host's network\" }";
    assert_eq!(runs, format!("{stop}\nRunning {told}"));
    assert!(act(&shop(), &["db-1"], forbidden(launched(fell))).contains("Wait { until: None }"));
    let stopped = command(shop(), Command::Wish { machine: machine("web-1"), run: false });
    assert!(
        !act(&stopped, &[], forbidden(launched(ended(true, true)))).contains(told),
        "nobody wants it to run"
    );
}

#[test]
fn running_booted_and_ready_are_three_facts() {
    check(
        &[],
        launched(ShimProcess::Starting { since: Moment(95_000) }),
        expect![[r#"
        Wait { until: Some(Moment(215000)) }
        Starting"#]],
    );
    check(
        &[],
        launched(running(false, &[])),
        expect![[r#"
        nothing
        Running"#]],
    );
    check(
        &[],
        launched(running(true, &[])),
        expect![[r#"
        nothing
        Booted http is not ready yet"#]],
    );
    check(
        &[],
        launched(running(true, &["http"])),
        expect![[r#"
        nothing
        Ready"#]],
    );
}

#[test]
fn a_service_that_answers_before_the_setup_is_done_does_not_count() {
    let check_setup = |setup, expected| {
        let ready = ["http".parse().unwrap()].into();
        check(
            &[],
            launched(ShimProcess::Running {
                since: Moment(90_000),
                booted: true,
                v6: false,
                setup,
                ready,
                paused: None,
            }),
            expected,
        );
    };
    check_setup(
        Setup::Pending,
        expect![[r#"
            nothing
            Booted its setup is not done yet"#]],
    );
    check_setup(
        Setup::Failed("setup command 2 ended with exit code 1".into()),
        expect![[r#"
            nothing
            Failed setup command 2 ended with exit code 1"#]],
    );
}

#[test]
fn a_guest_that_stays_silent_is_told() {
    let since = Moment(30_000);
    check(
        &[],
        launched(ShimProcess::Running {
            since,
            booted: false,
            v6: false,
            setup: Setup::Pending,
            ready: BTreeSet::new(),
            paused: None,
        }),
        expect![[r#"
        nothing
        Running the guest has not answered, a minute after its start; its console shows why"#]],
    );
}

#[test]
fn a_check_that_fails_after_the_grace_is_told() {
    let since = Moment(30_000);
    check(
        &[],
        launched(ShimProcess::Running {
            since,
            booted: true,
            v6: false,
            setup: Setup::Done,
            ready: BTreeSet::new(),
            paused: None,
        }),
        expect![[r#"
        nothing
        Booted http does not answer on port 80, 60 s after the start"#]],
    );
}

#[test]
fn a_start_that_hangs_is_stopped() {
    let shim = ShimProcess::Starting { since: Moment(0) };
    let seen = launched(shim);
    let share = slice::share(&shop(), host_id("nas"));
    let observed = Observed { machines: [(machine("web-1"), seen)].into(), ready: BTreeSet::new() };
    let actions = reconcile(&share, &observed, Moment(START_WITHIN_MS));
    let stop = Action::Stop { because: "it did not start within 120 s".into() };
    assert!(actions.contains(&(machine("web-1"), stop)));
}

#[test]
fn after_a_crash_the_pause_doubles() {
    check(
        &["db-1"],
        Seen { ends: 1, ..launched(ended(false, false)) },
        expect![[r#"
        Wait { until: Some(Moment(100500)) }
        Starting QEMU got signal 9; try 2 follows after 1 s"#]],
    );
    check(
        &["db-1"],
        Seen { ends: 3, ..launched(ended(false, false)) },
        expect![[r#"
        Wait { until: Some(Moment(103500)) }
        Starting QEMU got signal 9; try 4 follows after 4 s"#]],
    );
    check(
        &["db-1"],
        Seen { ends: 7, ..launched(ended(false, false)) },
        expect![[r#"
        Wait { until: Some(Moment(159500)) }
        Failed QEMU got signal 9; try 8 follows after 60 s"#]],
    );
    let long_ago = ShimProcess::Ended { at: Moment(0), asked: false, clean: false, because: "crash".into() };
    check(
        &["db-1"],
        Seen { ends: 7, ..launched(long_ago) },
        expect![[r#"
        Launch { epoch: Epoch(1), after: Some("crash") }
        Failed crash; try 8 follows after 60 s"#]],
    );
    assert_eq!([0, 1, 2, 6, 7, 99].map(back_off_ms), [0, 1000, 2000, 32_000, 60_000, 60_000]);
    assert_eq!((ends(6, 599_999), ends(6, 600_000)), (7, 1));
}

#[test]
fn needs_hold_at_every_start() {
    // A power cut: the incarnation lies on the disk, nothing runs.
    check(
        &[],
        launched(ShimProcess::None),
        expect![[r#"
        Wait { until: None }
        Waiting needs db, not ready yet"#]],
    );
    check(
        &["db-1"],
        launched(ShimProcess::None),
        expect![[r#"
        Launch { epoch: Epoch(1), after: None }
        Starting"#]],
    );
    // A crash while the other is away.
    let long_ago = ShimProcess::Ended { at: Moment(0), asked: false, clean: false, because: "crash".into() };
    check(
        &[],
        Seen { ends: 1, ..launched(long_ago.clone()) },
        expect![[r#"
        Wait { until: None }
        Waiting crash; needs db, not ready yet"#]],
    );
    check(
        &["db-1"],
        Seen { ends: 1, ..launched(long_ago) },
        expect![[r#"
        Launch { epoch: Epoch(1), after: Some("crash") }
        Starting crash; try 2 follows after 1 s"#]],
    );
    // `machine start`, and a restart with other settings.
    check(
        &[],
        launched(ended(true, true)),
        expect![[r#"
        Wait { until: None }
        Waiting needs db, not ready yet"#]],
    );
    // What runs goes on, and what found out meanwhile that a try failed still waits.
    check(
        &[],
        launched(running(true, &["http"])),
        expect![[r#"
        nothing
        Ready"#]],
    );
    let failed = Some(Failed { at: Moment(90_000), times: 2, because: "no space left".into() });
    check(
        &[],
        Seen { failed, ..launched(ShimProcess::None) },
        expect![[r#"
        Wait { until: None }
        Waiting needs db, not ready yet"#]],
    );
}

#[test]
fn the_restart_policy_tells_a_shutdown_from_a_crash() {
    let state = |policy: &str| up(created(), &format!("web 1 256 {policy}"), HOSTS);
    let check = |policy, clean, expected: Expect| {
        let at = Moment(0);
        let because = if clean { "shut down from inside" } else { "QEMU got signal 9" }.to_owned();
        let seen = launched(ShimProcess::Ended { at, asked: false, clean, because });
        expected.assert_eq(&act(&state(policy), &[], Seen { ends: 1, ..seen }));
    };
    check(
        "on-failure",
        true,
        expect![[r#"
        nothing
        Stopped shut down from inside; not started again (restart policy)"#]],
    );
    check(
        "on-failure",
        false,
        expect![[r#"
        Launch { epoch: Epoch(1), after: Some("QEMU got signal 9") }
        Starting QEMU got signal 9; try 2 follows after 1 s"#]],
    );
    check(
        "never",
        true,
        expect![[r#"
        nothing
        Stopped shut down from inside; not started again (restart policy)"#]],
    );
    check(
        "never",
        false,
        expect![[r#"
        nothing
        Failed QEMU got signal 9; not started again (restart policy)"#]],
    );
}

#[test]
fn a_machine_that_its_user_stopped_starts_again_only_when_wished() {
    let stop = Command::Wish { machine: machine("web-1"), run: false };
    let stopped = command(shop(), stop);
    let check = |seen, expected: Expect| expected.assert_eq(&act(&stopped, &["db-1"], seen));
    check(
        launched(running(true, &["http"])),
        expect![[r#"
        Stop { because: "stopped" }
        Running stopping"#]],
    );
    check(
        launched(ended(false, false)),
        expect![[r#"
        Stop { because: "stopped" }
        Stopped stopped by the user"#]],
    );
    check(
        launched(ended(true, true)),
        expect![[r#"
        nothing
        Stopped stopped by the user"#]],
    );
    check(
        here(),
        expect![[r#"
        nothing
        Stopped stopped by the user"#]],
    );
    // And again with the wish taken back: at once, whatever the restart policy.
    let started = command(stopped.clone(), Command::Wish { machine: machine("web-1"), run: true });
    expect![[r#"
        Launch { epoch: Epoch(1), after: None }
        Starting"#]]
    .assert_eq(&act(&started, &["db-1"], launched(ended(true, true))));
}

#[test]
fn other_settings_restart_a_machine_on_its_disk() {
    let state = up(shop(), "web 1 512 needs=db checked=http:80 disk=900\ndb 1 256", HOSTS);
    let check = |seen, expected: Expect| expected.assert_eq(&act(&state, &["db-1"], seen));
    check(
        launched(running(true, &["http"])),
        expect![[r#"
        Stop { because: "its settings changed" }
        Running restarting: its settings changed"#]],
    );
    check(
        launched(ended(true, true)),
        expect![[r#"
        Launch { epoch: Epoch(1), after: None }
        Starting"#]],
    );
}

#[test]
fn a_machine_that_may_go_elsewhere_now_is_restarted_because_its_shim_knows_it_from_the_start_on() {
    let raised = command(shop(), Command::Raise { level: LEVEL });
    let state = up(raised, "web 1 256 needs=db checked=http:80 internet\ndb 1 256", HOSTS);
    expect![[r#"
        Stop { because: "its settings changed" }
        Running restarting: its settings changed"#]]
    .assert_eq(&act(&state, &["db-1"], launched(running(true, &["http"]))));
}

#[test]
fn a_replaced_machine_is_removed_before_the_new_one_starts() {
    let state = up(shop(), "web 1 256 setup=true\ndb 1 256", HOSTS);
    let check = |seen, expected: Expect| expected.assert_eq(&act(&state, &["db-1"], seen));
    check(
        launched(running(true, &["http"])),
        expect![[r#"
        Remove(Epoch(1))
        Waiting its older incarnation is being removed"#]],
    );
    check(
        here(),
        expect![[r#"
        ReportDropped(Epoch(1))
        Waiting asks the coordinator for its first start"#]],
    );
    let dropped = Command::Dropped { machine: machine("web-1"), host: host_id("nas"), epoch: Epoch(1) };
    let state = command(state, dropped);
    expect![[r#"
        Ask(Epoch(2))
        Waiting asks the coordinator for its first start"#]]
    .assert_eq(&act(&state, &["db-1"], here()));
}

#[test]
fn an_old_share_does_not_touch_a_newer_incarnation() {
    let seen = Seen { launched: settings(2), shim: running(true, &["http"]), ..here() };
    let share = slice::share(&shop(), host_id("nas"));
    let observed = Observed { machines: [(machine("web-1"), seen)].into(), ready: BTreeSet::new() };
    assert!(reconcile(&share, &observed, Moment(0)).iter().all(|(m, _)| *m != machine("web-1")));
}

#[test]
fn an_ended_session_removes_everything_and_reports_it() {
    let state = command(shop(), Command::End);
    let check = |seen, expected: Expect| expected.assert_eq(&act(&state, &[], seen));
    check(launched(running(true, &["http"])), expect!["Remove(Epoch(1))"]);
    check(here(), expect!["ReportDropped(Epoch(1))"]);
}

#[test]
fn a_failed_action_is_tried_again_later_and_said() {
    let failed = |times| Failed { at: Moment(99_500), times, because: "no space left on the disk".into() };
    let granted = Seen { granted: Some(Epoch(1)), ..here() };
    check(
        &["db-1"],
        Seen { failed: Some(failed(1)), ..granted.clone() },
        expect![[r#"
        Wait { until: Some(Moment(100500)) }
        Starting no space left on the disk; try 2 follows after 1 s"#]],
    );
    check(
        &["db-1"],
        Seen { failed: Some(failed(5)), ..granted },
        expect![[r#"
        Wait { until: Some(Moment(115500)) }
        Failed no space left on the disk; try 6 follows after 16 s"#]],
    );
}

#[test]
fn a_coordinator_that_does_not_answer_is_asked_again_soon() {
    let at = Moment(90_000);
    let failed = Some(Failed { at, times: 9, because: "no coordinator is known".into() });
    check(
        &["db-1"],
        Seen { failed, ..here() },
        expect![[r#"
        Ask(Epoch(1))
        Waiting asks the coordinator for its first start: no coordinator is known"#]],
    );
}

#[test]
fn nothing_is_begun_while_an_action_is_carried_out() {
    check(
        &["db-1"],
        Seen { busy: true, ..here() },
        expect![[r#"
        nothing
        Waiting asks the coordinator for its first start"#]],
    );
}

fn unseen(since_ms: u64, tried_ms: u64) -> ShimProcess {
    let because = "its shim (process 7) does not answer".to_owned();
    ShimProcess::Unseen { since: Moment(since_ms), tried: Moment(tried_ms), because }
}

#[test]
fn what_may_run_is_looked_for_again_and_again_and_never_called_stopped() {
    check(
        &[],
        launched(unseen(90_000, 99_000)),
        expect![[r#"
        Wait { until: Some(Moment(101000)) }
        Running unknown to us: its shim (process 7) does not answer; looked for again and again; what is silent is started anew after 5 min"#]],
    );
    check(
        &[],
        launched(unseen(90_000, 98_000)),
        expect![[r#"
        Find { patient: true }
        Running unknown to us: its shim (process 7) does not answer; looked for again and again; what is silent is started anew after 5 min"#]],
    );
    let stopped = command(shop(), Command::Wish { machine: machine("web-1"), run: false });
    let failed = Failed { at: Moment(99_500), times: 1, because: "QEMU does not end".into() };
    expect![[r#"
        Stop { because: "stopped" }
        Running stopping, although unknown to us: its shim (process 7) does not answer"#]]
    .assert_eq(&act(&stopped, &[], launched(unseen(90_000, 99_000))));
    let seen = Seen { failed: Some(failed), ..launched(unseen(90_000, 99_000)) };
    expect![[r#"
        Wait { until: Some(Moment(100500)) }
        Running stopping: QEMU does not end; try 2 follows after 1 s"#]]
    .assert_eq(&act(&stopped, &[], seen));
}

#[test]
fn silence_is_borne_for_a_while_then_what_is_silent_is_ended() {
    let find = |since| {
        let share = slice::share(&shop(), host_id("nas"));
        let seen = launched(ShimProcess::Unseen { since, tried: since, because: "silent".into() });
        let observed = Observed { machines: [(machine("web-1"), seen)].into(), ready: BTreeSet::new() };
        let now = Moment(1_000_000);
        let actions = reconcile(&share, &observed, now);
        actions.into_iter().find(|(name, _)| *name == machine("web-1")).expect("an action").1
    };
    assert_eq!(find(Moment(1_000_000 - UNSEEN_WITHIN_MS + 1)), Action::Find { patient: true });
    assert_eq!(find(Moment(1_000_000 - UNSEEN_WITHIN_MS)), Action::Find { patient: false });
}

#[test]
fn nothing_that_may_run_is_reported_as_gone() {
    let state = command(shop(), Command::End);
    let lost = |shim| Seen { launched: None, shim, ..here() };
    for shim in [running(true, &[]), ShimProcess::Starting { since: Moment(0) }, unseen(0, 0)] {
        assert_eq!(act(&state, &[], lost(shim)), "Remove(Epoch(1))");
    }
    assert_eq!(act(&state, &[], lost(ShimProcess::None)), "ReportDropped(Epoch(1))");
}

#[test]
fn a_directory_without_its_word_is_what_must_go_else_what_shall_run() {
    let presumed = |state: &State| presumed(&slice::share(state, host_id("nas")), &machine("web-1"));
    assert_eq!(presumed(&shop()), settings(1));
    let replaced = up(shop(), "web 1 256 setup=true\ndb 1 256", HOSTS);
    assert_eq!(presumed(&replaced).map(|settings| settings.epoch), Some(Epoch(1)));
    let dropped = Command::Dropped { machine: machine("web-1"), host: host_id("nas"), epoch: Epoch(1) };
    assert_eq!(presumed(&command(replaced, dropped)), settings(2));
    assert_eq!(presumed(&created()), None);
}

#[test]
fn a_guest_that_is_held_is_paused_whatever_its_checks_said_before() {
    let because = Some("no space is left on this host's disk".to_owned());
    let paused = |run| {
        let ready = ["http".parse().unwrap()].into();
        let since = Moment(90_000);
        let shim = ShimProcess::Running {
            since,
            booted: true,
            v6: false,
            setup: Setup::Done,
            ready,
            paused: because.clone(),
        };
        let state = command(shop(), Command::Wish { machine: machine("web-1"), run });
        act(&state, &[], launched(shim))
    };
    expect![[r#"
        nothing
        Paused no space is left on this host's disk; it goes on as soon as that is mended"#]]
    .assert_eq(&paused(true));
    expect![[r#"
        Stop { because: "stopped" }
        Running stopping"#]]
    .assert_eq(&paused(false));
}
