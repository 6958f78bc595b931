//! Plans as a newcomer reads them.

use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;
use crate::{
    id::{Digest, Epoch},
    level::LEVEL,
    limits::{MAX_RPC_BYTES, MAX_TEXTS},
    session::{
        Command, Share,
        fixture::{SESSION, command, created, host_id, host_name, intent, inventory, started, up},
        slice,
    },
    wire::{self, rpc::Answer},
};

fn check(state: &State, hosts: &str, topology: &str, expected: Expect) {
    expected.assert_eq(&text(&told(Some(state), hosts, topology, &Replace::default())));
}

/// Plans, and these disks may be lost.
fn told(state: Option<&State>, hosts: &str, topology: &str, replace: &Replace) -> Proposal {
    propose(SESSION, state, (&intent(topology), replace), &inventory(hosts))
}

/// Plans a session that does not exist yet.
fn first(hosts: &str, topology: &str) -> Proposal {
    told(None, hosts, topology, &Replace::default())
}

fn text(proposal: &Proposal) -> String {
    let mut out = String::new();
    for o in &proposal.obstacles {
        writeln!(out, "obstacle {}: {}", o.machine, o.because).unwrap();
    }
    for c in &proposal.unasked {
        writeln!(out, "unasked {}", c.machine).unwrap();
    }
    for c in &proposal.changes {
        let action = format!("{:?}", c.action).to_lowercase();
        writeln!(out, "{action} {} on {}: {}", c.machine, host_name(c.host), c.because).unwrap();
    }
    for r in &proposal.rejected {
        writeln!(out, "  {} not on {}: {}", r.machine, host_name(r.host), r.because).unwrap();
    }
    for (host, _, bytes) in &proposal.fetch {
        writeln!(out, "fetch {bytes} bytes to {}", host_name(*host)).unwrap();
    }
    for p in proposal.plan.iter().flat_map(|plan| &plan.placements) {
        let guard = format!("{:?}", p.guard).to_lowercase();
        writeln!(out, "plan {} {} epoch {} {guard}", p.machine, host_name(p.host), p.epoch).unwrap();
    }
    out
}

