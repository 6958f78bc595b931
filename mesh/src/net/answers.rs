//! What machines may say to this host itself: answers, and nothing else. A host on a session's network reaches machines;
//! no machine reaches its programs. Pure: packets and moments in, a verdict out.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, IpNumber, Ipv4Slice, Ipv6HeaderSlice, TcpSlice,
};
use proto::time::Moment;

use super::recent::Recent;

/// RFC 4787 recommends five minutes for UDP; other protocols have no end of their own either.
const FOR_MS: u64 = 300_000;
/// Who may answer at once.
const MOST: usize = 4096;
const HEADER_V6: usize = 40;

/// What a packet that was sent lets come back: from where, by which protocol, to which port here.
type Key = (SocketAddr, u8, u16);

/// Whom this host has sent to lately.
#[derive(Debug, Default)]
pub(super) struct Answers {
    sent: Recent<Key, Moment, MOST>,
}

/// What matters of a packet.
struct Parsed<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpNumber,
    payload: &'a [u8],
}

impl Answers {
    /// Takes down whom a packet of this host goes to.
    pub fn sent(&mut self, packet: &[u8], now: Moment) {
        let Some(seen) = Parsed::of(packet).filter(|seen| seen.protocol != IpNumber::TCP) else { return };
        let (here, there) = seen.ports();
        self.sent.insert((SocketAddr::new(seen.destination, there), seen.protocol.0, here), now);
    }

    /// Says whether a packet of a machine is an answer. By TCP that is whatever does not begin a connection: a program
    /// that has none with the machine says so by itself.
    pub fn is_answer(&self, packet: &[u8], now: Moment) -> bool {
        let Some(seen) = Parsed::of(packet) else { return false };
        if seen.protocol == IpNumber::TCP {
            return TcpSlice::from_slice(seen.payload).is_ok_and(|tcp| !tcp.syn() || tcp.ack());
        }
        if !seen.may_answer() {
            return false;
        }
        let (there, here) = seen.ports();
        let sent = self.sent.get(&(SocketAddr::new(seen.source, there), seen.protocol.0, here));
        sent.is_some_and(|sent| now.since_ms(*sent) < FOR_MS)
    }
}

