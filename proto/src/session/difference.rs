//! What changed between two topologies for one group, in the user's own words (the file's keys).
//! Content changes replace a machine; others are made in place.

use crate::{
    id::Name,
    topology::{Group, Intent},
};

/// Names the keys whose change gives the machines of a group new disks.
pub fn content(old: Option<&Intent>, new: &Intent, name: &Name) -> String {
    let groups = |intent: &Intent| intent.topology.groups.get(name).cloned();
    let (Some(old), Some(was), Some(is)) = (old, old.and_then(groups), groups(new)) else {
        return "everything".into();
    };
    let files = |intent: &Intent, group: &Group| -> Vec<_> {
        let content = |(path, file): (&String, &crate::topology::FileSpec)| {
            (path.clone(), file.clone(), intent.files.get(&file.source).cloned())
        };
        group.files.iter().map(content).collect()
    };
    let changed = [
        ("disk", was.disk_mib != is.disk_mib),
        ("setup", was.setup != is.setup),
        ("files", files(old, &was) != files(new, &is)),
        ("env", was.env != is.env),
        ("ssh_keys", old.ssh_keys.get(name) != new.ssh_keys.get(name)),
        ("user", was.user != is.user),
    ];
    let mut keys: Vec<&str> = changed.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect();
    // The same name may stand for a newer image, so the keys alone do not tell.
    if was.image != is.image || keys.is_empty() {
        keys.insert(0, "image");
    }
    keys.join(", ")
}

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
