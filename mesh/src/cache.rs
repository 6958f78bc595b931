//! Where members were last reached, on disk: when every host of a mesh starts again at once, this is
//! how they find each other without a token.

use std::{collections::BTreeMap, io, path::PathBuf};

use proto::{id::HostId, wire::record::Reach};

use crate::disk;

/// Remembered ways to members.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    known: BTreeMap<HostId, Reach>,
}

impl Cache {
    /// Reads the file; a damaged one is as good as none, the hosts are found by others' records.
    pub(crate) fn load(data: &std::path::Path) -> Cache {
        let path = data.join("mesh/addresses");
        let bytes = disk::read(&path).ok().flatten();
        let known = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok()).unwrap_or_default();
        Cache { path, known }
    }

    /// Gives all that is known.
    pub(crate) fn known(&self) -> &BTreeMap<HostId, Reach> {
        &self.known
    }

    /// Takes what members say now; hosts that say nothing keep their old entry. Writes on change.
    pub(crate) fn update(
        &mut self,
        said: BTreeMap<HostId, Reach>,
        is_member: impl Fn(&HostId) -> bool,
    ) -> io::Result<()> {
        let mut next = self.known.clone();
        // A host that has no address at the moment, such as a laptop without network, keeps its last.
        next.extend(
            said.into_iter().filter(|(_, reach)| !reach.addresses.is_empty() || !reach.relays.is_empty()),
        );
        next.retain(|host, _| is_member(host));
        if next == self.known {
            return Ok(());
        }
        self.known = next;
        disk::replace(&self.path, &proto::seal::encode(&self.known))
    }
}
