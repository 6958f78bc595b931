//! Pure: what agents say to each other on a LAN: multicast DNS (RFC 6762) of one service. A question is "who is here?";
//! an answer holds a host's id and port. Its address is where the datagram came from. It says nothing else.

use data_encoding::BASE32_NOPAD;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{PTR, SRV},
    },
};
use proto::id::HostId;

/// Larger messages are not ours.
pub(super) const MAX_BYTES: usize = 1500;
/// Hosts in one message that are looked at; an agent speaks for itself alone.
const MAX_HOSTS: usize = 4;
const SERVICE: &str = "_mesh-agent._udp.local.";
/// How long others may believe an answer, in seconds.
const TTL_S: u32 = 120;

/// What somebody said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Whether it asks who is here.
    pub(super) asks: bool,
    /// Who it says is there, and at which port.
    pub(super) hosts: Vec<(HostId, u16)>,
}

/// Asks who is here.
pub(super) fn question() -> Option<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.queries.push(Query::query(service()?, RecordType::PTR));
    message.to_vec().ok()
}

/// Says that `host` is here.
pub(super) fn answer(host: HostId, port: u16) -> Option<Vec<u8>> {
    let label = BASE32_NOPAD.encode(&host.0).to_ascii_lowercase();
    let instance = Name::from_ascii(format!("{label}.{SERVICE}")).ok()?;
    let computer = Name::from_ascii(format!("{label}.local.")).ok()?;
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message.answers.push(Record::from_rdata(service()?, TTL_S, RData::PTR(PTR(instance.clone()))));
    let place = SRV::new(0, 0, port, computer);
    message.additionals.push(Record::from_rdata(instance, TTL_S, RData::SRV(place)));
    message.to_vec().ok()
}

/// Reads a message; what is not of this service is nothing.
pub(super) fn read(bytes: &[u8]) -> Heard {
    let (Ok(message), Some(service)) = (Message::from_vec(bytes), service()) else { return Heard::default() };
    if message.metadata.message_type == MessageType::Query {
        let asks = message.queries.iter().any(|query| *query.name() == service);
        return Heard { asks, hosts: Vec::new() };
    }
    let host = |record: &Record| {
        let RData::SRV(place) = &record.data else { return None };
        let name = record.name.to_ascii();
        let (label, rest) = name.split_once('.')?;
        let id = BASE32_NOPAD.decode(label.to_ascii_uppercase().as_bytes()).ok()?;
        let ours = rest.eq_ignore_ascii_case(SERVICE) && place.port > 0;
        ours.then_some((HostId(id.try_into().ok()?), place.port))
    };
    let records = message.additionals.iter().chain(&message.answers);
    Heard { asks: false, hosts: records.filter_map(host).take(MAX_HOSTS).collect() }
}

fn service() -> Option<Name> {
    Name::from_ascii(SERVICE).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_and_an_answer_are_read_as_they_were_meant() {
        assert_eq!(read(&question().unwrap()), Heard { asks: true, hosts: Vec::new() });
        let host = HostId([0xa7; 32]);
        let answer = answer(host, 7442).unwrap();
        assert_eq!(read(&answer), Heard { asks: false, hosts: vec![(host, 7442)] });
        assert!(answer.len() < 512, "{} bytes", answer.len());
    }

    #[test]
    fn other_services_are_nobody() {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.queries.push(Query::query(Name::from_ascii("_ipp._tcp.local.").unwrap(), RecordType::PTR));
        assert_eq!(read(&message.to_vec().unwrap()), Heard::default());
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        let printer = Name::from_ascii("printer._ipp._tcp.local.").unwrap();
        let place = RData::SRV(SRV::new(0, 0, 631, Name::from_ascii("printer.local.").unwrap()));
        message.answers.push(Record::from_rdata(printer, 60, place));
        assert_eq!(read(&message.to_vec().unwrap()), Heard::default());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_passed_over(bytes in proptest::collection::vec(any::<u8>(), 0..MAX_BYTES)) {
            prop_assert!(read(&bytes).hosts.len() <= MAX_HOSTS);
        }

        #[test]
        fn damage_to_an_answer_is_no_panic(at in 0usize..150, byte in any::<u8>()) {
            let mut bytes = answer(HostId([3; 32]), 7440).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            prop_assert!(read(&bytes).hosts.len() <= MAX_HOSTS);
        }
    }
}
