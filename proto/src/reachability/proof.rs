//! Whether this host is reached from outside, by proof. A router that maps ports, a 1:1 NAT and an owner who says so
//! are claims; a member that dialled back is the proof, and only then others are told of the relay that is served here.
//!
//! ```text
//!   no claim ──claim──► Trying ──reached──► Proved
//!                         ▲  └─ missed: later    │ looked at again every few minutes
//!                         └───── missed twice ───┘ or another claim: withdrawn
//! ```
//! Who dials back reaches only what the asker itself was seen at ([`permitted`]), and seldom ([`Favours`]).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use minicbor::{Decode, Encode};

use crate::{addresses::is_somewhere, backoff::BackOff, id::HostId, time::Moment};

/// Before a claim that was proved is looked at again: a router that lost its mappings is noticed within this time.
const AGAIN_MS: u64 = 240_000;
/// Before a claim that was proved and was missed now is asked about again: there may be one member alone to ask.
const DOUBT_MS: u64 = FAVOUR_MS + 2_000;
/// Misses in a row after which a proof is no more.
const MISSES: u32 = 2;
/// Between tries of a claim that nobody has reached.
const RETRY: BackOff = BackOff::new(20_000, 1_800_000);
/// How long a dial back may take, asked from here; then the one who was asked is of no help.
const ASKED_MS: u64 = 20_000;
/// How long a member is not asked again that could not help.
const UNABLE_MS: u64 = 1_800_000;
/// The same of one that may help later: it has much to do, or has not seen yet where this host is now.
const LATER_MS: u64 = 60_000;

/// Between two dials back for the same member.
const FAVOUR_MS: u64 = 10_000;
/// Dials back within a minute, for all members together.
const FAVOURS: usize = 20;
/// Below it are the ports of system services, where nobody is sent: an agent that listens there is not proved.
const FIRST_PORT: u16 = 1024;

/// Where this host would be reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Claim {
    /// The endpoint, by UDP.
    #[n(0)]
    pub endpoint: SocketAddr,
    /// The port of its relay at that address, by TCP.
    #[n(1)]
    pub relay: u16,
    /// The port of its address discovery at that address, by UDP.
    #[n(2)]
    pub discovery: u16,
}

/// Where its owner says that a host is reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Public {
    /// The address.
    pub ip: IpAddr,
    /// The first of its two ports there; `None` = as here.
    pub port: Option<u16>,
}

impl FromStr for Public {
    type Err = NoPublic;

    fn from_str(text: &str) -> Result<Public, NoPublic> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let public = match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(ip), _) => Public { ip, port: None },
            (_, Ok(address)) => Public { ip: address.ip(), port: Some(address.port()) },
            _ => return Err(NoPublic),
        };
        // The pair's second port must exist.
        let has_pair = public.port.is_none_or(|port| (FIRST_PORT..u16::MAX).contains(&port));
        if is_somewhere(&public.ip) && has_pair { Ok(public) } else { Err(NoPublic) }
    }
}

/// A text is no place where a host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address with or without a port, such as 203.0.113.9 or 203.0.113.9:7440")]
pub struct NoPublic;

/// What a member reached that dialled back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reached {
    /// The endpoint, whose key was the asker's.
    #[n(0)]
    pub endpoint: bool,
    /// The relay, which knew the asker's word.
    #[n(1)]
    pub relay: bool,
    /// The address discovery, whose certificate was the asker's.
    #[n(2)]
    pub discovery: bool,
}

impl Reached {
    /// Tells whether everything was reached that a relay needs.
    pub fn all(self) -> bool {
        self.endpoint && self.relay && self.discovery
    }
}

/// How a dial back ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was dialled.
    Dialled(Reached),
    /// That member cannot help: it is of an earlier version.
    Unable,
    /// It did not help this time: it has done too much for others, sees this host elsewhere, or did not answer.
    Later,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// What this host claims now, with a relay that listens.
    Claims(Option<Claim>),
    /// Somebody looked around: these members are connected straight, and from outside.
    Look(BTreeSet<HostId>),
    /// A dial back ended.
    Ended(HostId, Claim, Verdict),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask this member to dial back.
    Ask(HostId, Claim),
    /// It is proved: tell others of the relay.
    Offer(Claim),
    /// It is true no more.
    Withdraw,
}

/// The machine.
#[derive(Debug, Default)]
pub struct Proof {
    claim: Option<Claim>,
    proved: bool,
    /// In a row.
    misses: u32,
    next: Moment,
    asked: Option<(HostId, Moment)>,
    /// When each member was asked last.
    turns: BTreeMap<HostId, Moment>,
    /// Until when some are not asked.
    spared: BTreeMap<HostId, Moment>,
}

