//! What a changed topology does to disks that are in use, and in which order machines start after a
//! power cut: one host, a database and a web machine that needs it.

use std::{fs, io::Write, path::Path, process::Stdio};

use serde_json::Value;
use tests::{Host, Place};

/// Where the marker lies: behind the image, in front of the smallest disk's end.
const MARK: &str = "seek=100000";

fn topology(db: &str, web: &str) -> String {
    let service = "port = 8080\nready = { http = \"/\", interval = \"1s\" }";
    format!(
        "session = \"shop\"\n[defaults]\nimage = \"tiny\"\nmemory = \"128M\"\n\
         [machines.db]\n{db}\n[machines.db.services.http]\n{service}\n\
         [machines.web]\nneeds = [\"db\"]\n{web}\n[machines.web.services.http]\n{service}\n"
    )
}

#[test]
fn disks_in_use_stay_until_somebody_lets_them_go() {
    let mut host = Host::first("nas", Place::Here);
    host.import_tiny();
    let digest = host.json(&["image", "list"])["images"][0]["digest"].as_str().expect("a digest").to_owned();
    let file = host.topology(&topology("disk = \"64MiB\"", ""));
    host.agent(&["session", "up", &file]).expect(0);
    ssh(&host, &format!("echo mine | dd of=/dev/vda bs=512 {MARK} conv=notrunc; sync"));
    assert_eq!(mark(&host), "mine");

    what_is_told_at_the_first_boot_replaces_nothing(&host);
    a_larger_disk_grows_in_place(&host);
    a_smaller_disk_needs_a_word(&host);
    a_moved_name_needs_a_word(&host, &digest);
    what_is_needed_starts_first_after_a_power_cut(&mut host);
    what_goes_with_its_group_is_told(&host);
    host.agent(&["session", "down", "shop", "--yes"]).expect(0);
}

fn what_is_told_at_the_first_boot_replaces_nothing(host: &Host) {
    let before = [host.pids("db-1"), host.pids("web-1")];
    let told = "setup = [\"echo new > /tmp/new\"]\nfiles = { \"/etc/app\" = \"app\" }\nenv = { A = \"1\" }\nuser = \"me\"";
    fs::write(host.scratch().join("app"), "app").expect("a file");
    let file = host.topology(&topology(&format!("disk = \"64MiB\"\n{told}"), ""));
    let plan = host.json(&["session", "plan", &file]);
    assert_eq!(plan["changes"][0]["action"], "keep", "{plan}");
    let up = host.agent(&["session", "up", &file]).expect(0);
    assert!(
        up.stderr.contains("setup, files, env, user changed")
            && up.stderr.contains("applies to new machines"),
        "{up:?}"
    );
    assert_eq!([host.pids("db-1"), host.pids("web-1")], before);
    // Also the login stays what the disk was made with, at the next start too.
    host.agent(&["machine", "stop", "db-1"]).expect(0);
    host.reaches("db-1", "stopped");
    host.agent(&["machine", "start", "db-1"]).expect(0);
    host.reaches("db-1", "ready");
    assert_eq!(ssh(host, "id -un; ls /tmp/new /etc/app 2>/dev/null; true").trim(), "root");
}

fn a_larger_disk_grows_in_place(host: &Host) {
    let (before, web) = (host.pids("db-1"), host.pids("web-1"));
    let file = host.topology(&topology("disk = \"96M\"", ""));
    let plan = host.json(&["session", "plan", &file]);
    let change = &plan["changes"][0];
    assert_eq!((&change["action"], &change["how"]), (&"change".into(), &"in place".into()), "{plan}");
    assert!(text(&change["because"]).contains("disk 64 -> 96 MiB"), "{plan}");
    let status = host.json(&["session", "up", &file]);
    assert_eq!(status["machines"][0]["epoch"], 1, "{status}");
    assert_ne!(host.pids("db-1"), before, "up returned before the change was made");
    assert_eq!(host.pids("web-1"), web, "the other one was not touched");
    assert_eq!(ssh(host, "cat /sys/class/block/vda/size").trim(), (96 * 2048).to_string());
    assert_eq!(mark(host), "mine", "the same disk");
}

fn a_smaller_disk_needs_a_word(host: &Host) {
    let before = host.pids("db-1");
    let file = host.topology(&topology("disk = \"64M\"", ""));
    assert_eq!(refused(host, &file, &[]), ["db-1"]);
    assert_eq!(refused(host, &file, &["--replace", "web", "--yes"]), ["db-1"]);
    let plan = host.json(&["session", "plan", &file]);
    assert_eq!(
        (&plan["changes"][0]["how"], &plan["replaces"][0]["machine"]),
        (&"replace".into(), &"db-1".into())
    );
    assert_eq!(host.pids("db-1"), before, "nothing was changed");
    host.agent(&["session", "up", &file, "--replace", "db-9"]).expect(2);
    let cannot = host.topology(&topology("disk = \"1M\"", ""));
    let plan = host.agent(&["session", "plan", &cannot, "--json", "--replace", "all"]).expect(4).json();
    assert!(text(&plan["obstacles"][0]["because"]).contains("smaller than its image"), "{plan}");
    let huge = host.topology(&topology("disk = \"60TiB\"", ""));
    let plan = host.agent(&["session", "plan", &huge, "--json"]).expect(4).json();
    assert!(
        text(&plan["obstacles"][0]["because"]).contains("60TiB")
            || text(&plan["obstacles"][0]["because"]).contains("a disk of"),
        "{plan}"
    );
}

