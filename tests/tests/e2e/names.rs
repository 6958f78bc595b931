//! Names as other programs ask for them: dig, and resolvers that forward to us with the very file that `agent dns setup`
//! wrote for them; and what that command leaves on a system, and takes back.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use tests::{Answer, Host, Place, Solo, eventually, lab_or_skip, programs_or_skip, tiny_topology};

const SOON: Duration = Duration::from_secs(30);
const FQDN: &str = "web.shop.mesh.internal";
/// Where the other resolvers answer: the host has a network of its own, so nobody else has these.
const UNBOUND_PORT: &str = "5301";
const DNSMASQ_PORT: &str = "5302";

/// A process of another program, ended with the story.
struct Other(Child);

impl Other {
    fn start(host: &Host, program: &str, args: &[&str]) -> Other {
        let mut command = host.command(Path::new(program));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Other(command.spawn().expect("it starts"))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it ends");
    }
}

/// Asks with dig and gives what it prints.
fn dig(host: &Host, port: &str, words: &str) -> String {
    let mut command = host.command(Path::new("dig"));
    command.args(["@127.0.0.1", "-p", port, "+time=2", "+tries=2"]).args(words.split(' '));
    Answer::of(command.output().expect("it starts")).stdout
}

/// Files of a system with their texts.
type Files = [(&'static str, &'static str)];

/// Lays a system out below a directory.
fn system(host: &Host, name: &str, files: &Files) -> PathBuf {
    let root = host.scratch().join(name);
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    root
}

/// A system whose programs ask unbound, and one whose programs ask dnsmasq.
const UNBOUND: [(&str, &str); 3] = [
    ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
    ("etc/unbound/unbound.conf", "include-toplevel: \"/etc/unbound/unbound.conf.d/*.conf\"\n"),
    ("run/unbound.pid", "1\n"),
];
const DNSMASQ: [(&str, &str); 3] = [
    ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
    ("etc/dnsmasq.conf", "conf-dir=/etc/dnsmasq.d/,*.conf\n"),
    ("run/dnsmasq.pid", "1\n"),
];
const RESOLVED: [(&str, &str); 4] = [
    ("etc/resolv.conf", "nameserver 127.0.0.53\nsearch lan\n"),
    ("etc/nsswitch.conf", "hosts: files resolve [!UNAVAIL=return] dns\n"),
    ("run/systemd/resolve/io.systemd.Resolve", ""),
    ("run/systemd/resolve/resolv.conf", "nameserver 192.168.1.1\n"),
];

#[test]
fn dig_and_forwarding_resolvers_find_what_is_there_and_what_is_not() {
    let story = "dig_and_forwarding_resolvers_find_what_is_there_and_what_is_not";
    if !programs_or_skip(story, &["dig", "unbound", "dnsmasq"]) || !lab_or_skip(story) {
        return;
    }
    let solo = Solo::started();
    let host = &solo.host;
    let topology = host.topology(&tiny_topology("shop", 1));
    eventually(SOON, "the host offers its QEMU", || {
        let up = host.agent(&["session", "up", &topology, "--wait", "none"]);
        if up.code == 0 { Ok(()) } else { Err(up.stderr) }
    });
    let status = host.json(&["status"]);
    let port = status["dns"].as_str().expect("an address").rsplit_once(':').expect("a port").1.to_owned();
    let address = eventually(SOON, "the group has its address", || {
        let found = dig(host, &port, &format!("+short {FQDN}"));
        if found.starts_with("127.") { Ok(found.trim().to_owned()) } else { Err(found) }
    });

    let ask = |words: &str| dig(host, &port, &format!("+norec {words}"));
    assert_eq!(ask(&format!("+short +tcp {FQDN}.")).trim(), address);
    assert_eq!(ask("+short mesh.internal SOA"), "mesh.internal. nobody.invalid. 1 60 60 60 1\n");
    assert_eq!(ask("+short mesh.internal NS"), "mesh.internal.\n");
    assert_eq!(ask(&format!("+short -x {address}")).trim(), format!("{FQDN}."));
    let cases = [
        ("version.bind CH TXT", "status: REFUSED"),
        ("example.org", "status: REFUSED"),
        ("mesh.internal AXFR", "Transfer failed"),
        ("+edns=1 +noednsnegotiation web.shop.mesh.internal", "status: BADVERS"),
        ("+noedns +opcode=notify web.shop.mesh.internal", "status: NOTIMP"),
        ("no.shop.mesh.internal", "status: NXDOMAIN"),
        ("+bufsize=4096 web.shop.mesh.internal", "EDNS: version: 0, flags:; udp: 1232"),
        ("web.shop.mesh.internal ANY", "HINFO\t\"RFC8482\""),
        ("shop.mesh.internal", "status: NOERROR"),
        ("WEB.Shop.MESH.internal", "WEB.Shop.MESH.internal."),
    ];
    for (words, wanted) in cases {
        let answer = ask(words);
        assert!(answer.contains(wanted), "{words}: {answer}");
        assert!(!answer.contains("WARNING"), "{words}: {answer}");
    }

    forwarded_by_unbound(host, &address);
    forwarded_by_dnsmasq(host, &address);
    host.agent(&["session", "down", "shop", "--yes"]).expect(0);
}

