//! An agent that is installed: its files, its package, the rights that its service leaves it, who else may use it, and a
//! newer program in its place while machines run on.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tests::{Answer, Host, Place, agent_bin, eventually, lab_or_skip, tiny_topology};

/// A user and a group that every Debian has, and that nothing of these tests belongs to.
const NOBODY: &str = "65534";
const GAMES: &str = "60";
/// Long for a start on a host that does much else.
const SOON: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Gives every file below a directory, from there, with its permissions.
fn tree(dir: &Path) -> BTreeMap<String, u32> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below it").to_string_lossy().into_owned();
                found.insert(name, entry.metadata().expect("a file").mode() & 0o777);
            }
        }
    }
    found
}

fn run(program: &str, args: &[&str]) -> Answer {
    Answer::of(Command::new(program).args(args).stdin(Stdio::null()).output().expect("it starts"))
}

fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[test]
fn what_the_program_installs_is_what_it_shows_and_what_it_removes() {
    let host = Host::new("nas", Place::Here);
    let dir = host.scratch().join("root");
    let at = dir.to_str().expect("UTF-8").to_owned();
    let shown = host.json(&["install", "--dry-run", "--root", &at]);
    assert!(!dir.exists(), "a dry run writes nothing");
    host.agent(&["install", "--root", &at]).expect(0);
    let mut written = tree(&dir);
    let files = shown["write"].as_array().expect("a list");
    assert!(files.len() > 30, "program, unit, firewalls, completions and pages: {}", files.len());
    for file in files {
        let path = file["path"].as_str().expect("a path").trim_start_matches('/');
        assert_eq!(written.remove(path).map(u64::from), file["mode"].as_u64(), "{path}");
        if let Some(text) = file["text"].as_str() {
            assert_eq!(fs::read_to_string(dir.join(path)).expect("a file"), text, "{path}");
        }
    }
    assert_eq!(written.into_keys().collect::<Vec<_>>(), ["usr/local/lib/agent/installed.json"]);
    // A second time is well, and a file of somebody else's is not touched.
    host.agent(&["install", "--root", &at]).expect(0);
    let unit = dir.join("etc/systemd/system/agent.service");
    let ours = fs::read_to_string(&unit).expect("a unit");
    fs::write(&unit, "[Service]\n").expect("a unit");
    let refused = host.agent(&["install", "--root", &at]).expect(4);
    assert!(refused.stderr.contains("/etc/systemd/system/agent.service"), "{refused:?}");
    fs::write(&unit, ours).expect("a unit");
    host.agent(&["uninstall", "--root", &at]).expect(0);
    assert_eq!(tree(&dir), BTreeMap::new());
    host.agent(&["uninstall", "--root", &at]).expect(3);
}

#[test]
fn the_unit_is_one_that_systemd_takes() {
    if !has("systemd-analyze") {
        eprintln!("SKIPPED the_unit_is_one_that_systemd_takes: systemd-analyze is not installed");
        return;
    }
    let host = Host::new("nas", Place::Here);
    let (dir, prefix) = (host.scratch().join("root"), host.scratch().join("prefix"));
    let words = [dir.to_str().expect("UTF-8"), prefix.to_str().expect("UTF-8")];
    host.agent(&["install", "--root", words[0], "--prefix", words[1]]).expect(0);
    fs::create_dir_all(prefix.join("bin")).expect("a directory");
    fs::copy(agent_bin(), prefix.join("bin/agent")).expect("a copy");
    let unit = dir.join("etc/systemd/system/agent.service");
    let unit = unit.to_str().expect("UTF-8");
    let verified = run("systemd-analyze", &["verify", "--man=no", unit]).expect(0);
    assert!(!verified.stderr.contains("agent.service"), "{verified:?}");
    // 10 is a service without any protection; QEMU's translator and root's images keep it from less.
    let said = run("systemd-analyze", &["security", "--offline=true", "--threshold=55", unit]);
    assert_eq!(said.code, 0, "{}", said.stdout);
}

#[test]
fn completions_and_manual_pages_are_read_by_their_readers() {
    let host = Host::new("nas", Place::Here);
    for shell in ["bash", "zsh", "fish"] {
        let text = host.agent(&["completions", shell]).expect(0).stdout;
        assert!(text.contains("session"), "{shell}");
        let file = host.scratch().join(shell);
        fs::write(&file, text).expect("a file");
        if has(shell) {
            run(shell, &["-n", file.to_str().expect("UTF-8")]).expect(0);
        }
    }
    let dir = host.scratch().join("man1");
    host.agent(&["man", dir.to_str().expect("UTF-8")]).expect(0);
    let pages = tree(&dir);
    for page in ["agent.1", "agent-session-up.1", "agent-install.1", "agent-upgrade.1"] {
        assert!(pages.contains_key(page), "{page} in {pages:?}");
    }
    assert!(!pages.contains_key("agent-man.1"), "what is hidden has no page");
    if has("man") {
        let page = dir.join("agent-session-up.1");
        let read = run("man", &["--warnings", "-l", page.to_str().expect("UTF-8")]).expect(0);
        assert!(read.stdout.contains("--timeout") && read.stderr.is_empty(), "{read:?}");
    }
}

