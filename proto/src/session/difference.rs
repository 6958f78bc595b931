//! What changed between two topologies for one group, in the user's own words (the file's keys).

use crate::topology::Group;

/// Says which settings of the virtual hardware change, if any: the machine restarts on its disk.
pub fn in_place(was: &Group, is: &Group) -> Option<String> {
    let mut changes = Vec::new();
    if was.cpus != is.cpus {
        changes.push(format!("cpus {} -> {}", was.cpus, is.cpus));
    }
    if was.memory_mib != is.memory_mib {
        changes.push(format!("memory {} -> {} MiB", was.memory_mib, is.memory_mib));
    }
    (!changes.is_empty()).then(|| changes.join(", "))
}
