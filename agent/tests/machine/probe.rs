//! A guest that is an enemy: the real program carries frames that no honest network card would send, to
//! everything that a guest must not reach. QEMU runs beside it with its card wired to nobody; the test has the
//! other end of the shim's wire.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
};

use bytes::Bytes;
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Icmpv4Type, PacketBuilder, PacketBuilderStep, SlicedPacket, TcpSlice,
    TransportSlice, icmpv4::DestUnreachableHeader as Unreachable,
};
use futures::FutureExt;
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use machine::wire::Counts;
use mesh::link::{GATEWAY_MAC, codec};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{
    internet::{alone, internet},
    *,
};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const ME: Ipv4Addr = Ipv4Addr::new(10, 64, 7, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 64, 7, 1);
const SITE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
/// Routed to the internet, where it is nobody's and nobody says so.
const DARK: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
/// An address as hosts have them on session networks, which this host has for something else.
const MEMBER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// What the host has besides its way out: a LAN, what clouds have at every machine, a public address, a
/// loopback resolver, and what a VPN leads to, in a table of its own for a part of it.
const SURROUNDINGS: &str = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 || true
    ip link add lan type veth peer name far; ip addr add 192.168.50.1/24 dev lan; ip link set far up
    for own in 169.254.169.254 168.63.129.16 100.64.0.1 198.18.0.1 11.22.33.44; do
        ip addr add $own/32 dev lan; done
    ip addr add 198.51.100.1/24 dev lan; ip link set lan up
    ip route add 9.9.0.0/16 dev lan; ip route add 11.0.0.0/16 dev lan table 100
    echo nameserver 127.0.0.1 > \"$0/resolv.conf\"; mount --bind \"$0/resolv.conf\" /etc/resolv.conf";
/// Everything that leads to the host, to what is near to it, or to another session.
const FORBIDDEN: &str = "127.0.0.1 127.0.0.53 127.64.3.2 0.0.0.0 192.0.2.1 192.0.2.2 192.168.50.1 192.168.50.7 \
    192.168.1.1 10.64.8.2 10.0.0.1 172.17.0.1 169.254.169.254 169.254.1.1 168.63.129.16 100.64.0.1 \
    11.22.33.44 198.51.100.1 198.51.100.9 9.9.9.9 11.0.5.5 224.0.0.251 240.0.0.1";
/// Ports of this host on which somebody would notice: ssh, names, web, the front door, the agent's own.
const PORTS: [u16; 6] = [22, 53, 80, 7080, 7440, 7453];
/// How many descriptors the shim may have: half of them are the guest's.
const DESCRIPTORS: u64 = 1024;

#[test]
fn a_guest_that_is_an_enemy_reaches_nothing_breaks_nothing_and_is_counted() {
    if !alone("probe::a_guest_that_is_an_enemy_reaches_nothing_breaks_nothing_and_is_counted") {
        return;
    }
    let limit = rustix::process::Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(probe());
}

async fn probe() {
    let Some(mut bench) = bench(None).await else { return };
    let site = tempfile::tempdir().unwrap();
    let _internet = internet(site.path());
    sh_with(SURROUNDINGS, site.path());
    let watch = Watch::begin();
    let mut enemy = Enemy::plug(&mut bench).await;
    let base = descriptors(&enemy.process);

    enemy.takes_its_address().await;
    assert!(enemy.reaches(SITE, 4000).await, "the way to the internet is there");
    let way = watch.on_the_lan();
    forbidden_places(&mut enemy).await;
    names_of_home(&mut enemy, &watch).await;
    others_addresses(&mut enemy).await;
    no_frames(&mut enemy).await;
    floods(&mut enemy, base).await;
    assert_eq!(watch.on_the_lan(), way, "nothing was sent to the host's network");
    watch.nobody_came();
    within(30, enemy.shim.kill()).await.unwrap();
}

/// Runs a script whose `$0` is a directory.
fn sh_with(script: &str, dir: &Path) {
    assert!(Command::new("sh").args(["-euc", script]).arg(dir).status().unwrap().success(), "{script}");
}

