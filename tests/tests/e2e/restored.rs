//! The computer that made the mesh is gone for good, and its recovery phrase is on paper.

use std::{io::Write, process::Stdio, time::Duration};

use tests::{Answer, Host, Place, eventually, lab_or_skip};

const HOME: &str = "seed 1\nhome attic nat=cone\nhost nas in attic\nhost desk in attic\nhost loft in attic\nhost den in attic\n";
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Types a text into an agent's stdin.
fn typed(host: &Host, args: &[&str], text: &str) -> Answer {
    let mut command = host.cli(args);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("an agent");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    Answer::of(child.wait_with_output().expect("it ends"))
}

#[track_caller]
fn sees_up(host: &Host, other: &str) {
    eventually(PATIENCE, &format!("{} sees {other} up", host.name), || {
        let list = host.json(&["host", "list"]);
        let rows = list["hosts"].as_array().cloned().unwrap_or_default();
        match rows.iter().any(|row| row["name"] == other && row["state"] == "up") {
            true => Ok(()),
            false => Err(list.to_string()),
        }
    });
}

/// A home of two computers, one of which is lost with its disk: the phrase, an old token, and what is left.
fn orphaned(place: impl Fn(&str) -> Place) -> (String, String, Host) {
    let mut nas = Host::new("nas", place("nas"));
    let made = nas.json(&["init", "--name", "nas"]);
    nas.start();
    let token = nas.token(&[]);
    let desk = Host::joined("desk", place("desk"), &token);
    sees_up(&desk, "nas");
    nas.kill();
    (made["recovery"].as_str().expect("a phrase").to_owned(), token, desk)
}

#[test]
fn a_host_that_is_left_gets_the_root_key_back_and_others_are_let_in_again() {
    let (phrase, _, desk) = orphaned(|_| Place::Here);
    let refused = desk.agent(&["token", "create"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    let wrong = typed(&desk, &["init", "--restore"], &phrase[3..]);
    assert!(wrong.code == 4 && wrong.stderr.contains("the recovery phrase is wrong"), "{wrong:?}");
    let done = typed(&desk, &["init", "--restore", "--json"], &format!("{}\n", phrase.to_uppercase()));
    assert_eq!((done.code, &done.json()["host"]["name"]), (0, &"desk".into()), "{done:?}");
    assert!(!format!("{}{}", done.stdout, done.stderr).to_lowercase().contains(&phrase[..11]), "{done:?}");
    let again = typed(&desk, &["init", "--restore"], &phrase);
    assert!(again.code == 4 && again.stderr.contains("holds the root key already"), "{again:?}");

    let loft = Host::joined("loft", Place::Here, &desk.token(&[]));
    desk.agent(&["host", "promote", "loft"]).expect(0);
    eventually(PATIENCE, "nas is down, and removed", || {
        let removed = desk.agent(&["host", "remove", "nas", "--yes"]);
        if removed.code == 0 { Ok(()) } else { Err(removed.stderr) }
    });
    sees_up(&loft, "desk");
    loft.token(&[]);
}

#[test]
fn another_computer_on_the_lan_becomes_a_host_of_the_mesh_by_the_phrase_alone() {
    if !lab_or_skip("another_computer_on_the_lan_becomes_a_host_of_the_mesh_by_the_phrase_alone") {
        return;
    }
    let network = netsim::Lab::up(HOME).expect("a lab");
    let place = |name: &str| Place::Namespace(network.namespace(name).expect("a host of the lab"));
    let (phrase, token, mut desk) = orphaned(place);

    let mut loft = Host::new("loft", place("loft"));
    let taken = loft.agent(&["init", "--restore", &phrase, "--name", "nas"]);
    assert!(taken.code == 4 && taken.stderr.contains("another host is called nas"), "{taken:?}");
    let done = loft.agent(&["init", "--restore", &phrase, "--name", "loft", "--mesh", "other"]).expect(0);
    assert!(
        done.stdout.contains("loft holds the root key of mesh home; it knows of 2 other hosts"),
        "{done:?}"
    );
    loft.start();
    sees_up(&desk, "loft");
    loft.agent(&["host", "remove", "nas", "--yes"]).expect(0);
    loft.agent(&["host", "promote", "desk"]).expect(0);

    // Nobody answers: it is alone, says so, and meets the others when it is told where they are.
    desk.stop();
    loft.stop();
    let den = Host::new("den", place("den"));
    let alone = den.agent(&["init", "--restore", &phrase, "--name", "den"]).expect(0);
    assert!(alone.stdout.contains("no other host of it was met"), "{alone:?}");
    loft.start();
    desk.start();
    let stale = den.agent(&["init", "--restore", &phrase, "--via", &token]);
    assert!(stale.code == 1 && stale.stderr.contains("can be reached"), "{stale:?}");
    let fresh = eventually(PATIENCE, "a token", || {
        let made = loft.agent(&["token", "create", "--json"]);
        made.json()["token"].as_str().map(str::to_owned).ok_or(made.stderr)
    });
    let met = den.agent(&["init", "--restore", &phrase, "--via", &fresh, "--json"]).expect(0);
    assert_eq!(met.json()["others"], 2, "{met:?}");
    let mut den = den;
    den.start();
    sees_up(&desk, "den");
}