#[test]
fn every_host_that_is_not_chosen_has_a_reason() {
    let hosts = "
        nas 9000 image
        attic 300
        laptop 8000 down
        vps 2000 no-qemu
        pi 2000 arch=aarch64
        tv 9000 no-machines
        old 9000 tcg";
    check(
        &created(),
        hosts,
        "db 1 512",
        expect![[r#"
            create db-1 on nas: runs guests at full speed (kvm)
              db-1 not on attic: 300 of 512 MiB free (memory = 512MiB)
              db-1 not on laptop: down
              db-1 not on old: runs guests slowly (tcg), nas does not
              db-1 not on pi: its CPU is aarch64, the image is for x86_64
              db-1 not on tv: its owner lets it run no machines
              db-1 not on vps: no QEMU (apt-get install qemu-system-x86)
            plan db-1 nas epoch 1 hold
        "#]],
    );
}

#[test]
fn all_obstacles_are_told_at_once_and_name_each_host() {
    let hosts = "
        nas 1500
        laptop 8000 down
        vps 9000 no-qemu";
    let topology = "
        db 1 4096
        web 1 256 image=debain:12
        app 1 256 hosts=cellar
        job 1 256 tag:room=attic";
    check(
        &created(),
        hosts,
        topology,
        expect![[r#"
            obstacle app-1: no host fits: laptop: not among place.hosts; nas: not among place.hosts; vps: not among place.hosts; cellar: no member has this name (hosts: laptop, nas, vps)
            obstacle db-1: no host fits: laptop: down; nas: 1500 of 4096 MiB free (memory = 4GiB); vps: no QEMU (apt-get install qemu-system-x86)
            obstacle job-1: no host fits: laptop: it has no tag room=attic; nas: it has no tag room=attic; vps: it has no tag room=attic
            obstacle web-1: no member has an image named debain:12 (agent image import PATH --name debain:12)
              app-1 not on laptop: not among place.hosts
              app-1 not on nas: not among place.hosts
              app-1 not on vps: not among place.hosts
              db-1 not on laptop: down
              db-1 not on nas: 1500 of 4096 MiB free (memory = 4GiB)
              db-1 not on vps: no QEMU (apt-get install qemu-system-x86)
              job-1 not on laptop: it has no tag room=attic
              job-1 not on nas: it has no tag room=attic
              job-1 not on vps: it has no tag room=attic
        "#]],
    );
}

#[test]
fn machines_of_a_group_are_on_different_hosts_while_there_is_room() {
    let hosts = "
        attic 2000
        cellar 1000 image
        nas 9000";
    check(
        &created(),
        hosts,
        "web 4 400",
        expect![[r#"
            create web-1 on nas: most free memory (9000 MiB)
            create web-2 on attic: most free memory (2000 MiB)
            create web-3 on cellar: fewest machines of web
            create web-4 on nas: most free memory (8600 MiB)
              web-1 not on attic: less free memory (2000 MiB) than nas
              web-1 not on cellar: less free memory (1000 MiB) than nas
              web-2 not on cellar: less free memory (1000 MiB) than attic
              web-2 not on nas: has more machines of web than attic
              web-3 not on attic: has more machines of web than cellar
              web-3 not on nas: has more machines of web than cellar
              web-4 not on attic: less free memory (1600 MiB) than nas
              web-4 not on cellar: less free memory (600 MiB) than nas
            fetch 67108864 bytes to nas
            fetch 67108864 bytes to attic
            plan web-1 nas epoch 1 hold
            plan web-2 attic epoch 1 hold
            plan web-3 cellar epoch 1 hold
            plan web-4 nas epoch 1 hold
        "#]],
    );
}

#[test]
fn wishes_come_before_room() {
    let hosts = "
        attic 2000 tag:room=attic
        nas 9000 tag:room=cellar
        vps 3000";
    let topology = "
        app 1 256 near=web
        db 1 256 tag:room=attic
        log 1 256 apart=app,web
        web 1 256 hosts=vps failover";
    check(
        &created(),
        hosts,
        topology,
        expect![[r#"
        create app-1 on vps: near web
        create db-1 on attic: the only host that fits
        create log-1 on nas: most free memory (9000 MiB)
        create web-1 on vps: the only host that fits; waits for this host when it dies (guard hold)
          app-1 not on attic: not as near to web as vps
          app-1 not on nas: not as near to web as vps
          db-1 not on nas: its tag room is cellar, not attic
          db-1 not on vps: it has no tag room=attic
          log-1 not on attic: less free memory (1744 MiB) than nas
          log-1 not on vps: has machines that this one is kept apart from
          web-1 not on attic: not among place.hosts
          web-1 not on nas: not among place.hosts
        fetch 67108864 bytes to attic
        fetch 67108864 bytes to vps
        fetch 67108864 bytes to nas
        plan app-1 vps epoch 1 hold
        plan db-1 attic epoch 1 hold
        plan log-1 nas epoch 1 hold
        plan web-1 vps epoch 1 hold
    "#]],
    );
}

#[test]
fn of_equal_hosts_the_image_then_the_distance_then_the_name_decides() {
    let cases = [
        ("a 900\nb 900 image", "has the image already"),
        ("a 900 rtt=9\nb 900 rtt=2", "nearest (2 ms)"),
        ("b 900\nc 900", "first by name of equal hosts"),
    ];
    for (hosts, because) in cases {
        let proposal = first(hosts, "db 1 256");
        assert_eq!((proposal.changes[0].host, proposal.changes[0].because.as_str()), (host_id("b"), because));
    }
}

#[test]
fn a_host_is_filled_no_further_than_its_memory() {
    check(
        &created(),
        "nas 1000 image used=400",
        "web 3 256",
        expect![[r#"
            obstacle web-3: no host fits: nas: 88 of 256 MiB free (memory = 256MiB)
            create web-1 on nas: the only host that fits
            create web-2 on nas: the only host that fits
              web-3 not on nas: 88 of 256 MiB free (memory = 256MiB)
        "#]],
    );
}

#[test]
fn the_same_topology_again_changes_nothing_even_when_a_host_is_down() {
    let state = up(created(), "web 2 256", "nas 900 image\nattic 900 image");
    check(
        &state,
        "nas 900 image\nattic 900 image down\nbig 90000 image",
        "web 2 256",
        expect![[r#"
        keep web-1 on attic: unchanged; attic is down and the machine waits for it
        keep web-2 on nas: unchanged
        plan web-1 attic epoch 1 hold
        plan web-2 nas epoch 1 hold
    "#]],
    );
}

#[test]
fn scaling_touches_only_what_is_added_or_removed() {
    let state = up(created(), "web 2 256\ndb 1 256", "nas 9000 image");
    check(
        &state,
        "nas 9000 image\nattic 9000 image",
        "web 1 256\napp 1 256",
        expect![[r#"
            create app-1 on attic: most free memory (9000 MiB)
            remove db-1 on nas: db is not in the topology any more; its disk goes with it
            keep web-1 on nas: unchanged
            remove web-2 on nas: count is 1 now; its disk goes with it
              app-1 not on nas: less free memory (8744 MiB) than attic
            plan app-1 attic epoch 1 hold
            plan web-1 nas epoch 1 hold
        "#]],
    );
}

#[test]
fn hardware_changes_in_place_and_what_a_disk_was_made_from_stays() {
    let state = started(up(created(), "web 1 256\ndb 1 256", "nas 9000 image"));
    check(
        &state,
        "nas 9000 image",
        "web 1 512 cpus=2 disk=900\ndb 1 256 setup=true",
        expect![[r#"
            keep db-1 on nas: unchanged; setup changed since it was made: applies to new machines
            change web-1 on nas: in place: cpus 1 -> 2, memory 256 -> 512 MiB, disk 64 -> 900 MiB; it restarts
            plan db-1 nas epoch 1 hold
            plan web-1 nas epoch 1 hold
        "#]],
    );
    // What was not taken over then is told again, whatever else changes.
    let state = up(state, "web 1 512 disk=900\ndb 1 256 setup=true", "nas 9000 image");
    check(
        &state,
        "nas 9000 image",
        "web 1 512 disk=1200\ndb 2 300 setup=true",
        expect![[r#"
        change db-1 on nas: in place: memory 256 -> 300 MiB; it restarts; setup changed since it was made: applies to new machines
        create db-2 on nas: the only host that fits
        change web-1 on nas: in place: disk 900 -> 1200 MiB; it restarts
        plan db-1 nas epoch 1 hold
        plan db-2 nas epoch 1 hold
        plan web-1 nas epoch 1 hold
    "#]],
    );
}

#[test]
fn where_a_machine_may_go_changes_in_place() {
    let session = command(created(), Command::Raise { level: LEVEL });
    let state = started(up(session, "web 1 256 internet", "nas 9000 image"));
    check(
        &state,
        "nas 9000 image",
        "web 1 256",
        expect![[r#"
            change web-1 on nas: in place: egress internet -> none; it restarts
            plan web-1 nas epoch 1 hold
        "#]],
    );
}

#[test]
fn what_hosts_publish_is_told_before_and_so_is_what_they_will_not() {
    let web = "web 1 256 service=http:80 publish=nas,attic,nsa";
    let notes = first("nas 9000 image publishes\nattic 9000", web).notes;
    assert_eq!(
        notes,
        [
            "http.web is not published by attic: its owner does not let it (policy.publish = true in its config.toml)",
            "http.web is published in the network of nas, on port 8080",
            "http.web: publish.on: nsa: no member has this name (did you mean nas? hosts: attic, nas)",
        ]
    );
    let older = first("nas 9000 image publishes level=4", web);
    let note = "its services are published in no network: an older version runs on nas; run this again when all are \
                upgraded";
    assert_eq!(older.notes, [note]);
}

#[test]
fn below_its_level_machines_reach_nothing_outside_and_it_is_told_why() {
    check(
        &created(),
        "nas 9000 image\nattic 9000 level=2",
        "web 1 256 internet",
        expect![[r#"
            create web-1 on nas: has the image already
              web-1 not on attic: would have to fetch the image, nas has it
            plan web-1 nas epoch 1 hold
        "#]],
    );
    let none = Replace::default();
    let mixed = "nas 9000 image\nattic 9000 level=2\nden 9000 level=1";
    let note = "its machines do not reach the internet: an older version runs on attic, den; run this again when \
                all are upgraded";
    let begun = first(mixed, "web 1 256 internet");
    assert_eq!((begun.plan.map(|plan| plan.level), begun.notes), (Some(1.into()), vec![note.to_owned()]));
    assert_eq!(told(Some(&created()), mixed, "web 1 256 internet", &none).notes, [note]);
    assert_eq!(told(Some(&created()), mixed, "web 1 256", &none).notes, [""; 0]);
    let soon = told(Some(&created()), "nas 9000 image", "web 1 256 internet", &none).notes;
    assert_eq!(
        soon,
        [
            "its machines do not reach the internet yet: its hosts were upgraded a moment ago; run this again in a few seconds"
        ]
    );
    let whole = first("nas 9000 image", "web 1 256 internet");
    assert_eq!((whole.plan.map(|plan| plan.level), whole.notes), (Some(LEVEL), vec![]));
}

#[test]
fn only_where_its_owner_allows_it_a_machine_is_let_into_its_hosts_network() {
    check(
        &command(created(), Command::Raise { level: LEVEL }),
        "nas 9000 image\nattic 4000 lan",
        "web 1 256 lan",
        expect![[r#"
            create web-1 on attic: the only host that fits
              web-1 not on nas: its owner lets no machine into its network (policy.lan)
            fetch 67108864 bytes to attic
            plan web-1 attic epoch 1 hold
        "#]],
    );
    let session = command(created(), Command::Raise { level: LEVEL });
    let state = started(up(session, "web 1 256", "nas 9000 image"));
    for forbids in ["nas 9000 image\nattic 4000 lan", "nas 9000 down"] {
        check(
            &state,
            forbids,
            "web 1 256 lan",
            expect![[r#"
                obstacle web-1: nas: its owner lets no machine into its network (policy.lan)
            "#]],
        );
    }
    check(
        &state,
        "nas 9000 image lan",
        "web 1 256 lan",
        expect![[r#"
            change web-1 on nas: in place: egress none -> lan; it restarts
            plan web-1 nas epoch 1 hold
        "#]],
    );
}

#[test]
fn where_owners_are_not_asked_machines_do_not_reach_hosts_networks_and_it_is_told_why() {
    let mixed = "nas 9000 image lan\nattic 9000 level=3";
    let begun = first(mixed, "web 1 256 lan");
    assert_eq!(begun.plan.map(|plan| plan.level), Some(3.into()));
    let note = "its machines do not reach their hosts' networks: an older version runs on attic; \
                run this again when all are upgraded";
    assert_eq!(begun.notes, [note]);
}

#[test]
fn a_started_disk_is_lost_only_when_somebody_says_so() {
    let state = started(up(created(), "web 2 256 disk=900\ndb 1 256", "nas 9000 image"));
    let smaller = "web 2 256 disk=500 setup=true\ndb 1 256 setup=true";
    check(
        &state,
        "nas 9000 image",
        smaller,
        expect![[r#"
        unasked web-1
        unasked web-2
        keep db-1 on nas: unchanged; setup changed since it was made: applies to new machines
        change web-1 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
        change web-2 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
    "#]],
    );
    let one = Replace { all: false, machines: ["web-1".parse().unwrap()].into() };
    expect![[r#"
        unasked web-2
        keep db-1 on nas: unchanged; setup changed since it was made: applies to new machines
        change web-1 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
        change web-2 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
    "#]].assert_eq(&text(&told(Some(&state), "nas 9000 image", smaller, &one)));
    let all = told(Some(&state), "nas 9000 image", smaller, &Replace::all());
    expect![[r#"
        keep db-1 on nas: unchanged; setup changed since it was made: applies to new machines
        change web-1 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
        change web-2 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
        plan db-1 nas epoch 1 hold
        plan web-1 nas epoch 2 hold
        plan web-2 nas epoch 2 hold
    "#]].assert_eq(&text(&all));
    // A machine that is named is made anew also when only its first boot would differ; `all` does not.
    let named = Replace { all: true, machines: ["db-1".parse().unwrap()].into() };
    expect![[r#"
        change db-1 on nas: replace: setup changed; its disk starts empty
        change web-1 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
        change web-2 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; its disk starts empty
        plan db-1 nas epoch 2 hold
        plan web-1 nas epoch 2 hold
        plan web-2 nas epoch 2 hold
    "#]].assert_eq(&text(&told(Some(&state), "nas 9000 image", smaller, &named)));
}

#[test]
fn what_was_never_started_is_replaced_freely() {
    let state = up(created(), "web 1 256 disk=900", "nas 9000 image");
    check(
        &state,
        "nas 9000 image",
        "web 1 256 disk=500 setup=true",
        expect![[r#"
        change web-1 on nas: replace: disk 900 -> 500 MiB (a disk never shrinks), setup changed; it was not started yet
        plan web-1 nas epoch 2 hold
    "#]],
    );
}

#[test]
fn a_name_that_means_other_content_now_replaces_nothing_unasked() {
    let state = started(up(created(), "web 1 256", "nas 900 image"));
    let plan = |moved: &str, intent: &Intent| {
        let mut inventory = inventory("nas 900 image");
        let other = ImageFacts { digest: Digest([2; 32]), size: 80 << 20, arch: "x86_64".into() };
        inventory.images.insert(moved.into(), other);
        let proposal = propose(SESSION, Some(&state), (intent, &Replace::default()), &inventory);
        format!("{}{}", text(&proposal), proposal.notes.join("\n"))
    };
    expect![[r#"
        unasked web-1
        change web-1 on nas: replace: image tiny is blake3:0202020202 now, it has blake3:0101010101; its disk starts empty
        fetch 83886080 bytes to nas
        tiny was given to other content; image = "blake3:0101010101010101010101010101010101010101010101010101010101010101" keeps what is there"#]].assert_eq(&plan("tiny", &intent("web 1 256")));
    expect![[r#"
        unasked web-1
        change web-1 on nas: replace: image is other now; its disk starts empty
        fetch 83886080 bytes to nas
    "#]]
    .assert_eq(&plan("other", &intent("web 1 256 image=other")));
    let mut pinned = intent("web 1 256");
    pinned.topology.groups.values_mut().for_each(|group| group.image = ImageRef::Pinned(Digest([1; 32])));
    expect![[r#"
        keep web-1 on nas: unchanged
        plan web-1 nas epoch 1 hold
    "#]]
    .assert_eq(&plan("tiny", &pinned));
}

#[test]
fn disks_that_cannot_be_are_obstacles() {
    let state = started(up(created(), "db 1 256 disk=900", "nas 9000 image"));
    let hosts = "nas 9000 image disk=1000\nattic 9000 image disk=200";
    check(
        &state,
        hosts,
        "db 1 256 disk=900\nweb 1 256 disk=63",
        expect![[r#"
        obstacle web-1: disk = 63MiB is smaller than its image, which has 64MiB
        keep db-1 on nas: unchanged
    "#]],
    );
    check(
        &state,
        hosts,
        "db 1 256 disk=9000\nweb 1 256 disk=4001",
        expect![[r#"
        obstacle db-1: nas: a disk of 8100MiB, with 1000MiB free for machines (at most 4 times that), and db-1 cannot move from it
        obstacle web-1: no host fits: attic: a disk of 4001MiB, with 200MiB free for machines (at most 4 times that); nas: a disk of 4001MiB beside 8100MiB of others, with 1000MiB free for machines (at most 4 times that)
          web-1 not on attic: a disk of 4001MiB, with 200MiB free for machines (at most 4 times that)
          web-1 not on nas: a disk of 4001MiB beside 8100MiB of others, with 1000MiB free for machines (at most 4 times that)
    "#]],
    );
    check(
        &state,
        hosts,
        "db 1 256 disk=900\nweb 3 256 disk=2000",
        expect![[r#"
        obstacle web-3: no host fits: attic: a disk of 2000MiB, with 200MiB free for machines (at most 4 times that); nas: a disk of 2000MiB beside 4000MiB of others, with 1000MiB free for machines (at most 4 times that)
        keep db-1 on nas: unchanged
        create web-1 on nas: the only host that fits
        create web-2 on nas: the only host that fits
          web-1 not on attic: a disk of 2000MiB, with 200MiB free for machines (at most 4 times that)
          web-2 not on attic: a disk of 2000MiB, with 200MiB free for machines (at most 4 times that)
          web-3 not on attic: a disk of 2000MiB, with 200MiB free for machines (at most 4 times that)
          web-3 not on nas: a disk of 2000MiB beside 4000MiB of others, with 1000MiB free for machines (at most 4 times that)
    "#]],
    );
}

#[test]
fn a_host_that_nobody_is_gets_the_nearest_name() {
    check(
        &created(),
        "nas 900 image\ncellar 900 image",
        "web 1 256 hosts=cellr",
        expect![[r#"
        obstacle web-1: no host fits: cellar: not among place.hosts; nas: not among place.hosts; cellr: no member has this name (did you mean cellar? hosts: cellar, nas)
          web-1 not on cellar: not among place.hosts
          web-1 not on nas: not among place.hosts
    "#]],
    );
    check(
        &created(),
        "nas 900 image\ncellar 900 image",
        "web 1 256 hosts=garage",
        expect![[r#"
        obstacle web-1: no host fits: cellar: not among place.hosts; nas: not among place.hosts; garage: no member has this name (hosts: cellar, nas)
          web-1 not on cellar: not among place.hosts
          web-1 not on nas: not among place.hosts
    "#]],
    );
    let notes = first("nas 900 image\ncellar 900 image", "web 1 256 hosts=nas,cellr").notes;
    assert_eq!(
        notes,
        [
            "machines.web.place.hosts: cellr: no member has this name (did you mean cellar? hosts: cellar, nas)"
        ],
    );
}

#[test]
fn a_new_place_that_forbids_the_machines_host_is_an_obstacle() {
    let state = up(created(), "web 1 256", "nas 9000 image");
    check(
        &state,
        "nas 9000 image\nattic 9000 image",
        "web 1 256 hosts=attic",
        expect![[r#"
        obstacle web-1: nas: not among place.hosts, but web-1 is there and this version moves no machine (allow nas, or remove the machine first and add it again)
    "#]],
    );
}

#[test]
fn growing_beyond_the_host_is_an_obstacle_but_staying_there_is_not() {
    let state = up(created(), "web 1 256", "nas 900 image");
    check(
        &state,
        "nas 900 image used=700",
        "web 1 256",
        expect![[r#"
        keep web-1 on nas: unchanged
        plan web-1 nas epoch 1 hold
    "#]],
    );
    check(
        &state,
        "nas 900 image used=700",
        "web 1 512",
        expect![[r#"
            obstacle web-1: nas: 200 of 512 MiB free (memory = 512MiB), and web-1 cannot move from it
        "#]],
    );
}

#[test]
fn what_is_not_removed_yet_comes_back_only_where_it_was() {
    let state = up(created(), "web 1 256\ndb 1 256", "nas 900 image");
    let state = up(state, "db 1 256", "nas 900 image");
    let back = "web 1 256\ndb 1 256";
    let again = "nas 900 image\nbig 90000 image";
    check(
        &state,
        again,
        back,
        expect![[r#"
        keep db-1 on nas: unchanged
        create web-1 on nas: an older incarnation is not removed there yet
        plan db-1 nas epoch 1 hold
        plan web-1 nas epoch 2 hold
    "#]],
    );
    check(
        &state,
        "nas 900 image down\nbig 90000 image",
        back,
        expect![[r#"
        obstacle web-1: nas: an older incarnation is not removed there yet, and now: down
        keep db-1 on nas: unchanged; nas is down and the machine waits for it
    "#]],
    );
    let machine: MachineName = "web-1".parse().unwrap();
    let address = state.addresses[&machine];
    let dropped = Command::Dropped { machine: machine.clone(), host: host_id("nas"), epoch: Epoch(1) };
    let state = up(command(state, dropped), back, again);
    let placement = state.placement(&machine).unwrap();
    assert_eq!((placement.host, placement.epoch.0, placement.address), (host_id("big"), 2, address));
}

#[test]
fn a_name_that_is_unknown_for_a_moment_does_not_unplan_its_machines() {
    let state = up(created(), "web 1 256", "nas 900 image");
    let mut inventory = inventory("nas 900 image");
    inventory.images.clear();
    let proposal = propose(SESSION, Some(&state), (&intent("web 1 256"), &Replace::default()), &inventory);
    expect![[r#"
        keep web-1 on nas: unchanged
        plan web-1 nas epoch 1 hold
    "#]]
    .assert_eq(&text(&proposal));
}

#[test]
fn the_network_avoids_what_hosts_use_and_is_kept_afterwards() {
    let free = first("nas 900 image", "web 1 256").plan.unwrap().subnet;
    let hosts = format!("nas 900 image net={free}");
    let other = first(&hosts, "web 1 256").plan.unwrap().subnet;
    assert!(!other.overlaps(&free) && overlay::RANGES[0].contains(other.base));
    let state = up(created(), "web 1 256", "nas 900 image");
    let later = told(Some(&state), &hosts, "web 2 256", &Replace::default()).plan.unwrap();
    assert_eq!(later.subnet, free, "addresses belong to machines");
}

#[test]
fn nobodys_networks_refuse_a_session() {
    let check = |nets: &str, expected: Expect| {
        let proposal = first(&format!("nas 900 image {nets}"), "web 1 256");
        let subnet = proposal.plan.as_ref().unwrap().subnet;
        let range = overlay::RANGES.iter().find(|range| range.contains(subnet.base)).unwrap();
        let told: String = proposal.notes.iter().map(|note| format!("\n{note}")).collect();
        expected.assert_eq(&format!("in {range}{}", told.replace(&subnet.to_string(), "NET")));
    };
    check("net=192.168.1.0/24", expect!["in 10.64.0.0/10"]);
    check("net=10.0.0.0/8", expect!["in 172.16.0.0/12"]);
    check("net=10.0.0.0/8 net=172.16.0.0/12", expect!["in 192.168.0.0/16"]);
    check("net=10.0.0.0/8 net=172.16.0.0/12 net=192.168.0.0/16", expect!["in 100.64.0.0/10"]);
    check(
        "net=0.0.0.0/0",
        expect![[r#"
        in 10.64.0.0/10
        the hosts' own networks leave no free network for guests, so NET is shared with 1 of theirs: guests do not reach what is there"#]],
    );
    check(
        "net=10.0.0.0/8 net=0.0.0.0/1 net=172.0.0.0/8 net=172.16.0.0/12 net=192.168.0.0/16 net=100.0.0.0/8",
        expect![[r#"
            in 192.168.0.0/16
            the hosts' own networks leave no free network for guests, so NET is shared with 1 of theirs: guests do not reach what is there"#]],
    );
}

#[test]
fn addresses_start_at_ten_and_many_machines_get_a_larger_network() {
    let plan = first("nas 900 image", "web 2 1").plan.unwrap();
    let last: Vec<u8> = plan.placements.iter().map(|p| p.address.octets()[3]).collect();
    assert_eq!((plan.subnet.len, last), (24, vec![10, 11]));
    let many = first("nas 900 image", "web 300 1").plan.unwrap();
    assert_eq!(many.subnet.len, 22);
    assert!(many.placements.iter().all(|p| many.subnet.holds_machine(p.address)));
}

#[test]
fn a_host_that_does_not_understand_the_session_gets_no_machines_and_says_why() {
    let hosts = "nas 9000 image\nattic 9000 image level=1";
    let first = up(created(), "web 1 256 setup=a hosts=attic", hosts);
    let raised = command(first, Command::Raise { level: 2.into() });
    check(
        &raised,
        hosts,
        "web 1 256 setup=a hosts=attic\ndb 2 256",
        expect![[r#"
        create db-1 on nas: the only host that fits
        create db-2 on nas: the only host that fits
        keep web-1 on attic: unchanged
          db-1 not on attic: runs an older version (level 1, the session is of level 2)
          db-2 not on attic: runs an older version (level 1, the session is of level 2)
        plan db-1 nas epoch 1 hold
        plan db-2 nas epoch 1 hold
        plan web-1 attic epoch 1 hold
    "#]],
    );
    // What it has stays; nothing new comes in its place.
    check(
        &raised,
        hosts,
        "web 1 256 setup=b hosts=attic",
        expect![[r#"
        obstacle web-1: attic: runs an older version (level 1, the session is of level 2)
    "#]],
    );
}

/// Reads a proposal as the member does who asked for it.
fn arrives(proposal: &Proposal) {
    let answer = Answer::Proposal(Box::new(proposal.clone()));
    let bytes = wire::encode(&answer);
    assert_eq!(wire::decode::<Answer>(&bytes, MAX_RPC_BYTES), Ok(answer), "{} bytes", bytes.len());
}

#[test]
fn the_most_machines_on_very_many_hosts_are_planned_in_one_message() {
    let hosts = |memory: u32| (0..300).map(|host| format!("host-{host} {memory}\n")).collect::<String>();
    let topology = "web 200 256\ndb 40 256";
    let planned = first(&hosts(900), topology);
    assert!(planned.plan.is_some());
    assert_eq!(planned.rejected.len(), MAX_REASONS);
    let left_out = 240 * 299 - MAX_REASONS;
    assert_eq!(planned.notes, [format!("{left_out} more reasons against hosts are left out")]);
    arrives(&planned);

    let nowhere = first(&hosts(100), topology);
    assert_eq!(nowhere.obstacles.len(), 240);
    for obstacle in &nowhere.obstacles {
        let because = obstacle.because.to_string();
        assert!(because.matches("memory").count() >= MIN_REASONS_EACH, "{because}");
    }
    arrives(&nowhere);
}

#[test]
fn a_share_of_the_most_texts_arrives() {
    let mut intent = intent("web 100 64");
    let group = intent.topology.groups.get_mut(&"web".parse().unwrap()).unwrap();
    group.setup = vec!["x".to_owned(); MAX_TEXTS / 100];
    let state = created();
    let proposal =
        propose(SESSION, Some(&state), (&intent, &Replace::default()), &inventory("nas 90000 image"));
    let plan = proposal.plan.unwrap();
    let state = command(state, Command::Apply { intent, plan, replace: Replace::default() });
    let share = slice::share(&state, host_id("nas"));
    assert_eq!(share.machines.len(), 100);
    let bytes = wire::encode(&share);
    assert_eq!(wire::decode::<Share>(&bytes, MAX_RPC_BYTES), Ok(share), "{} bytes", bytes.len());
}

#[test]
fn what_was_on_a_host_that_is_out_begins_anew_elsewhere_and_its_plan_says_that_the_disk_is_lost() {
    let raised = command(created(), Command::Raise { level: LEVEL });
    let state = started(up(raised, "db 1 256 hosts=attic,nas\nweb 1 256", "attic 9000 image"));
    let topology = "db 1 256 hosts=attic,nas\nweb 1 256 failover";
    check(
        &state,
        "attic out\nnas 9000 image",
        topology,
        expect![[r#"
            change db-1 on nas: its host is out of the mesh and its disk with it: it begins anew; the only host that fits
            change web-1 on nas: its host is out of the mesh and its disk with it: it begins anew; the only host that fits; waits for this host when it dies (guard hold)
            plan db-1 nas epoch 2 hold
            plan web-1 nas epoch 2 hold
        "#]],
    );
    let down = told(Some(&state), "attic 9000 image down\nnas 9000 image", topology, &Replace::default());
    let kept = down.plan.unwrap().placements;
    assert!(
        kept.iter().all(|p| p.host == host_id("attic") && p.epoch == Epoch(1)),
        "away is not out: {kept:?}"
    );
    let address =
        |plan: &Plan| plan.placements.iter().map(|p| (p.machine.clone(), p.address)).collect::<Vec<_>>();
    let moved = told(Some(&state), "attic out\nnas 9000 image", topology, &Replace::default()).plan.unwrap();
    assert_eq!(address(&moved), address(state.plan.as_ref().unwrap()), "under the same addresses");
}

#[test]
fn where_an_older_program_runs_machines_of_a_host_that_is_out_stay_and_it_is_told_why() {
    let state = started(up(created(), "web 1 256", "attic 9000 image"));
    let mixed = told(Some(&state), "attic out\nnas 9000 image level=6", "web 1 256", &Replace::default());
    assert_eq!(mixed.plan.unwrap().placements[0].host, host_id("attic"));
    let note = "machines whose host is out of the mesh are not placed elsewhere: an older version runs on nas; run \
                this again when all are upgraded";
    assert_eq!(mixed.notes, [note]);
}