/// Starts unbound with what was written for it, and with all its guards against names that lead to loopback.
fn forwarded_by_unbound(host: &Host, address: &str) {
    let root = system(host, "unbound", &UNBOUND);
    host.agent(&["dns", "setup", "--root", root.to_str().expect("UTF-8")]).expect(0);
    let (at, file) = (UNBOUND_PORT, root.join("etc/unbound/unbound.conf.d/agent-mesh.conf"));
    let settings = host.scratch().join("unbound.conf");
    let own = format!(
        "server:\n port: {at}\n interface: 127.0.0.1\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n \
         use-syslog: no\n private-address: 127.0.0.0/8\n use-caps-for-id: yes\ninclude: \"{}\"\n",
        file.display()
    );
    fs::write(&settings, own).expect("a file");
    let _unbound = Other::start(host, "/usr/sbin/unbound", &["-d", "-c", settings.to_str().expect("UTF-8")]);
    finds(host, at, address);
    assert!(dig(host, at, "no.shop.mesh.internal").contains("status: NXDOMAIN"));
    assert!(dig(host, at, "mesh.internal SOA").contains("mesh.internal. nobody.invalid."));
}

/// The same with dnsmasq.
fn forwarded_by_dnsmasq(host: &Host, address: &str) {
    let root = system(host, "dnsmasq", &DNSMASQ);
    host.agent(&["dns", "setup", "--root", root.to_str().expect("UTF-8")]).expect(0);
    let (at, file) = (DNSMASQ_PORT, root.join("etc/dnsmasq.d/agent-mesh.conf"));
    let words = format!(
        "--keep-in-foreground --conf-file={} --no-resolv --no-hosts --port={at} --listen-address=127.0.0.1 \
         --bind-interfaces --pid-file= --user=root --stop-dns-rebind",
        file.display()
    );
    let _dnsmasq = Other::start(host, "/usr/sbin/dnsmasq", &words.split(' ').collect::<Vec<_>>());
    finds(host, at, address);
    assert!(dig(host, at, "no.shop.mesh.internal").contains("status: NXDOMAIN"));
}

#[track_caller]
fn finds(host: &Host, port: &str, address: &str) {
    eventually(SOON, "the resolver passes it on", || {
        let found = dig(host, port, &format!("+short {FQDN}"));
        if found.trim() == address { Ok(()) } else { Err(found) }
    });
}

/// Every file below a directory with its text.
fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            found.insert(path.clone(), fs::read_to_string(path).unwrap_or_default());
        }
    }
    found
}

#[test]
fn what_dns_setup_writes_is_what_it_shows_and_what_dns_undo_takes_back() {
    let host = Host::new("nas", Place::Here);
    let at = |root: &Path| root.to_str().expect("UTF-8").to_owned();
    let root = system(&host, "resolved", &RESOLVED);
    // Before the first start it is the port that the agent will have.
    let early = host.json(&["dns", "setup", "--dry-run", "--root", &at(&root)]);
    assert!(
        early["write"][0]["text"].as_str().is_some_and(|text| text.contains("DNS=127.0.0.1:74")),
        "{early}"
    );
    fs::create_dir_all(host.data()).expect("a directory");
    fs::write(host.data().join("dns.port"), "7460\n").expect("a file");
    let systems: [(&str, &Files, &str); 3] = [
        ("resolved", &RESOLVED, "etc/systemd/resolved.conf.d/agent-mesh.conf"),
        ("unbound", &UNBOUND, "etc/unbound/unbound.conf.d/agent-mesh.conf"),
        ("dnsmasq", &DNSMASQ, "etc/dnsmasq.d/agent-mesh.conf"),
    ];
    for (name, files, written) in systems {
        let root = system(&host, name, files);
        let (before, place) = (tree(&root), at(&root));
        let shown = host.json(&["dns", "setup", "--dry-run", "--root", &place]);
        assert_eq!(tree(&root), before, "a dry run writes nothing");
        for _ in 0..2 {
            host.agent(&["dns", "setup", "--root", &place]).expect(0);
        }
        let text = fs::read_to_string(root.join(written)).expect("a file");
        assert!(text.contains("7460") && text.contains("mesh.internal"), "{text}");
        assert_eq!(shown["write"][0]["text"], text, "{name}");
        let status = host.agent(&["dns", "status", "--root", &place, "--json"]).expect(1);
        assert!(status.stderr.contains("no agent runs"), "{status:?}");
        let status = status.json();
        assert_eq!(
            (&status["resolver"], &status["told"]),
            (&name.into(), &"127.0.0.1:7460".into()),
            "{status}"
        );
        assert_eq!(status["files"][0]["state"], "written", "{status}");
        host.agent(&["dns", "undo", "--root", &place]).expect(0);
        assert_eq!(tree(&root), before, "{name}");
        host.agent(&["dns", "undo", "--root", &place]).expect(3);
    }
}

