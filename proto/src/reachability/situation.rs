//! How a host itself stands in the network, as far as it can tell: whether nobody answers because they are down, or
//! because nothing gets out of here. It can tell by what still answers: a relay by TCP, an address discovery by UDP,
//! another member. And what its router does with ports, by how it looks from several places.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::addresses::is_public;

/// What is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Whether any interface but loopback has an address.
    pub has_address: bool,
    /// Other members.
    pub others: usize,
    /// Those that are heard.
    pub heard: usize,
    /// Those that are reached directly.
    pub direct: usize,
    /// Whether an address discovery told by UDP how this host looks from outside.
    pub discovered: bool,
    /// Relays of others that are connected, by TCP.
    pub relays: usize,
}

/// How this host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It has no network.
    NoNetwork,
    /// There is nobody else yet.
    Alone,
    /// All others are heard.
    Well,
    /// Some others are heard, so those that are not are down or cut off themselves.
    SomeSilent,
    /// Others are heard, but through relays alone: UDP seems not to pass here.
    UdpBlocked,
    /// Nobody is heard, and yet something answers: they are down.
    OthersDown,
    /// Nobody is heard and nothing answers: it is likelier this host's own network than all others.
    NobodyAnswers,
}

/// Whether UDP passes, as far as this host can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// Something answered by UDP.
    Works,
    /// TCP passes and UDP does not.
    Blocked,
    /// Nothing answers at all.
    Silent,
    /// Nothing was asked.
    Unknown,
}

/// What a router in between does with the ports of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// There is none: others see an address that this host has.
    None,
    /// One port for all: a direct way is found to most others.
    EndpointIndependent,
    /// Another port for each destination: a direct way is found only to those whose router does not do so.
    EndpointDependent,
}

/// Tells what a router does, by the addresses of this host that others see, `seen`, and those that it has, `own`.
/// Seen from one place alone a router shows nothing.
pub fn mapping(own: &[IpAddr], seen: &[SocketAddr]) -> Option<Mapping> {
    let public = seen.iter().filter(|address| is_public(&address.ip()));
    if public.clone().any(|address| own.contains(&address.ip())) {
        return Some(Mapping::None);
    }
    let count = public.clone().count();
    let families = [IpAddr::is_ipv4, IpAddr::is_ipv6];
    let varies = families.iter().any(|is_family| {
        let of_family: BTreeSet<_> = public.clone().filter(|address| is_family(&address.ip())).collect();
        of_family.len() > 1
    });
    match (count, varies) {
        (0 | 1, _) => None,
        (_, true) => Some(Mapping::EndpointDependent),
        (_, false) => Some(Mapping::EndpointIndependent),
    }
}

impl Signs {
    /// Tells whether UDP passes.
    pub fn udp(&self) -> Udp {
        match (self.direct > 0 || self.discovered, self.relays > 0) {
            (true, _) => Udp::Works,
            (false, true) if self.heard > 0 => Udp::Blocked,
            (false, false) if self.others > 0 => Udp::Silent,
            (false, _) => Udp::Unknown,
        }
    }

    /// Judges.
    pub fn judge(&self) -> Standing {
        match (self.others, self.heard) {
            _ if !self.has_address => Standing::NoNetwork,
            (0, _) => Standing::Alone,
            (_, 0) if self.udp() == Udp::Works => Standing::OthersDown,
            (_, 0) => Standing::NobodyAnswers,
            _ if self.udp() == Udp::Blocked => Standing::UdpBlocked,
            (others, heard) if heard < others => Standing::SomeSilent,
            _ => Standing::Well,
        }
    }
}

