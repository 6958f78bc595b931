//! What a guest is told at its first boot: NoCloud files for cloud-init, which smaller guests read too.
//! Pure: bytes in, bytes out; `cidata` puts them on a disk.
//!
//! The instance id is the machine's, not the incarnation's: cloud-init runs its first-boot steps once
//! a disk, and a machine that starts again on its old disk is not set up twice.

use std::fmt::Write;

use data_encoding::BASE64;

use super::{openssh, record::Launch};

/// Where the commands of the topology's `setup` are written.
const SETUP: &str = "/var/lib/mesh/setup.sh";
/// Where the topology's `env` is written; login shells read it.
const ENV: &str = "/etc/profile.d/mesh-env.sh";

/// A file on the seed disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedFile {
    /// Its name in the root directory.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Gives the files of the seed disk.
pub fn seed(launch: &Launch) -> Vec<SeedFile> {
    let file = |name, text: String| SeedFile { name, bytes: text.into_bytes() };
    vec![
        file("meta-data", meta_data(launch)),
        file("user-data", user_data(launch)),
        file("network-config", network_config(launch)),
    ]
}

fn meta_data(launch: &Launch) -> String {
    let machine = &launch.spec.machine;
    format!("instance-id: {}-{machine}\nlocal-hostname: {machine}\n", launch.session)
}

fn network_config(launch: &Launch) -> String {
    // No `optional: true`: systemd would then wait two minutes for a network that is "not required".
    let mac = launch.spec.mac.map(|byte| format!("{byte:02x}")).join(":");
    format!(
        "version: 2\nethernets:\n  mesh:\n    match: {{macaddress: {}}}\n    dhcp4: true\n    dhcp6: false\n    \
         mtu: {}\n    nameservers:\n      search: [{}]\n",
        quoted(&mac),
        proto::limits::GUEST_MTU,
        quoted(&launch.domain()),
    )
}

fn user_data(launch: &Launch) -> String {
    let spec = &launch.spec;
    let machine = &spec.machine;
    let mut text = String::from("#cloud-config\n");
    // Writing to a String cannot fail.
    let mut line = |line: std::fmt::Arguments<'_>| drop(writeln!(text, "{line}"));
    line(format_args!("hostname: {machine}"));
    line(format_args!("fqdn: {machine}.{}", launch.domain()));
    line(format_args!("prefer_fqdn_over_hostname: false"));
    line(format_args!("ssh_pwauth: false"));
    // `machine ssh` logs in as root when the topology names no user.
    line(format_args!("disable_root: {}", spec.user.is_some()));
    if let Some(user) = &spec.user {
        line(format_args!("user:\n  name: {user}"));
    }
    if !spec.ssh_keys.is_empty() {
        line(format_args!("ssh_authorized_keys:"));
        spec.ssh_keys.iter().for_each(|key| line(format_args!("  - {}", plain(key))));
    }
    line(format_args!("ssh_deletekeys: true\nssh_genkeytypes: [ed25519]\nssh_keys:"));
    line(format_args!("  ed25519_private: |"));
    let name = machine.to_string();
    let private = openssh::private_file(&spec.host_key_seed, &name);
    private.lines().for_each(|part| line(format_args!("    {part}")));
    line(format_args!("  ed25519_public: {}", openssh::public_line(&spec.host_key_seed, &name)));

    let files = files(launch);
    if !files.is_empty() {
        line(format_args!("write_files:"));
    }
    for (path, mode, owner, bytes) in files {
        line(format_args!("  - path: {}", quoted(&path)));
        line(format_args!("    permissions: \"{mode:04o}\""));
        if let Some(owner) = owner {
            // Users exist only after the first pass over the files.
            line(format_args!("    owner: {}\n    defer: true", quoted(&owner)));
        }
        line(format_args!("    encoding: b64\n    content: {}", BASE64.encode(&bytes)));
    }
    if !spec.setup.is_empty() {
        line(format_args!("runcmd:\n  - [sh, {SETUP}]"));
    }
    text
}

type GuestFile = (String, u32, Option<String>, Vec<u8>);

/// Gives the topology's files, and those that carry its environment and commands.
fn files(launch: &Launch) -> Vec<GuestFile> {
    let spec = &launch.spec;
    let mut files = spec.files.clone();
    if !spec.env.is_empty() {
        let lines = spec.env.iter().map(|(key, value)| format!("export {key}={}\n", for_shell(value)));
        files.push((ENV.into(), 0o644, None, lines.collect::<String>().into_bytes()));
    }
    if !spec.setup.is_empty() {
        let mut script = String::from("#!/bin/sh\nset -e\n");
        if !spec.env.is_empty() {
            script += &format!(". {ENV}\n");
        }
        for command in &spec.setup {
            script += command;
            script.push('\n');
        }
        files.push((SETUP.into(), 0o700, None, script.into_bytes()));
    }
    files
}

/// A string in YAML's double quotes, which read JSON's escapes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A string without quotes where YAML allows it: small guests look for `- ssh-` lines.
fn plain(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || " +/=@._-".contains(c);
    if text.chars().all(safe) && text.trim() == text { text.into() } else { quoted(text) }
}

fn for_shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
