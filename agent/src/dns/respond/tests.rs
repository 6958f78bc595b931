//! Messages as clients, forwarders and liars send them.

use std::{net::Ipv4Addr, sync::Arc};

use futures::future::BoxFuture;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use proto::{id::SessionId, names::Target, topology::Egress};

use super::*;

const GUEST: View = View::Guest(SessionId([1; 16]), Egress::Internet);

/// A zone with one name of each kind.
pub fn resolve() -> Resolve {
    let find = |view, name: String, kind| -> BoxFuture<'static, Found> {
        Box::pin(async move {
            let address = |last| IpAddr::V4(Ipv4Addr::new(10, 64, 0, last));
            let resolution = match (name.as_str(), kind) {
                ("web.shop.mesh.internal", Kind::A) => Resolution::Addresses(vec![address(2)]),
                ("web.shop.mesh.internal", Kind::Aaaa) if view != View::Host => {
                    Resolution::Addresses(vec!["fd00::2".parse().unwrap()])
                }
                ("many.shop.mesh.internal", Kind::A) => {
                    Resolution::Addresses((1..=30).map(address).collect())
                }
                ("huge.shop.mesh.internal", Kind::A) => {
                    Resolution::Addresses((1..=200).map(address).collect())
                }
                ("_http._tcp.web.shop.mesh.internal", Kind::Srv) => {
                    Resolution::Services(vec![Target { name: "web.shop.mesh.internal".into(), port: 8080 }])
                }
                ("2.0.64.127.in-addr.arpa", Kind::Ptr) => Resolution::Name("web.shop.mesh.internal".into()),
                ("mesh.internal" | "web.shop.mesh.internal" | "shop.mesh.internal", _) => Resolution::NoData,
                ("64.127.in-addr.arpa", _) => Resolution::NoData,
                _ => Resolution::NoName,
            };
            let of = |zone: &str| name.ends_with(zone).then(|| zone.to_owned());
            let origin = of("mesh.internal").or_else(|| of("64.127.in-addr.arpa"));
            Found { resolution, origin, lasting: true }
        })
    };
    Resolve { find: Arc::new(find), edition: Arc::new(|| 1) }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn sent(message: &[u8], view: View, carrier: Carrier) -> Option<Vec<u8>> {
    respond(message, view, carrier, &resolve()).await.map(|written| written.bytes)
}