#[test]
fn what_somebody_else_wrote_stays_and_what_cannot_be_told_is_left_alone() {
    let host = Host::new("nas", Place::Here);
    let root = system(&host, "resolved", &RESOLVED);
    let place = root.to_str().expect("UTF-8");
    let file = root.join("etc/systemd/resolved.conf.d/agent-mesh.conf");
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    fs::write(&file, "somebody's own\n").expect("a file");
    let refused = host.agent(&["dns", "setup", "--root", place]).expect(4);
    assert!(refused.stderr.contains("/etc/systemd/resolved.conf.d/agent-mesh.conf"), "{refused:?}");
    fs::remove_file(&file).expect("a file");
    host.agent(&["dns", "setup", "--root", place]).expect(0);
    fs::write(&file, "edited\n").expect("a file");
    let status = host.agent(&["dns", "status", "--root", place]).expect(1);
    assert!(status.stdout.contains("changed since") && status.stderr.contains("dns undo"), "{status:?}");
    let undone = host.agent(&["dns", "undo", "--root", place]).expect(0);
    assert!(undone.stderr.contains("was changed since and stays"), "{undone:?}");
    assert_eq!(fs::read_to_string(&file).expect("a file"), "edited\n");

    let plain = system(&host, "plain", &[("etc/resolv.conf", "nameserver 192.168.1.1\n")]);
    let plain = plain.to_str().expect("UTF-8");
    let refused = host.agent(&["dns", "setup", "--root", plain]).expect(4);
    assert!(
        refused.stderr.contains("192.168.1.1") && refused.stderr.contains("hint: install"),
        "{refused:?}"
    );
    let status = host.json(&["dns", "status", "--root", plain]);
    assert!(status["resolver"].is_null() && status["because"].is_string(), "{status}");
    if rustix::process::geteuid().is_root() {
        let ann = Host::odd("ann", "data", Some(65_534));
        let refused = ann.agent(&["dns", "setup"]).expect(4);
        assert!(refused.stderr.contains("hint: sudo "), "{refused:?}");
    }
}

#[test]
fn the_agent_is_installed_with_its_names_and_removed_with_them() {
    let host = Host::new("nas", Place::Here);
    let root = system(&host, "root", &RESOLVED);
    let (before, place) = (tree(&root), root.to_str().expect("UTF-8").to_owned());
    let written = "/etc/systemd/resolved.conf.d/agent-mesh.conf";
    let shown = host.json(&["install", "--dns", "--dry-run", "--root", &place]);
    assert_eq!(tree(&root), before, "a dry run writes nothing");
    let last = shown["write"].as_array().and_then(|files| files.last()).expect("a file");
    assert_eq!(last["path"], written);
    let done = host.agent(&["install", "--dns", "--root", &place]).expect(0);
    assert!(done.stdout.contains("systemd-resolved asks 127.0.0.1:"), "{done:?}");
    assert!(!done.stderr.contains("dns setup\n"), "{done:?}");
    assert_eq!(last["text"], fs::read_to_string(root.join(&written[1..])).expect("a file"));
    let shown = host.agent(&["uninstall", "--dry-run", "--root", &place]).expect(0);
    assert!(shown.stdout.contains(&format!("remove {written}")), "{shown:?}");
    host.agent(&["uninstall", "--root", &place]).expect(0);
    assert_eq!(tree(&root), before);
    // Names first, then the agent: both records share a directory.
    host.agent(&["dns", "setup", "--root", &place]).expect(0);
    host.agent(&["install", "--root", &place]).expect(0);
    host.agent(&["uninstall", "--root", &place]).expect(0);
    assert_eq!(tree(&root), before);
    // Where names cannot be hooked in, nothing is installed either.
    let plain = system(&host, "plain", &[("etc/resolv.conf", "nameserver 192.168.1.1\n")]);
    let before = tree(&plain);
    host.agent(&["install", "--dns", "--root", plain.to_str().expect("UTF-8")]).expect(4);
    assert_eq!(tree(&plain), before);
}

#[test]
fn whoever_has_the_only_port_for_names_is_named() {
    let mut host = Host::new("nas", Place::Here);
    host.agent(&["init", "--name", "nas"]).expect(0);
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let _listening = TcpListener::bind(("127.0.0.1", port));
    host.start_with(&["--set", &format!("dns.port={port}")]);
    let status = host.json(&["status"]);
    let me = format!("port {port} is taken by ");
    let warned = status["warnings"].as_array().into_iter().flatten().any(|warning| {
        warning["what"].as_str().is_some_and(|what| what.contains(&me) && what.contains("(process "))
    });
    assert!(warned && status["dns"].is_null(), "{status}");
    let doctor = host.agent(&["doctor", "--json"]).expect(1);
    assert!(doctor.stdout.contains(&me), "{doctor:?}");
    drop(taken);
}
