//! What a guest is told at its first boot: NoCloud files for cloud-init, which smaller guests read too.
//! Pure: bytes in, bytes out; `cidata` puts them on a disk.
//!
//! The instance id is the machine's, not the incarnation's: cloud-init runs its first-boot steps once
//! a disk, and a machine that starts again on its old disk is not set up twice.

use data_encoding::BASE64;

use super::{keys::Keys, openssh, record::Launch, setup};

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

/// Gives the files of the seed disk. Without `keys` of its own the machine is entered by its session's.
pub fn seed(launch: &Launch, keys: Option<&Keys>) -> Vec<SeedFile> {
    let file = |name, text: String| SeedFile { name, bytes: text.into_bytes() };
    vec![
        file("meta-data", meta_data(launch)),
        file("user-data", user_data(launch, keys)),
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

/// Gives whom the machine lets in, and the key that it is known by.
fn logins(launch: &Launch, keys: Option<&Keys>) -> (Vec<String>, [u8; 32]) {
    let spec = &launch.spec;
    let Some(keys) = keys else { return (spec.ssh_keys.clone(), spec.host_key_seed) };
    let own = openssh::public_line(&keys.login.0, launch.session_name.as_str());
    // The last one of the share is the session's, which opens nothing here.
    let given = spec.ssh_keys.split_last().map_or(&[][..], |(_, given)| given);
    (given.iter().cloned().chain([own]).collect(), keys.host.0)
}

fn user_data(launch: &Launch, keys: Option<&Keys>) -> String {
    let spec = &launch.spec;
    let (authorized, host_key) = logins(launch, keys);
    let machine = spec.machine.to_string();
    let mut lines = vec![
        "#cloud-config".to_owned(),
        format!("hostname: {machine}"),
        format!("fqdn: {machine}.{}", launch.domain()),
        "prefer_fqdn_over_hostname: false".into(),
        "ssh_pwauth: false".into(),
        // `machine ssh` logs in as root when the topology names no user.
        format!("disable_root: {}", spec.user.is_some()),
    ];
    if let Some(user) = &spec.user {
        lines.extend(["user:".into(), format!("  name: {user}")]);
    }
    if !authorized.is_empty() {
        lines.push("ssh_authorized_keys:".into());
        lines.extend(authorized.iter().map(|key| format!("  - {}", plain(key))));
    }
    lines.extend(["ssh_deletekeys: true", "ssh_genkeytypes: [ed25519]", "ssh_keys:"].map(str::to_owned));
    lines.push("  ed25519_private: |".into());
    let private = openssh::private_file(&host_key, &machine);
    lines.extend(private.lines().map(|line| format!("    {line}")));
    lines.push(format!("  ed25519_public: {}", openssh::public_line(&host_key, &machine)));
    let files = files(launch);
    if !files.is_empty() {
        lines.push("write_files:".into());
    }
    files.iter().for_each(|file| write_file(&mut lines, file));
    if setup::wanted(spec) {
        lines.extend(["runcmd:".into(), format!("  - [sh, {}]", setup::RUNNER)]);
    }
    lines.push(String::new());
    lines.join("\n")
}

/// A file with its bytes.
struct Whole {
    path: String,
    mode: u32,
    owner: Option<String>,
    content: Vec<u8>,
}

fn write_file(lines: &mut Vec<String>, Whole { path, mode, owner, content }: &Whole) {
    lines.push(format!("  - path: {}", quoted(path)));
    lines.push(format!("    permissions: \"{mode:04o}\""));
    if let Some(owner) = owner {
        lines.push(format!("    owner: {}", quoted(owner)));
        // Users exist only after the first pass over the files.
        lines.push("    defer: true".into());
    }
    lines.push("    encoding: b64".into());
    lines.push(format!("    content: {}", BASE64.encode(content)));
}

/// Gives the topology's files, and those that carry its environment and commands.
fn files(launch: &Launch) -> Vec<Whole> {
    let spec = &launch.spec;
    let whole = |file: &proto::session::MachineFile| {
        let content = launch.contents.get(&file.content)?.to_vec();
        Some(Whole { path: file.path.clone(), mode: file.mode, owner: file.owner.clone(), content })
    };
    let mut files: Vec<Whole> = spec.files.iter().filter_map(whole).collect();
    let mut add = |path: &str, mode, content: String| {
        files.push(Whole { path: path.into(), mode, owner: None, content: content.into_bytes() });
    };
    if !spec.env.is_empty() {
        let lines = spec.env.iter().map(|(key, value)| format!("export {key}={}\n", for_shell(value)));
        add(ENV, 0o644, lines.collect());
    }
    if setup::wanted(spec) {
        let env = (!spec.env.is_empty()).then_some(ENV);
        let commands = setup::commands(&spec.setup, env);
        add(setup::COMMANDS, 0o700, commands);
        add(setup::RUNNER, 0o755, setup::RUNNER_TEXT.into());
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