impl Proof {
    /// Takes an event, and tells what is to be done, in this order.
    pub fn on(&mut self, event: Event, now: Moment) -> Vec<Effect> {
        match event {
            Event::Claims(claim) if claim == self.claim => Vec::new(),
            Event::Claims(claim) => {
                let withdrawn = self.proved.then_some(Effect::Withdraw);
                let (turns, spared) = (std::mem::take(&mut self.turns), std::mem::take(&mut self.spared));
                *self = Proof { claim, next: now, turns, spared, ..Proof::default() };
                withdrawn.into_iter().collect()
            }
            Event::Look(helpers) => self.look(&helpers, now).into_iter().collect(),
            Event::Ended(by, claim, verdict) => self.ended(by, claim, verdict, now).into_iter().collect(),
        }
    }

    /// Gives what was proved.
    pub fn proved(&self) -> Option<Claim> {
        self.claim.filter(|_| self.proved)
    }

    fn look(&mut self, helpers: &BTreeSet<HostId>, now: Moment) -> Option<Effect> {
        if let Some((host, _)) = self.asked.filter(|(_, since)| now.since_ms(*since) >= ASKED_MS) {
            self.asked = None;
            self.spared.insert(host, now.plus_ms(LATER_MS));
        }
        self.spared.retain(|_, until| now < *until);
        self.turns.retain(|host, _| helpers.contains(host));
        let claim = self.claim.filter(|_| self.asked.is_none() && self.next <= now)?;
        let able = helpers.iter().filter(|host| !self.spared.contains_key(*host));
        let host = *able.min_by_key(|host| (self.turns.get(*host).copied(), **host))?;
        self.asked = Some((host, now));
        self.turns.insert(host, now);
        Some(Effect::Ask(host, claim))
    }

    fn ended(&mut self, by: HostId, claim: Claim, verdict: Verdict, now: Moment) -> Option<Effect> {
        // What was asked of an earlier claim says nothing.
        self.asked.filter(|(host, _)| *host == by && self.claim == Some(claim))?;
        self.asked = None;
        match verdict {
            Verdict::Unable => self.spare(by, now.plus_ms(UNABLE_MS)),
            Verdict::Later => self.spare(by, now.plus_ms(LATER_MS)),
            Verdict::Dialled(reached) if reached.all() => {
                (self.misses, self.next) = (0, now.plus_ms(AGAIN_MS));
                let news = !std::mem::replace(&mut self.proved, true);
                news.then_some(Effect::Offer(claim))
            }
            Verdict::Dialled(_) => {
                self.misses = self.misses.saturating_add(1);
                if self.proved && self.misses < MISSES {
                    self.next = now.plus_ms(DOUBT_MS);
                    return None;
                }
                self.next = now.plus_ms(RETRY.after_ms(self.misses));
                let was = std::mem::replace(&mut self.proved, false);
                was.then_some(Effect::Withdraw)
            }
        }
    }
}

impl Proof {
    fn spare(&mut self, host: HostId, until: Moment) -> Option<Effect> {
        self.spared.insert(host, until);
        None
    }
}

/// Why a member is not dialled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDialled {
    /// A member could have others dialled.
    #[error("you are not seen at that address")]
    Elsewhere,
    /// No agent listens there.
    #[error("a port below {FIRST_PORT} is no agent's")]
    Port,
    /// Favours are bounded.
    #[error("too many dials back were asked for; later")]
    TooMany,
}

/// Tells whether a member may be dialled where it claims to be. `seen` = where its own packets come from.
pub fn permitted(claim: &Claim, seen: &[IpAddr]) -> Result<(), NotDialled> {
    let ip = claim.endpoint.ip().to_canonical();
    if !seen.iter().any(|seen| seen.to_canonical() == ip) {
        return Err(NotDialled::Elsewhere);
    }
    let ports = [claim.endpoint.port(), claim.relay, claim.discovery];
    if ports.iter().any(|port| *port < FIRST_PORT) { Err(NotDialled::Port) } else { Ok(()) }
}

/// The dials back that were done for others.
#[derive(Debug, Default)]
pub struct Favours(VecDeque<(HostId, Moment)>);

