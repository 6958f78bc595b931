//! An agent whose surroundings are against it: nobody reads what it says, files may not grow, others
//! hold its connections, it runs as the wrong user, loopback is down.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tests::{Answer, Host, Place, eventually, lab_or_skip};

const SOON: Duration = Duration::from_secs(20);
/// A user that is there on every Linux and owns nothing.
const NOBODY: u32 = 65534;

#[track_caller]
fn says(answer: &Answer, words: &[&str]) {
    let all = format!("{}{}", answer.stdout, answer.stderr);
    for word in words {
        assert!(all.contains(word), "no {word:?} in {answer:?}");
    }
}

#[track_caller]
fn serves(host: &Host) {
    eventually(SOON, "the agent answers", || {
        let answer = host.agent(&["status"]);
        if answer.code == 0 { Ok(()) } else { Err(format!("{answer:?}\n{}", host.log_text())) }
    });
}

fn initialised(name: &str) -> Host {
    let mut host = Host::new(name, Place::Here);
    host.agent(&["init", "--name", name]).expect(0);
    // Much to say, so that there is much that cannot be said.
    host.env.push(("AGENT_LOG".to_owned(), "debug".to_owned()));
    host
}

#[test]
fn an_agent_whose_words_cannot_be_written_runs_on() {
    let mut host = initialised("nas");
    host.spawn_by("exec \"$AGENT\" run 2>/dev/full");
    serves(&host);
    host.agent(&["token", "create"]).expect(0);
    host.stop();

    // A reader that goes, as `| head -2` does, and one that only stands still, as `| less` does.
    for goes in [true, false] {
        let mut stderr = host.spawn_piped();
        let mut first = [0; 200];
        stderr.read_exact(&mut first).expect("it says something");
        if goes {
            drop(stderr);
            serves(&host);
            host.agent(&["token", "create"]).expect(0);
            host.stop();
        } else {
            serves(&host);
            // More than a pipe holds.
            for _ in 0..60 {
                host.agent(&["token", "create"]).expect(0);
            }
            host.stop();
            drop(stderr);
        }
    }
}

#[test]
fn a_log_on_a_full_disk_and_files_that_may_not_grow_end_nothing() {
    if !lab_or_skip("a log on a full disk") {
        return;
    }
    let mut host = initialised("nas");
    let small = host.scratch().join("small");
    fs::create_dir(&small).expect("a directory");
    let mounted = tests::Mounted::tmpfs(&small, "size=8k");
    // 512-byte blocks for sh: nothing may grow beyond 3 MiB, which the log's disk ends long before.
    let log = small.join("log");
    host.spawn_by(&format!("ulimit -f 6144; exec \"$AGENT\" run 2>{}", log.display()));
    serves(&host);
    eventually(SOON, "the log's disk is full", || {
        host.agent(&["token", "create"]).expect(0);
        let length = fs::metadata(&log).map_err(|error| error.to_string())?.len();
        if length >= 8 * 1024 { Ok(()) } else { Err(length.to_string()) }
    });
    let image = host.scratch().join("large.raw");
    fs::write(&image, vec![7; 8 * 1024 * 1024]).expect("a file");
    let import = host.agent(&["image", "import", image.to_str().expect("UTF-8"), "--name", "large"]);
    assert_ne!(import.code, 0, "{import:?}");
    says(&import, &["File too large", "hint:"]);
    says(&host.agent(&["doctor"]), &["data"]);
    serves(&host);
    host.stop();
    drop(mounted);

    // A command is not killed by it either.
    let mut poor = Host::new("poor", Place::Here);
    let answer = poor.by_shell("ulimit -f 0; exec \"$AGENT\" init --name poor");
    assert_eq!(answer.code, 1, "{answer:?}");
    says(&answer, &["File too large", poor.data().to_str().expect("UTF-8")]);
    poor.env.clear();
}

