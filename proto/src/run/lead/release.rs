//! What hosts that are out of the mesh will never say: that what they had to remove is gone. The coordinator writes it
//! off in their place, by the operator's word that put them out.

use std::collections::BTreeSet;

use crate::{
    id::{Epoch, HostId, MachineName},
    session::State,
};

/// Says what is to be written off now, if anything is.
pub(super) fn due(state: &State, out: &BTreeSet<HostId>) -> Option<(MachineName, HostId, Epoch)> {
    let mut drops =
        state.drops.iter().flat_map(|(machine, drops)| drops.iter().map(move |drop| (machine, drop)));
    let (machine, drop) = drops.find(|(_, drop)| out.contains(&drop.host))?;
    Some((machine.clone(), drop.host, drop.epoch))
}
