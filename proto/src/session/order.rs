//! Who may start now. `needs` means ready: a machine waits until every machine of the groups it
//! needs is ready, save those that the user stopped, and at least one is. Machines that need nothing
//! of each other start side by side.

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
        let wanted: Vec<_> = machines.unwrap_or_default().iter().filter(|entry| entry.run).collect();
        wanted.is_empty() || wanted.iter().any(|entry| !ready(&entry.machine))
    };
    group.needs.iter().filter(unready).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        Command,
        fixture::{command, created, host_id, up},
        slice,
    };

    fn check(stopped: &[&str], ready: &[&str], waits: &str) {
        let state = up(created(), "app 1 256 needs=db,web\ndb 1 256\nweb 2 256 needs=db", "nas 9000 image");
        let stop =
            |state, name: &&str| command(state, Command::Wish { machine: name.parse().unwrap(), run: false });
        let state = stopped.iter().fold(state, stop);
        let directory = slice::share(&state, host_id("nas")).directory;
        let ready = |machine: &MachineName| ready.contains(&machine.to_string().as_str());
        let names = waits_for(&directory, &"app-1".parse().unwrap(), ready);
        assert_eq!(names.iter().map(Name::as_str).collect::<Vec<_>>().join(" "), waits);
    }

    #[test]
    fn a_machine_waits_for_every_machine_of_every_group_it_needs() {
        check(&[], &[], "db web");
        check(&[], &["db-1", "web-1"], "web");
        check(&[], &["db-1", "web-1", "web-2"], "");
    }

    #[test]
    fn what_the_user_stopped_is_not_waited_for_while_another_one_is_ready() {
        check(&["web-2"], &["db-1", "web-1"], "");
        check(&["web-1", "web-2"], &["db-1"], "web");
    }
}
