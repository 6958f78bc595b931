//! Entering a machine by ssh and by its console, from scripts and through pipes, as a user without rights
//! whose data directory has a name that shells and ssh would read something into.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write, pipe},
    process::{Child, Stdio},
    time::Duration,
};

use tests::{Answer, Host, eventually, lab_or_skip, tiny_topology};

/// Long for a command that has nothing left to do, on a host that does much else.
const SOON: Duration = Duration::from_secs(30);
/// The user `nobody`.
const NOBODY: u32 = 65534;

/// Waits for the end of a command and gives its exit code.
#[track_caller]
fn code(child: &mut Child, what: &str) -> i32 {
    let status = eventually(SOON, &format!("{what} ends"), || {
        child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| "it goes on".to_owned())
    });
    status.code().unwrap_or(-1)
}

/// Runs a command in the machine.
fn ssh(host: &Host, command: &[&str]) -> Answer {
    host.agent(&[&["machine", "ssh", "web-1", "--"], command].concat())
}

/// Starts a command whose stdout is a disk without room.
fn on_a_full_disk(host: &Host, args: &[&str]) -> Child {
    let full = File::options().write(true).open("/dev/full").expect("a device");
    host.cli(args).stdout(full).stderr(Stdio::piped()).spawn().expect("it starts")
}

#[test]
fn a_machine_is_entered_by_scripts_and_pipes_whatever_its_data_directory_is_called() {
    if !lab_or_skip("a host of another user") {
        return;
    }
    let mut host = Host::odd("nas", "it's \"my\" data, p50%d $HOME ${x} `y` \\z", Some(NOBODY));
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start();
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(&tiny_topology("shop", 1))]).expect(0);

    words_of_a_command_are_the_machine_s(&host);
    data_goes_both_ways(&host);
    a_reader_that_goes_away_ends_the_command(&host);
    the_guest_s_wget_has_a_time_out(&host);
    the_console_ends_with_its_stdin(&host);
}

fn words_of_a_command_are_the_machine_s(host: &Host) {
    assert_eq!(ssh(host, &["hostname"]).expect(0).stdout, "web-1\n");
    // The guest's shell knows no such option either, and says so itself.
    let version = ssh(host, &["-V"]).expect(2);
    assert!(version.stderr.contains("/bin/sh"), "{version:?}");
    assert_eq!(ssh(host, &["printf", "%s,", "-o", "--", "-v"]).expect(0).stdout, "-o,--,-v,");
    ssh(host, &["exit 7"]).expect(7);
}

fn data_goes_both_ways(host: &Host) {
    let many = ssh(host, &["head -c 3000000 /dev/zero | tr '\\0' x; echo talk >&2"]).expect(0);
    assert_eq!((many.stdout.len(), many.stderr.as_str()), (3_000_000, "talk\n"));
    let mut cat = host.cli(&["machine", "ssh", "web-1", "--", "cat; exit 3"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = cat.stdin.take().expect("a pipe");
    stdin.write_all(b"there and back\n").expect("it reads");
    drop(stdin);
    let mut back = String::new();
    cat.stdout.take().expect("a pipe").read_to_string(&mut back).expect("text");
    assert_eq!((back.as_str(), code(&mut cat, "cat")), ("there and back\n", 3));
}

fn a_reader_that_goes_away_ends_the_command(host: &Host) {
    let mut yes = host.cli(&["machine", "ssh", "web-1", "--", "yes"]);
    let mut yes = yes.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(yes.stdout.take().expect("a pipe")).lines();
    for _ in 0..2 {
        assert_eq!(lines.next().expect("a line").expect("text"), "y");
    }
    drop(lines);
    assert_eq!(code(&mut yes, "yes without a reader"), 141, "as the shell tells SIGPIPE");

    let mut yes = on_a_full_disk(host, &["machine", "ssh", "web-1", "--", "yes"]);
    assert_eq!(code(&mut yes, "yes on a full disk"), 255);
    let mut said = String::new();
    yes.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(said.contains("stdout") && said.contains("No space left"), "{said}");

    // A command that has said enough, or nothing, has its own code.
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    let mut quiet = host.cli(&["machine", "ssh", "web-1", "--", "sleep 1; exit 7"]);
    assert_eq!(code(&mut quiet.stdout(writer).spawn().expect("it starts"), "exit 7"), 7);
}

fn the_guest_s_wget_has_a_time_out(host: &Host) {
    let page = ssh(host, &["echo fine >/srv/www/page; wget -T 3 -qO- http://127.0.0.1:8080/page"]).expect(0);
    assert_eq!(page.stdout, "fine\n");
    // A server that accepts and says nothing.
    let silent =
        "(sleep 20 | nc -l -p 81) >/dev/null 2>&1 & sleep 1; sh -c 'wget -T 1 -qO- http://127.0.0.1:81/'";
    let silent = ssh(host, &[silent]).expect(1);
    assert!(silent.stderr.contains("timed out"), "{silent:?}");
    for command in
        ["timeout 9 wget -q -T 9 -O /dev/null http://web-1:8080/", "nc -w 1 127.0.0.1 1; test $? = 1"]
    {
        ssh(host, &[command]).expect(0);
    }
}

fn the_console_ends_with_its_stdin(host: &Host) {
    let mut console = host.begin(&["machine", "console", "web-1"]);
    console.types_nothing_more();
    let answer = console.ended(SOON).expect(0);
    assert!(answer.stdout.contains("ready: web-1"), "{answer:?}");

    let mut console = host.begin(&["machine", "console", "shop/web-1"]);
    console.types("echo typed $((6 * 7))\n");
    console.types_nothing_more();
    let answer = console.ended(SOON).expect(0);
    assert!(answer.stdout.contains("typed 42"), "{answer:?}");

    let mut console = on_a_full_disk(host, &["machine", "console", "web-1"]);
    assert_eq!(code(&mut console, "a console on a full disk"), 1);
}
