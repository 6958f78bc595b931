//! Worlds in which not every host runs the same program: some are older, some of those are upgraded while they are
//! needed, and one joins when sessions run already.

use proto::{
    id::HostId,
    level::{LEVEL, Level},
    random::Random,
};

use super::{Event, World, fault::Fault};

impl World {
    /// Draws who runs an older program, who is upgraded, and who joins late, within so many milliseconds.
    pub(super) fn draw_levels(&mut self, seed: u64, within_ms: u64) {
        // A chance of its own, so that other trouble does not depend on it.
        let mut random = Random::new(seed ^ 0x1e7e_1000);
        if !random.chance(40) {
            return;
        }
        let ids: Vec<HostId> = self.hosts.keys().copied().collect();
        let late = ids.last().copied().filter(|_| ids.len() > 3 && random.chance(60));
        for id in ids {
            if Some(id) == late {
                self.keep_out(id);
                let joins = random.between(1_500, within_ms);
                self.after(joins, Event::Fault(Fault::Joins(id)));
            }
            if random.chance(if Some(id) == late { 70 } else { 30 }) {
                if let Some(host) = self.hosts.get_mut(&id) {
                    host.level = Level::FIRST;
                }
                let upgraded = random.between(1_500, within_ms);
                if random.chance(60) {
                    self.after(upgraded, Event::Fault(Fault::Upgraded(id)));
                }
            }
        }
    }

    /// Makes a host one that is still to join.
    fn keep_out(&mut self, id: HostId) {
        self.names.remove(&id);
        if let Some(host) = self.hosts.get_mut(&id) {
            host.agent = None;
        }
    }

    /// A host becomes a member.
    pub(super) fn join(&mut self, id: HostId) {
        let Some(host) = self.hosts.get(&id) else { return };
        let (name, level) = (host.name.clone(), host.level);
        self.names.insert(id, name);
        self.tell(Some(id), || format!("joins, of level {level}"));
        self.start_agent(id);
    }

    /// A host's program is replaced by the newest one; its agent starts anew if it runs, its machines go on.
    pub(super) fn upgrade(&mut self, id: HostId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.level = LEVEL;
        let runs = host.agent.is_some();
        self.tell(Some(id), || format!("has a program of level {LEVEL}"));
        if runs {
            self.restart(id);
        }
    }
}