impl Standing {
    /// Names the command that helps, if one does.
    pub fn next(self) -> Option<&'static str> {
        match self {
            Standing::NoNetwork => Some("ip address    to see what this computer's network lacks"),
            Standing::Alone => Some("agent token create    and on the other host: agent join TOKEN"),
            Standing::Well => None,
            Standing::SomeSilent | Standing::OthersDown => Some("agent run    on those that are not heard"),
            Standing::UdpBlocked => {
                Some("agent doctor    names the ports that this host's firewall must let pass")
            }
            Standing::NobodyAnswers => Some(
                "agent doctor    and see whether this computer reaches anything else; then agent run on the others",
            ),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::NoNetwork => "this computer has no network: no interface but loopback has an address",
            Standing::Alone => "no other host is a member yet",
            Standing::Well => "all others are heard",
            Standing::SomeSilent => "this host's network works: those that are not heard are down, or cut off",
            Standing::UdpBlocked => "UDP does not pass here: everything goes through relays, by TCP",
            Standing::OthersDown => "this host's network works, and nobody is heard: the others are down, or cut off",
            Standing::NobodyAnswers => {
                "nobody answers this host, by UDP or through a relay: UDP may be blocked here, or this computer is cut off"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(text: &str) -> Signs {
        let mut signs = Signs { has_address: true, ..Signs::default() };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("others", count)) => signs.others = count.parse().unwrap(),
                Some(("heard", count)) => signs.heard = count.parse().unwrap(),
                Some(("direct", count)) => signs.direct = count.parse().unwrap(),
                Some(("relays", count)) => signs.relays = count.parse().unwrap(),
                _ if word == "discovered" => signs.discovered = true,
                _ => signs.has_address = word != "unplugged",
            }
        }
        signs
    }

    #[test]
    fn nobody_answers_me_is_told_from_they_are_down() {
        for (text, standing, udp) in [
            ("unplugged others=2", Standing::NoNetwork, Udp::Silent),
            ("", Standing::Alone, Udp::Unknown),
            ("others=2 heard=2 direct=1 relays=1", Standing::Well, Udp::Works),
            ("others=2 heard=1 direct=1", Standing::SomeSilent, Udp::Works),
            ("others=2 heard=2 relays=1", Standing::UdpBlocked, Udp::Blocked),
            ("others=2 heard=2 relays=1 discovered", Standing::Well, Udp::Works),
            ("others=2 heard=1 relays=1", Standing::UdpBlocked, Udp::Blocked),
            ("others=2 discovered", Standing::OthersDown, Udp::Works),
            ("others=2", Standing::NobodyAnswers, Udp::Silent),
            ("others=1", Standing::NobodyAnswers, Udp::Silent),
            ("others=2 relays=1", Standing::NobodyAnswers, Udp::Unknown),
        ] {
            assert_eq!((signs(text).judge(), signs(text).udp()), (standing, udp), "{text}");
        }
    }

    #[test]
    fn a_router_is_known_by_how_this_host_looks_from_two_places() {
        let seen = |text: &str| text.split_whitespace().map(|one| one.parse().unwrap()).collect::<Vec<_>>();
        let own = ["192.168.1.2".parse().unwrap(), "203.0.113.5".parse().unwrap()];
        for (text, expected) in [
            ("", None),
            ("203.0.113.9:7440", None),
            ("203.0.113.9:7440 192.168.1.2:7440", None),
            ("203.0.113.9:7440 203.0.113.9:7440", Some(Mapping::EndpointIndependent)),
            ("203.0.113.9:7440 203.0.113.9:31111", Some(Mapping::EndpointDependent)),
            ("203.0.113.5:7440", Some(Mapping::None)),
        ] {
            assert_eq!(mapping(&own, &seen(text)), expected, "{text}");
        }
    }

    #[test]
    fn what_helps_is_said_wherever_something_is_wrong() {
        let all = [
            Standing::NoNetwork,
            Standing::Alone,
            Standing::SomeSilent,
            Standing::UdpBlocked,
            Standing::OthersDown,
            Standing::NobodyAnswers,
        ];
        assert!(all.iter().all(|standing| standing.next().is_some()) && Standing::Well.next().is_none());
    }
}
