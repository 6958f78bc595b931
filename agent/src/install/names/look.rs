//! Looks at whom the programs of a system ask for names. Below another root than `/` only files are read.

use std::{fs, path::Path, process::Command};

use super::{Hook, RECORD, Resolved, Surroundings};
use crate::{
    host::resolv::servers,
    install::carry::{self, Root},
};

/// Gathers it.
pub fn look(root: &Root) -> Surroundings {
    let read = |path: &str| fs::read_to_string(root.at(Path::new(path))).unwrap_or_default();
    let exists = |path: &str| root.at(Path::new(path)).exists();
    let any = |paths: &[&str]| paths.iter().any(|path| exists(path));
    let managed =
        texts(root, "/etc/NetworkManager/NetworkManager.conf", "/etc/NetworkManager/conf.d", "conf");
    let dnsmasq = any(&["/run/dnsmasq/dnsmasq.pid", "/run/dnsmasq.pid", "/var/run/dnsmasq.pid"]);
    let unbound = any(&["/run/unbound.pid", "/run/unbound/unbound.pid", "/var/run/unbound.pid"]);
    Surroundings {
        macos: cfg!(target_os = "macos"),
        resolv_conf: read("/etc/resolv.conf"),
        nss_resolve: read("/etc/nsswitch.conf").lines().any(|line| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            words.next() == Some("hosts:") && words.any(|word| word == "resolve")
        }),
        resolved: exists("/run/systemd/resolve/io.systemd.Resolve").then(|| Resolved {
            version: root.0.is_none().then(version).flatten(),
            own_servers: own_servers(root),
            learned_servers: servers(&read("/run/systemd/resolve/resolv.conf")).next().is_some(),
        }),
        managed_dnsmasq: exists("/run/NetworkManager") && last(&managed, "dns") == Some("dnsmasq"),
        // Debian's service names the directory itself, elsewhere the settings do.
        dnsmasq: dnsmasq.then(|| {
            let named = |text: &str, word: &str| {
                text.lines()
                    .any(|line| line.trim_start().starts_with(word) && line.contains("/etc/dnsmasq.d"))
            };
            named(&read("/etc/dnsmasq.conf"), "conf-dir")
                || named(&read("/etc/default/dnsmasq"), "CONFIG_DIR")
        }),
        unbound: unbound.then(|| {
            let text = read("/etc/unbound/unbound.conf");
            text.lines()
                .any(|line| line.trim_start().starts_with("include") && line.contains("unbound.conf.d"))
        }),
        wsl: read("/proc/version").to_ascii_lowercase().contains("microsoft"),
    }
}

/// Gives what is hooked in for the agent of a data directory.
pub fn hooked(root: &Root, data: &Path) -> Option<Hook> {
    carry::record(root, Some(Path::new(RECORD)))?.names.filter(|hook| hook.data == data)
}

/// Tells whether the settings of resolved, but ours, name servers for all names.
fn own_servers(root: &Root) -> bool {
    let texts = texts(root, "/etc/systemd/resolved.conf", "/etc/systemd/resolved.conf.d", "conf");
    last(&texts, "DNS").is_some_and(|servers| !servers.is_empty())
}

/// Reads a settings file and those of its directory in their order, but ours.
fn texts(root: &Root, file: &str, dir: &str, extension: &str) -> String {
    let listed = fs::read_dir(root.at(Path::new(dir))).into_iter().flatten().flatten();
    let mut paths: Vec<_> = listed.map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let ours = path.file_stem().is_some_and(|stem| stem == "agent-mesh");
        !ours && path.extension().is_some_and(|found| found == extension)
    });
    paths.sort();
    paths.insert(0, root.at(Path::new(file)));
    paths.iter().filter_map(|path| fs::read_to_string(path).ok()).collect::<Vec<_>>().join("\n")
}

/// Gives the last value of a key; an empty one takes those before it back.
fn last<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let (found, value) = line.trim().split_once('=')?;
        (found.trim() == key).then(|| value.trim())
    };
    text.lines().filter_map(value).next_back()
}

/// Asks which systemd this is: `systemd 252 (252.39-1~deb12u1)`.
fn version() -> Option<u32> {
    let output = Command::new("resolvectl").arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let digits = |word: &str| word.chars().take_while(char::is_ascii_digit).collect::<String>();
    digits(text.lines().next()?.split_whitespace().nth(1)?).parse().ok()
}
