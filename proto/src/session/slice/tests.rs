//! What one host is told of a session.

use expect_test::expect;

use super::*;
use crate::{
    id::Epoch,
    session::{
        Command,
        fixture::{command, created, host_id, up},
    },
};

const HOSTS: &str = "attic 900 image\nnas 900 image";

fn shop() -> State {
    up(created(), "web 2 256 needs=db checked=http:80\ndb 1 256 service=sql:5432", HOSTS)
}

fn text(share: &Share) -> String {
    let machines = share.machines.iter().map(|m| format!("run {} epoch {} {}", m.machine, m.epoch, m.run));
    let drops = share.drops.iter().map(|(machine, epoch)| format!("drop {machine} epoch {epoch}"));
    machines.chain(drops).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_share_has_the_hosts_machines_and_everybodys_directory() {
    let (state, attic, nas) = (shop(), host_id("attic"), host_id("nas"));
    expect![[r#"
        run db-1 epoch 1 true
        run web-2 epoch 1 true"#]]
    .assert_eq(&text(&share(&state, attic)));
    expect!["run web-1 epoch 1 true"].assert_eq(&text(&share(&state, nas)));
    let stranger = share(&state, host_id("vps"));
    assert_eq!(text(&stranger), "");
    assert_eq!(stranger.directory, share(&state, nas).directory);
    let hosts: Vec<HostId> =
        stranger.directory.groups.values().flat_map(|g| &g.machines).map(|m| m.host).collect();
    assert_eq!(hosts, [attic, nas, attic]);
}

#[test]
fn to_remove_a_machine_is_an_explicit_line() {
    let state = up(shop(), "db 1 256 setup=true", HOSTS);
    expect![[r#"
        run db-1 epoch 2 true
        drop db-1 epoch 1
        drop web-2 epoch 1"#]]
    .assert_eq(&text(&share(&state, host_id("attic"))));
    let ended = command(state, Command::End);
    expect![[r#"
        drop db-1 epoch 2
        drop web-2 epoch 1"#]]
    .assert_eq(&text(&share(&ended, host_id("attic"))));
    assert!(share(&ended, host_id("vps")).ended);
}

#[test]
fn a_newer_share_wins_by_recovery_then_version() {
    let old = share(&shop(), host_id("nas"));
    let newer = Share { version: old.version + 1, ..old.clone() };
    let recovered = Share { recovery: 1, version: 0, ..old.clone() };
    assert!(supersedes(&newer, &old) && !supersedes(&old, &newer) && !supersedes(&old, &old));
    assert!(supersedes(&recovered, &newer));
}

#[test]
fn machines_have_keys_of_their_own_that_outlive_incarnations() {
    let seed = [5; 32];
    let (web, db) = ("web-1".parse().unwrap(), "db-1".parse().unwrap());
    assert_ne!(host_key_seed(&seed, &web), host_key_seed(&seed, &db));
    let before = share(&shop(), host_id("attic"));
    let after = share(&up(shop(), "db 1 256 setup=true", HOSTS), host_id("attic"));
    assert_eq!((before.machines[0].epoch, after.machines[0].epoch), (Epoch(1), Epoch(2)));
    assert_eq!(before.machines[0].host_key_seed, after.machines[0].host_key_seed);
    // What another implementation writes for the same seed.
    expect!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c shop"]
        .assert_eq(&public_key(&[1; 32], "shop"));
    assert_eq!(before.machines[0].ssh_keys, [public_key(&seed, "shop")]);
}
