//! Where a member may be. What it says of itself, what a token says of it, where it was met on the LAN, and every
//! address at which it ever was: two hosts that moved while they did not hear each other meet at one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use minicbor::{Decode, Encode};

use crate::{
    addresses::is_public, id::HostId, level::Level, time::Moment, trust::Bootstrap, wire::record::Reach,
};

/// Addresses of one host that are told.
pub const MAX_ADDRESSES: usize = 6;
/// Relays in one record.
pub const MAX_RELAYS: usize = 2;

/// Addresses of one member on LANs that are kept, however old.
const MAX_PROVED_LAN: usize = 10;
/// Public ones; routers give them new ports all the time.
const MAX_PROVED_PUBLIC: usize = 6;
/// One that is among so many newest is left where it is: a host with two networks would be written down all the time.
const SETTLED: usize = 3;
/// Addresses of one member at which it was met on the LAN.
const MAX_SEEN: usize = 4;
/// For so long a place that was taken is not given to another, however many there are.
const SEEN_HELD_MS: u64 = 60_000;
/// How long after it was last met there a place is still tried. Who is missed is looked for every minute, and its
/// address may have gone to another host.
const SEEN_FOR_MS: u64 = 150_000;

/// What is remembered of one member, also on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Known {
    /// What it said last.
    #[n(0)]
    pub reach: Reach,
    /// Where it ever was, the newest first.
    #[n(1)]
    pub proved: Vec<SocketAddr>,
    /// The level that it told last; `None` = it never told one.
    #[n(2)]
    pub level: Option<Level>,
}

impl Known {
    /// Takes what the member says now. One that has no address at the moment, such as a laptop without network,
    /// keeps its last.
    pub fn say(&mut self, reach: Reach) {
        if reach.addresses.is_empty() && reach.relays.is_empty() || self.reach == reach {
            return;
        }
        for address in reach.addresses.iter().take(MAX_ADDRESSES).rev() {
            self.prove(*address);
        }
        self.reach = reach;
    }

    /// Notes that it was at this address.
    pub fn prove(&mut self, address: SocketAddr) {
        let at = self.proved.iter().position(|proved| *proved == address);
        if at.is_some_and(|at| at < SETTLED) {
            return;
        }
        self.proved.retain(|proved| *proved != address);
        self.proved.insert(0, address);
        let (mut lan, mut public) = (0, 0);
        self.proved.retain(|proved| {
            let (count, max) = match is_public(&proved.ip()) {
                true => (&mut public, MAX_PROVED_PUBLIC),
                false => (&mut lan, MAX_PROVED_LAN),
            };
            *count += 1;
            *count <= max
        });
    }

    /// Takes what a token says of the member, before what it said itself.
    pub fn hint(&mut self, entry: &Bootstrap) {
        for address in entry.addresses.iter().rev() {
            self.prove(*address);
        }
        self.reach.addresses = unique(entry.addresses.iter().chain(&self.reach.addresses), MAX_ADDRESSES);
        if let Some(offer) = &entry.relay {
            let old = self.reach.relays.iter().filter(|url| **url != offer.url);
            self.reach.relays = std::iter::once(&offer.url).chain(old).take(MAX_RELAYS).cloned().collect();
            self.reach.serves = Some(offer.clone());
        }
    }
}

fn unique<'a>(addresses: impl Iterator<Item = &'a SocketAddr>, max: usize) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in addresses {
        if found.len() < max && !found.contains(address) {
            found.push(*address);
        }
    }
    found
}

/// How to dial one member now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What is dialled first.
    pub reach: Reach,
    /// What is tried as well when nothing comes of that.
    pub more: Vec<SocketAddr>,
    /// Relays of strangers that are tried then.
    pub foreign: Vec<String>,
}

impl Way {
    /// Tells whether there is anything to dial.
    pub fn leads_somewhere(&self) -> bool {
        let Reach { addresses, relays, serves } = &self.reach;
        !(addresses.is_empty() && relays.is_empty() && serves.is_none() && self.more.is_empty())
    }
}

/// Where members can be reached.
pub type Ways = BTreeMap<HostId, Way>;