async fn asked(message: &Message) -> Message {
    let bytes = sent(&message.to_vec().unwrap(), View::Host, Carrier::Datagram).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// Asks for one name and gives the answer in a line: code, flags, answers, who says that there is nothing.
async fn line(name: &str, kind: RecordType) -> String {
    let answer = asked(&query(name, kind)).await;
    let records = |records: &[Record]| {
        let line = |r: &Record| format!(" | {} {} {} {}", r.name, r.ttl, r.record_type(), r.data);
        records.iter().map(line).collect::<String>()
    };
    let authoritative = if answer.metadata.authoritative { " aa" } else { "" };
    let (answers, authorities) = (records(&answer.answers), records(&answer.authorities));
    format!("{:?}{authoritative}{answers}{authorities}", answer.metadata.response_code)
}

const SOA_LINE: &str = "mesh.internal. 1 SOA mesh.internal. nobody.invalid. 1 60 60 60 1";

#[tokio::test]
async fn what_is_there_is_answered_and_the_question_comes_back_as_it_was_spelled() {
    let found = line("wEb.Shop.mesh.INTERNAL.", RecordType::A).await;
    assert_eq!(found, "NoError aa | wEb.Shop.mesh.INTERNAL. 1 A 10.64.0.2");
    let asks = query("wEb.Shop.mesh.INTERNAL.", RecordType::A).to_vec().unwrap();
    let answer = sent(&asks, View::Host, Carrier::Datagram).await.unwrap();
    assert_eq!(asks[HEAD_BYTES..], answer[HEAD_BYTES..asks.len()], "byte for byte");
    let found = line("_http._tcp.web.shop.mesh.internal.", RecordType::SRV).await;
    assert_eq!(
        found,
        "NoError aa | _http._tcp.web.shop.mesh.internal. 1 SRV 0 0 8080 web.shop.mesh.internal."
    );
    let found = line("2.0.64.127.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(found, "NoError aa | 2.0.64.127.in-addr.arpa. 1 PTR web.shop.mesh.internal.");
    let asks = query("web.shop.mesh.internal.", RecordType::AAAA).to_vec().unwrap();
    let found = Message::from_vec(&sent(&asks, GUEST, Carrier::Datagram).await.unwrap()).unwrap();
    assert_eq!(found.answers[0].data.to_string(), "fd00::2");
}

#[tokio::test]
async fn nothing_comes_with_the_soa_of_the_zone_that_the_name_is_in() {
    assert_eq!(line("web.shop.mesh.internal.", RecordType::AAAA).await, format!("NoError aa | {SOA_LINE}"));
    assert_eq!(line("web.shop.mesh.internal.", RecordType::SOA).await, format!("NoError aa | {SOA_LINE}"));
    assert_eq!(line("web.shop.mesh.internal.", RecordType::NS).await, format!("NoError aa | {SOA_LINE}"));
    assert_eq!(line("no.shop.mesh.internal.", RecordType::A).await, format!("NXDomain aa | {SOA_LINE}"));
    let reverse =
        "NXDomain aa | 64.127.in-addr.arpa. 1 SOA 64.127.in-addr.arpa. nobody.invalid. 1 60 60 60 1";
    assert_eq!(line("9.9.64.127.in-addr.arpa.", RecordType::PTR).await, reverse);
    assert_eq!(line("example.org.", RecordType::A).await, "Refused");
    // One label that looks like two is no name of ours.
    assert_eq!(line("web\\.shop.mesh.internal.", RecordType::A).await, format!("NXDomain aa | {SOA_LINE}"));
}

#[tokio::test]
async fn the_top_of_a_zone_says_who_serves_it() {
    assert_eq!(line("mesh.internal.", RecordType::SOA).await, format!("NoError aa | {SOA_LINE}"));
    assert_eq!(
        line("mesh.internal.", RecordType::NS).await,
        "NoError aa | mesh.internal. 1 NS mesh.internal."
    );
    assert_eq!(line("mesh.internal.", RecordType::A).await, format!("NoError aa | {SOA_LINE}"));
    let asked = asked(&query("Mesh.Internal.", RecordType::SOA)).await;
    assert_eq!((asked.answers.len(), asked.authorities.len()), (1, 0));
    assert!(line("64.127.in-addr.arpa.", RecordType::SOA).await.starts_with("NoError aa | 64.127"));
}

#[tokio::test]
async fn any_is_answered_by_one_small_record() {
    let any = line("web.shop.mesh.internal.", RecordType::ANY).await;
    assert_eq!(any, "NoError aa | web.shop.mesh.internal. 1 HINFO RFC8482 ");
    assert!(line("no.shop.mesh.internal.", RecordType::ANY).await.starts_with("NXDomain"));
}

#[tokio::test]
async fn other_classes_and_transfers_are_refused() {
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(line("mesh.internal.", kind).await, "Refused");
    }
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::NONE, DNSClass::ANY] {
        let mut message = query("web.shop.mesh.internal.", RecordType::A);
        message.queries[0].set_query_class(class);
        let answer = asked(&message).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{class}");
        assert!(answer.answers.is_empty() && !answer.metadata.authoritative, "{class}");
    }
}

