//! Pure: which of a guest's questions are asked of the host's resolvers, and what of their answers a guest
//! hears. Those resolvers see two worlds, the public one and that of the host's home; a guest is told of the
//! public one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Message, MessageType, OpCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{
            SVCB,
            svcb::{IpHint, SvcParamKey, SvcParamValue},
        },
    },
};
use proto::session::{Prefix, overlay};

/// Names that mean something in one home, in one company or nowhere, and never in public: RFC 6761, 6762,
/// 7686, 8375, 9476, what ICANN reserved, and what homes and companies use all the same. `.example` is public.
const PRIVATE: [&str; 15] = [
    "alt",
    "corp",
    "home",
    "home.arpa",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "mail",
    "onion",
    "private",
    "test",
];
/// What is asked for, and passed on. What this list lacks says things of hosts (HINFO, SSHFP, TLSA), or is of
/// no use without all the rest (DNSSEC).
const TYPES: [RecordType; 12] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CAA,
    RecordType::CNAME,
    RecordType::HTTPS,
    RecordType::MX,
    RecordType::NS,
    RecordType::PTR,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::SVCB,
    RecordType::TXT,
];

/// Who answers a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The agent: it is about the mesh, or no proper question.
    Agent,
    /// The host's resolvers.
    Public,
    /// Nobody: there is no such name.
    NoName,
    /// Nobody: there is nothing of that type.
    NoData,
}

/// Says who answers a question of a machine in `subnets`; `zone` is the mesh's own, `may` says which addresses
/// the guest may go to.
pub fn course(
    question: &Message,
    zone: &Name,
    (v4, v6): (Prefix, Ipv6Addr),
    may: impl Fn(IpAddr) -> bool,
) -> Course {
    let [query] = &question.queries[..] else { return Course::Agent };
    let proper = question.metadata.message_type == MessageType::Query
        && question.metadata.op_code == OpCode::Query
        && query.query_class() == DNSClass::IN
        && !matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    let name = query.name();
    let ours = |address| match address {
        Some(IpAddr::V4(address)) => within(v4, address),
        Some(IpAddr::V6(address)) => overlay::holds_v6(v6, address),
        None => false,
    };
    // A name of one label is the search list's.
    if !proper || name.num_labels() < 2 || zone.zone_of(name) || ours(reversed(name)) {
        Course::Agent
    } else if private(name, &may) {
        Course::NoName
    } else if TYPES.contains(&query.query_type()) {
        Course::Public
    } else {
        Course::NoData
    }
}

/// Leaves of an answer what a guest may hear: no address where it may not go, no name that is no public one,
/// and no record of a type that would not be asked for.
pub fn harmless(answer: &mut Message, may: impl Fn(IpAddr) -> bool) {
    for part in [&mut answer.answers, &mut answer.authorities, &mut answer.additionals] {
        part.retain_mut(|record| good(record, &may));
    }
    // Whoever vouched for it vouched for the whole.
    answer.metadata.authentic_data = false;
}

fn good(record: &mut Record, may: &impl Fn(IpAddr) -> bool) -> bool {
    let public = |name: &Name| !private(name, may);
    public(&record.name)
        && match &mut record.data {
            RData::A(address) => may(address.0.into()),
            RData::AAAA(address) => may(address.0.into()),
            RData::CNAME(name) => public(&name.0),
            RData::NS(name) => public(&name.0),
            RData::PTR(name) => public(&name.0),
            RData::MX(mx) => public(&mx.exchange),
            RData::SRV(srv) => public(&srv.target),
            RData::SOA(soa) => public(&soa.mname),
            RData::HTTPS(service) => public(&service.0.target_name) && hints(&mut service.0, may),
            RData::SVCB(service) => public(&service.target_name) && hints(service, may),
            RData::TXT(_) | RData::CAA(_) => true,
            _ => false,
        }
}

/// Cuts the addresses that the guest may not go to out of a service's hints. Returns false when the service
/// says that it is nothing without them, or hides them.
fn hints(service: &mut SVCB, may: &impl Fn(IpAddr) -> bool) -> bool {
    let mut whole = true;
    service.svc_params.retain_mut(|(key, value)| {
        let is_hint = matches!(key, SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint);
        let left = match value {
            SvcParamValue::Ipv4Hint(IpHint(hints)) => {
                hints.retain(|hint| may(hint.0.into()));
                !hints.is_empty()
            }
            SvcParamValue::Ipv6Hint(IpHint(hints)) => {
                hints.retain(|hint| may(hint.0.into()));
                !hints.is_empty()
            }
            _ => !is_hint,
        };
        whole &= left;
        left
    });
    let needs_all = service.svc_params.iter().any(|(key, _)| *key == SvcParamKey::Mandatory);
    whole || !needs_all
}

