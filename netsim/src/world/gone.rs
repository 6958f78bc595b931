//! Worlds in which a host is lost for good while sessions run, and an operator says so: its machines may be placed
//! elsewhere, and nobody waits for it.

use proto::{
    id::{HostId, SessionId},
    level::LEVEL,
    random::Random,
};

use super::{Event, World, fault::Fault, host::Host};

impl World {
    /// Draws who is lost, within so many milliseconds.
    pub(super) fn draw_gone(&mut self, seed: u64, within_ms: u64) {
        // A chance of its own, so that other trouble does not depend on it.
        let mut random = Random::new(seed ^ 0x607e_0000);
        // Where somebody runs an older program, machines of a lost host stay where they were.
        if !random.chance(30) || self.hosts.values().any(|host| host.level < LEVEL) {
            return;
        }
        // The first one has the image, and is where users ask last.
        let others: Vec<HostId> = self.hosts.keys().copied().skip(1).collect();
        for _ in 0..random.between(1, 3) {
            let Some(id) = random.pick(&others) else { return };
            let goes = random.between(3_500, within_ms);
            self.after(goes, Event::Fault(Fault::Gone(id)));
        }
    }

    /// A host is lost, unless a session's quorum would be lost with it: that no rule can mend.
    pub(super) fn goes(&mut self, id: HostId) {
        let kept = self.sessions().into_iter().all(|session| self.survives_without(id, session));
        let heard = self.staying().find(|host| host.on && host.id != id).map(|host| host.id);
        let (Some(heard), true) = (heard, kept && self.names.contains_key(&id)) else { return };
        if !self.gone.insert(id) {
            return;
        }
        let Some(host) = self.hosts.get_mut(&id) else { return };
        (host.on, host.agent) = (false, None);
        host.shims.clear();
        self.history.lost_power(id);
        self.tell(Some(id), || "is lost for good, and put out of the mesh".into());
        if let Some(host) = self.hosts.get_mut(&heard) {
            host.disk.out.insert(id);
        }
    }

    /// Tells whether most of a session's voters have its log without this host.
    pub(super) fn survives_without(&self, id: HostId, session: SessionId) -> bool {
        let Some(quorum) = self.quorums.get(&session) else { return true };
        let has = |(node, host): &(&u64, &HostId)| {
            let log = self.hosts.get(host).and_then(|host| host.disk.logs.get(&session));
            let whole = log.is_some_and(|log| log.node == **node && log.state == quorum.committed);
            **host != id && !self.gone.contains(host) && whole
        };
        quorum.voters.iter().filter(has).count() * 2 > quorum.voters.len()
    }

    /// Lists the hosts that are not lost.
    pub(super) fn staying(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values().filter(|host| !self.gone.contains(&host.id))
    }
}
