//! What people get wrong and what a host lacks: each time a message that names the reason, the right
//! exit code, and nothing half behind.

use std::{fs, os::unix::fs::symlink};

use serde_json::Value;
use tests::{Answer, Host, Place, kill, lab_or_skip, tiny_topology};

/// A host that runs and has the tiny guest.
fn host() -> Host {
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    host
}

/// Asserts exit code and words of a refusal, for people and for programs alike.
#[track_caller]
fn refused(host: &Host, args: &[&str], code: i32, words: &[&str]) -> Value {
    let answer = host.agent(args).expect(code);
    for word in words {
        assert!(answer.stderr.contains(word), "{word:?} is not said: {answer:?}");
    }
    assert!(answer.stderr.starts_with("error: ") || answer.stderr.contains("\nerror: "), "{answer:?}");
    let answer = host.agent(&[args, &["--json"]].concat()).expect(code);
    one_line(&answer)
}

/// Gives the error of the one line that programs read.
#[track_caller]
fn one_line(answer: &Answer) -> Value {
    assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");
    let line: Value = serde_json::from_str(&answer.stderr).unwrap_or_else(|e| panic!("{e}: {answer:?}"));
    for field in ["kind", "what", "because", "next"] {
        assert!(line["error"].get(field).is_some(), "no {field:?} in {line}");
    }
    line["error"].clone()
}

#[track_caller]
fn nothing_was_made(host: &Host) {
    assert_eq!(host.json(&["session", "list"])["sessions"], serde_json::json!([]));
    assert!(host.session_dirs().is_empty(), "{:?}", host.session_dirs());
    assert!(host.qemus().is_empty());
}

#[test]
fn mistakes_in_a_topology_are_told_all_at_once_with_line_and_hint() {
    // No agent is needed to read a file.
    let host = Host::new("nas", Place::Here);
    let diagnostics = |text: &str| {
        let file = host.topology(text);
        for verb in ["plan", "up"] {
            refused(&host, &["session", verb, &file], 2, &["topology.toml:"]);
        }
        let answer = host.agent(&["session", "plan", &file, "--json"]).expect(2);
        answer.json()["diagnostics"].as_array().expect("diagnostics").clone()
    };
    let broken = diagnostics("session = \"shop\"\n[machines.web\n");
    assert_eq!((broken.len(), &broken[0]["line"]), (1, &2.into()), "{broken:?}");

    let tiny = tiny_topology("shop", 1);
    let unknown = diagnostics(&tiny.replace("memory =", "memroy =").replace("cpus = 1", "cpus = 0"));
    assert!(unknown.len() >= 2, "all at once: {unknown:?}");
    let memroy = unknown.iter().find(|m| m["what"].as_str().is_some_and(|what| what.contains("memroy")));
    let memroy = memroy.unwrap_or_else(|| panic!("{unknown:?}"));
    assert_eq!((&memroy["line"], &memroy["hint"]), (&5.into(), &"did you mean memory?".into()));

    let circle = diagnostics(
        "session = \"shop\"\n[machines.a]\nimage = \"tiny\"\nneeds = [\"b\"]\n[machines.b]\nimage = \"tiny\"\nneeds = [\"a\"]\n",
    );
    assert!(circle[0]["what"].as_str().is_some_and(|what| what.contains("a -> b -> a")), "{circle:?}");
}

#[test]
fn files_that_cannot_be_read_end_with_1_and_their_name() {
    let host = Host::new("nas", Place::Here);
    let missing = host.scratch().join("nowhere.toml");
    let missing = missing.to_str().expect("UTF-8");
    refused(&host, &["session", "plan", missing], 1, &["nowhere.toml cannot be read", "No such file"]);
    let directory = host.scratch().to_str().expect("UTF-8");
    refused(&host, &["session", "up", directory], 1, &["cannot be read", "directory"]);
    let injected = tiny_topology("shop", 1).replace("cpus = 1", "files = { \"/etc/app\" = \"app.toml\" }");
    let file = host.topology(&injected);
    refused(&host, &["session", "up", &file], 1, &["app.toml cannot be read", "hint: check the path"]);
}

