//! What changed between two topologies for one group, by the file's keys.

use crate::{reasons::Resized, topology::Group};

/// Lists the settings of the virtual hardware that change: the machine restarts on its disk.
pub fn in_place(was: &Group, is: &Group) -> Vec<Resized> {
    let mut changes = Vec::new();
    if was.cpus != is.cpus {
        changes.push(Resized::Cpus { was: was.cpus, is: is.cpus });
    }
    if was.memory_mib != is.memory_mib {
        changes.push(Resized::Memory { was_mib: was.memory_mib, is_mib: is.memory_mib });
    }
    if was.egress != is.egress {
        changes.push(Resized::Egress { was: was.egress, is: is.egress });
    }
    changes
}