async fn forbidden_places(enemy: &mut Enemy) {
    let mut denied = enemy.counts().await.denied;
    for address in FORBIDDEN.split_whitespace().map(|address| address.parse::<Ipv4Addr>().unwrap()) {
        for port in PORTS {
            enemy.syn(address, 5000, port).await;
            enemy.udp(address, (5000, port), b"\0hello").await;
        }
        let mut ping = Vec::new();
        packet(ME, address).icmpv4_echo_request(1, 1).write(&mut ping, b"hello").unwrap();
        enemy.send(ping).await;
        let asked = 2 * PORTS.len() as u64 + 1;
        if address.is_multicast() {
            // For everybody on this wire, and nobody is.
            assert_eq!(enemy.counts().await.denied, denied, "{address}");
            continue;
        }
        for _ in 0..asked {
            let told = enemy.icmp().await;
            assert_eq!(told, Icmpv4Type::DestinationUnreachable(Unreachable::FilterProhibited), "{address}");
        }
        denied += asked;
        assert_eq!(enemy.counts().await.denied, denied, "{address}");
    }
    // Whatever of the gateway is no service of its is none of the host's either.
    for port in [22, 80, 7080] {
        enemy.syn(GATEWAY, 5001, port).await;
        enemy.udp(GATEWAY, (5001, port), b"hello").await;
        let told = enemy.icmp().await;
        assert_eq!(told, Icmpv4Type::DestinationUnreachable(Unreachable::Port), "{port}");
    }
    let counts = enemy.counts().await;
    assert_eq!((counts.connections, counts.sockets), (0, 0), "{counts:?}");
}