#[test]
fn without_an_agent_or_a_mesh_the_next_command_is_named() {
    let mut host = Host::new("nas", Place::Here);
    refused(&host, &["run"], 1, &["belongs to no mesh yet", "hint: agent init --name NAME"]);
    refused(&host, &["status"], 7, &["the agent does not run here", "hint: agent init --name NAME"]);
    host.agent(&["init", "--name", "nas"]).expect(0);
    let error = refused(&host, &["status"], 7, &["the agent does not run here", "hint: agent run"]);
    assert_eq!(error["kind"], "unreachable");
    let before = fs::read(host.data().join("identity/host.key")).expect("a key");
    refused(&host, &["init", "--name", "other"], 4, &["belongs to a mesh already", "hint: "]);
    assert_eq!(fs::read(host.data().join("identity/host.key")).expect("a key"), before);

    host.start();
    refused(&host, &["run"], 1, &["another agent (process", "hint: agent status"]);
    host.agent(&["status"]).expect(0);
    refused(&host, &["nonsense"], 2, &[]);
    refused(&host, &["session", "up"], 2, &["<FILE>"]);
}

#[test]
fn a_data_directory_of_another_agents_layout_is_left_as_it_is() {
    for (version, complaint) in [
        ("5", "was written by a newer agent (layout 5, this one knows 4)"),
        ("3", "was written by an older agent (layout 3, this one needs 4)"),
    ] {
        let host = Host::new("nas", Place::Here);
        fs::create_dir(host.data()).expect("a directory");
        fs::write(host.data().join("version"), version).expect("a file");
        for args in [&["init", "--name", "nas"][..], &["run"]] {
            refused(&host, args, 1, &[complaint]);
        }
        let left: Vec<_> = fs::read_dir(host.data()).expect("it").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["version"]);
        let doctor = host.agent(&["doctor"]).expect(1);
        assert!(doctor.stdout.contains(complaint), "{doctor:?}");
    }
}

#[test]
fn a_topology_that_fits_nowhere_is_refused_with_a_reason_for_each_host() {
    let host = host();
    let obstacles = |text: &str| {
        let file = host.topology(text);
        refused(&host, &["session", "up", &file], 4, &["nothing was changed"]);
        let plan = host.agent(&["session", "plan", &file, "--json"]).expect(4);
        nothing_was_made(&host);
        let list = plan.json()["obstacles"].as_array().expect("obstacles").clone();
        list.iter().map(|row| format!("{}: {}", row["machine"], row["because"])).collect::<Vec<_>>()
    };
    let tiny = tiny_topology("shop", 2);
    let unknown = obstacles(&tiny.replace("\"tiny\"", "\"huge\""));
    assert_eq!(unknown.len(), 2, "{unknown:?}");
    assert!(unknown[0].contains("web-1") && unknown[0].contains("huge"), "{unknown:?}");
    let memory = obstacles(&tiny.replace("128MiB", "64TiB"));
    assert!(memory[0].contains("nas: ") && memory[0].contains("of 67108864 MiB free"), "{memory:?}");
    let tags = obstacles(&tiny.replace("spread = \"host\"", "tags = { room = \"attic\" }"));
    assert!(tags[0].contains("nas: ") && tags[0].contains("room"), "{tags:?}");
}

#[test]
fn names_that_nobody_knows_end_with_3_and_say_what_there_is() {
    let host = host();
    refused(&host, &["session", "status", "shop"], 3, &["there is no session \"shop\""]);
    refused(&host, &["session", "down", "shop"], 3, &["there is no session \"shop\""]);
    refused(&host, &["machine", "stop", "web-1"], 3, &["there is no machine \"web-1\""]);
    refused(&host, &["machine", "console", "shop/web-1"], 3, &["there is no"]);
    refused(&host, &["service", "open", "web.shop"], 3, &["there is no session"]);
    refused(&host, &["image", "remove", "huge"], 3, &["there is no image huge"]);
    // What follows `--` belongs to the machine, so `--json` stands before it.
    let answer = host.agent(&["machine", "ssh", "web-1", "--json", "--", "true"]).expect(255);
    assert_eq!(one_line(&answer)["kind"], "not-found");
}

