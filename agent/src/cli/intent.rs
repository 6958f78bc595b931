//! Reads a topology file and everything it names on this computer: what `plan` and `up` send. After
//! this nothing is read from the user's disk any more.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use proto::{
    id::Name,
    limits::{MAX_FILE_BYTES, MAX_TOPOLOGY_BYTES},
    topology::{Contents, Diagnostic, Group, Intent, Parcel, Topology},
    wire::api::{Error, Kind},
};

use super::{file, value};

/// Why there is no intent.
#[derive(Debug)]
pub enum Wrong {
    /// Mistakes in the file, all of them.
    Mistakes(Vec<Diagnostic>),
    /// Something that it names cannot be used.
    Error(Error),
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        Wrong::Error(error)
    }
}

/// A public key file holds some lines of less than 1 KiB.
const MAX_KEY_BYTES: usize = 64 * 1024;

/// Reads `path`, or stdin as `-`, and what it names; paths in it are relative to its own directory.
pub fn read(path: &Path) -> Result<Parcel, Wrong> {
    let text = as_text(path, file::read_or_stdin(path, MAX_TOPOLOGY_BYTES)?)?;
    let (topology, mistakes) = proto::topology::parse(&text);
    let Some(topology) = topology.filter(|_| mistakes.is_empty()) else {
        return Err(Wrong::Mistakes(mistakes));
    };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let beside = path.parent().unwrap_or(Path::new(""));
    Ok(complete(topology, |name| place(name, beside, home.as_deref()))?)
}

/// Adds the content of every file that the topology names; `place` says where each is.
fn complete(topology: Topology, place: impl Fn(&str) -> PathBuf) -> Result<Parcel, Error> {
    let (mut files, mut contents) = (BTreeMap::new(), Contents::default());
    let mut ssh_keys = BTreeMap::new();
    for (name, group) in &topology.groups {
        for file in group.files.values().filter(|file| !file.source.is_empty()) {
            if !files.contains_key(&file.source) {
                let bytes = file::read(&place(&file.source), MAX_FILE_BYTES)?;
                files.insert(file.source.clone(), contents.add(&bytes));
            }
        }
        ssh_keys.insert(name.clone(), read_keys(name, group, &place)?);
    }
    let intent = Intent { topology, files, ssh_keys };
    match intent.too_large() {
        Some(because) => Err(Error::new(Kind::Invalid, "the files of the topology are too large")
            .because(because)
            .next("put large content into the image, or download it in `setup`")),
        None => Ok(Parcel { intent, contents }),
    }
}

fn read_keys(name: &Name, group: &Group, place: impl Fn(&str) -> PathBuf) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    for entry in &group.ssh_keys {
        if is_key(entry) {
            keys.push(entry.trim().to_owned());
            continue;
        }
        let path = place(entry);
        let text = read_text(&path, MAX_KEY_BYTES)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            if !is_key(line) {
                // The line itself is not told: it may be a private key.
                return Err(Error::new(Kind::Invalid, format!("{} is no public key", path.display()))
                    .because(format!("machines.{name}.ssh_keys names it, and it holds other lines than keys"))
                    .next("name the file that ends with .pub"));
            }
            keys.push(line.to_owned());
        }
    }
    Ok(keys)
}

fn is_key(text: &str) -> bool {
    let kind = text.split_whitespace().next().unwrap_or_default();
    text.split_whitespace().nth(1).is_some()
        && (kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-") || kind.starts_with("sk-"))
}

fn place(name: &str, beside: &Path, home: Option<&Path>) -> PathBuf {
    match (name.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => beside.join(name),
    }
}

fn read_text(path: &Path, most: usize) -> Result<String, Error> {
    as_text(path, file::read(path, most)?)
}

fn as_text(path: &Path, bytes: Vec<u8>) -> Result<String, Error> {
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::new(Kind::Invalid, format!("{} is no text", path.display())).because("it is not UTF-8")
    })?;
    Ok(value::unmarked(text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::topology::{Egress, Failover, FileSpec, ImageRef, Place, Restart};

    use super::*;

    fn topology(files: &[&str], ssh_keys: &[&str]) -> Topology {
        let spec = |source: &&str| {
            let spec = FileSpec { source: source.to_string(), mode: 0o644, owner: None };
            (format!("/etc/{}", source.replace('/', "-")), spec)
        };
        let group = Group {
            image: ImageRef::Named("tiny".into()),
            cpus: 1,
            memory_mib: 128,
            disk_mib: None,
            count: 1,
            role: None,
            needs: Default::default(),
            failover: Failover::Hold,
            restart: Restart::Always,
            place: Place::default(),
            setup: Vec::new(),
            files: files.iter().map(spec).collect(),
            env: Default::default(),
            ssh_keys: ssh_keys.iter().map(|key| key.to_string()).collect(),
            user: None,
            services: Default::default(),
            egress: Egress::None,
        };
        Topology { session: "shop".parse().unwrap(), groups: [("web".parse().unwrap(), group)].into() }
    }

    #[test]
    fn files_and_keys_are_read_beside_the_topology_and_at_home() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        fs::write(dir.path().join("app.toml"), b"x = 1\n\xff").unwrap();
        let keys = "\u{feff}# mine\r\nssh-ed25519 AAAA me@home\r\n\nssh-rsa BBBB\n";
        fs::write(dir.path().join("home/id.pub"), keys).unwrap();
        fs::write(dir.path().join("marked.pub"), "\u{feff}ssh-rsa DDDD\n").unwrap();
        let home = dir.path().join("home");
        let made =
            complete(topology(&["app.toml"], &["~/id.pub", "ssh-ed25519 CCCC you", "marked.pub"]), |name| {
                place(name, dir.path(), Some(&home))
            });
        let Parcel { intent, contents } = made.unwrap();
        let bytes = contents.get(&intent.files["app.toml"]).unwrap();
        assert_eq!(bytes[..], b"x = 1\n\xff"[..]);
        let keys = &intent.ssh_keys[&"web".parse::<Name>().unwrap()];
        assert_eq!(
            *keys,
            ["ssh-ed25519 AAAA me@home", "ssh-rsa BBBB", "ssh-ed25519 CCCC you", "ssh-rsa DDDD"]
        );
    }

    #[test]
    fn what_cannot_be_used_is_told_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("id"), "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n").unwrap();
        fs::write(dir.path().join("large"), vec![0; MAX_FILE_BYTES + 1]).unwrap();
        let kind = |files: &[&str], keys: &[&str]| {
            let error = complete(topology(files, keys), |name| dir.path().join(name)).unwrap_err();
            assert!(!super::super::ui::in_words(&error).contains("c2VjcmV0"));
            error.kind
        };
        assert_eq!(kind(&["missing"], &[]), Kind::Failed);
        assert_eq!(kind(&["large"], &[]), Kind::Invalid);
        assert_eq!(kind(&[], &["id"]), Kind::Invalid);
    }
}
