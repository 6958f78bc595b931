//! What resolvers are told, on copies of how systems are laid out.

use std::fs;

use expect_test::{Expect, expect};

use super::*;
use crate::install::{
    Scope,
    carry::{self, Root, Standing},
};

const DATA: &str = "/var/lib/agent";
const STUB: &str = "# This is /run/systemd/resolve/stub-resolv.conf\nnameserver 127.0.0.53\noptions edns0\n";
const LEARNED: &str = "nameserver 192.168.1.1\n";

/// A system laid out as it says: `PATH` or `PATH: TEXT` a line, `\n` for a new line.
fn system(layout: &str) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root(Some(dir.path().join("root")));
    for line in layout.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (path, text) = line.split_once(": ").unwrap_or((line, ""));
        let path = root.at(Path::new(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("\\n", "\n")).unwrap();
    }
    (dir, root)
}

fn told(seen: &Surroundings, expected: Expect) {
    let text = match setup(seen, ("mesh.internal", 7453), Path::new(DATA), None) {
        Ok((plan, _)) => {
            let file = |file: &File| {
                format!("{} {:o}\n{}", file.path.display(), file.mode, file.text.clone().unwrap())
            };
            let files: String = plan.write.iter().map(file).collect();
            files + &plan.run.iter().map(|command| format!("run {}\n", command.line())).collect::<String>()
        }
        Err(cannot) => format!("{cannot}\nhint: {}\n", cannot.next()),
    };
    expected.assert_eq(&text);
}

fn resolved(version: u32) -> Surroundings {
    let resolved = Resolved { version: Some(version), own_servers: false, learned_servers: true };
    Surroundings { resolv_conf: STUB.into(), resolved: Some(resolved), ..Surroundings::default() }
}