#[test]
fn others_cannot_hold_all_descriptors_and_what_nobody_needs_is_swept() {
    let mut gone = initialised("gone");
    gone.start();
    let run = gone.runtime().filter(|run| run.exists());
    gone.kill();
    fs::remove_dir_all(gone.data()).expect("the data directory");

    let mut host = initialised("nas");
    host.env.clear();
    host.spawn_by("ulimit -S -n 40; ulimit -H -n 64; exec \"$AGENT\" run");
    serves(&host);
    if let Some(run) = run {
        assert!(!run.exists(), "{} belongs to nothing", run.display());
    }
    let status = host.json(&["status"]);
    let dns: SocketAddr = status["dns"].as_str().expect("an address").parse().expect("an address");
    let idle: Vec<TcpStream> = (0..171).filter_map(|_| TcpStream::connect(dns).ok()).collect();
    assert!(idle.len() > 100, "only {} connections", idle.len());
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        serves(&host);
        host.agent(&["token", "create"]).expect(0);
        host.agent(&["dns", "query", "nas.host.mesh.internal"]).expect(0);
        assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(host.json(&["status"])["health"], serde_json::json!([]));
    drop(idle);
    host.stop();
    let noise = host.log_text();
    for library in ["iroh", "noq", "netwatch", "openraft", "libp2p", "hickory", "chitchat"] {
        assert!(!noise.contains(library), "{library} speaks:\n{noise}");
    }
}

#[test]
fn nobody_leaves_files_in_the_data_directory_of_another_user() {
    if !lab_or_skip("another user's data directory") {
        return;
    }
    let mut host = Host::new("nas", Place::Here);
    let data = host.data();
    open_to_all(host.scratch());
    fs::create_dir(&data).expect("a directory");
    std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY)).expect("chown");
    let path = data.to_str().expect("UTF-8").to_owned();
    for command in [&["init", "--name", "nas"][..], &["run"], &["join", "mesh1abc", "--name", "nas"]] {
        let answer = host.agent(command).expect(1);
        says(&answer, &["belongs to", &path, "sudo -u", "hint:"]);
        assert_eq!(fs::read_dir(&data).expect("it").count(), 0, "{command:?} left something");
    }
    says(&host.agent(&["doctor"]).expect(1), &["belongs to", &path]);

    // What root once left is named at once, with what to do about it.
    let as_nobody = |args: &[&str]| {
        let mut command = host.cli(args);
        command.uid(NOBODY).gid(NOBODY).env_remove("HOME");
        let output = command.output().expect("the agent starts");
        Answer::of(output)
    };
    as_nobody(&["init", "--name", "nas"]).expect(0);
    let facts = data.join("facts");
    fs::create_dir(&facts).expect("a directory");
    for command in [&["run"][..], &["doctor"]] {
        let answer = as_nobody(command).expect(1);
        says(&answer, &[facts.to_str().expect("UTF-8"), "belongs to root", "sudo chown -R"]);
    }
    fs::remove_dir(&facts).expect("it");
    assert!(
        fs::read_dir(&data)
            .expect("it")
            .flatten()
            .all(|entry| { entry.metadata().is_ok_and(|seen| seen.uid() == NOBODY) })
    );
    host.env.clear();
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn doctor_and_dns_query_agree_when_loopback_is_down() {
    if !lab_or_skip("a host without loopback") {
        return;
    }
    let network = netsim::Lab::up("host solo").expect("a lab");
    let place = Place::Namespace(network.namespace("solo").expect("a host of the lab"));
    let host = Host::first("solo", place);
    let lo = |state: &str| {
        let mut ip = host.command(Path::new("ip"));
        let done = ip.args(["link", "set", "lo", state]).stdout(Stdio::null()).status();
        assert!(done.expect("ip starts").success());
    };
    let names = || {
        let checks = host.agent(&["doctor", "--json"]).json()["checks"].clone();
        checks.as_array().expect("a list").iter().find(|check| check["name"] == "names").cloned().expect("it")
    };
    eventually(SOON, "its own name is answered", || {
        let answer = host.agent(&["dns", "query", "solo.host.mesh.internal"]);
        if answer.code == 0 { Ok(()) } else { Err(answer.stderr) }
    });
    assert_eq!(names()["state"], "ok");
    lo("down");
    host.agent(&["dns", "query", "solo.host.mesh.internal"]).expect(7);
    let seen = names();
    assert_eq!(seen["state"], "missing");
    assert!(seen["what"].as_str().expect("words").contains("does not answer"), "{seen}");
    assert!(seen["mend"].as_str().expect("a command").contains("lo up"), "{seen}");
    lo("up");
    assert_eq!(names()["state"], "ok");
}
