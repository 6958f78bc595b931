//! What hosts that are out of the mesh will never say: that what they had to remove is gone. The coordinator writes it
//! off in their place, by the operator's word that put them out. One entry at a time, and a pause after one that failed.

use std::collections::BTreeSet;

use super::Effect;
use crate::{id::HostId, session::State, time::Moment};

/// Pause after an entry that was not written: as long as a quorum may take to come back.
const AGAIN_MS: u64 = 5_000;

/// The entries of one session, one at a time.
#[derive(Clone, Debug)]
pub(super) struct Releases {
    number: u64,
    under_way: bool,
    not_before: Moment,
}

impl Releases {
    /// None yet.
    pub fn new(now: Moment) -> Releases {
        Releases { number: 0, under_way: false, not_before: now }
    }

    /// Says what is to be written off now, if anything is.
    pub fn due(&mut self, state: &State, out: &BTreeSet<HostId>, now: Moment) -> Option<Effect> {
        if self.under_way || now < self.not_before {
            return None;
        }
        let mut drops =
            state.drops.iter().flat_map(|(machine, drops)| drops.iter().map(move |drop| (machine, drop)));
        let (machine, drop) = drops.find(|(_, drop)| out.contains(&drop.host))?;
        self.under_way = true;
        self.number += 1;
        let (release, machine) = (self.number, machine.clone());
        Some(Effect::Release { release, machine, host: drop.host, epoch: drop.epoch })
    }

    /// Takes note of how one ended.
    pub fn ended(&mut self, number: u64, well: bool, now: Moment) {
        if !self.under_way || number != self.number {
            return;
        }
        self.under_way = false;
        if !well {
            self.not_before = now.plus_ms(AGAIN_MS);
        }
    }

    /// Gives up the one that is under way: another host leads.
    pub fn abandon(&mut self) {
        self.under_way = false;
    }
}