#[test]
fn resolved_gets_a_delegate_where_it_has_them_and_a_routing_domain_before() {
    told(
        &resolved(258),
        expect![[r#"
            /etc/systemd/dns-delegate.d/agent-mesh.dns-delegate 644
            # Names of the mesh. Written by `agent dns setup`; `agent dns undo` removes it.
            [Delegate]
            DNS=127.0.0.1:7453
            Domains=~mesh.internal
            run systemctl try-reload-or-restart systemd-resolved
        "#]],
    );
    told(
        &resolved(252),
        expect![[r#"
            /etc/systemd/resolved.conf.d/agent-mesh.conf 644
            # Names of the mesh. Written by `agent dns setup`; `agent dns undo` removes it.
            [Resolve]
            DNS=127.0.0.1:7453
            Domains=~mesh.internal
            run systemctl try-reload-or-restart systemd-resolved
        "#]],
    );
    // Programs that go through nss-resolve ask it whatever resolv.conf says.
    let beside = Surroundings { resolv_conf: LEARNED.into(), nss_resolve: true, ..resolved(252) };
    assert_eq!(resolver(&beside), Ok(Resolver::Resolved));
    assert!(blind(&beside).iter().any(|line| line.contains("musl")) && blind(&resolved(252)).len() == 2);
}

#[test]
fn resolved_is_left_alone_where_it_would_ask_us_for_everything() {
    told(
        &resolved(245),
        expect![[r#"
            systemd-resolved 245 takes no port of a name server
            hint: set dns.port = 53 in config.toml, then DNS=127.0.0.1 and Domains=~ZONE in /etc/systemd/resolved.conf
        "#]],
    );
    let with = |change: fn(&mut Resolved), version| {
        let mut seen = resolved(version);
        seen.resolved.as_mut().map(change);
        seen
    };
    told(
        &with(|resolved| resolved.own_servers = true, 252),
        expect![[r#"
            the settings of systemd-resolved name servers (DNS=), and before version 258 it would ask ours for all names as well
            hint: give the servers to the network's link instead (DNS= of its .network file, or nmcli), or use systemd 258
        "#]],
    );
    told(
        &with(|resolved| resolved.learned_servers = false, 252),
        expect![[r#"
            systemd-resolved knows no server but its built-in ones, and would ask ours for all names
            hint: let the network tell its servers (DHCP), or use systemd 258
        "#]],
    );
    for change in [
        |resolved: &mut Resolved| resolved.own_servers = true,
        |resolved: &mut Resolved| resolved.learned_servers = false,
    ] {
        assert_eq!(resolver(&with(change, 258)), Ok(Resolver::Resolved));
    }
}

/// One whose programs ask somebody on this computer.
fn local() -> Surroundings {
    Surroundings { resolv_conf: "nameserver 127.0.0.1\n".into(), ..Surroundings::default() }
}

#[test]
fn dnsmasq_unbound_and_macos_get_a_file_of_their_own_kind() {
    told(
        &Surroundings { managed_dnsmasq: true, ..local() },
        expect![[r#"
            /etc/NetworkManager/dnsmasq.d/agent-mesh.conf 644
            # Names of the mesh. Written by `agent dns setup`; `agent dns undo` removes it.
            server=/mesh.internal/127.0.0.1#7453
            rebind-domain-ok=/mesh.internal/
            run nmcli general reload dns-full
        "#]],
    );
    told(
        &Surroundings { dnsmasq: Some(true), ..local() },
        expect![[r#"
            /etc/dnsmasq.d/agent-mesh.conf 644
            # Names of the mesh. Written by `agent dns setup`; `agent dns undo` removes it.
            server=/mesh.internal/127.0.0.1#7453
            rebind-domain-ok=/mesh.internal/
            run systemctl try-restart dnsmasq
        "#]],
    );
    told(
        &Surroundings { unbound: Some(true), ..local() },
        expect![[r#"
            /etc/unbound/unbound.conf.d/agent-mesh.conf 644
            # Names of the mesh. Written by `agent dns setup`; `agent dns undo` removes it.
            server:
                do-not-query-localhost: no
                domain-insecure: "mesh.internal"
                private-domain: "mesh.internal"
            forward-zone:
                name: "mesh.internal"
                forward-addr: 127.0.0.1@7453
            run systemctl try-reload-or-restart unbound
        "#]],
    );
    told(
        &Surroundings { macos: true, ..Surroundings::default() },
        expect![[r#"
            /etc/resolver/mesh.internal 644
            # Names of the mesh. Written by `agent dns setup`; `agent dns undo` removes it.
            nameserver 127.0.0.1
            port 7453
        "#]],
    );
}

#[test]
fn who_does_not_read_our_file_or_is_unknown_is_left_alone() {
    told(
        &Surroundings { dnsmasq: Some(false), ..local() },
        expect![[r#"
            dnsmasq does not read /etc/dnsmasq.d
            hint: add conf-dir=/etc/dnsmasq.d to /etc/dnsmasq.conf, then again
        "#]],
    );
    told(
        &local(),
        expect![[r#"
            programs here ask 127.0.0.1, and it is no resolver whose settings are known
            hint: have it ask 127.0.0.1 at the port that `agent status` shows for names of the zone
        "#]],
    );
}

#[test]
fn servers_that_serve_everybody_cannot_be_told_of_one_zone() {
    let plain = Surroundings {
        resolv_conf: "search lan\nnameserver 192.168.1.1\n".into(),
        ..Surroundings::default()
    };
    told(
        &plain,
        expect![[r#"
            programs here ask 192.168.1.1 for every name, and there is nobody between who could ask us for names of the zone
            hint: install systemd-resolved, or dnsmasq, then again; until then: http://GROUP.SESSION.localhost:7080/    or agent dns query NAME
        "#]],
    );
    // One that runs and is not asked is not told either.
    assert!(matches!(resolver(&Surroundings { dnsmasq: Some(true), ..plain }), Err(Cannot::Plain(_))));
}

#[test]
fn systems_are_recognised_by_their_files() {
    let of = |layout: &str| resolver(&look::look(&system(layout).1));
    let debian = "
        /etc/resolv.conf: nameserver 127.0.0.53\\n
        /etc/nsswitch.conf: passwd: files\\nhosts: files resolve [!UNAVAIL=return] dns\\n
        /run/systemd/resolve/io.systemd.Resolve
        /run/systemd/resolve/resolv.conf: nameserver 10.0.2.3\\n";
    assert_eq!(of(debian), Ok(Resolver::Resolved));
    let own = format!("{debian}\n/etc/systemd/resolved.conf: [Resolve]\\n#DNS=\\nDNS=9.9.9.9\\n");
    assert_eq!(of(&own), Err(Cannot::OwnServers));
    let back = format!("{own}\n/etc/systemd/resolved.conf.d/90.conf: [Resolve]\\nDNS=\\n");
    assert_eq!(of(&back), Ok(Resolver::Resolved), "an empty value takes servers back");
    let ours =
        format!("{debian}\n/etc/systemd/resolved.conf.d/agent-mesh.conf: [Resolve]\\nDNS=127.0.0.1:7453\\n");
    assert_eq!(of(&ours), Ok(Resolver::Resolved), "our own file does not count");
    let fedora = "
        /etc/resolv.conf: # Generated by NetworkManager\\nnameserver 127.0.0.1\\n
        /etc/NetworkManager/NetworkManager.conf: [main]\\nplugins=keyfile\\n
        /etc/NetworkManager/conf.d/dns.conf: [main]\\ndns=dnsmasq\\n
        /run/NetworkManager/devices/2";
    assert_eq!(of(fedora), Ok(Resolver::NetworkManager));
    let dnsmasq = "
        /etc/resolv.conf: nameserver 127.0.0.1\\n
        /etc/default/dnsmasq: CONFIG_DIR=/etc/dnsmasq.d,.dpkg-dist,.dpkg-old,.dpkg-new\\n
        /run/dnsmasq/dnsmasq.pid: 12";
    assert_eq!(of(dnsmasq), Ok(Resolver::Dnsmasq));
    assert!(matches!(of(&dnsmasq.replace("CONFIG_DIR", "#")), Err(Cannot::Unread("dnsmasq", _))));
    let unbound = "
        /etc/resolv.conf: nameserver ::1\\n
        /etc/unbound/unbound.conf: include-toplevel: \"/etc/unbound/unbound.conf.d/*.conf\"\\n
        /run/unbound.pid: 12";
    assert_eq!(of(unbound), Ok(Resolver::Unbound));
    assert!(matches!(of("/etc/resolv.conf: nameserver 1.1.1.1\\n"), Err(Cannot::Plain(_))));
    assert!(look::look(&system("/proc/version: Linux 5.15 (Microsoft@Microsoft.com)").1).wsl);
}

#[test]
fn what_was_hooked_in_is_taken_back_exactly_and_an_edited_file_stays() {
    let (_dir, root) = system("/etc/resolv.conf: nameserver 127.0.0.53\\n");
    let at = Some(Path::new(RECORD));
    let (plan, hook) = setup(&resolved(252), ("mesh.internal", 7453), Path::new(DATA), None).unwrap();
    let before =
        Record { scope: Scope::System, files: vec![], made: vec![], linger: false, names: Some(hook) };
    let write =
        |before| carry::write(&plan, &root, (Path::new(""), Scope::System), (at, Some(before))).unwrap();
    let record = write(before.clone());
    assert_eq!(look::hooked(&root, Path::new(DATA)), record.names);
    assert_eq!(look::hooked(&root, Path::new("/home/ann")), None, "another agent's port is its own");
    let dns = root.at(&plan.write[0].path);
    assert!(fs::read_to_string(&dns).unwrap().contains("DNS=127.0.0.1:7453"));
    // A second time is well; through another resolver it first goes back.
    assert!(setup(&resolved(252), ("mesh.internal", 7453), Path::new(DATA), Some(&record)).is_ok());
    let mac = Surroundings { macos: true, ..Surroundings::default() };
    let moved = setup(&mac, ("mesh.internal", 7453), Path::new(DATA), Some(&record)).unwrap_err();
    assert_eq!(moved.next(), "sudo agent dns undo    then sudo agent dns setup");
    // A newer resolved has a better place for it, and never both.
    let newer = setup(&resolved(258), ("mesh.internal", 7453), Path::new(DATA), Some(&record)).unwrap_err();
    assert_eq!(newer, Cannot::Elsewhere(plan.write[0].path.clone()));
    let back = undo(&record);
    assert!(back.remove.contains(&plan.write[0].path) && back.remove.contains(&RECORD.into()));
    assert_eq!(back.run, plan.run);
    carry::remove(&root, at, &record).unwrap();
    let left: Vec<_> = fs::read_dir(root.at(Path::new("/"))).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "/etc with what was there: {left:?}");
    assert_eq!(fs::read_dir(root.at(Path::new("/etc"))).unwrap().count(), 1);

    let record = write(before);
    fs::write(&dns, "changed").unwrap();
    let (path, hash) = &record.files[0];
    assert_eq!(carry::standing(&root, path, hash).unwrap(), Standing::Changed);
    assert_eq!(carry::remove(&root, at, &record).unwrap().changed, [plan.write[0].path.clone()]);
    assert_eq!(fs::read_to_string(&dns).unwrap(), "changed");
}
