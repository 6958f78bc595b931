//! Two or three real endpoints on loopback, without relays; shims are the far ends of sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::{FutureExt, SinkExt, StreamExt};
use iroh::{
    RelayMode, SecretKey,
    address_lookup::memory::MemoryLookup,
    endpoint::{QuicTransportConfig, presets},
    protocol::Router,
};
use proto::session::{GroupEntry, Guard, MachineEntry, Prefix};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time,
};
use tokio_util::codec::Framed;

use super::{
    forward::{FlowHeader, Header},
    *,
};
use crate::{link::PortCodec, tests::golden::bytes::Sample};

mod udp;

const SESSION: SessionId = SessionId([9; 16]);

/// What is said before a connection into a machine, or to what a host publishes.
pub(crate) fn headers() -> [Sample; 3] {
    let machine = || Header { session: SESSION, machine: "web-1".parse().unwrap(), port: 80 };
    let host = published::Header { port: 8080 };
    [
        Sample::message("connect.one", machine()),
        Sample::message("connect-datagrams.one", FlowHeader(machine())),
        Sample::message("connect-host.one", host),
    ]
}

/// Bounds every wait of these tests.
async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let Ok(done) = time::timeout(Duration::from_secs(20), wait).await else {
        panic!("waited too long for {what}")
    };
    done
}

/// Adds up what stayed on a host and what it has to do with all others.
fn counted(net: &Net) -> Counts {
    let (mut all, others) = net.counts();
    for (_, one) in others {
        all.sent += one.sent;
        all.sent_in_two += one.sent_in_two;
        all.delivered += one.delivered;
        all.no_route += one.no_route;
        all.forged += one.forged;
        all.stale += one.stale;
        all.queue_full += one.queue_full;
        all.unreachable += one.unreachable;
    }
    all
}