#[tokio::test]
async fn edns_is_answered_by_edns_and_only_then() {
    let mut message = query("web.shop.mesh.internal.", RecordType::A);
    assert_eq!(asked(&message).await.edns, None);
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![1; 8]));
    message.edns = Some(edns.clone());
    let answer = asked(&message).await;
    let ours = answer.edns.unwrap();
    assert_eq!((ours.version(), ours.max_payload(), ours.flags().dnssec_ok), (0, MAX_DATAGRAM_BYTES, true));
    assert!(ours.option(EdnsCode::from(10)).is_none(), "options are not echoed");
    assert_eq!(answer.answers.len(), 1);

    edns.set_version(1);
    message.edns = Some(edns);
    let answer = asked(&message).await;
    // 16 is BADSIG as well.
    assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
    assert_eq!((answer.edns.unwrap().version(), answer.answers.len()), (0, 0));
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_is_cut_and_whole_by_tcp() {
    let mut message = query("many.shop.mesh.internal.", RecordType::A);
    let plain = asked(&message).await;
    assert!(plain.metadata.truncation && (25..30).contains(&plain.answers.len()), "{}", plain.answers.len());
    assert!(plain.to_vec().unwrap().len() <= 512);
    let bytes = sent(&message.to_vec().unwrap(), View::Host, Carrier::Stream).await.unwrap();
    let whole = Message::from_vec(&bytes).unwrap();
    assert!(!whole.metadata.truncation && bytes.len() > 512);
    assert_eq!(whole.answers.len(), 30);

    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns.clone());
    assert_eq!(asked(&message).await.answers.len(), 30);
    let mut message = query("huge.shop.mesh.internal.", RecordType::A);
    // However much it takes: our datagrams cross every path whole.
    for payload in [100, 512, 1232, 4096, 65_535] {
        message.edns = Some(edns.set_max_payload(payload).clone());
        let bytes = sent(&message.to_vec().unwrap(), GUEST, Carrier::Datagram).await.unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= usize::from(payload.clamp(512, 1232)), "{payload}: {}", bytes.len());
        assert!(
            answer.metadata.truncation && answer.edns.is_some() && !answer.answers.is_empty(),
            "{payload}"
        );
    }
    let bytes = sent(&message.to_vec().unwrap(), GUEST, Carrier::Stream).await.unwrap();
    assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 200);
}

#[tokio::test]
async fn what_is_no_question_of_a_client_is_not_answered_with_records() {
    let good = query("web.shop.mesh.internal.", RecordType::A).to_vec().unwrap();
    let code = |bytes: Vec<u8>| async move {
        let answer = sent(&bytes, View::Host, Carrier::Datagram).await?;
        let head = (answer[0], answer[1]) == (bytes[0], bytes[1]) && answer[2] & 0x80 != 0;
        assert!(head && answer.len() == HEAD_BYTES, "{answer:?}");
        Some(Message::from_vec(&answer).unwrap().metadata.response_code)
    };
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    assert_eq!(code(changed(2, 0x80)).await, None, "a response");
    assert_eq!(code(good[..11].to_vec()).await, None, "no header");
    assert_eq!(code(b"nonsense".to_vec()).await, None);
    for op_code in [1, 2, 3, 4, 5, 6, 15] {
        assert_eq!(code(changed(2, op_code << 3)).await, Some(ResponseCode::NotImp), "{op_code}");
    }
    assert_eq!(code(changed(5, 0)).await, Some(ResponseCode::FormErr), "no question");
    assert_eq!(code(changed(5, 2)).await, Some(ResponseCode::FormErr), "two questions");
    assert_eq!(code(good[..good.len() - 1].to_vec()).await, Some(ResponseCode::FormErr), "cut off");
    assert_eq!(code(changed(11, 1)).await, Some(ResponseCode::FormErr), "a record is missing");
    assert_eq!(code(changed(12, 0xc0)).await, Some(ResponseCode::FormErr), "a name that points nowhere");
    let mut twice = query("web.shop.mesh.internal.", RecordType::A);
    twice.edns = Some(Edns::new());
    let mut bytes = twice.to_vec().unwrap();
    let option = bytes[good.len()..].to_vec();
    bytes.extend_from_slice(&option);
    bytes[11] = 2;
    assert_eq!(code(bytes).await, Some(ResponseCode::FormErr), "OPT twice");
}

#[tokio::test]
async fn nothing_that_arrives_ends_us() {
    let good = query("web.shop.mesh.internal.", RecordType::A).to_vec().unwrap();
    for at in 0..good.len() {
        for to in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = to;
            for carrier in [Carrier::Datagram, Carrier::Stream] {
                if let Some(answer) = sent(&bytes, GUEST, carrier).await {
                    assert!(answer[2] & 0x80 != 0 && answer.len() <= 512, "{bytes:?}");
                }
            }
        }
    }
}
