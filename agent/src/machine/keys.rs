//! The keys by which a machine is entered. They are made with its disk, lie beside it and are given to nobody: whoever
//! logs in asks this host to sign what the machine's ssh server asks.

use std::{fs, io, path::Path};

use minicbor::{Decode, Encode};
use proto::{
    seal::{Seed, Sig},
    wire::{Kind, Message, rpc::LoginKeys},
};

use super::{openssh, record};

const FILE: &str = "keys";

/// Both ends of a login.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Keys {
    /// Of whoever logs in.
    #[n(0)]
    pub login: Seed,
    /// Of the machine's ssh server.
    #[n(1)]
    pub host: Seed,
}

impl Message for Keys {
    const KIND: Kind = Kind::MachineKeys;
}

impl Keys {
    /// Gives what others may know.
    pub fn public(&self) -> LoginKeys {
        LoginKeys { login: self.login.public(), host: self.host.public() }
    }

    /// Signs what an ssh server asks, and nothing else.
    pub fn sign(&self, question: &[u8]) -> Option<Sig> {
        openssh::is_login(question, &self.login.public()).then(|| openssh::sign(&self.login, question))
    }
}

/// Makes the keys of a machine whose disk is about to be made; without `own` it is entered by its session's.
pub fn make(dir: &Path, own: bool) -> io::Result<()> {
    let path = dir.join(FILE);
    if own {
        let keys = Keys { login: Seed(rand::random()), host: Seed(rand::random()) };
        return record::store(&path, &keys);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Tells whether the machine in `dir` has a disk, with which it got keys or did not.
pub fn is_made(dir: &Path) -> bool {
    record::Paths::new(dir, Path::new("")).disk().exists()
}

/// Gives the keys of the machine in `dir`; `None` = it is entered by its session's.
pub fn of(dir: &Path) -> io::Result<Option<Keys>> {
    record::load(&dir.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_of_one_disk_and_another_one_has_others_or_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(dir.path()).unwrap(), None);
        make(dir.path(), true).unwrap();
        let first = of(dir.path()).unwrap().unwrap();
        assert_ne!(first.login, first.host);
        make(dir.path(), true).unwrap();
        assert_ne!(of(dir.path()).unwrap(), Some(first));
        make(dir.path(), false).unwrap();
        assert_eq!(of(dir.path()).unwrap(), None);
        fs::write(dir.path().join(FILE), b"short").unwrap();
        assert_eq!(of(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
