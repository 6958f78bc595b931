//! One message in, one message out: how a question is read and its answer written, the same for programs of this host
//! and for guests, over UDP and TCP. Which records there are is asked of `Resolve`; nothing here sends.
//!
//! ```text
//! no question of a client     a response, or too short for a header: silence
//! another opcode              NOTIMP (RFC 1035)
//! not just one question       FORMERR, and so is what cannot be read
//! EDNS version above 0        BADVERS (RFC 6891)
//! another class, AXFR, IXFR   REFUSED, and so is what is in none of our zones
//! ANY                         one HINFO record (RFC 8482)
//! SOA, NS at a zone's top     as locally served zones have them (RFC 6303)
//! nothing                     NOERROR or NXDOMAIN with the SOA (RFC 2308)
//! ```
//! The question goes back as it was spelled (0x20). What does not fit a datagram is cut, and marked so.

use std::{net::IpAddr, str::FromStr};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, HINFO, NS, PTR, SOA, SRV},
    },
};
use mesh::link::Carrier;
use proto::{
    limits::GUEST_DNS_BYTES,
    names::{self, Kind, Resolution, View},
};

use super::{Found, Resolve};

/// The bytes before the first question.
const HEAD_BYTES: usize = 12;
/// What a client without EDNS takes in one datagram (RFC 1035), and nobody takes less.
const PLAIN_BYTES: u16 = 512;
/// What we send and take in one datagram at most: it crosses every path whole, also a guest's.
const MAX_DATAGRAM_BYTES: u16 = GUEST_DNS_BYTES as u16;

/// An answer as it is sent.
pub struct Written {
    pub bytes: Vec<u8>,
    /// As in [`Found`]. What costs little anew, and so may be asked in any number of ways, is not worth its place.
    pub lasting: bool,
}

/// Answers a message. `None`: it is no question, and silence is the answer.
pub async fn respond(message: &[u8], view: View, carrier: Carrier, resolve: &Resolve) -> Option<Written> {
    let request = match read(message) {
        Read::Question(request) => request,
        Read::Wrong(response) => return Some(Written { bytes: response.to_vec().ok()?, lasting: false }),
        Read::Silence => return None,
    };
    let [query] = &request.queries[..] else { return None };
    let mut response = Message::response(request.metadata.id, OpCode::Query);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.edns = request.edns.as_ref().map(ours);
    response.queries = request.queries.clone();
    let lasting = match refused(&request, query) {
        Some(code) => {
            response.metadata.response_code = code;
            false
        }
        None => fill(&mut response, query, view, resolve).await,
    };
    let most = match carrier {
        Carrier::Datagram => request.max_payload().clamp(PLAIN_BYTES, MAX_DATAGRAM_BYTES),
        Carrier::Stream => u16::MAX,
    };
    Some(Written { bytes: fit(response, usize::from(most))?, lasting })
}

enum Read {
    Question(Message),
    /// It has no question that could be repeated.
    Wrong(Message),
    Silence,
}

fn read(message: &[u8]) -> Read {
    let Some(&[id_high, id_low, flags, _, count_high, count_low, ..]) = message.first_chunk::<HEAD_BYTES>()
    else {
        return Read::Silence;
    };
    let op_code = OpCode::from_u8((flags >> 3) & 0xf);
    let wrong = |code| {
        let mut response = Message::error_msg(u16::from_be_bytes([id_high, id_low]), op_code, code);
        response.metadata.recursion_desired = flags & 1 != 0;
        Read::Wrong(response)
    };
    // Two that answer answers would do so for ever.
    if flags & 0x80 != 0 {
        return Read::Silence;
    }
    if op_code != OpCode::Query {
        return wrong(ResponseCode::NotImp);
    }
    if [count_high, count_low] != [0, 1] {
        return wrong(ResponseCode::FormErr);
    }
    match Message::from_vec(message) {
        Ok(request) => Read::Question(request),
        Err(_) => wrong(ResponseCode::FormErr),
    }
}

/// Says why a question is not asked of any zone.
fn refused(request: &Message, query: &Query) -> Option<ResponseCode> {
    if request.version() > 0 {
        return Some(ResponseCode::BADVERS);
    }
    let transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    (transfer || query.query_class() != DNSClass::IN).then_some(ResponseCode::Refused)
}

/// What we say of ourselves to one who asked with EDNS.
fn ours(theirs: &Edns) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_DATAGRAM_BYTES).set_version(0).set_dnssec_ok(theirs.flags().dnssec_ok);
    edns
}

/// Answers a question, and tells whether the answer is lasting.
async fn fill(response: &mut Message, query: &Query, view: View, resolve: &Resolve) -> bool {
    let kind = match query.query_type() {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        _ => Kind::Other,
    };
    let name = spelled(query.name());
    let Found { resolution, origin, lasting } = (resolve.find)(view, name.clone(), kind).await;
    let Some(origin) = origin else {
        response.metadata.response_code = ResponseCode::Refused;
        return lasting;
    };
    response.metadata.authoritative = true;
    let is_top = name == origin;
    let data = match (query.query_type(), resolution) {
        (_, Resolution::Addresses(addresses)) => addresses.into_iter().map(address_data).collect(),
        (_, Resolution::Services(targets)) => targets
            .iter()
            .filter_map(|target| Some(RData::SRV(SRV::new(0, 0, target.port, full(&target.name)?))))
            .collect(),
        (_, Resolution::Name(text)) => full(&text).map(|name| RData::PTR(PTR(name))).into_iter().collect(),
        (RecordType::SOA, Resolution::NoData) if is_top => soa(&origin).into_iter().collect(),
        (RecordType::NS, Resolution::NoData) if is_top => {
            full(&origin).map(|name| RData::NS(NS(name))).into_iter().collect()
        }
        (RecordType::ANY, Resolution::NoData) => {
            vec![RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()))]
        }
        (_, Resolution::NoName) => {
            response.metadata.response_code = ResponseCode::NXDomain;
            Vec::new()
        }
        (_, Resolution::NoData | Resolution::Refused) => Vec::new(),
    };
    let record = |data: RData| Record::from_rdata(query.name().clone(), names::TTL_S, data);
    response.answers = data.into_iter().map(record).collect();
    if response.answers.is_empty() {
        let top = full(&origin).zip(soa(&origin));
        response.authorities.extend(top.map(|(name, data)| Record::from_rdata(name, names::TTL_S, data)));
    }
    lasting
}

/// Writes a name as ours are written; a label that no name of ours can have becomes one.
fn spelled(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => byte.to_ascii_lowercase() as char,
            _ => '?',
        }));
    }
    text
}

fn full(text: &str) -> Option<Name> {
    let mut name = Name::from_str(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// A zone's SOA: its own name serves it, nobody is to be written to. The minimum bounds how long "nothing" is believed.
fn soa(origin: &str) -> Option<RData> {
    let nobody = full("nobody.invalid")?;
    Some(RData::SOA(SOA::new(full(origin)?, nobody, 1, 60, 60, 60, names::TTL_S)))
}

/// Writes a response, with as many of its answers as fit. A client that cannot ask again by TCP has those.
fn fit(mut response: Message, most: usize) -> Option<Vec<u8>> {
    let mut bytes = response.to_vec().ok()?;
    while bytes.len() > most && !response.answers.is_empty() {
        response.metadata.truncation = true;
        // Fewer each time, because `most` is the smaller one.
        response.answers.truncate(response.answers.len() * most / bytes.len());
        bytes = response.to_vec().ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests;
