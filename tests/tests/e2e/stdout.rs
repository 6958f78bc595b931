//! What happens to data that finds no way out, and to paths that are no files: no command says that all
//! is well when nobody could read its answer, what is shown only once is not made unseen, and nothing
//! waits for ever.

use std::{
    fs::{self, File},
    io::{Write, pipe},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::fs::{CWD, Mode, mkfifoat};
use tests::{Answer, Host, Place, agent_bin, eventually, tiny_topology};

/// Commands that answer without an agent.
const ALONE: [&[&str]; 9] = [
    &["--help"],
    &["--version"],
    &["session", "--help"],
    &["session", "up", "--help"],
    &["config", "show"],
    &["config", "show", "--json"],
    &["config", "show", "--default"],
    &["doctor"],
    &["doctor", "--json"],
];

/// Commands that answer with an agent that runs no machine.
const WITH_AGENT: [&[&str]; 13] = [
    &["status"],
    &["status", "--json"],
    &["session", "list"],
    &["machine", "list"],
    &["host", "list"],
    &["image", "list"],
    &["service", "list"],
    &["token", "list"],
    &["token", "create"],
    &["dns", "query", "nas.host.mesh.internal"],
    &["events"],
    &["events", "--json-lines"],
    &["doctor"],
];

/// Runs a command whose stdout is a disk without room.
fn on_a_full_disk(host: &Host, args: &[&str]) -> Answer {
    Answer::of(
        host.cli(args).stdout(File::create("/dev/full").expect("a device")).output().expect("it starts"),
    )
}

/// Runs a command without any stdout.
fn without_stdout(host: &Host, args: &[&str]) -> Answer {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(agent_bin()).args(args);
    shell.env("AGENT_DATA_DIR", host.data()).stdin(Stdio::null());
    Answer::of(shell.output().expect("it starts"))
}

/// Runs a command whose reader has gone already.
fn into_a_closed_pipe(host: &Host, args: &[&str]) -> Answer {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    Answer::of(host.cli(args).stdout(writer).output().expect("it starts"))
}

#[track_caller]
fn nobody_can_read(host: &Host, commands: &[&[&str]]) {
    for args in commands {
        let full = on_a_full_disk(host, args);
        assert!(full.stderr.contains("No space left"), "{args:?}: {full:?}");
        let closed = without_stdout(host, args);
        assert!(closed.stderr.contains("Bad file descriptor"), "{args:?}: {closed:?}");
        for answer in [full, closed] {
            assert_eq!(answer.code, 1, "{args:?}: {answer:?}");
            assert!(answer.stderr.contains("stdout"), "{args:?}: {answer:?}");
            let json = args.contains(&"--json") && !args.contains(&"doctor");
            assert!(!json || answer.stderr.lines().count() == 1, "one line for programs: {answer:?}");
        }
    }
}

#[test]
fn a_command_whose_answer_cannot_be_written_fails_and_says_so() {
    let mut host = Host::new("nas", Place::Here);
    nobody_can_read(&host, &ALONE);

    // A mesh whose recovery phrase nobody has seen is not made.
    for answer in [
        on_a_full_disk(&host, &["init", "--name", "nas"]),
        on_a_full_disk(&host, &["init", "--name", "nas", "--json"]),
        without_stdout(&host, &["init", "--name", "nas"]),
        into_a_closed_pipe(&host, &["init", "--name", "nas"]),
    ] {
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(answer.stderr.contains("no mesh was made"), "{answer:?}");
        assert!(answer.stderr.contains("recovery phrase"), "{answer:?}");
    }
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    nobody_can_read(&host, &WITH_AGENT);
    let image = host.scratch().join("disk.raw");
    fs::write(&image, vec![7; 1024 * 1024]).expect("a file");
    let image = image.to_str().expect("UTF-8");
    nobody_can_read(&host, &[&["image", "import", image, "--name", "disk"]]);
    let file = host.topology(&tiny_topology("shop", 1).replace("\"tiny\"", "\"disk\""));
    nobody_can_read(&host, &[&["session", "plan", &file], &["session", "plan", &file, "--json"]]);

    // Nor is there a token left that somebody could use and nobody has.
    let lost = into_a_closed_pipe(&host, &["token", "create"]).expect(1);
    assert!(lost.stderr.contains("no token was made"), "{lost:?}");
    let tokens = host.json(&["token", "list"]);
    let states: Vec<&str> =
        tokens["tokens"].as_array().expect("a list").iter().filter_map(|row| row["state"].as_str()).collect();
    assert!(!states.contains(&"live"), "{tokens}");

    // A reader that has had enough is no failure, and no success either.
    let gone = |args: &[&str]| into_a_closed_pipe(&host, args);
    for args in WITH_AGENT.iter().filter(|args| !args.contains(&"create") && !args.contains(&"doctor")) {
        let answer = gone(args).expect(0);
        assert_eq!(answer.stderr, "", "{args:?}");
    }
    let broken = host.topology("session = 7\n");
    gone(&["session", "plan", &broken, "--json"]).expect(2);
    let nowhere = host.topology(&tiny_topology("shop", 1));
    gone(&["session", "plan", &nowhere]).expect(4);
    gone(&["session", "plan", &nowhere, "--json"]).expect(4);
    gone(&["dns", "query", "nobody.shop.mesh.internal", "--json"]).expect(3);
    on_a_full_disk(&host, &["session", "plan", &nowhere]).expect(4);
}

#[test]
fn a_path_that_is_no_file_is_named_and_holds_nothing_up() {
    let host = Host::new("nas", Place::Here);
    let fifo = host.scratch().join("fifo");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    let fifo = fifo.to_str().expect("UTF-8");
    let tiny = tiny_topology("shop", 1);
    let with = |line: &str| tiny.replace("cpus = 1", line);
    let refused = |args: &[&str], words: &str| {
        let answer = host.begin(args).ended(Duration::from_secs(10));
        assert_eq!(answer.code, 1, "{args:?}: {answer:?}");
        assert!(answer.stderr.contains(words), "{args:?}: {answer:?}");
    };
    let is = format!("{fifo} cannot be read\nbecause: it is a FIFO");
    refused(&["session", "plan", fifo], &is);
    refused(&["session", "up", fifo], &is);
    refused(&["session", "up", "/dev/zero"], "because: it is a device");
    let file = host.topology(&with(&format!("files = {{ \"/etc/app\" = \"{fifo}\" }}")));
    refused(&["session", "up", &file], &is);
    let file = host.topology(&with(&format!("ssh_keys = [\"{fifo}\"]")));
    refused(&["session", "up", &file], &is);
    refused(&["image", "import", fifo, "--name", "tiny"], &is);
    refused(&["image", "import", "/dev/zero", "--name", "tiny"], "because: it is a device");

    fs::create_dir_all(host.data()).expect("a directory");
    let settings = host.data().join("config.toml");
    mkfifoat(CWD, &settings, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    refused(&["config", "show"], "config.toml cannot be read\nbecause: it is a FIFO");
    refused(&["run"], "config.toml cannot be read\nbecause: it is a FIFO");
    refused(&["doctor"], "need mending");
}

#[test]
fn a_topology_is_read_from_stdin_where_a_dash_stands_for_it() {
    let host = Host::new("nas", Place::Here);
    let mut plan = host.cli(&["session", "plan", "-", "--json"]);
    let plan = plan.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut plan = plan.spawn().expect("it starts");
    let mut stdin = plan.stdin.take().expect("a pipe");
    stdin.write_all(b"session = \"shop\"\nmachine = 1\n").expect("it reads");
    drop(stdin);
    let code = eventually(Duration::from_secs(10), "the plan ends", || {
        plan.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it reads on".to_owned())
    });
    let answer = Answer::of(plan.wait_with_output().expect("it ended"));
    assert_eq!(code.code(), Some(2), "{answer:?}");
    assert_eq!(answer.json()["diagnostics"][0]["line"], 2, "{answer:?}");
}
