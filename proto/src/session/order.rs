//! Who may start now. `needs` means ready: a machine waits until every machine of the groups it
//! needs is ready. Machines that need nothing of each other start side by side.

use crate::{
    id::{MachineName, Name},
    session::Directory,
};

/// Lists the groups that a machine still waits for, in the order of their names; empty = go.
pub fn waits_for(
    directory: &Directory,
    machine: &MachineName,
    ready: impl Fn(&MachineName) -> bool,
) -> Vec<Name> {
    let Some(group) = directory.groups.get(&machine.group) else { return Vec::new() };
    let unready = |name: &&Name| {
        let machines = directory.groups.get(*name).map(|group| group.machines.as_slice());
        machines.unwrap_or_default().iter().any(|entry| !ready(&entry.machine))
    };
    group.needs.iter().filter(unready).cloned().collect()
}
