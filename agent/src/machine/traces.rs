//! How the processes of a machine are recognised among all of a computer. Pure: command lines in, traces
//! out. A directory can be copied, replaced or lost while its machine runs; a command line cannot, so
//! shim and QEMU carry on theirs whose they are.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use proto::id::{Epoch, MachineName, SessionId};

/// One incarnation of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The session.
    pub session: SessionId,
    /// The machine.
    pub machine: MachineName,
    /// The incarnation.
    pub epoch: Epoch,
}

impl Who {
    /// Gives the uuid of this incarnation, by which QEMU is recognised.
    pub fn uuid(&self) -> String {
        let label = format!("{} {} {}", self.session, self.machine, self.epoch);
        let hash = blake3::derive_key("mesh machine uuid 1", label.as_bytes());
        let mut bytes = [0_u8; 16];
        bytes.copy_from_slice(&hash[..16]);
        // Version 8, variant 1 of RFC 9562: "vendor specific".
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// What stands on a command line: whose process it is, and which directory it was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose.
    pub who: Who,
    /// The session's label, for people only.
    pub label: String,
    /// The directory, as the first part of its sockets' names.
    pub place: String,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Who { session, machine, epoch } = &self.who;
        write!(f, "{machine}.{}.{session}.{epoch}.{}", self.label, self.place)
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Mark, ()> {
        let [machine, label, session, epoch, place] = text.split('.').collect::<Vec<_>>()[..] else {
            return Err(());
        };
        let who = Who {
            session: session.parse().map_err(|_| ())?,
            machine: machine.parse().map_err(|_| ())?,
            epoch: Epoch(epoch.parse().map_err(|_| ())?),
        };
        Ok(Mark { who, label: label.to_owned(), place: place.to_owned() })
    }
}

/// What a process is to its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The shim, and the directory that it was started for.
    Shim(PathBuf),
    /// QEMU, or the shim's child that is about to become it.
    Qemu,
}

/// A process of some machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it is.
    pub role: Role,
    /// Whose.
    pub mark: Mark,
}

/// Which processes of a machine are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This incarnation wherever it was started, and any other one of this directory: whatever stands in
    /// the way of a start.
    Any,
    /// This incarnation wherever it was started, and older ones of this directory: what must go with it.
    UpTo,
}

impl Trace {
    /// Tells whether it is meant by `who` in the directory of `place`.
    pub fn is(&self, who: &Who, place: &str, scope: Scope) -> bool {
        let (theirs, here) = (&self.mark.who, self.mark.place == place);
        let of_this_place = match scope {
            Scope::Any => here,
            Scope::UpTo => here && theirs.epoch <= who.epoch,
        };
        (&theirs.session, &theirs.machine) == (&who.session, &who.machine)
            && (theirs.epoch == who.epoch || of_this_place)
    }
}

/// Reads a command line as `/proc/PID/cmdline` has it: words that end with a zero byte.
pub fn read(line: &[u8]) -> Option<Trace> {
    let words: Vec<&str> =
        line.split(|byte| *byte == 0).filter_map(|w| std::str::from_utf8(w).ok()).collect();
    if let [_, "shim", dir, _, mark, ..] = words[..]
        && let Ok(mark) = mark.parse()
    {
        return Some(Trace { role: Role::Shim(Path::new(dir).to_owned()), mark });
    }
    let after = |flag: &str| words.iter().skip_while(|word| **word != flag).nth(1);
    let mark: Mark = after("-name")?.split(',').next()?.parse().ok()?;
    (**after("-uuid")? == mark.who.uuid()).then_some(Trace { role: Role::Qemu, mark })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(epoch: u64) -> Who {
        Who { session: SessionId([3; 16]), machine: "web-1".parse().unwrap(), epoch: Epoch(epoch) }
    }

    fn line(words: &[&str]) -> Vec<u8> {
        words.iter().flat_map(|word| word.bytes().chain([0])).collect()
    }

    fn mark(epoch: u64, place: &str) -> String {
        Mark { who: who(epoch), label: "shop".into(), place: place.into() }.to_string()
    }

    fn qemu(epoch: u64, place: &str) -> Trace {
        let name = format!("{},debug-threads=on", mark(epoch, place));
        let uuid = who(epoch).uuid();
        read(&line(&["/usr/bin/qemu-system-x86_64", "-S", "-name", &name, "-uuid", &uuid, "-m", "1"]))
            .unwrap()
    }

    #[test]
    fn shim_and_qemu_are_known_by_their_marks() {
        let found = read(&line(&["agent", "shim", "/data/web-1", "/run/a", &mark(2, "abc")])).unwrap();
        assert_eq!(found.role, Role::Shim("/data/web-1".into()));
        assert_eq!((found.mark.who, found.mark.place.as_str()), (who(2), "abc"));
        assert_eq!((qemu(2, "abc").role, qemu(2, "abc").mark.who), (Role::Qemu, who(2)));
        // The shim's child before it becomes QEMU.
        let name = mark(1, "abc");
        let child =
            line(&["/proc/self/exe", "shim", "exec", "7", "/q", "-name", &name, "-uuid", &who(1).uuid()]);
        assert_eq!(read(&child).unwrap().role, Role::Qemu);
    }

    #[test]
    fn others_and_forgeries_are_nobody() {
        let name = mark(1, "abc");
        let other = who(2).uuid();
        for words in [
            &["", "", ""][..],
            &["agent", "run"],
            &["agent", "shim", "/d", "/r", "web-1"],
            &["qemu-system-x86_64", "-name", &name],
            &["qemu-system-x86_64", "-name", &name, "-uuid", &other],
            &["qemu-system-x86_64", "-name", "web-1.shop.x.1.abc", "-uuid", &other],
            &["qemu-system-x86_64", "-uuid"],
        ] {
            assert_eq!(read(&line(words)), None, "{words:?}");
        }
        assert_eq!(read(b"\xff\0\xfe"), None);
    }

    #[test]
    fn the_same_incarnation_counts_anywhere_another_one_only_in_its_directory() {
        let is = |epoch, place, scope| qemu(epoch, place).is(&who(2), "here", scope);
        for scope in [Scope::Any, Scope::UpTo] {
            assert!(is(2, "here", scope) && is(2, "there", scope) && is(1, "here", scope));
            assert!(!is(1, "there", scope), "another host's, or an older one's that went elsewhere");
        }
        assert!(is(3, "here", Scope::Any) && !is(3, "here", Scope::UpTo));
        let other = Who { machine: "web-2".parse().unwrap(), ..who(2) };
        assert!(!qemu(2, "here").is(&other, "here", Scope::Any));
    }
}