/// Waits until the counts are as wanted, and tells what they were last if they never are.
async fn eventually(net: &Net, what: &str, wanted: impl Fn(Counts) -> bool) {
    let wait = async {
        while !wanted(counted(net)) {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    if time::timeout(Duration::from_secs(20), wait).await.is_err() {
        panic!("never {what}: {:?}", net.counts());
    }
}

struct Host {
    id: HostId,
    net: Net,
    router: Router,
}

/// Starts one host; all hosts of a test find each other in `addresses`. Their paths stay as narrow
/// as QUIC allows, so that a guest's largest packet never fits into one datagram.
async fn host(seed: u8, addresses: &MemoryLookup) -> Host {
    let narrow = QuicTransportConfig::builder().initial_mtu(1200).mtu_discovery_config(None);
    host_on(seed, addresses, narrow.build()).await
}

async fn host_on(seed: u8, addresses: &MemoryLookup, path: QuicTransportConfig) -> Host {
    judging(seed, addresses, path, Arc::new(|_| true)).await
}

async fn judging(seed: u8, addresses: &MemoryLookup, path: QuicTransportConfig, enters: Enters) -> Host {
    let endpoint = Endpoint::builder(presets::Minimal)
        .transport_config(path)
        .secret_key(SecretKey::from_bytes(&[seed; 32]))
        .relay_mode(RelayMode::Disabled)
        .address_lookup(addresses.clone())
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap();
    addresses.set_endpoint_info(endpoint.addr());
    let lets_in: LetsIn = Arc::new(|_| std::future::ready(true).boxed());
    let (net, handler) = Net::new(Some((endpoint.clone(), lets_in)), enters);
    let id = host_of_endpoint(&endpoint.id());
    let router = Router::builder(endpoint).accept(ALPN, handler).spawn();
    Host { id, net, router }
}

fn name(index: u8) -> MachineName {
    format!("web-{index}").parse().unwrap()
}

/// Gives machine N the address .N+1 on the Nth host, all in epoch 2.
fn directory(hosts: &[HostId]) -> Directory {
    let machines = hosts.iter().zip(1..).map(|(&host, index)| MachineEntry {
        machine: name(index),
        host,
        epoch: Epoch(2),
        address: address(index),
        guard: Guard::Hold,
        user: None,
        run: true,
    });
    let group = GroupEntry {
        services: BTreeMap::new(),
        http: BTreeSet::new(),
        needs: BTreeSet::new(),
        machines: machines.collect(),
        publish: BTreeMap::new(),
        udp: BTreeSet::new(),
    };
    let subnet = Prefix { base: Ipv4Addr::new(10, 64, 7, 0), len: 24 };
    Directory { subnet, groups: BTreeMap::from([("web".parse().unwrap(), group)]) }
}

fn address(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, 7, index + 1)
}

fn packet(from: u8, to: u8, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4(address(from).octets(), address(to).octets(), 64)
        .udp(1, 2)
        .write_to_vec(&mut bytes, payload)
        .unwrap();
    bytes.into()
}

/// The shim of a test: its packet port, opened by the net, and a guest that echoes on port 7.
struct Shim {
    ports: mpsc::Receiver<Framed<UnixStream, PortCodec>>,
    port: Framed<UnixStream, PortCodec>,
}

impl Shim {
    async fn attach(net: &Net, index: u8, epoch: u64) -> Shim {
        let (opened, mut ports) = mpsc::channel(4);
        let network: Connect = Arc::new(move || {
            let opened = opened.clone();
            async move {
                let (near, far) = UnixStream::pair()?;
                opened.send(Framed::new(far, PortCodec)).await.map_err(io::Error::other)?;
                Ok(near)
            }
            .boxed()
        });
        let dial: Dial = Arc::new(|port| {
            async move {
                if port != 7 {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                let (near, far) = UnixStream::pair()?;
                tokio::spawn(async move {
                    let (mut read, mut write) = far.into_split();
                    tokio::io::copy(&mut read, &mut write).await
                });
                Ok(near)
            }
            .boxed()
        });
        let resolve: Resolve = Arc::new(|question, _| {
            async move { (question != "silence").then(|| Bytes::from([&b"re: "[..], &question].concat())) }
                .boxed()
        });
        assert!(net.attach(SESSION, &name(index), Epoch(epoch), Local { network, dial, resolve }));
        let port = within("the port to open", ports.recv()).await.unwrap();
        Shim { ports, port }
    }

    async fn send(&mut self, packet: Bytes) {
        within("sending", self.port.send(PortMessage::Packet(packet))).await.unwrap();
    }

    async fn next(&mut self) -> PortMessage {
        within("a message", self.port.next()).await.unwrap().unwrap()
    }
}

/// Two hosts with one machine each.
async fn pair() -> ([Host; 2], [Shim; 2]) {
    let addresses = MemoryLookup::new();
    let hosts = [host(1, &addresses).await, host(2, &addresses).await];
    with_machines(hosts).await
}

async fn with_machines(hosts: [Host; 2]) -> ([Host; 2], [Shim; 2]) {
    let directory = directory(&[hosts[0].id, hosts[1].id]);
    for host in &hosts {
        host.net.set_routes(SESSION, &directory, host.id);
    }
    let shims = [Shim::attach(&hosts[0].net, 1, 2).await, Shim::attach(&hosts[1].net, 2, 2).await];
    (hosts, shims)
}

async fn stop(hosts: impl IntoIterator<Item = Host>) {
    for host in hosts {
        within("the end", host.router.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn packets_cross_hosts_also_when_they_are_longer_than_a_datagram() {
    let (hosts, [mut one, mut two]) = pair().await;
    for length in [0, 100, 1280 - 28] {
        let there = packet(1, 2, &vec![length as u8; length]);
        one.send(there.clone()).await;
        assert_eq!(two.next().await, PortMessage::Packet(there));
        let back = packet(2, 1, &vec![7; length]);
        two.send(back.clone()).await;
        assert_eq!(one.next().await, PortMessage::Packet(back));
    }
    // Each host counts what went to the other one, and nothing of it as its own.
    let whole = [0, 100, 1280 - 28].map(|length| length + 28).iter().sum::<u64>();
    for (one, other) in [(0, 1), (1, 0)] {
        let (here, others) = hosts[one].net.counts();
        assert_eq!(here, Counts::default());
        // The longest goes whole once QUIC has found how wide the path is.
        let sent_in_two = others[0].1.sent_in_two;
        assert!(sent_in_two <= 1, "{sent_in_two}");
        let with = Counts {
            sent: 3,
            sent_bytes: whole,
            sent_in_two,
            delivered: 3,
            delivered_bytes: whole,
            ..Counts::default()
        };
        assert_eq!(others, [(hosts[other].id, with)]);
    }
    stop(hosts).await;
}

#[tokio::test]
async fn packets_cross_a_path_while_it_grows_and_go_whole_in_the_end() {
    let addresses = MemoryLookup::new();
    // QUIC begins narrow, and looks for what the path really carries.
    let grows = || QuicTransportConfig::builder().initial_mtu(1200).build();
    let hosts = [host_on(1, &addresses, grows()).await, host_on(2, &addresses, grows()).await];
    let (hosts, [mut one, mut two]) = with_machines(hosts).await;
    let mut sent = 0;
    let grown = async {
        loop {
            let there = packet(1, 2, &vec![sent as u8; 1280 - 28]);
            one.send(there.clone()).await;
            assert_eq!(two.next().await, PortMessage::Packet(there), "after {sent}");
            sent += 1;
            let (_, others) = hosts[0].net.counts();
            // One beyond the halves went whole.
            if others[0].1.sent > others[0].1.sent_in_two {
                return;
            }
        }
    };
    within("a datagram that holds the largest packet", grown).await;
    stop(hosts).await;
}

#[tokio::test]
async fn machines_of_one_host_need_no_endpoint() {
    let (net, _handler) = Net::new(None, Arc::new(|_| true));
    let me = HostId([1; 32]);
    net.set_routes(SESSION, &directory(&[me, me]), me);
    let (mut one, mut two) = (Shim::attach(&net, 1, 2).await, Shim::attach(&net, 2, 2).await);
    let there = packet(1, 2, b"straight");
    one.send(there.clone()).await;
    assert_eq!(two.next().await, PortMessage::Packet(there));
    one.send(packet(1, 9, b"nobody")).await;
    eventually(&net, "without route", |counts| counts.no_route == 1).await;
    net.detach(SESSION, &name(2));
    one.send(packet(1, 2, b"gone")).await;
    eventually(&net, "detached", |counts| counts.no_route == 2).await;
    net.shutdown();
}

#[tokio::test]
async fn an_older_incarnation_is_heard_by_nobody() {
    let (hosts, [mut one, mut two]) = pair().await;
    let mut newer = directory(&[hosts[0].id, hosts[1].id]);
    newer.groups.values_mut().for_each(|group| group.machines[0].epoch = Epoch(3));
    hosts[1].net.set_routes(SESSION, &newer, hosts[1].id);
    one.send(packet(1, 2, b"from the past")).await;
    eventually(&hosts[1].net, "stale there", |counts| counts.stale == 1).await;
    hosts[0].net.set_routes(SESSION, &newer, hosts[0].id);
    one.send(packet(1, 2, b"from the past")).await;
    eventually(&hosts[0].net, "stale here", |counts| counts.stale == 1).await;
    let mut one = Shim::attach(&hosts[0].net, 1, 3).await;
    let there = packet(1, 2, b"from now");
    one.send(there.clone()).await;
    assert_eq!(two.next().await, PortMessage::Packet(there));
    stop(hosts).await;
}

#[tokio::test]
async fn a_host_speaks_only_for_its_own_machines() {
    let addresses = MemoryLookup::new();
    let [honest, liar] = [host(1, &addresses).await, host(2, &addresses).await];
    honest.net.set_routes(SESSION, &directory(&[honest.id, HostId([3; 32])]), honest.id);
    // The liar believes that machine 2 is its own.
    liar.net.set_routes(SESSION, &directory(&[honest.id, liar.id]), liar.id);
    let _one = Shim::attach(&honest.net, 1, 2).await;
    let mut two = Shim::attach(&liar.net, 2, 2).await;
    two.send(packet(2, 1, b"I am web-2")).await;
    eventually(&honest.net, "forged", |counts| counts.forged == 1).await;
    two.send(packet(1, 1, b"I am you")).await;
    eventually(&liar.net, "refused at home already", |counts| counts.forged == 1).await;
    assert_eq!(counted(&honest.net).delivered, 0);
    stop([honest, liar]).await;
}

#[tokio::test]
async fn attaching_keeps_the_newest_incarnation() {
    let (net, _handler) = Net::new(None, Arc::new(|_| true));
    let first = Shim::attach(&net, 1, 2).await;
    let local = || Local {
        network: Arc::new(|| async { Err(io::ErrorKind::NotFound.into()) }.boxed()),
        dial: Arc::new(|_| async { Err(io::ErrorKind::NotFound.into()) }.boxed()),
        resolve: Arc::new(|_, _| async { None }.boxed()),
    };
    assert!(!net.attach(SESSION, &name(1), Epoch(1), local()), "older");
    assert!(net.attach(SESSION, &name(1), Epoch(2), local()), "the same, again");
    let mut first = first;
    let mut second = Shim::attach(&net, 1, 3).await;
    assert!(within("the old port to close", first.port.next()).await.is_none());
    second.port.send(PortMessage::Dns { id: 1, message: "?".into() }).await.unwrap();
    assert_eq!(second.next().await, PortMessage::Dns { id: 1, message: "re: ?".into() });
    net.shutdown();
}

#[tokio::test]
async fn a_lost_port_is_opened_again_and_names_work_on_it() {
    let (net, _handler) = Net::new(None, Arc::new(|_| true));
    let mut shim = Shim::attach(&net, 1, 2).await;
    shim.port.close().await.unwrap();
    shim.port = within("a new port", shim.ports.recv()).await.unwrap();
    shim.port.send(PortMessage::Dns { id: 1, message: "silence".into() }).await.unwrap();
    shim.port.send(PortMessage::Dns { id: 2, message: "web".into() }).await.unwrap();
    assert_eq!(shim.next().await, PortMessage::Dns { id: 2, message: "re: web".into() });
    net.shutdown();
}

async fn talk(stream: impl AsyncRead + AsyncWrite) {
    let (mut read, mut write) = tokio::io::split(stream);
    let said: Vec<u8> = (0..2_000_000u32).map(|at| at as u8).collect();
    let mut heard = Vec::new();
    let (sent, got) = within(
        "an echo",
        futures::future::join(
            async {
                write.write_all(&said).await?;
                write.shutdown().await
            },
            read.read_to_end(&mut heard),
        ),
    )
    .await;
    sent.unwrap();
    got.unwrap();
    assert!(heard == said);
}

#[tokio::test]
async fn tcp_reaches_machines_here_and_there_and_ends_cleanly() {
    let (hosts, _shims) = pair().await;
    for index in [1, 2] {
        let stream = within("a connection", hosts[0].net.dial(SESSION, &name(index), 7)).await.unwrap();
        talk(stream).await;
    }
    stop(hosts).await;
}

#[tokio::test]
async fn what_cannot_be_dialed_says_why() {
    let (hosts, _shims) = pair().await;
    let net = &hosts[0].net;
    let dial = |index, port| async move {
        within("an answer", net.dial(SESSION, &name(index), port)).await.map(drop).unwrap_err().to_string()
    };
    assert_eq!(dial(1, 8).await, "port 8 of web-1 refused the connection");
    assert_eq!(dial(2, 8).await, "port 8 of web-2 refused the connection");
    assert_eq!(dial(3, 7).await, "web-3 is not in the session");
    hosts[0].net.detach(SESSION, &name(1));
    hosts[1].net.detach(SESSION, &name(2));
    assert_eq!(dial(1, 7).await, "web-1 is not running on its host");
    assert_eq!(dial(2, 7).await, "web-2 is not running on its host");
    stop(hosts).await;
}

#[tokio::test]
async fn what_a_host_publishes_is_reached_from_another_and_nothing_else_of_its_loopback() {
    let (hosts, _shims) = pair().await;
    let (asker, publisher) = (&hosts[0].net, &hosts[1]);
    let program = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = program.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = program.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let ask = || async { within("an answer", asker.dial_host(publisher.id, port)).await };
    assert!(matches!(ask().await, Err(PublishedError::Unpublished(_))));
    publisher.net.publish([port].into());
    talk(ask().await.unwrap()).await;
    serving.await.unwrap();
    assert!(matches!(ask().await, Err(PublishedError::Refused(_))), "nobody listens any more");
    publisher.net.publish(BTreeSet::new());
    assert!(matches!(ask().await, Err(PublishedError::Unpublished(_))));
    stop(hosts).await;
}

#[tokio::test]
async fn an_unknown_host_costs_one_attempt_and_then_fails_at_once() {
    let addresses = MemoryLookup::new();
    let here = host(1, &addresses).await;
    let nowhere = host_of_endpoint(&SecretKey::from_bytes(&[77; 32]).public());
    here.net.set_routes(SESSION, &directory(&[here.id, nowhere]), here.id);
    let mut one = Shim::attach(&here.net, 1, 2).await;
    for _ in 0..3 {
        one.send(packet(1, 2, b"lost")).await;
    }
    eventually(&here.net, "unreachable", |counts| counts.unreachable == 3).await;
    let refused = within("an answer", here.net.dial(SESSION, &name(2), 7)).await.map(drop);
    assert_eq!(refused.unwrap_err().to_string(), "the host of web-2 is not reachable");
    stop([here]).await;
}

#[tokio::test]
async fn two_hosts_that_dial_at_once_understand_each_other() {
    let (hosts, [mut one, mut two]) = pair().await;
    futures::future::join(one.send(packet(1, 2, b"a")), two.send(packet(2, 1, b"b"))).await;
    assert_eq!(one.next().await, PortMessage::Packet(packet(2, 1, b"b")));
    assert_eq!(two.next().await, PortMessage::Packet(packet(1, 2, b"a")));
    stop(hosts).await;
}

#[tokio::test]
async fn a_host_that_starts_again_is_found_again() {
    let addresses = MemoryLookup::new();
    let first = host(1, &addresses).await;
    let second = host(2, &addresses).await;
    let directory = directory(&[first.id, second.id]);
    first.net.set_routes(SESSION, &directory, first.id);
    second.net.set_routes(SESSION, &directory, second.id);
    let mut one = Shim::attach(&first.net, 1, 2).await;
    let mut two = Shim::attach(&second.net, 2, 2).await;
    one.send(packet(1, 2, b"first")).await;
    assert_eq!(two.next().await, PortMessage::Packet(packet(1, 2, b"first")));
    stop([second]).await;
    let second = host(2, &addresses).await;
    second.net.set_routes(SESSION, &directory, second.id);
    let mut two = Shim::attach(&second.net, 2, 2).await;
    let there = packet(1, 2, b"again");
    let sending = async {
        loop {
            one.send(there.clone()).await;
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        message = two.next() => assert_eq!(message, PortMessage::Packet(there.clone())),
        () = sending => {}
    }
    stop([first, second]).await;
}

#[tokio::test]
async fn a_guest_that_does_not_read_harms_only_itself() {
    let (net, _handler) = Net::new(None, Arc::new(|_| true));
    let me = HostId([1; 32]);
    net.set_routes(SESSION, &directory(&[me, me, me]), me);
    let mut one = Shim::attach(&net, 1, 2).await;
    let _deaf = Shim::attach(&net, 2, 2).await;
    let mut three = Shim::attach(&net, 3, 2).await;
    let sent = AtomicUsize::new(0);
    while counted(&net).queue_full == 0 {
        one.send(packet(1, 2, &[0; 1200])).await;
        assert!(sent.fetch_add(1, Ordering::Relaxed) < 100_000, "queues are bounded");
    }
    one.send(packet(1, 3, b"alive")).await;
    assert_eq!(three.next().await, PortMessage::Packet(packet(1, 3, b"alive")));
    net.shutdown();
}

#[tokio::test]
async fn a_host_that_may_not_operate_reaches_services_and_enters_nothing() {
    let addresses = MemoryLookup::new();
    let path = || QuicTransportConfig::builder().build();
    let (one, two) = (host_on(1, &addresses, path()).await, host_on(2, &addresses, path()).await);
    let limited = two.id;
    let strict = judging(3, &addresses, path(), Arc::new(move |host| host != limited)).await;
    let mut directory = directory(&[strict.id]);
    let served = |group: &mut GroupEntry| group.services = [("echo".parse().unwrap(), 7)].into();
    directory.groups.values_mut().for_each(served);
    for host in [&one, &two, &strict] {
        host.net.set_routes(SESSION, &directory, host.id);
    }
    let _shim = Shim::attach(&strict.net, 1, 2).await;
    assert!(two.net.dial(SESSION, &name(1), 7).await.is_ok(), "a service is for every member");
    for port in [0, 22] {
        let refused = two.net.dial(SESSION, &name(1), port).await.err();
        assert!(matches!(refused, Some(ForwardError::MayNot(_))), "{port}: {refused:?}");
        let flow = two.net.dial_datagrams(SESSION, &name(1), port).await.err();
        assert!(matches!(flow, Some(ForwardError::MayNot(_))), "{port}: {flow:?}");
        let closed = one.net.dial(SESSION, &name(1), port).await.err();
        assert!(matches!(closed, Some(ForwardError::Refused { .. })), "{port}: {closed:?}");
    }
    for host in [one, two, strict] {
        host.router.shutdown().await.unwrap();
    }
}
