//! Ctrl-C and deadlines end a command, not the work: what was committed goes on, what was not leaves
//! nothing half behind.

use std::{
    fs::{self, File},
    io::Write,
    time::Duration,
};

use tests::{Host, Place, eventually, tiny_topology};

/// Larger than can be copied and hashed between two looks.
const LARGE_MIB: usize = 400;

fn host() -> Host {
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    host
}

#[test]
fn ctrl_c_during_up_detaches_and_the_session_becomes_ready_anyway() {
    let host = host();
    let up = host.begin(&["session", "up", &host.topology(&tiny_topology("shop", 1))]);
    eventually(Duration::from_secs(20), "the session is there", || {
        let list = host.json(&["session", "list"]);
        if list["sessions"][0]["name"] == "shop" { Ok(()) } else { Err(list.to_string()) }
    });
    up.interrupt();
    let answer = up.ended(Duration::from_secs(5));
    assert_eq!(answer.code, 130, "{answer:?}");
    assert!(answer.stderr.contains("shop goes on"), "{answer:?}");
    assert!(answer.stderr.contains("hint: agent session status shop"), "{answer:?}");
    host.reaches("web-1", "ready");
    assert_eq!(host.session("shop")["state"], "healthy");

    // The end goes on as well.
    let down = host.begin(&["session", "down", "shop"]);
    eventually(Duration::from_secs(20), "the end is committed", || {
        let list = host.json(&["session", "list"]);
        match list["sessions"][0]["state"].as_str() {
            Some("stopping") | None => Ok(()),
            state => Err(format!("{state:?}")),
        }
    });
    down.interrupt();
    // It may have been done already.
    assert!([0, 130].contains(&down.ended(Duration::from_secs(5)).code));
    eventually(Duration::from_secs(60), "nothing is left", || {
        let left = host.session_dirs();
        if left.is_empty() && host.qemus().is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn a_deadline_ends_the_wait_with_5_and_not_the_session() {
    let host = host();
    let file = host.topology(&tiny_topology("shop", 1));
    let answer = host.agent(&["session", "up", &file, "--timeout", "1s"]).expect(5);
    assert!(answer.stderr.contains("shop is not ready after 1 s; it goes on"), "{answer:?}");
    assert!(answer.stderr.contains("because: ") && answer.stderr.contains("web-1"), "{answer:?}");
    assert!(answer.stderr.contains("hint: agent session status shop"), "{answer:?}");
    // The same command goes on with the wait.
    host.agent(&["session", "up", &file]).expect(0);
    assert_eq!(host.session("shop")["generation"], 1);
}

#[test]
fn not_waiting_returns_at_once_and_says_what_was_committed() {
    let host = host();
    let file = host.topology(&tiny_topology("shop", 1));
    let answer = host.json(&["session", "up", &file, "--wait", "none"]);
    assert_eq!(answer["generation"], 1);
    assert_ne!(host.machine("web-1").expect("a row")["state"], "ready", "nobody waited");
    host.agent(&["session", "down", "shop"]).expect(0);
    assert!(host.qemus().is_empty());
}

#[test]
fn ctrl_c_during_an_import_leaves_nothing_and_the_same_command_works_afterwards() {
    let host = Host::first("nas", Place::Here);
    let path = host.scratch().join("large.raw");
    let mut file = File::create(&path).expect("a file");
    let block: Vec<u8> = (0..1024 * 1024).map(|i: u32| (i % 251) as u8).collect();
    for _ in 0..LARGE_MIB {
        file.write_all(&block).expect("room");
    }
    let path = path.to_str().expect("UTF-8");
    let files = |dir: &str| {
        let entries = fs::read_dir(host.data().join("images").join(dir)).expect("a directory").flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let import = host.begin(&["image", "import", path, "--name", "large"]);
    eventually(Duration::from_secs(20), "the copy has begun", || {
        if files("scratch").is_empty() { Err("no scratch file".to_owned()) } else { Ok(()) }
    });
    import.interrupt();
    let answer = import.ended(Duration::from_secs(5));
    assert_eq!(answer.code, 130, "{answer:?}");
    assert!(answer.stderr.contains("stopped"), "{answer:?}");
    eventually(Duration::from_secs(20), "the copy is gone", || match files("scratch") {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
    assert!(files("raw").is_empty(), "{:?}", files("raw"));
    assert_eq!(host.json(&["image", "list"])["images"], serde_json::json!([]));
    host.agent(&["image", "import", path, "--name", "large"]).expect(0);
}
