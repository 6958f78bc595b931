//! Who reaches whom: sides of a partition, lost messages, delays. A model, so that a seed says all.

use std::collections::BTreeMap;

use proto::id::HostId;

use proto::random::Random;

/// The network between the hosts.
#[derive(Clone, Debug, Default)]
pub struct Net {
    /// The side of each host while there is a partition; hosts on one side reach each other.
    sides: BTreeMap<HostId, u8>,
    /// Messages lost, in per cent.
    pub loss: u64,
}

impl Net {
    /// Cuts the network: hosts of different sides do not reach each other.
    pub fn cut(&mut self, sides: BTreeMap<HostId, u8>) {
        self.sides = sides;
    }

    /// Makes everything reachable and lossless.
    pub fn heal(&mut self) {
        *self = Net::default();
    }

    /// Tells whether a message may pass.
    pub fn connected(&self, a: HostId, b: HostId) -> bool {
        let side = |host| self.sides.get(&host).copied().unwrap_or(0);
        a == b || side(a) == side(b)
    }

    /// Draws the delay of one message in milliseconds; `None` = lost.
    pub fn delay(&self, random: &mut Random) -> Option<u64> {
        let lost = random.chance(self.loss);
        // Mostly quick, now and then slow enough to overtake nothing and be overtaken by much.
        let late = if random.chance(5) { 1500 } else { 40 };
        let delay = random.between(1, late);
        (!lost).then_some(delay)
    }
}