/// Puts together how each member is dialled. `held` = at which address a member is connected now.
///
/// Where two members say the same address, as in two homes with the same numbers, whoever answers there ends the dial
/// of the other by its wrong key, whatever other ways there are. So an address goes to whom it holds; of others, what
/// a member says now counts before where somebody once was, and what two say now is tried for want of better only.
pub fn compose(
    known: &BTreeMap<HostId, Known>,
    seen: &Sightings,
    held: &BTreeMap<SocketAddr, HostId>,
    now: Moment,
) -> Ways {
    let mut said: BTreeMap<SocketAddr, BTreeSet<HostId>> = BTreeMap::new();
    for (host, known) in known {
        for address in &known.reach.addresses {
            said.entry(*address).or_default().insert(*host);
        }
    }
    let way = |(host, known): (&HostId, &Known)| {
        let of_another = |address: &SocketAddr| held.get(address).is_some_and(|holder| holder != host);
        let here = seen.of(host, now);
        let told: Vec<SocketAddr> =
            unique(here.iter().chain(&known.reach.addresses), MAX_SEEN + MAX_ADDRESSES);
        let told: Vec<SocketAddr> = told.into_iter().filter(|address| !of_another(address)).collect();
        let is_shared = |address: &SocketAddr| {
            !here.contains(address) && said.get(address).is_some_and(|hosts| hosts.len() > 1)
        };
        let own: Vec<SocketAddr> = told.iter().copied().filter(|address| !is_shared(address)).collect();
        let addresses = if own.is_empty() && known.reach.relays.is_empty() { told } else { own };
        let is_old = |address: &&SocketAddr| {
            !addresses.contains(address) && !of_another(address) && !said.contains_key(address)
        };
        let more = known.proved.iter().filter(is_old).copied().collect();
        (*host, Way { reach: Reach { addresses, ..known.reach.clone() }, more, foreign: Vec::new() })
    };
    let unheard = seen.0.keys().filter(|host| !known.contains_key(*host));
    let nothing = Known::default();
    known.iter().chain(unheard.map(|host| (host, &nothing))).map(way).collect()
}

/// Where members were met on the LAN: a handshake proved who was there. What is only said never comes here, because
/// one wrong key among its places ends the dial of a member.
#[derive(Debug, Default)]
pub struct Sightings(BTreeMap<HostId, Vec<Place>>);

#[derive(Debug)]
struct Place {
    address: SocketAddr,
    first: Moment,
    last: Moment,
}

impl Sightings {
    /// Notes that a member is there. Tells whether that is new. A computer is one place: its newest port counts.
    pub fn note(&mut self, host: HostId, address: SocketAddr, now: Moment) -> bool {
        let places = self.0.entry(host).or_default();
        places.retain(|place| now.since_ms(place.last) < SEEN_FOR_MS);
        if let Some(place) = places.iter_mut().find(|place| place.address.ip() == address.ip()) {
            let is_new = place.address != address;
            (place.address, place.last) = (address, now);
            return is_new;
        }
        if places.len() >= MAX_SEEN {
            // Since it was first met: what is repeated all the time does not stay for ever.
            let oldest = places.iter().enumerate().min_by_key(|(_, place)| place.first);
            match oldest {
                Some((index, place)) if now.since_ms(place.first) >= SEEN_HELD_MS => places.remove(index),
                _ => return false,
            };
        }
        places.insert(0, Place { address, first: now, last: now });
        true
    }

    fn of(&self, host: &HostId, now: Moment) -> Vec<SocketAddr> {
        let places = self.0.get(host).into_iter().flatten();
        places.filter(|place| now.since_ms(place.last) < SEEN_FOR_MS).map(|place| place.address).collect()
    }

    /// Forgets who is no member.
    pub fn keep(&mut self, is_member: impl Fn(&HostId) -> bool) {
        self.0.retain(|host, _| is_member(host));
    }
}

#[cfg(test)]
mod tests {
    use crate::{id::Digest, wire::record::RelayOffer};

    use super::*;

    fn host(byte: u8) -> HostId {
        HostId([byte; 32])
    }

    fn at(text: &str) -> Vec<SocketAddr> {
        text.split_whitespace().map(|ip| SocketAddr::new(ip.parse().unwrap(), 7440)).collect()
    }

    fn reach(text: &str) -> Reach {
        Reach { addresses: at(text), ..Reach::default() }
    }

    fn known(now: &str, once: &str) -> Known {
        Known { reach: reach(now), proved: at(once), level: None }
    }