/// Says whether a name is none of the public world: it ends so, or it is that of an address where the guest
/// may not go. Of `.arpa` only addresses are public.
fn private(name: &Name, may: &impl Fn(IpAddr) -> bool) -> bool {
    if ends(name, "arpa") {
        return !reversed(name).is_some_and(may);
    }
    PRIVATE.iter().any(|zone| ends(name, zone))
}

fn ends(name: &Name, zone: &str) -> bool {
    let mut labels = name.iter().rev();
    zone.rsplit('.')
        .all(|part| labels.next().is_some_and(|label| label.eq_ignore_ascii_case(part.as_bytes())))
}

/// Gives the address that a name of `in-addr.arpa` or `ip6.arpa` is about. What such a name says first may be
/// anything (RFC 2317, RFC 6763); of an address of which only the beginning is said the rest is 0.
fn reversed(name: &Name) -> Option<IpAddr> {
    let mut labels = name.iter().rev().skip(2).map(|label| std::str::from_utf8(label).unwrap_or_default());
    if ends(name, "in-addr.arpa") {
        let mut octets = [0; 4];
        for octet in &mut octets {
            let Some(said) = labels.next().and_then(|label| label.parse().ok()) else { break };
            *octet = said;
        }
        return Some(Ipv4Addr::from(octets).into());
    }
    if !ends(name, "ip6.arpa") {
        return None;
    }
    let mut bits = 0;
    for nibble in (0..32).rev() {
        let digit = labels.next().filter(|label| label.len() == 1);
        let Some(said) = digit.and_then(|label| u128::from_str_radix(label, 16).ok()) else { break };
        bits |= said << (4 * nibble);
    }
    Some(Ipv6Addr::from_bits(bits).into())
}