impl Favours {
    /// Tells whether one more may be done now, and counts it.
    pub fn take(&mut self, for_whom: HostId, now: Moment) -> Result<(), NotDialled> {
        self.0.retain(|(_, since)| now.since_ms(*since) < 60_000);
        let again = self.0.iter().any(|(host, since)| *host == for_whom && now.since_ms(*since) < FAVOUR_MS);
        if again || self.0.len() >= FAVOURS {
            return Err(NotDialled::TooMany);
        }
        self.0.push_back((for_whom, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment(1_000_000);
    const ALL: Verdict = Verdict::Dialled(Reached { endpoint: true, relay: true, discovery: true });
    const HALF: Verdict = Verdict::Dialled(Reached { endpoint: true, relay: false, discovery: true });

    fn host(byte: u8) -> HostId {
        HostId([byte; 32])
    }

    fn claim(text: &str) -> Claim {
        let endpoint: SocketAddr = text.parse().unwrap();
        Claim { endpoint, relay: endpoint.port(), discovery: endpoint.port() + 1 }
    }

    fn look(proof: &mut Proof, helpers: &[u8], now: Moment) -> Vec<Effect> {
        proof.on(Event::Look(helpers.iter().map(|byte| host(*byte)).collect()), now)
    }

    fn proved() -> (Proof, Claim) {
        let (mut proof, here) = (Proof::default(), claim("203.0.113.9:7440"));
        assert_eq!(proof.on(Event::Claims(Some(here)), START), []);
        assert_eq!(look(&mut proof, &[], START), [], "nobody can prove it");
        assert_eq!(look(&mut proof, &[1, 2], START), [Effect::Ask(host(1), here)]);
        assert_eq!(look(&mut proof, &[1, 2], START), [], "one at a time");
        assert_eq!(proof.on(Event::Ended(host(1), here, ALL), START), [Effect::Offer(here)]);
        assert_eq!(proof.proved(), Some(here));
        (proof, here)
    }

    #[test]
    fn a_relay_is_told_of_once_a_member_has_dialled_back_and_withdrawn_when_two_miss() {
        let (mut proof, here) = proved();
        assert_eq!(look(&mut proof, &[1, 2], START.plus_ms(AGAIN_MS - 1)), []);
        let again = START.plus_ms(AGAIN_MS);
        assert_eq!(look(&mut proof, &[1, 2], again), [Effect::Ask(host(2), here)], "they take turns");
        assert_eq!(proof.on(Event::Ended(host(2), here, HALF), again), [], "one may be wrong");
        assert_eq!(look(&mut proof, &[1, 2], again), []);
        let doubt = again.plus_ms(DOUBT_MS);
        assert_eq!(look(&mut proof, &[1, 2], doubt), [Effect::Ask(host(1), here)]);
        assert_eq!(proof.on(Event::Ended(host(1), here, HALF), doubt), [Effect::Withdraw]);
        assert_eq!(proof.proved(), None);
        let later = doubt.plus_ms(RETRY.after_ms(2));
        assert_eq!(look(&mut proof, &[1, 2], Moment(later.0 - 1)), []);
        assert_eq!(look(&mut proof, &[1, 2], later), [Effect::Ask(host(2), here)]);
        assert_eq!(proof.on(Event::Ended(host(2), here, ALL), later), [Effect::Offer(here)]);
    }

    #[test]
    fn another_address_or_none_withdraws_at_once_and_old_answers_count_for_nothing() {
        let (mut proof, here) = proved();
        let moved = claim("203.0.113.77:7440");
        assert_eq!(proof.on(Event::Claims(Some(here)), START), [], "the same");
        assert_eq!(proof.on(Event::Claims(Some(moved)), START), [Effect::Withdraw]);
        assert_eq!(look(&mut proof, &[1, 2], START), [Effect::Ask(host(2), moved)]);
        assert_eq!(proof.on(Event::Ended(host(2), here, ALL), START), []);
        assert_eq!(proof.on(Event::Ended(host(1), moved, ALL), START), [], "who was not asked");
        assert_eq!(proof.on(Event::Ended(host(2), moved, ALL), START), [Effect::Offer(moved)]);
        assert_eq!(proof.on(Event::Claims(None), START), [Effect::Withdraw]);
        assert_eq!(look(&mut proof, &[1, 2], START.plus_ms(AGAIN_MS)), []);
    }

    #[test]
    fn who_cannot_help_is_passed_over_and_who_is_silent_too() {
        let (mut proof, here) = (Proof::default(), claim("203.0.113.9:7440"));
        proof.on(Event::Claims(Some(here)), START);
        assert_eq!(look(&mut proof, &[1, 2], START), [Effect::Ask(host(1), here)]);
        assert_eq!(proof.on(Event::Ended(host(1), here, Verdict::Unable), START), []);
        assert_eq!(look(&mut proof, &[1, 2], START), [Effect::Ask(host(2), here)]);
        let silent = START.plus_ms(ASKED_MS);
        assert_eq!(look(&mut proof, &[1, 2, 3], silent), [Effect::Ask(host(3), here)]);
        assert_eq!(proof.on(Event::Ended(host(2), here, ALL), silent), [], "too late");
        assert_eq!(proof.on(Event::Ended(host(3), here, Verdict::Unable), silent), []);
        assert_eq!(look(&mut proof, &[1, 2, 3], silent), [], "nobody is left");
        let later = silent.plus_ms(LATER_MS);
        assert_eq!(look(&mut proof, &[1, 2, 3], later), [Effect::Ask(host(2), here)]);
        assert_eq!(proof.on(Event::Ended(host(2), here, Verdict::Unable), later), []);
        let forgiven = START.plus_ms(UNABLE_MS);
        assert_eq!(look(&mut proof, &[1, 2, 3], forgiven), [Effect::Ask(host(1), here)]);
    }

    #[test]
    fn one_member_alone_proves_a_relay_and_sees_it_go_within_its_favours() {
        let (mut proof, here) = (Proof::default(), claim("203.0.113.9:7440"));
        proof.on(Event::Claims(Some(here)), START);
        let (mut favours, gone) = (Favours::default(), 900);
        let (mut told, mut withdrawn) = (None, None);
        for second in 0..1800 {
            let now = START.plus_ms(second * 1000);
            for effect in look(&mut proof, &[1], now) {
                let Effect::Ask(by, claim) = effect else { panic!("{effect:?}") };
                let verdict = match favours.take(by, now) {
                    Err(_) => Verdict::Later,
                    Ok(()) if second < gone => ALL,
                    Ok(()) => HALF,
                };
                for effect in proof.on(Event::Ended(by, claim, verdict), now) {
                    match effect {
                        Effect::Offer(_) => told = told.or(Some(second)),
                        Effect::Withdraw => withdrawn = withdrawn.or(Some(second)),
                        Effect::Ask(..) => {}
                    }
                }
            }
        }
        assert_eq!(told, Some(0));
        let most = gone + (AGAIN_MS + DOUBT_MS) / 1000 + 1;
        assert!(withdrawn.is_some_and(|at| (gone..=most).contains(&at)), "{withdrawn:?}");
    }

    #[test]
    fn a_claim_that_nobody_reaches_is_tried_ever_less_often() {
        let (mut proof, here) = (Proof::default(), claim("203.0.113.9:7440"));
        proof.on(Event::Claims(Some(here)), START);
        let asked = (0..86_400).filter(|second| {
            let now = START.plus_ms(second * 1000);
            let asks = look(&mut proof, &[1], now) == [Effect::Ask(host(1), here)];
            if asks {
                assert_eq!(proof.on(Event::Ended(host(1), here, HALF), now), []);
            }
            asks
        });
        assert!((48..=60).contains(&asked.count()), "a day");
    }

    #[test]
    fn an_owner_says_an_address_with_or_without_a_port() {
        let ip = |text: &str| text.parse().unwrap();
        let cases = [
            ("203.0.113.9", Some((ip("203.0.113.9"), None))),
            ("203.0.113.9:7440", Some((ip("203.0.113.9"), Some(7440)))),
            ("2001:db8::9", Some((ip("2001:db8::9"), None))),
            ("[2001:db8::9]", Some((ip("2001:db8::9"), None))),
            ("[2001:db8::9]:7440", Some((ip("2001:db8::9"), Some(7440)))),
            ("203.0.113.9:80", None),
            ("203.0.113.9:65535", None),
            ("0.0.0.0", None),
            ("nas.example.org", None),
            ("", None),
        ];
        for (text, public) in cases {
            let read = text.parse::<Public>().ok().map(|public| (public.ip, public.port));
            assert_eq!(read, public, "{text}");
        }
    }

    #[test]
    fn a_member_is_dialled_only_where_it_was_seen_and_seldom() {
        let ips = |text: &str| text.split_whitespace().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let here = claim("203.0.113.9:7440");
        assert_eq!(permitted(&here, &ips("192.168.1.2 203.0.113.9")), Ok(()));
        assert_eq!(permitted(&here, &ips("::ffff:203.0.113.9")), Ok(()));
        assert_eq!(permitted(&here, &ips("192.168.1.2 203.0.113.8")), Err(NotDialled::Elsewhere));
        assert_eq!(permitted(&here, &[]), Err(NotDialled::Elsewhere));
        let ssh = Claim { relay: 22, ..here };
        assert_eq!(permitted(&ssh, &ips("203.0.113.9")), Err(NotDialled::Port));

        let mut favours = Favours::default();
        assert_eq!(favours.take(host(1), START), Ok(()));
        assert_eq!(favours.take(host(1), START.plus_ms(FAVOUR_MS - 1)), Err(NotDialled::TooMany));
        assert_eq!(favours.take(host(1), START.plus_ms(FAVOUR_MS)), Ok(()));
        let others = (2..200).filter(|byte| favours.take(host(*byte), START.plus_ms(FAVOUR_MS)).is_ok());
        assert_eq!(others.count(), FAVOURS - 2);
        assert_eq!(favours.take(host(1), START.plus_ms(FAVOUR_MS + 60_000)), Ok(()));
    }
}