    fn way(
        known: &[(u8, Known)],
        seen: &Sightings,
        held: &[(&str, u8)],
        of: u8,
    ) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let known = known.iter().map(|(byte, known)| (host(*byte), known.clone())).collect();
        let held = held.iter().map(|(ip, byte)| (at(ip)[0], host(*byte))).collect();
        let way = compose(&known, seen, &held, Moment(1_000_000)).remove(&host(of)).unwrap();
        (way.reach.addresses, way.more)
    }

    #[test]
    fn every_address_that_was_ever_told_is_kept_and_tried() {
        let mut nas = Known::default();
        nas.say(reach("192.168.1.2 203.0.113.9"));
        nas.say(reach("172.17.0.1 172.18.0.1"));
        nas.say(Reach::default());
        assert_eq!(nas.reach, reach("172.17.0.1 172.18.0.1"));
        assert_eq!(nas.proved, at("172.17.0.1 172.18.0.1 192.168.1.2 203.0.113.9"));
        let (first, more) = way(&[(1, nas)], &Sightings::default(), &[], 1);
        assert_eq!((first, more), (at("172.17.0.1 172.18.0.1"), at("192.168.1.2 203.0.113.9")));
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_routers_ports_do_not_push_lans_out() {
        let mut nas = known("", "192.168.1.2");
        for port in 1..100 {
            nas.prove(SocketAddr::new("203.0.113.9".parse().unwrap(), port));
            assert!(nas.proved.contains(&at("192.168.1.2")[0]));
        }
        assert_eq!(nas.proved.len(), 1 + MAX_PROVED_PUBLIC);
        for last in 1..100 {
            nas.prove(SocketAddr::new(format!("192.168.9.{last}").parse().unwrap(), 7440));
        }
        assert_eq!(nas.proved.len(), MAX_PROVED_LAN + MAX_PROVED_PUBLIC);
        let before = nas.proved.clone();
        nas.prove(nas.proved[SETTLED - 1]);
        assert_eq!(nas.proved, before, "two networks in turn write nothing down");
        nas.prove(before[SETTLED]);
        assert_eq!(nas.proved[0], before[SETTLED]);
    }

    #[test]
    fn a_token_is_tried_before_what_was_known() {
        let relay = RelayOffer {
            url: "http://203.0.113.1:7440".into(),
            qad_port: 7441,
            certificate: Digest([1; 32]),
        };
        let mut nas = Known::default();
        nas.say(reach("10.0.0.1 10.0.0.2"));
        nas.hint(&Bootstrap {
            host: host(1),
            addresses: at("10.9.0.1 10.0.0.2"),
            relay: Some(relay.clone()),
        });
        assert_eq!(nas.reach.addresses, at("10.9.0.1 10.0.0.2 10.0.0.1"));
        assert_eq!((&nas.reach.relays, &nas.reach.serves), (&vec![relay.url.clone()], &Some(relay)));
        assert_eq!(nas.proved[..3], at("10.9.0.1 10.0.0.1 10.0.0.2")[..]);
    }

    #[test]
    fn whoever_answers_at_an_address_of_another_does_not_spoil_its_dial() {
        let (none, homes) = (
            Sightings::default(),
            [(1, known("192.168.1.2 10.1.0.1", "")), (2, known("192.168.1.2 10.2.0.1", ""))],
        );
        assert_eq!(way(&homes, &none, &[("192.168.1.2", 1)], 2).0, at("10.2.0.1"));
        assert_eq!(
            way(&homes, &none, &[("192.168.1.2", 1)], 1).0,
            at("10.1.0.1"),
            "it is connected as it is"
        );
        assert_eq!(way(&homes, &none, &[], 2).0, at("10.2.0.1"));
        let alone = [(1, known("192.168.1.2", "")), (2, known("192.168.1.2", ""))];
        assert_eq!(way(&alone, &none, &[], 2).0, at("192.168.1.2"), "there is nothing better");
        let moved = [(1, known("192.168.1.5", "")), (2, known("192.168.1.9", "192.168.1.5 192.168.1.7"))];
        assert_eq!(way(&moved, &none, &[], 2), (at("192.168.1.9"), at("192.168.1.7")));
    }

    #[test]
    fn what_is_seen_on_the_lan_is_tried_first_and_cannot_be_flooded_away() {
        let (mut seen, start) = (Sightings::default(), Moment(1_000_000));
        assert!(seen.note(host(1), at("192.168.7.7")[0], start));
        assert!(!seen.note(host(1), at("192.168.7.7")[0], start));
        assert_eq!(way(&[(1, known("10.0.0.1", ""))], &seen, &[], 1).0, at("192.168.7.7 10.0.0.1"));
        let on = |last: u8, port| SocketAddr::new(format!("192.168.8.{last}").parse().unwrap(), port);
        let more = (0..250).filter(|last| seen.note(host(1), on(*last, 7440), start));
        assert_eq!(more.count(), MAX_SEEN - 1);
        assert!(seen.of(&host(1), start).contains(&at("192.168.7.7")[0]));
        assert!(seen.note(host(1), at("192.168.9.9")[0], start.plus_ms(SEEN_HELD_MS)));
        assert!(seen.of(&host(1), start.plus_ms(SEEN_HELD_MS + SEEN_FOR_MS)).is_empty());
        seen.keep(|_| false);
        assert!(seen.0.is_empty());
    }

    #[test]
    fn one_computer_on_the_lan_is_one_place_and_repeating_does_not_keep_it_for_ever() {
        let (mut seen, start) = (Sightings::default(), Moment(1_000_000));
        let on = |last: u8, port| SocketAddr::new(format!("192.168.8.{last}").parse().unwrap(), port);
        for port in 1..100 {
            assert!(seen.note(host(1), on(1, port), start));
        }
        assert_eq!(seen.of(&host(1), start), [on(1, 99)]);
        for second in 0..SEEN_HELD_MS / 1000 {
            let now = start.plus_ms(second * 1000);
            for last in 1..=4 {
                seen.note(host(1), on(last, 7440), now);
            }
            assert!(!seen.note(host(1), on(9, 7440), now), "after {second} s");
        }
        assert!(seen.note(host(1), on(9, 7440), start.plus_ms(SEEN_HELD_MS)));
        assert!(seen.of(&host(1), start.plus_ms(SEEN_HELD_MS)).contains(&on(9, 7440)));
    }
}