fn within(subnet: Prefix, address: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(subnet.len.min(32))).unwrap_or(0);
    (address.to_bits() ^ subnet.base.to_bits()) & mask == 0
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::{
        op::Query,
        rr::rdata::{
            A, AAAA, CNAME, HTTPS, MX, NS, PTR, SOA, SRV, TXT,
            svcb::{Alpn, Mandatory},
        },
    };
    use mesh::link::{HostNet, allowed};
    use proto::topology::Egress;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    fn may(address: IpAddr) -> bool {
        let host = HostNet { own: vec![("203.0.113.9".parse().unwrap(), 32)], ..HostNet::default() };
        allowed(Egress::Internet, Some(&host), address)
    }

    fn asked(text: &str, kind: RecordType) -> Course {
        let mut message = Message::query();
        message.add_query(Query::query(name(text), kind));
        let subnet = Prefix { base: [10, 64, 7, 0].into(), len: 24 };
        let subnet_v6 = "fd00:6d65:7368:7::".parse().unwrap();
        course(&message, &name("mesh.internal."), (subnet, subnet_v6), may)
    }

    #[test]
    fn only_public_names_are_asked_for() {
        use Course::{Agent, NoName, Public};
        let cases = [
            ("example.org.", Public),
            ("notmesh.internal.", NoName),
            ("web.shop.mesh.internal.", Agent),
            ("WEB.Shop.Mesh.Internal.", Agent),
            ("mesh.internal.", Agent),
            ("web.", Agent),
            ("a.localhost.", NoName),
            ("printer.LOCAL.", NoName),
            ("router.lan.", NoName),
            ("nas.home.arpa.", NoName),
            ("vault.corp.", NoName),
            ("wiki.intranet.", NoName),
            ("hidden.onion.", NoName),
            ("a.private.", NoName),
            ("a.home.", NoName),
            ("a.test.", NoName),
            ("a.invalid.", NoName),
            ("localhost.example.org.", Public),
            ("homes.", Agent),
            ("my.homes.", Public),
            ("resolver.arpa.", NoName),
        ];
        for (name, course) in cases {
            assert_eq!(asked(name, RecordType::A), course, "{name}");
        }
    }

    #[test]
    fn names_of_addresses_are_asked_for_where_the_guest_may_go_there() {
        use Course::{Agent, NoName, Public};
        let cases = [
            ("2.7.64.10.in-addr.arpa.", Agent),
            ("2.8.64.10.in-addr.arpa.", NoName),
            ("1.1.168.192.in-addr.arpa.", NoName),
            ("168.192.IN-ADDR.arpa.", NoName),
            ("in-addr.arpa.", NoName),
            ("lb._dns-sd._udp.0.1.168.192.in-addr.arpa.", NoName),
            ("9.113.0.203.in-addr.arpa.", NoName),
            ("8.8.8.8.in-addr.arpa.", Public),
            ("5.0-7.8.8.8.in-addr.arpa.", Public),
            ("1.1.1.1.1.7.4.0.6.0.6.2.ip6.arpa.", Public),
            ("1.7.0.0.0.8.6.3.7.5.6.d.6.0.0.d.f.ip6.arpa.", Agent),
            ("7.0.0.0.8.6.3.7.5.6.d.6.0.0.d.f.ip6.arpa.", Agent),
            ("8.0.0.0.8.6.3.7.5.6.d.6.0.0.d.f.ip6.arpa.", NoName),
            ("8.e.f.ip6.arpa.", NoName),
            ("ip6.arpa.", NoName),
            ("x.y.arpa.", NoName),
        ];
        for (name, course) in cases {
            assert_eq!(asked(name, RecordType::PTR), course, "{name}");
        }
    }

    #[test]
    fn what_is_no_common_type_is_not_there() {
        for kind in [RecordType::ANY, RecordType::SSHFP, RecordType::DNSKEY, RecordType::Unknown(65_000)] {
            assert_eq!(asked("example.org.", kind), Course::NoData, "{kind}");
        }
        assert_eq!(asked("example.org.", RecordType::AXFR), Course::Agent);
    }

    fn left(records: Vec<(&str, RData)>) -> Vec<String> {
        let record = |(owner, data)| Record::from_rdata(name(owner), 60, data);
        let mut answer = Message::response(1, OpCode::Query);
        answer.answers = records.into_iter().map(record).collect();
        (answer.authorities, answer.additionals) = (answer.answers.clone(), answer.answers.clone());
        harmless(&mut answer, may);
        assert_eq!((&answer.answers, &answer.answers), (&answer.authorities, &answer.additionals));
        answer.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect()
    }

    #[test]
    fn an_answer_never_leads_to_the_host_or_its_wire() {
        let addresses =
            [[127, 0, 0, 1], [192, 168, 1, 1], [169, 254, 169, 254], [203, 0, 113, 9], [8, 8, 8, 8]];
        let mut records: Vec<_> =
            addresses.map(|address| ("evil.example.", RData::A(A(address.into())))).into();
        for address in ["::1", "fe80::1", "fd00::1", "::ffff:192.168.1.1", "2606:4700::1111"] {
            records.push(("evil.example.", RData::AAAA(AAAA(address.parse().unwrap()))));
        }
        assert_eq!(left(records), ["evil.example. 8.8.8.8", "evil.example. 2606:4700::1111"]);
    }

    #[test]
    fn an_answer_says_nothing_of_names_at_home() {
        let soa = |mname: &str| RData::SOA(SOA::new(name(mname), name("a.example."), 1, 2, 3, 4, 5));
        let records = |to: &str| {
            vec![
                ("a.example.", RData::CNAME(CNAME(name(to)))),
                ("a.example.", RData::NS(NS(name(to)))),
                ("1.8.8.8.in-addr.arpa.", RData::PTR(PTR(name(to)))),
                ("a.example.", RData::MX(MX::new(10, name(to)))),
                ("a.example.", RData::SRV(SRV::new(0, 0, 80, name(to)))),
                ("a.example.", soa(to)),
                ("a.example.", RData::HTTPS(HTTPS(SVCB::new(1, name(to), vec![])))),
                ("a.example.", RData::SVCB(SVCB::new(1, name(to), vec![]))),
            ]
        };
        assert_eq!(left(records("b.example.")).len(), 8);
        for to in ["printer.local.", "nas.home.arpa.", "1.1.168.192.in-addr.arpa.", "db.corp."] {
            assert_eq!(left(records(to)), [""; 0], "{to}");
        }
        let text = || RData::TXT(TXT::new(vec!["words".into()]));
        assert_eq!(left(vec![("a.example.", text()), ("a.lan.", text())]), ["a.example. words"]);
        let other = RData::Unknown { code: RecordType::Unknown(65_000), rdata: Default::default() };
        assert_eq!(left(vec![("a.example.", other)]), [""; 0]);
    }

    #[test]
    fn hints_are_addresses_like_others() {
        let hint = |addresses: &[[u8; 4]]| {
            let hints = addresses.iter().map(|&address| A(address.into())).collect();
            (SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(hints)))
        };
        let hint_v6 =
            (SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(vec![AAAA("fd00::1".parse().unwrap())])));
        let alpn = (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()])));
        let needs =
            (SvcParamKey::Mandatory, SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Ipv4Hint])));
        let https = |params| vec![("a.example.", RData::HTTPS(HTTPS(SVCB::new(1, name("."), params))))];
        let both = left(https(vec![alpn.clone(), hint(&[[192, 168, 1, 1], [8, 8, 8, 8]]), hint_v6.clone()]));
        assert!(both.len() == 1 && both[0].contains("8.8.8.8"), "{both:?}");
        assert!(!both[0].contains("192.168") && !both[0].contains("fd00"), "{both:?}");
        assert_eq!(left(https(vec![alpn, hint(&[[192, 168, 1, 1]]), hint_v6])).len(), 1);
        assert_eq!(left(https(vec![needs.clone(), hint(&[[10, 0, 0, 1]])])), [""; 0]);
        assert_eq!(left(https(vec![needs, hint(&[[8, 8, 8, 8]])])).len(), 1);
    }
}