fn a_moved_name_needs_a_word(host: &Host, old: &str) {
    let other = host.scratch().join("other.raw");
    let mut bytes = fs::read(tests::tiny_image()).expect("the tiny guest");
    bytes.resize(bytes.len() + (1 << 20), 0);
    fs::write(&other, bytes).expect("a file");
    host.agent(&["image", "import", text(&other.to_str().into()), "--name", "tiny", "--replace"]).expect(0);

    let before = [host.pids("db-1"), host.pids("web-1")];
    let same = host.topology(&topology("disk = \"96M\"", ""));
    assert_eq!(refused(host, &same, &[]), ["db-1", "web-1"]);
    let pinned = topology("disk = \"96M\"", "").replace("\"tiny\"", &format!("\"blake3:{old}\""));
    let pinned = host.topology(&pinned);
    host.agent(&["session", "up", &pinned]).expect(0);
    assert_eq!([host.pids("db-1"), host.pids("web-1")], before, "the pinned content is what they have");

    let same = host.topology(&topology("disk = \"96M\"", ""));
    assert_eq!(refused(host, &same, &["--replace", "db-1"]), ["web-1"]);
    let (code, said) = on_a_terminal(host, &["session", "up", &same], "n\n");
    assert!(code == 4 && said.contains("db-1") && said.contains("web-1"), "{code} {said}");
    assert_eq!([host.pids("db-1"), host.pids("web-1")], before, "a no is a no");
    let (code, said) = on_a_terminal(host, &["session", "up", &same, "--replace", "db-1"], "y\n");
    assert!(code == 0 && said.contains("lose their disks"), "{code} {said}");
    let status = host.json(&["session", "status", "shop"]);
    let epochs = (&status["machines"][0]["epoch"], &status["machines"][1]["epoch"]);
    assert_eq!(epochs, (&2.into(), &2.into()), "{status}");
    assert_eq!(mark(host), "", "a new disk");
}

fn what_is_needed_starts_first_after_a_power_cut(host: &mut Host) {
    let last = facts(host).last().map(|fact| fact["seq"].as_u64()).expect("facts");
    host.power_off();
    host.start();
    host.reaches("web-1", "ready");
    let since: Vec<Value> = facts(host).into_iter().filter(|fact| fact["seq"].as_u64() > last).collect();
    let first = |machine: &str, phases: &[&str]| {
        let of =
            |fact: &&Value| fact["machine"] == machine && phases.iter().any(|phase| fact["phase"] == *phase);
        since
            .iter()
            .find(of)
            .and_then(|fact| fact["seq"].as_u64())
            .unwrap_or_else(|| panic!("{machine}: {since:?}"))
    };
    let (db, web) = (first("db-1", &["ready"]), first("web-1", &["starting", "running", "booted", "ready"]));
    assert!(db < web, "web-1 started before db-1 was ready: {since:?}");
}

fn what_goes_with_its_group_is_told(host: &Host) {
    let text = topology("", "");
    let only_db = text.split("[machines.web]").next().expect("a first part");
    let file = host.topology(only_db);
    let up = host.agent(&["session", "up", &file]).expect(0);
    assert!(
        up.stderr.contains("web-1 on nas: web is not in the topology any more; its disk goes with it"),
        "{up:?}"
    );
}

/// Asks for a topology that is refused with exit code 4, and gives whose disks it would cost.
#[track_caller]
fn refused(host: &Host, file: &str, more: &[&str]) -> Vec<String> {
    let said = host.agent(&[&["session", "up", file], more].concat()).expect(4);
    assert!(said.stderr.contains("disks would be lost") && said.stderr.contains("--replace"), "{said:?}");
    let answer = host.agent(&[&["session", "up", file, "--json"], more].concat()).expect(4);
    let plan = answer.json();
    let machines = plan["replaces"].as_array().unwrap_or_else(|| panic!("{answer:?}")).iter();
    let machines: Vec<String> = machines.map(|row| text(&row["machine"]).to_owned()).collect();
    for machine in &machines {
        assert!(
            said.stderr.contains(machine.as_str()) && answer.stderr.contains(machine.as_str()),
            "{said:?}"
        );
    }
    assert_eq!(answer.stderr.lines().count(), 1, "{answer:?}");
    machines
}

/// Runs a command on a terminal of its own, where somebody types `answer`.
fn on_a_terminal(host: &Host, args: &[&str], answer: &str) -> (i32, String) {
    let mut line = tests::agent_bin().display().to_string();
    args.iter().for_each(|arg| line.push_str(&format!(" {arg}")));
    let mut script = host.command(Path::new("script"));
    script.args(["-qec", &line, "/dev/null"]).env("AGENT_DATA_DIR", host.data());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script of bsdutils");
    // The pipe stays open: its end would be typed too.
    let mut keys = child.stdin.take().expect("a pipe");
    keys.write_all(answer.as_bytes()).expect("keys");
    let output = child.wait_with_output().expect("an end");
    drop(keys);
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn facts(host: &Host) -> Vec<Value> {
    host.facts("machine-phase")
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[track_caller]
fn ssh(host: &Host, command: &str) -> String {
    host.agent(&["machine", "ssh", "db-1", "--", command]).expect(0).stdout
}

/// Reads what was written behind the image.
#[track_caller]
fn mark(host: &Host) -> String {
    let read =
        format!("dd if=/dev/vda bs=512 count=1 {} 2>/dev/null | tr -d '\\000'", MARK.replace("seek", "skip"));
    ssh(host, &read).trim().to_owned()
}
