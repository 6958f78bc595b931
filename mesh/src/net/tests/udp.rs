//! UDP into machines, over one host and two.

use etherparse::{Ipv4Slice, UdpSlice};
use tokio_util::codec::Framed;

use super::*;
use crate::{link::gateway, net::datagrams::FLOWS};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 7, 1);

/// Opens a flow to port 53 of machine 2.
async fn flow(net: &Net) -> Framed<Box<dyn End>, tokio_util::codec::LengthDelimitedCodec> {
    let opened = within("a flow", net.dial_datagrams(SESSION, &name(2), 53)).await.unwrap();
    Framed::new(opened, datagrams())
}

/// Reads what a machine was told: from which port of its gateway, and what.
fn told(message: PortMessage, machine: u8) -> (u16, String) {
    let PortMessage::Packet(packet) = message else { panic!("{message:?}") };
    let ip = Ipv4Slice::from_slice(&packet).unwrap();
    assert_eq!((ip.header().source_addr(), ip.header().destination_addr()), (GATEWAY, address(machine)));
    let udp = UdpSlice::from_slice(ip.payload().payload).unwrap();
    assert_eq!(udp.destination_port(), 53);
    (udp.source_port(), String::from_utf8(udp.payload().to_vec()).unwrap())
}

/// What machine 2 says to a port of its gateway.
fn says(from: u16, to: u16, what: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4(address(2).octets(), GATEWAY.octets(), 64).udp(from, to);
    builder.write_to_vec(&mut bytes, what).unwrap();
    bytes.into()
}

async fn answered(net: &Net, two: &mut Shim) {
    assert_eq!(gateway(Prefix { base: GATEWAY, len: 24 }), GATEWAY);
    let (mut one, mut other) = (flow(net).await, flow(net).await);
    for what in ["a", "", "b"] {
        within("sending", one.send(Bytes::from(what))).await.unwrap();
    }
    let first = told(two.next().await, 2);
    assert_eq!(first.1, "a");
    let rest = [told(two.next().await, 2), told(two.next().await, 2)];
    assert_eq!(rest, [(first.0, String::new()), (first.0, "b".to_owned())]);
    within("sending", other.send(Bytes::from("x"))).await.unwrap();
    let second = told(two.next().await, 2);
    assert_ne!(second.0, first.0, "each flow has a port of its own");
    for (from, to, what) in [(54, first.0, "not from there"), (53, first.0, "1"), (53, second.0, "2")] {
        two.send(says(from, to, what.as_bytes())).await;
    }
    two.send(says(53, first.0, b"3")).await;
    for (flow, answers) in [(&mut one, &["1", "3"][..]), (&mut other, &["2"])] {
        for answer in answers {
            assert_eq!(within("an answer", flow.next()).await.unwrap().unwrap(), *answer);
        }
    }
    drop((one, other));
}

#[tokio::test]
async fn datagrams_reach_a_machine_in_order_and_its_answers_come_back_to_who_asked() {
    let (hosts, [_one, mut two]) = pair().await;
    for host in [&hosts[0], &hosts[1]] {
        answered(&host.net, &mut two).await;
    }
    // Once nobody listens any more, answers go nowhere.
    two.send(says(53, *crate::link::PORTS.start(), b"late")).await;
    eventually(&hosts[1].net, "counted", |counts| counts.no_route >= 3).await;
    stop(hosts).await;
}

#[tokio::test]
async fn one_flow_too_many_ends_the_one_that_was_silent_longest_and_all_end_with_the_machine() {
    let (net, _handler) = Net::new(None, Arc::new(|_| true));
    let me = HostId([1; 32]);
    net.set_routes(SESSION, &directory(&[me, me]), me);
    net.dial_datagrams(SESSION, &name(2), 53).await.map(drop).unwrap_err();
    let mut two = Shim::attach(&net, 2, 2).await;
    let mut flows = Vec::new();
    for _ in 0..FLOWS {
        flows.push(flow(&net).await);
    }
    within("sending", flows[0].send(Bytes::from("a"))).await.unwrap();
    let first = told(two.next().await, 2);
    flows.push(flow(&net).await);
    assert!(within("its end", flows[1].next()).await.is_none());
    two.send(says(53, first.0, b"still")).await;
    assert_eq!(within("an answer", flows[0].next()).await.unwrap().unwrap(), "still");
    // One that is ended by its client leaves room.
    drop(flows.pop());
    flows.push(flow(&net).await);
    two.send(says(53, first.0, b"and still")).await;
    assert_eq!(within("an answer", flows[0].next()).await.unwrap().unwrap(), "and still");
    net.detach(SESSION, &name(2));
    for flow in &mut flows {
        assert!(within("its end", flow.next()).await.is_none());
    }
    net.shutdown();
}