#[test]
fn images_that_cannot_be_taken_leave_the_others_as_they_are() {
    let host = host();
    let before = host.json(&["image", "list"]);
    let other = host.scratch().join("other.raw");
    fs::write(&other, vec![7; 1024 * 1024]).expect("a file");
    let other = other.to_str().expect("UTF-8");
    let taken = ["image", "import", other, "--name", "tiny"];
    refused(&host, &taken, 4, &["the name tiny is taken by other content", "--replace"]);
    refused(&host, &["image", "import", "/nowhere", "--name", "x"], 1, &["/nowhere cannot be read"]);
    let qcow2 = host.scratch().join("broken.qcow2");
    fs::write(&qcow2, b"QFI\xfb broken").expect("a file");
    let qcow2 = qcow2.to_str().expect("UTF-8");
    refused(&host, &["image", "import", qcow2, "--name", "x"], 1, &["was not imported", "because: "]);
    refused(&host, &["image", "import", other, "--name", "no good name"], 2, &["hint: give it a name"]);
    assert_eq!(host.json(&["image", "list"]), before);
    host.agent(&["image", "import", other, "--name", "tiny", "--replace"]).expect(0);
    let after = host.json(&["image", "list"]);
    let named = after["images"].as_array().expect("images").iter().find(|row| row["name"] == "tiny");
    assert_ne!(named.expect("tiny")["digest"], before["images"][0]["digest"]);
}

#[test]
fn without_qemu_the_plan_and_the_doctor_name_the_package() {
    let mut host = Host::new("nas", Place::Here);
    // Everything else that is on the path here stays.
    let bin = host.scratch().join("bin");
    fs::create_dir(&bin).expect("a directory");
    for dir in std::env::split_paths(&std::env::var_os("PATH").expect("a path")) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.to_string_lossy().starts_with("qemu-") {
                // Two directories may hold the same name; the first counts.
                symlink(entry.path(), bin.join(name)).ok();
            }
        }
    }
    host.env.push(("PATH".into(), bin.to_str().expect("UTF-8").to_owned()));
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    host.import_tiny();
    let file = host.topology(&tiny_topology("shop", 1));
    refused(&host, &["session", "up", &file], 4, &["nas: no QEMU", "qemu-system-x86"]);
    nothing_was_made(&host);
    let doctor = host.agent(&["doctor"]).expect(1);
    let words = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(words.contains("qemu-system-x86_64 is not installed"), "{doctor:?}");
    assert!(words.contains("qemu-system-x86"), "{doctor:?}");
    assert_eq!(host.status()["host"]["accelerator"], Value::Null);
}

#[test]
fn a_full_disk_stops_an_import_and_a_start_and_both_work_once_there_is_room() {
    if !lab_or_skip("a full disk") {
        return;
    }
    let mut host = Host::new("nas", Place::Here);
    host.small_disk(24);
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    let tiny = tests::tiny_image();
    let import = ["image", "import", tiny.to_str().expect("UTF-8"), "--name", "tiny"];
    refused(&host, &import, 1, &["was not imported", "too little room", "in reserve", "image remove"]);
    assert_eq!(host.json(&["image", "list"])["images"], serde_json::json!([]));
    assert_eq!(fs::read_dir(host.data().join("images/scratch")).expect("it").count(), 0);

    host.small_disk(200);
    host.import_tiny();
    let file = host.topology(&tiny_topology("shop", 1));
    let full = host.fill_disk();
    refused(&host, &["session", "up", &file], 1, &["shop was not started", "No space left"]);
    nothing_was_made(&host);
    fs::remove_file(&full).expect("the filling");
    host.agent(&["session", "up", &file]).expect(0);

    // A running machine does not need room to be told; a restart does, and says so.
    let full = host.fill_disk();
    kill(host.pids("web-1").qemu);
    let row = tests::eventually(tests::BOOT, "the full disk is told", || {
        let row = host.machine("web-1").ok_or("it is not listed")?;
        match row["reason"].as_str() {
            Some(because) if because.contains("No space left") => Ok(row),
            _ => Err(row.to_string()),
        }
    });
    assert_ne!(row["state"], "ready");
    fs::remove_file(&full).expect("the filling");
    host.reaches("web-1", "ready");
}
