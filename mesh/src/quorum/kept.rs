//! What each other voter must have: committed entries that it acknowledged, or that it committed itself
//! while it led. A voter that lacks one of them was given an older copy of its store. What it promised
//! since then is forgotten there, so it may not go on under its id: it comes back as a new one, which
//! learns first. Nothing here sends, and nothing is stored: who has seen nothing accuses nobody.
//! Only committed entries count, because no voter ever takes back one of those.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::LogId;
use tokio::sync::watch;

/// What this voter has seen of the others. Clones share it.
#[derive(Clone)]
pub(super) struct Kept {
    last: Arc<Mutex<BTreeMap<u64, LogId<u64>>>>,
    outdated: watch::Sender<BTreeSet<u64>>,
}

impl Kept {
    pub(super) fn new() -> Kept {
        Kept { last: Arc::default(), outdated: watch::Sender::new(BTreeSet::new()) }
    }

    /// Notes that a voter has everything up to `last`, while everything up to `committed` was committed.
    pub(super) fn has(&self, node: u64, last: Option<LogId<u64>>, committed: Option<LogId<u64>>) {
        let Some(sure) = last.min(committed) else { return };
        let mut kept = self.kept();
        let old = kept.entry(node).or_insert(sure);
        *old = sure.max(*old);
    }

    /// Tells whether a voter that does not have `log` once had it, and remembers that.
    pub(super) fn lacks(&self, node: u64, log: Option<LogId<u64>>) -> bool {
        let outdated = log.is_some() && self.kept().get(&node).copied() >= log;
        self.accuse(node, outdated)
    }

    /// The same for one that says that it has nothing beyond `last`.
    pub(super) fn ends_early(&self, node: u64, last: Option<LogId<u64>>) -> bool {
        let outdated = self.kept().get(&node).copied() > last;
        self.accuse(node, outdated)
    }

    /// Shows the voters whose store is older than what they acknowledged.
    pub(super) fn outdated(&self) -> watch::Receiver<BTreeSet<u64>> {
        self.outdated.subscribe()
    }

    /// Forgets those that the group names no more: node ids never come back.
    pub(super) fn keep_only(&self, named: &BTreeSet<u64>) {
        self.kept().retain(|node, _| named.contains(node));
        self.outdated.send_if_modified(|outdated| {
            let before = outdated.len();
            outdated.retain(|node| named.contains(node));
            outdated.len() < before
        });
    }

    fn accuse(&self, node: u64, outdated: bool) -> bool {
        if outdated {
            self.outdated.send_if_modified(|all| all.insert(node));
        }
        outdated
    }

    /// The map is valid after every statement, so a panic elsewhere leaves it so.
    fn kept(&self) -> MutexGuard<'_, BTreeMap<u64, LogId<u64>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