async fn names_of_home(enemy: &mut Enemy, watch: &Watch) {
    let evil = enemy.ask("evil.example.", RecordType::A).await;
    let left: Vec<String> = evil.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(left, [SITE.to_string()], "a name leads to no place that an address does not lead to");
    let asked = watch.asked();
    for (name, kind) in [
        ("printer.local.", RecordType::A),
        ("router.lan.", RecordType::TXT),
        ("nas.home.arpa.", RecordType::SRV),
        ("7.50.168.192.in-addr.arpa.", RecordType::PTR),
    ] {
        assert_eq!(enemy.ask(name, kind).await.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    assert_eq!(watch.asked(), asked, "nobody was asked for names of home");
}

/// Uses what is not its own: nothing is answered, nothing is passed on, everything is counted.
async fn others_addresses(enemy: &mut Enemy) {
    let mut port = enemy.shim.network().await.unwrap();
    let before = enemy.counts().await;
    let neighbour = Ipv4Addr::new(10, 64, 7, 9);
    let other = [0x52, 0x54, 0, 9, 9, 9];
    let mut frames = Vec::new();
    let mut frame = |mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr| {
        let mut bytes = Vec::new();
        let step = PacketBuilder::ethernet2(mac, GATEWAY_MAC).ipv4(from.octets(), to.octets(), 64);
        step.udp(68, 67).write(&mut bytes, b"hello").unwrap();
        frames.push(bytes);
    };
    for to in [neighbour, SITE, GATEWAY, ME] {
        frame(other, ME, to);
        frame(GATEWAY_MAC, GATEWAY, to);
        frame(GUEST, neighbour, to);
        frame(GUEST, GATEWAY, to);
        frame(GUEST, Ipv4Addr::LOCALHOST, to);
    }
    for (mac, address) in [(other, ME), (GUEST, neighbour), (GUEST, GATEWAY), (GATEWAY_MAC, GATEWAY)] {
        for operation in [ArpOperation::REQUEST, ArpOperation::REPLY] {
            frames.push(arp(operation, mac, address, neighbour));
        }
    }
    let spoofed = frames.len() as u64;
    for frame in frames {
        enemy.send(frame).await;
    }
    // A lease for a network card that is another's.
    enemy.udp(GATEWAY, (68, 67), &discover(other)).await;
    let counts = enemy.counts().await;
    assert_eq!(counts.spoofed, before.spoofed + spoofed);
    assert_eq!(enemy.pending().await, 0, "none of them was answered");
    // What is its own goes to its neighbour, and is the first that does. What it says to a member of the mesh is the
    // session network's affair as well, even where this host itself has that address.
    for to in [neighbour, MEMBER] {
        enemy.udp(to, (5, 6), b"its own").await;
        let Some(Ok(PortMessage::Packet(passed))) = within(10, port.next()).await else {
            panic!("no packet")
        };
        let ends = [ME.octets(), to.octets()].concat();
        assert_eq!((&passed[12..20], &passed[28..]), (&ends[..], &b"its own"[..]));
    }
}

/// Sends what is no frame, or half of one, or more than one.
async fn no_frames(enemy: &mut Enemy) {
    let before = enemy.counts().await;
    let mut wants = Vec::new();
    packet(ME, GATEWAY).udp(68, 67).write(&mut wants, &discover(GUEST)).unwrap();
    let mut whole = vec![wants, arp(ArpOperation::REQUEST, GUEST, ME, GATEWAY)];
    let mut segment = Vec::new();
    packet(ME, SITE).tcp(6000, 80, 1, 64_000).syn().write(&mut segment, b"early").unwrap();
    whole.push(segment);
    let mut names = Vec::new();
    packet(ME, GATEWAY).udp(6000, 53).write(&mut names, &question("site.example.", RecordType::A)).unwrap();
    whole.push(names);
    for frame in &whole {
        for length in 0..frame.len() {
            enemy.send(frame[..length].to_vec()).await;
            enemy.drain();
        }
        for at in 0..frame.len() {
            let mut broken = frame.clone();
            broken[at] ^= 0xff;
            enemy.send(broken).await;
            enemy.drain();
        }
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for length in (0..3000).map(|number| number % 300) {
        let mut frame = whole[2][..34].to_vec();
        frame.extend(
            std::iter::repeat_with(|| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .take(length),
        );
        enemy.send(frame).await;
        enemy.drain();
    }
    for length in [1500, 9000, 65_000, 69_000] {
        let mut huge = whole[2].clone();
        huge.resize(length, 0);
        let total = u16::try_from(length - 14).unwrap_or(u16::MAX);
        huge[16..18].copy_from_slice(&total.to_be_bytes());
        enemy.send(huge).await;
    }
    let counts = enemy.counts().await;
    assert!(counts.malformed > before.malformed + 100, "{counts:?}");
    enemy.forget().await;
    assert!(enemy.reaches(SITE, 4001).await, "it carries on");
}

/// Asks for more than there is, of everything.
async fn floods(enemy: &mut Enemy, base: usize) {
    let (before, memory) = (enemy.counts().await, resident(&enemy.process));
    for number in 0..10_000u16 {
        enemy.syn(DARK, 10_000 + number, 80).await;
        enemy.udp(DARK, (10_000 + number, 9), b"x").await;
        enemy.syn(GATEWAY, 10_000 + number, 53).await;
        let name = format!("n{number}.slow.example.");
        enemy.udp(GATEWAY, (10_000 + number, 53), &question(&name, RecordType::A)).await;
        enemy.drain();
    }
    let counts = enemy.counts().await;
    let (open, grown) = (descriptors(&enemy.process), resident(&enemy.process).saturating_sub(memory));
    eprintln!("10,000 of each: {counts:?}, {open} descriptors, {grown} KiB more");
    assert!(counts.connections <= 4096 && counts.sockets <= 512, "{counts:?}");
    assert!(counts.full >= before.full + 10_000, "{counts:?}");
    let share = usize::try_from(DESCRIPTORS / 2).unwrap();
    // One more is the question how many there are.
    assert!(open <= base + share + 1, "{open} descriptors, {base} before");
    assert!(grown < 64 * 1024, "{grown} KiB");
    // Those that answer nobody make room for one that is answered; a SYN is said again as a kernel does it.
    enemy.forget().await;
    let mut reached = false;
    for _ in 0..10 {
        reached = reached || enemy.reaches(SITE, 4002).await;
    }
    assert!(reached, "half-open connections keep it from nothing");
    let status = enemy.shim.status().borrow().clone();
    assert!(alive(&status.shim) && status.ended.is_none());
}

/// Gives the memory that a process has, in KiB.
fn resident(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn packet(from: Ipv4Addr, to: Ipv4Addr) -> PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(GUEST, GATEWAY_MAC).ipv4(from.octets(), to.octets(), 64)
}

fn arp(operation: ArpOperation, mac: [u8; 6], address: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let asked = ArpEthIpv4Packet {
        operation,
        sender_mac: mac,
        sender_ipv4: address.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    };
    [&[0xff; 6][..], &mac, &[8, 6], &asked.to_bytes()].concat()
}

/// Asks for an address, as the card with that MAC (RFC 2131).
fn discover(mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[28..34].copy_from_slice(&mac);
    message[236..240].copy_from_slice(&[99, 130, 83, 99]);
    message.extend_from_slice(&[53, 1, 1, 255]);
    message
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(name.parse::<Name>().unwrap(), kind));
    message.to_vec().unwrap()
}

/// The guest's end of the wire to a shim.
struct Enemy {
    shim: Shim,
    process: Process,
    control: PathBuf,
    wire: Framed<UnixStream, LengthDelimitedCodec>,
}

impl Enemy {
    /// Launches the machine with its card wired to nobody, and takes the shim's wire.
    async fn plug(bench: &mut Bench) -> Enemy {
        let ours = bench.dir.path().join("wire");
        let listener = UnixListener::bind(&ours).unwrap();
        let qemu = bench.dir.path().join("qemu");
        // QEMU listens elsewhere, and where the shim looks for it is the test.
        let script = format!(
            "#!/bin/sh\nfor word; do shift; case \"$word\" in stream,*addr.path=*)\n\
             path=\"${{word#*addr.path=}}\"; ln -s '{}' \"$path\"; word=\"$word.card\";; esac\n\
             set -- \"$@\" \"$word\"; done\nexec '{}' \"$@\"\n",
            ours.display(),
            bench.launch.qemu.program.display()
        );
        std::fs::write(&qemu, script).unwrap();
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
        bench.launch.qemu.program = qemu;
        let (shim, accepted) = tokio::join!(bench.launch(), within(30, listener.accept()));
        let process = shim.status().borrow().shim.clone();
        let control = machine::Paths::new(&bench.machine(), &bench.host.run).control();
        Enemy { shim, process, control, wire: Framed::new(accepted.unwrap().0, codec()) }
    }

    async fn send(&mut self, frame: Vec<u8>) {
        within(30, self.wire.send(Bytes::from(frame))).await.unwrap();
    }

    async fn syn(&mut self, to: Ipv4Addr, from: u16, port: u16) {
        let mut bytes = Vec::new();
        packet(ME, to).tcp(from, port, 1000, 64_000).syn().write(&mut bytes, &[]).unwrap();
        self.send(bytes).await;
    }

    async fn udp(&mut self, to: Ipv4Addr, (from, port): (u16, u16), payload: &[u8]) {
        let mut bytes = Vec::new();
        packet(ME, to).udp(from, port).write(&mut bytes, payload).unwrap();
        self.send(bytes).await;
    }

    /// Gives the next frame that is not the shim's own attempt to reach the guest.
    async fn frame(&mut self) -> Vec<u8> {
        loop {
            let frame = within(10, self.wire.next()).await.unwrap().unwrap();
            if tcp(&frame).is_none_or(|tcp| tcp.destination_port() != 7) {
                return frame.to_vec();
            }
        }
    }

    async fn icmp(&mut self) -> Icmpv4Type {
        loop {
            let frame = self.frame().await;
            match SlicedPacket::from_ethernet(&frame).unwrap().transport {
                Some(TransportSlice::Icmpv4(icmp)) => return icmp.icmp_type(),
                // The reset of a connection to the gateway that nobody takes.
                Some(TransportSlice::Tcp(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Counts the frames that are there after a question which is answered for certain.
    async fn pending(&mut self) -> usize {
        self.send(arp(ArpOperation::REQUEST, GUEST, ME, GATEWAY)).await;
        let mut before = 0;
        while self.frame().await[12..14] != [8, 6] {
            before += 1;
        }
        before
    }

    /// Reads all that came of what was asked before.
    async fn forget(&mut self) {
        // A wire that is full loses the answer.
        while timeout(Duration::from_secs(2), self.pending()).await.is_err() {}
    }

    /// Reads what is there, so that the wire does not fill up.
    fn drain(&mut self) {
        while let Some(Some(Ok(_))) = self.wire.next().now_or_never() {}
    }

    async fn takes_its_address(&mut self) {
        self.send(arp(ArpOperation::REQUEST, GUEST, ME, GATEWAY)).await;
        while self.frame().await[12..14] != [8, 6] {}
        let mut bytes = Vec::new();
        let step = packet(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        step.udp(68, 67).write(&mut bytes, &discover(GUEST)).unwrap();
        self.send(bytes).await;
        let offer = self.frame().await;
        assert_eq!(offer[58..62], ME.octets(), "its own address is offered");
    }

    /// Says whether a connection from a port stands within three seconds.
    async fn reaches(&mut self, to: Ipv4Addr, from: u16) -> bool {
        self.syn(to, from, 80).await;
        let answer = async {
            loop {
                let frame = self.frame().await;
                if let Some(tcp) = tcp(&frame).filter(|tcp| tcp.destination_port() == from) {
                    return tcp.syn() && tcp.ack();
                }
            }
        };
        let stands = timeout(Duration::from_secs(3), answer).await.unwrap_or(false);
        let mut reset = Vec::new();
        packet(ME, to).tcp(from, 80, 1001, 0).rst().write(&mut reset, &[]).unwrap();
        self.send(reset).await;
        stands
    }

    async fn ask(&mut self, name: &str, kind: RecordType) -> Message {
        self.udp(GATEWAY, (5353, 53), &question(name, kind)).await;
        loop {
            let frame = self.frame().await;
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            if let Some(TransportSlice::Udp(udp)) = parsed.transport
                && udp.destination_port() == 5353
            {
                return Message::from_vec(udp.payload()).unwrap();
            }
        }
    }

    async fn counts(&self) -> Counts {
        machine::wire::counts(&self.control, Duration::from_secs(30)).await.unwrap()
    }
}

fn tcp(frame: &[u8]) -> Option<TcpSlice<'_>> {
    match SlicedPacket::from_ethernet(frame).ok()?.transport? {
        TransportSlice::Tcp(tcp) => Some(tcp),
        _ => None,
    }
}

/// Everything on the host that would notice a guest.
struct Watch {
    streams: Vec<TcpListener>,
    sockets: Vec<UdpSocket>,
    asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Watch {
    fn begin() -> Watch {
        let any = Ipv4Addr::UNSPECIFIED;
        let streams: Vec<_> = PORTS.iter().map(|&port| TcpListener::bind((any, port)).unwrap()).collect();
        streams.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        let ports = PORTS.iter().filter(|&&port| port != 53);
        let sockets: Vec<_> = ports.map(|&port| UdpSocket::bind((any, port)).unwrap()).collect();
        sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
        let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
        let asked = std::sync::Arc::default();
        let watch = Watch { streams, sockets, asked: std::sync::Arc::clone(&asked) };
        std::thread::spawn(move || resolve(&resolver, &asked));
        watch
    }

    fn asked(&self) -> usize {
        self.asked.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Counts the packets that the host sent to its network.
    fn on_the_lan(&self) -> u64 {
        let all = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = all.lines().find_map(|line| line.trim().strip_prefix("lan:")).unwrap();
        line.split_whitespace().nth(9).unwrap().parse().unwrap()
    }

    fn nobody_came(&self) {
        for listener in &self.streams {
            assert!(listener.accept().is_err(), "{listener:?} was reached");
        }
        for socket in &self.sockets {
            assert!(socket.recv_from(&mut [0; 64]).is_err(), "{socket:?} was reached");
        }
    }
}

/// The host's resolver: `evil.example` is wherever its owner wants, what is slow is never answered.
fn resolve(resolver: &UdpSocket, asked: &std::sync::atomic::AtomicUsize) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = resolver.recv_from(&mut buffer) {
        asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let name = question.queries[0].name().clone();
        if name.to_string() != "evil.example." {
            continue;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.queries = question.queries.clone();
        for to in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 168, 50, 7), Ipv4Addr::new(198, 51, 100, 9), SITE]
        {
            answer.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A(to))));
        }
        resolver.send_to(&answer.to_vec().unwrap(), from).unwrap();
    }
}