#[test]
fn the_package_holds_what_it_should_and_is_the_same_each_time() {
    if !has("dpkg-deb") {
        eprintln!(
            "SKIPPED the_package_holds_what_it_should_and_is_the_same_each_time: dpkg-deb is not installed"
        );
        return;
    }
    let host = Host::new("nas", Place::Here);
    let program = agent_bin();
    let made = |out: &str| {
        let out = host.scratch().join(out);
        let script = root().join(".ci/package");
        let words = [program.as_os_str(), "1.2.3".as_ref(), "x86_64".as_ref(), out.as_os_str()];
        let mut said = Command::new(script);
        said.args(words).env("PACKER", "none").env("SOURCE_DATE_EPOCH", "1700000000");
        Answer::of(said.output().expect("it starts")).expect(0);
        out
    };
    let one = made("one");
    let deb = one.join("agent_1.2.3_amd64.deb");
    let deb = deb.to_str().expect("UTF-8");
    let listed = run("dpkg-deb", &["--contents", deb]).expect(0).stdout;
    for path in [
        "./usr/bin/agent",
        "./usr/lib/systemd/system/agent.service",
        "./usr/share/bash-completion/completions/agent",
        "./usr/share/zsh/vendor-completions/_agent",
        "./usr/share/fish/vendor_completions.d/agent.fish",
        "./usr/share/man/man1/agent-session-up.1.gz",
        "./etc/ufw/applications.d/agent",
        "./usr/lib/firewalld/services/agent.xml",
        "./usr/share/doc/agent/copyright",
    ] {
        let line = listed.lines().find(|line| line.ends_with(path));
        assert!(
            line.is_some_and(|line| line.contains("root/root") && line.contains("2023-11-14")),
            "{path}: {line:?}"
        );
    }
    assert!(!listed.contains("installed.json"), "its manager knows what it wrote");
    let depends = run("dpkg-deb", &["--field", deb, "Depends", "Recommends"]).expect(0).stdout;
    for package in ["qemu-system-x86", "qemu-utils", "passwd", "Recommends: openssh-client"] {
        assert!(depends.contains(package), "{package} in {depends}");
    }
    let control = host.scratch().join("control");
    run("dpkg-deb", &["--control", deb, control.to_str().expect("UTF-8")]).expect(0);
    let prerm = fs::read_to_string(control.join("prerm")).expect("a script");
    assert!(prerm.contains("remove | deconfigure)") && !prerm.contains("upgrade)"), "{prerm}");
    for script in ["postinst", "prerm", "postrm"] {
        run("sh", &["-n", control.join(script).to_str().expect("UTF-8")]).expect(0);
    }
    let two = made("two");
    for name in tree(&one).keys() {
        let bytes = |dir: &Path| blake3::hash(&fs::read(dir.join(name)).expect("a file"));
        assert_eq!(bytes(&one), bytes(&two), "{name}");
    }
}

/// Lets others pass to the data directory of a host, as `/var/lib` does.
fn passable(host: &Host) {
    fs::set_permissions(host.scratch(), fs::Permissions::from_mode(0o711)).expect("it is ours");
}

/// Asks as a user without rights, in no group or in one; `seen` = where the data directory seems to be.
fn as_nobody(host: &Host, groups: &str, args: &[&str], seen: Option<&str>) -> Answer {
    let data = host.data();
    let script = match seen {
        None => r#"exec "$@""#,
        // As if this host's agent were the computer's.
        Some(_) => {
            r#"mount -t tmpfs none /var/lib && mkdir /var/lib/agent && mount --bind "$DATA" /var/lib/agent
               unset AGENT_DATA_DIR && exec "$@""#
        }
    };
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", "setpriv"]);
    command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), groups, "--"]);
    command.arg(agent_bin()).args(args).stdin(Stdio::null());
    command.env("DATA", &data).env("AGENT_DATA_DIR", &data).env("HOME", "/nonexistent");
    Answer::of(command.output().expect("unshare starts"))
}