impl Parsed<'_> {
    /// Reads a packet; what begins with another one's rest or with a header of extensions says too little.
    fn of(packet: &[u8]) -> Option<Parsed<'_>> {
        if packet.first()? >> 4 == 6 {
            let header = Ipv6HeaderSlice::from_slice(packet).ok()?;
            // Behind another header may be anything.
            return (!header.next_header().is_ipv6_ext_header_value()).then_some(Parsed {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: header.next_header(),
                payload: &packet[HEADER_V6..],
            });
        }
        let parsed = Ipv4Slice::from_slice(packet).ok()?;
        let (header, payload) = (parsed.header(), parsed.payload());
        (header.fragments_offset().value() == 0).then_some(Parsed {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: payload.ip_number,
            payload: payload.payload,
        })
    }

    /// Gives the source's and the destination's port, of protocols that have some.
    fn ports(&self) -> (u16, u16) {
        match (self.protocol, self.payload) {
            (IpNumber::UDP, [a, b, c, d, ..]) => (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
            _ => (0, 0),
        }
    }

    /// Says whether a message of ICMP asks for nothing. Other protocols are not known well enough to say.
    fn may_answer(&self) -> bool {
        match self.protocol {
            IpNumber::ICMP => Icmpv4Slice::from_slice(self.payload).is_ok_and(|icmp| {
                let kind = icmp.icmp_type();
                matches!(
                    kind,
                    Icmpv4Type::EchoReply(_)
                        | Icmpv4Type::DestinationUnreachable(_)
                        | Icmpv4Type::TimeExceeded(_)
                )
            }),
            IpNumber::IPV6_ICMP => Icmpv6Slice::from_slice(self.payload).is_ok_and(|icmp| {
                let kind = icmp.icmp_type();
                // Of IPv6 the errors are the lower half.
                matches!(kind, Icmpv6Type::EchoReply(_)) || icmp.type_u8() < 128
            }),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const MACHINE: [u8; 4] = [10, 64, 7, 10];
    const HOST: [u8; 4] = [198, 18, 3, 4];

    fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes);
        bytes
    }

    fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(from.0, to.0, 64).udp(from.1, to.1);
        bytes(|out| builder.write_to_vec(out, b"hi").unwrap())
    }

    #[test]
    fn a_datagram_is_an_answer_where_the_host_has_asked_lately() {
        let mut answers = Answers::default();
        let answer = udp((MACHINE, 53), (HOST, 4000));
        assert!(!answers.is_answer(&answer, Moment(0)), "nobody has asked");
        answers.sent(&udp((HOST, 4000), (MACHINE, 53)), Moment(1000));
        assert!(answers.is_answer(&answer, Moment(300_999)));
        assert!(!answers.is_answer(&answer, Moment(301_000)), "long ago");
        for other in [
            udp((MACHINE, 54), (HOST, 4000)),
            udp((MACHINE, 53), (HOST, 4001)),
            udp(([10, 64, 7, 11], 53), (HOST, 4000)),
        ] {
            assert!(!answers.is_answer(&other, Moment(1000)));
        }
    }

    #[test]
    fn no_machine_begins_a_connection() {
        let answers = Answers::default();
        let tcp = || PacketBuilder::ipv4(MACHINE, HOST, 64).tcp(80, 4000, 1, 1000);
        let segments = [
            (bytes(|out| tcp().syn().write_to_vec(out, &[]).unwrap()), false),
            (bytes(|out| tcp().syn().ack(2).write_to_vec(out, &[]).unwrap()), true),
            (bytes(|out| tcp().ack(2).write_to_vec(out, b"page").unwrap()), true),
            (bytes(|out| tcp().rst().write_to_vec(out, &[]).unwrap()), true),
        ];
        for (segment, expected) in segments {
            assert_eq!(answers.is_answer(&segment, Moment(0)), expected);
        }
    }

    #[test]
    fn a_host_that_pings_is_answered_and_not_pinged() {
        let mut answers = Answers::default();
        let ping = |from, to| {
            let builder = PacketBuilder::ipv4(from, to, 64).icmpv4_echo_request(1, 2);
            bytes(|out| builder.write_to_vec(out, b"?").unwrap())
        };
        let builder = PacketBuilder::ipv4(MACHINE, HOST, 64).icmpv4_echo_reply(1, 2);
        let reply = bytes(|out| builder.write_to_vec(out, b"?").unwrap());
        assert!(!answers.is_answer(&reply, Moment(0)));
        answers.sent(&ping(HOST, MACHINE), Moment(0));
        assert!(answers.is_answer(&reply, Moment(1)) && !answers.is_answer(&ping(MACHINE, HOST), Moment(1)));
        let v6 = || PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64);
        let pinged = bytes(|out| v6().icmpv6_echo_request(1, 2).write_to_vec(out, b"?").unwrap());
        let back = || PacketBuilder::ipv6([0xfe; 16], [0xfd; 16], 64);
        answers.sent(&pinged, Moment(0));
        let reply = bytes(|out| back().icmpv6_echo_reply(1, 2).write_to_vec(out, b"?").unwrap());
        let asked = bytes(|out| back().icmpv6_echo_request(1, 2).write_to_vec(out, b"?").unwrap());
        assert!(answers.is_answer(&reply, Moment(1)) && !answers.is_answer(&asked, Moment(1)));
    }

    #[test]
    fn what_is_no_packet_is_no_answer_and_of_many_the_oldest_is_forgotten() {
        let mut answers = Answers::default();
        for junk in [&b""[..], b"E", &[0x60; 39], &[0x45; 20]] {
            answers.sent(junk, Moment(0));
            assert!(!answers.is_answer(junk, Moment(0)));
        }
        for port in 0..=MOST as u16 {
            answers.sent(&udp((HOST, port), (MACHINE, 53)), Moment(u64::from(port)));
        }
        let answered = |port| answers.is_answer(&udp((MACHINE, 53), (HOST, port)), Moment(5000));
        assert!(!answered(0) && answered(1) && answered(MOST as u16));
    }
}
