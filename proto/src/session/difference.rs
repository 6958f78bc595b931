//! What changed between two topologies for one group, by the file's keys.

use crate::{reasons::Setting, topology::Group};

/// Lists the settings of the virtual hardware that change: the machine restarts on its disk.
pub fn in_place(was: &Group, is: &Group) -> Vec<Setting> {
    let mut changes = Vec::new();
    if was.cpus != is.cpus {
        changes.push(Setting::Cpus { was: was.cpus, is: is.cpus });
    }
    if was.memory_mib != is.memory_mib {
        changes.push(Setting::Memory { was_mib: was.memory_mib, is_mib: is.memory_mib });
    }
    changes
}
