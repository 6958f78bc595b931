//! Where members are and ever were, on disk: when every host of a mesh starts again at once, this is
//! how they find each other without a token. Beside it what each understands, for as long as it is away.

use std::{collections::BTreeMap, io, path::PathBuf};

use minicbor::{Decode, Encode};
use proto::{
    id::HostId,
    level::Level,
    limits::MAX_RPC_BYTES,
    reachability::ways::Known,
    trust::Bootstrap,
    wire::{self, Kind, Message, record::Reach},
};

use crate::disk;

/// The file.
#[derive(Default, PartialEq, Encode, Decode)]
#[cbor(map)]
pub(crate) struct Places {
    #[n(0)]
    pub(crate) known: BTreeMap<HostId, Known>,
}

impl Message for Places {
    const KIND: Kind = Kind::Places;
}

/// Remembered ways to members.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    known: BTreeMap<HostId, Known>,
}

impl Cache {
    /// Reads the file; a damaged one is as good as none, the hosts are found by others' records.
    pub(crate) fn load(data: &std::path::Path) -> Cache {
        let path = data.join("mesh/addresses");
        let bytes = disk::read(&path).ok().flatten().unwrap_or_default();
        let Places { known } = wire::decode(&bytes, MAX_RPC_BYTES).unwrap_or_default();
        Cache { path, known }
    }

    /// Gives all that is known.
    pub(crate) fn known(&self) -> &BTreeMap<HostId, Known> {
        &self.known
    }

    /// Takes what members say now; hosts that say nothing keep their old entry. Writes on change.
    pub(crate) fn update(
        &mut self,
        said: BTreeMap<HostId, Reach>,
        is_member: impl Fn(&HostId) -> bool,
    ) -> io::Result<()> {
        self.change(|known| {
            for (host, reach) in said.into_iter().filter(|(host, _)| is_member(host)) {
                known.entry(host).or_default().say(reach);
            }
            known.retain(|host, _| is_member(host));
        })
    }

    /// Takes what members understand, as they tell it now. Writes on change.
    pub(crate) fn told(&mut self, levels: impl IntoIterator<Item = (HostId, Level)>) -> io::Result<()> {
        self.change(|known| {
            for (host, level) in levels {
                known.entry(host).or_default().level = Some(level);
            }
        })
    }

    /// Gives what members understand, as each told last.
    pub(crate) fn levels(&self) -> BTreeMap<HostId, Level> {
        self.known.iter().filter_map(|(host, known)| Some((*host, known.level?))).collect()
    }

    /// Notes where members are connected. Writes on change.
    pub(crate) fn prove(
        &mut self,
        held: impl IntoIterator<Item = (HostId, std::net::SocketAddr)>,
    ) -> io::Result<()> {
        self.change(|known| {
            for (host, address) in held {
                known.entry(host).or_default().prove(address);
            }
        })
    }

    /// Takes a token's word on members. Writes on change.
    pub(crate) fn hint(
        &mut self,
        entries: &[Bootstrap],
        is_member: impl Fn(&HostId) -> bool,
    ) -> io::Result<()> {
        self.change(|known| {
            for entry in entries.iter().filter(|entry| is_member(&entry.host)) {
                known.entry(entry.host).or_default().hint(entry);
            }
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeMap<HostId, Known>)) -> io::Result<()> {
        let mut next = self.known.clone();
        change(&mut next);
        if next == self.known {
            return Ok(());
        }
        self.known = next;
        disk::replace(&self.path, &wire::encode(&Places { known: self.known.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use proto::level::LEVEL;

    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_a_damaged_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mesh")).unwrap();
        let file = dir.path().join("mesh/addresses");
        let (host, address) = (HostId([3; 32]), "192.168.1.2:7440".parse().unwrap());
        let reach = Reach { addresses: vec![address], ..Reach::default() };
        let mut cache = Cache::load(dir.path());
        cache.update([(host, reach.clone())].into(), |_| true).unwrap();
        let mut cache = Cache::load(dir.path());
        assert_eq!(cache.known()[&host], Known { reach, proved: vec![address], level: None });
        cache.told([(host, LEVEL)]).unwrap();
        assert_eq!(Cache::load(dir.path()).levels(), [(host, LEVEL)].into());
        cache.told([(host, Level::FIRST)]).unwrap();
        assert_eq!(Cache::load(dir.path()).levels(), [(host, Level::FIRST)].into(), "told is not unheard");
        cache.prove([(host, "10.0.0.1:7440".parse().unwrap())]).unwrap();
        assert_eq!(Cache::load(dir.path()).known()[&host].proved.len(), 2);
        for damaged in [&b""[..], b"\xff\xff\xff\xff\xff", b"no addresses at all, but text"] {
            std::fs::write(&file, damaged).unwrap();
            assert!(Cache::load(dir.path()).known().is_empty());
        }
    }
}