#[test]
fn the_agent_of_the_computer_is_used_by_its_group_and_others_are_told_which() {
    let story = "the_agent_of_the_computer_is_used_by_its_group_and_others_are_told_which";
    if !lab_or_skip(story) {
        return;
    }
    let (inside, outside) = (format!("--groups={GAMES}"), "--clear-groups");
    let mut host = Host::new("nas", Place::Here);
    passable(&host);
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.start_with(&["--set", "api.group=games"]);
    let mode = |path: PathBuf| {
        let seen = fs::metadata(path).expect("it is there");
        (seen.uid(), seen.gid(), seen.mode() & 0o777)
    };
    assert_eq!(mode(host.data()), (0, 60, 0o710));
    assert_eq!(mode(host.data().join("api.sock")), (0, 60, 0o660));
    for seen in [None, Some("/var/lib/agent")] {
        let status = as_nobody(&host, &inside, &["status", "--json"], seen).expect(0);
        assert_eq!(status.json()["host"]["name"], "nas");
        let closed = as_nobody(&host, outside, &["status"], seen).expect(7);
        assert!(closed.stderr.contains("sudo usermod -aG games nobody"), "{closed:?}");
        assert!(!closed.stderr.contains("agent init"), "{closed:?}");
    }
    // Neither makes a second mesh by mistake; who wants one of their own names its directory.
    for verb in [&["init", "--name", "mine"][..], &["run"], &["join", "mesh1abc"]] {
        for groups in [&inside, outside] {
            if verb[0] == "join" && groups != outside {
                continue;
            }
            let refused = as_nobody(&host, groups, verb, Some("/var/lib/agent")).expect(4);
            assert!(refused.stderr.contains("--data-dir"), "{refused:?}");
        }
    }
    let doctor = as_nobody(&host, &inside, &["doctor", "--json"], Some("/var/lib/agent"));
    let checks = doctor.json();
    let checks = checks["checks"].as_array().expect("a list");
    let data = checks.iter().find(|check| check["name"] == "data").expect("it is looked at");
    assert_eq!(data["state"], "ok", "{data}");
    let keys = as_nobody(&host, &inside, &["config", "show", "--json"], Some("/var/lib/agent")).expect(0);
    assert!(keys.stdout.contains("api.group"), "{keys:?}");
    // Its keys stay root's.
    let read = format!("cat {}/identity/* >/dev/null", host.data().display());
    let ids = ["--reuid=65534", "--regid=65534", &inside, "sh", "-c", &read];
    assert_ne!(run("setpriv", &ids).code, 0);
    host.stop();
    host.start_with(&["--set", "api.group=none"]);
    assert_eq!(mode(host.data()).2, 0o700);
    assert_eq!(mode(host.data().join("api.sock")).2, 0o600);
    as_nobody(&host, &inside, &["status"], None).expect(7);
}

#[test]
fn a_machine_runs_with_the_rights_that_the_unit_leaves_to_the_agent() {
    if !lab_or_skip("a_machine_runs_with_the_rights_that_the_unit_leaves_to_the_agent") {
        return;
    }
    let mut host = Host::new("nas", Place::Here);
    let plan = host.json(&["install", "--dry-run", "--root", "/nonexistent"]);
    let files = plan["write"].as_array().expect("a list");
    let unit = files.iter().find_map(|file| file["text"].as_str().filter(|text| text.starts_with("[Unit]")));
    let line = unit.expect("a unit").lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let left: Vec<String> = line
        .expect("capabilities")
        .split_whitespace()
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.spawn_by(&format!(
        "exec setpriv --no-new-privs --bounding-set=-all,{} -- \"$AGENT\" run",
        left.join(",")
    ));
    answers(&host);
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(&tiny_topology("shop", 1))]).expect(0);
    assert_eq!(host.ssh("web-1", "hostname").trim(), "web-1");
    host.agent(&["session", "down", "shop", "--yes"]).expect(0);
}

fn answers(host: &Host) {
    eventually(SOON, &format!("{} answers", host.name), || {
        let answer = host.agent(&["status", "--json"]);
        if answer.code == 0 { Ok(()) } else { Err(format!("{}{}", answer.stderr, host.log_text())) }
    });
}

