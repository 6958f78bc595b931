//! A data directory is copied while its host runs: the copy is told apart by its files, and where it is not, by the
//! members. What the host runs runs once.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use tests::{Answer, Host, Place, eventually, tiny_topology};

/// Longer than a copy takes to be told.
const PATIENCE: Duration = Duration::from_secs(40);

fn knows(host: &Host) {
    eventually(PATIENCE, &format!("{} tells that there are two of nas", host.name), || {
        let events = host.agent(&["events", "--json-lines"]).expect(0).stdout;
        if events.lines().any(|line| line.contains("\"member-twice\"") && line.contains("nas")) {
            Ok(())
        } else {
            Err(events)
        }
    });
}

#[test]
fn a_copy_of_a_data_directory_runs_nothing_and_is_named_to_all() {
    let nas = Host::first("nas", Place::Here);
    let vps = Host::joined("vps", Place::Here, &nas.token(&[]));
    nas.import_tiny();
    let anywhere = "place = { spread = \"host\" }";
    let text = tiny_topology("shop", 1).replace(anywhere, "place = { hosts = [\"nas\"] }");
    let topology = nas.topology(&text);
    nas.agent(&["session", "up", &topology]).expect(0);

    let copy = Host::new("nas", Place::Here);
    let copied = Command::new("cp").arg("-a").arg(nas.data()).arg(copy.data()).status().expect("cp");
    assert!(copied.success());
    let run = |more: &[&str]| -> Answer {
        let mut agent = copy.cli(&[&["run"], more].concat());
        let mut child =
            agent.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the agent starts");
        eventually(PATIENCE, "the copy ends by itself", || match child.try_wait().expect("a child") {
            Some(_) => Ok(()),
            None => Err("it runs".to_owned()),
        });
        Answer::of(child.wait_with_output().expect("its output"))
    };
    let refused = run(&[]);
    assert!(refused.code != 0 && refused.stderr.contains("this data directory is a copy"), "{refused:?}");
    assert!(refused.stderr.contains("agent run --moved"), "{refused:?}");
    // Somebody says so all the same, as of a disk that was copied as a whole.
    let told = run(&["--moved"]);
    assert!(told.code != 0 && told.stderr.contains("another computer runs as this host"), "{told:?}");
    let again = run(&[]);
    assert!(again.stderr.contains("another computer runs as this host"), "{again:?}");

    knows(&nas);
    knows(&vps);
    let running = |host: &Host| host.processes("qemu-system").len();
    assert_eq!((running(&copy), running(&nas)), (0, 1));
    assert_eq!(nas.session("shop")["state"], "healthy");
    nas.agent(&["session", "down", "shop", "--yes"]).expect(0);
}
