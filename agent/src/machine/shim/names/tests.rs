//! What a guest that asks for names hears.

use std::str::FromStr;

use hickory_proto::{
    op::{Edns, OpCode, Query},
    rr::{RData, Record, RecordType, rdata::A},
};

use super::*;

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message
}

fn names(egress: Egress) -> Names {
    let guest = Guest {
        zone: "mesh.internal".into(),
        subnets: (Prefix { base: [10, 64, 7, 0].into(), len: 24 }, "fd00:6d65:7368:7::".parse().unwrap()),
        egress,
    };
    let names = Names::new(guest, mpsc::channel(1).0, Descriptors::new(8));
    names.learn(&HostNet::default());
    names
}

async fn told(names: &Names, message: &Message) -> Message {
    let asked = names.foreign(&message.to_vec().unwrap()).unwrap();
    Message::from_vec(&names.answer(&asked, true).await.unwrap()).unwrap()
}

#[test]
fn what_is_the_agents_is_left_to_it() {
    let names = names(Egress::Internet);
    for (name, foreign) in [("web.shop.mesh.internal.", false), ("web.", false), ("example.org.", true)] {
        let message = question(name, RecordType::A).to_vec().unwrap();
        assert_eq!(names.foreign(&message).is_some(), foreign, "{name}");
    }
    assert!(names.foreign(b"no DNS").is_none());
}

#[tokio::test]
async fn a_guest_that_may_go_nowhere_is_told_at_once_that_no_public_name_exists() {
    let mut asked = question("example.org.", RecordType::A);
    asked.edns = Some(Edns::new());
    let answer = told(&names(Egress::None), &asked).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.edns.unwrap().max_payload(), 1232, "who asks with EDNS is answered with it");
}

#[tokio::test]
async fn names_at_home_do_not_exist_and_odd_types_are_empty() {
    let names = names(Egress::Internet);
    // They are answered without a place among those that ask a resolver.
    let _places = names.asking.clone().try_acquire_many_owned(MAX_ASKED as u32).unwrap();
    let printer = told(&names, &question("printer.local.", RecordType::TXT)).await;
    assert_eq!(printer.metadata.response_code, ResponseCode::NXDomain);
    let router = told(&names, &question("1.1.168.192.in-addr.arpa.", RecordType::PTR)).await;
    assert_eq!(router.metadata.response_code, ResponseCode::NXDomain);
    let key = told(&names, &question("example.org.", RecordType::DNSKEY)).await;
    assert_eq!((key.metadata.response_code, key.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn what_is_remembered_is_judged_by_what_the_host_is_now() {
    let names = names(Egress::Internet);
    let site = Name::from_str("site.example.").unwrap();
    let mut answer = Message::response(1, OpCode::Query);
    for address in [[203, 0, 113, 80], [192, 168, 1, 1]] {
        answer.add_answer(Record::from_rdata(site.clone(), 60, RData::A(A(address.into()))));
    }
    names.known().cache.remember(&(site, RecordType::A), &answer, Instant::now());
    let asked = question("SITE.example.", RecordType::A);
    let heard = told(&names, &asked).await;
    assert_eq!((heard.answers.len(), heard.queries), (1, asked.queries.clone()));
    let nearer = vec![("203.0.113.0".parse().unwrap(), 24)];
    names.learn(&HostNet { nearer, ..HostNet::default() });
    assert_eq!(told(&names, &asked).await.answers.len(), 0);
}

#[tokio::test]
async fn a_question_that_finds_no_descriptor_or_no_place_fails_and_is_counted() {
    let names = names(Egress::Internet);
    let asked = question("example.org.", RecordType::A);
    let descriptors = names.descriptors.question().unwrap();
    assert_eq!(told(&names, &asked).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(names.descriptors.refused(), 1);
    drop(descriptors);
    let _places = names.asking.clone().try_acquire_many_owned(MAX_ASKED as u32).unwrap();
    assert_eq!(told(&names, &asked).await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(names.descriptors.refused(), 2);
}

#[tokio::test]
async fn a_guest_that_says_a_long_question_by_tcp_is_left() {
    let names = names(Egress::Internet);
    let (mut guest, ours) = UnixStream::pair().unwrap();
    guest.write_all(&(QUESTION_BYTES + 1).to_be_bytes()).await.unwrap();
    timeout(QUIET / 2, names.serve(ours)).await.unwrap();
    let (mut guest, ours) = UnixStream::pair().unwrap();
    let question = question("printer.local.", RecordType::A).to_vec().unwrap();
    guest.write_all(&resolver::framed(&question).unwrap()).await.unwrap();
    guest.shutdown().await.unwrap();
    names.serve(ours).await;
    let length = guest.read_u16().await.unwrap();
    let mut answer = vec![0; length.into()];
    guest.read_exact(&mut answer).await.unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}