/// Gives the processes of the one machine of a host.
fn machine(host: &Host) -> Vec<u32> {
    let mut found: Vec<u32> = host.processes("qemu-system-").into_iter().map(|(pid, _)| pid).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_program_is_upgraded_under_a_running_machine_and_comes_back_when_the_new_one_does_not_run() {
    let story = "a_program_is_upgraded_under_a_running_machine_and_comes_back_when_the_new_one_does_not_run";
    if !lab_or_skip(story) {
        return;
    }
    let mut host = Host::new("nas", Place::Here);
    let (program, newer) = (host.scratch().join("agent"), host.scratch().join("newer"));
    fs::copy(agent_bin(), &program).expect("a copy");
    fs::copy(agent_bin(), &newer).expect("a copy");
    host.agent(&["init", "--name", "nas"]).expect(0);
    host.spawn_by(&format!("exec '{}' run", program.display()));
    answers(&host);
    host.import_tiny();
    host.agent(&["session", "up", &host.topology(&tiny_topology("shop", 1))]).expect(0);
    let running = machine(&host);
    assert!(!running.is_empty());

    // What is no agent, and what is one and does not run, are both told, and the old one goes on.
    let named = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    host.agent(&["upgrade", "/bin/true"]).expect(1);
    host.agent(&["upgrade", &named(&program)]).expect(4);
    let about = host.agent(&["--version", "--json"]).expect(0).stdout;
    let broken = host.scratch().join("broken");
    fs::write(
        &broken,
        format!("#!/bin/sh\n[ \"$1\" != --version ] || echo '{}'\n[ \"$1\" = --version ]\n", about.trim()),
    )
    .expect("a script");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let failed = host.agent(&["upgrade", &named(&broken)]).expect(1);
    assert!(failed.stderr.contains("the old one is back and runs"), "{failed:?}");
    assert_eq!(fs::read(&program).expect("a file").len(), fs::read(agent_bin()).expect("a file").len());
    assert_eq!(machine(&host), running);

    let was = fs::metadata(&program).expect("a file").ino();
    let done = host.json(&["upgrade", &named(&newer)]);
    assert_eq!((done["restarted"].as_bool(), done["program"].as_str()), (Some(true), program.to_str()));
    assert_ne!(fs::metadata(&program).expect("a file").ino(), was, "another file is in its place");
    assert!(!host.scratch().join("agent.old").exists());
    assert_eq!(machine(&host), running, "the same processes");
    host.reaches("web-1", "ready");
    assert_eq!(host.ssh("web-1", "hostname").trim(), "web-1");
    host.agent(&["session", "down", "shop", "--yes"]).expect(0);
}

#[test]
fn the_line_for_computers_without_systemd_runs_the_agent() {
    if !lab_or_skip("the_line_for_computers_without_systemd_runs_the_agent") {
        return;
    }
    if Path::new("/run/systemd/system").exists() {
        eprintln!(
            "SKIPPED the_line_for_computers_without_systemd_runs_the_agent: systemd manages this computer"
        );
        return;
    }
    let host = Host::new("nas", Place::Here);
    host.agent(&["init", "--name", "nas"]).expect(0);
    let prefix = host.scratch().join("pre fix");
    fs::create_dir_all(prefix.join("bin")).expect("a directory");
    fs::copy(agent_bin(), prefix.join("bin/agent")).expect("a copy");
    let plan = host.json(&["install", "--dry-run", "--prefix", prefix.to_str().expect("UTF-8")]);
    let say = plan["say"].as_array().expect("words");
    let line = say
        .iter()
        .find_map(|line| line.as_str()?.split_once("this line runs the agent: ").map(|(_, line)| line));
    host.by_shell(line.expect("a line")).expect(0);
    answers(&host);
}

#[test]
fn a_service_waits_for_its_mesh_as_long_as_it_takes_and_says_so() {
    if !lab_or_skip("a_service_waits_for_its_mesh_as_long_as_it_takes_and_says_so") {
        return;
    }
    let mut first = Host::first("nas", Place::Here);
    let token = first.token(&[]);
    first.stop();
    let mut host = Host::new("attic", Place::Here);
    let socket = host.scratch().join("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(SOON)).expect("a limit");
    host.env.push(("NOTIFY_SOCKET".into(), socket.to_str().expect("UTF-8").into()));
    let hears = || {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).expect("a word in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    host.spawn_by(&format!("echo {token} | {{ exec \"$AGENT\" run --join - --name attic; }}"));
    let waits = hears();
    assert!(waits.starts_with("READY=1\nSTATUS=waits for the mesh of its token"), "{waits}");
    let status = host.agent(&["status"]).expect(7);
    assert!(status.stderr.contains("waits for the mesh"), "{status:?}");
    // A restart of the service finds stdin empty, and goes on with what was kept.
    host.power_off();
    host.spawn(&["--join", "-", "--name", "attic"]);
    assert!(hears().contains("waits for the mesh"));
    first.start();
    eventually(SOON * 2, "it has joined", || {
        let said = hears();
        if said.contains("STATUS=attic is in the mesh home") { Ok(()) } else { Err(said) }
    });
    answers(&host);
    host.stop();
    assert!(hears().starts_with("STOPPING=1"));
}
