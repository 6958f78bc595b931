//! Guests on the internet: what a machine behind a home's router fetches and by which names, what of its host and its
//! host's neighbours it never reaches, and that nothing of it stands on the agent.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tests::{Host, Place, eventually, lab_or_skip};

mod lan;
mod v6;

const NETWORK: &str = "host site\nhome attic nat=cone\nhost nas in attic\nhost printer in attic";
const TOPOLOGY: &str = r#"
session = "way"

[defaults]
image = "tiny"
memory = "128MiB"

[machines.out]
services = { http = { port = 8080, ready = { http = "/", interval = "1s", grace = "60s" } } }

[machines.shut]
egress = "none"
services = { http = { port = 8080, ready = { http = "/", interval = "1s", grace = "60s" } } }
"#;
/// What a slow download brings, and how long that takes.
const SLOW_BYTES: usize = 600_000;
const SLOW_PIECES: usize = 300;
const SLOW_PIECE: Duration = Duration::from_millis(100);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

#[test]
fn a_guest_behind_a_router_reaches_the_internet_and_nothing_on_this_side_of_it() {
    if !lab_or_skip("a_guest_behind_a_router_reaches_the_internet_and_nothing_on_this_side_of_it") {
        return;
    }
    let lab = netsim::Lab::up(NETWORK).expect("a lab");
    let [site, nas, printer] = ["site", "nas", "printer"].map(|name| lab.address(name).expect("a host"));
    let sent = Arc::new(AtomicUsize::new(0));
    serve_pages(&lab, "site", site.into(), sent.clone());
    let public = serve_names(&lab, "site", site.into(), BTreeMap::from([("site", site)]));
    let asked =
        serve_names(&lab, "printer", printer.into(), BTreeMap::from([("site", site), ("evil", printer)]));
    let watch = Watch::begin(&lab, nas, printer);

    let place = Place::Namespace(lab.namespace("nas").expect("a host of the lab"));
    let mut host = Host::new("nas", place);
    host.agent(&["init", "--name", "nas"]).expect(0);
    start(&mut host, printer);
    host.import_tiny();
    let file = host.topology(TOPOLOGY);
    host.agent(&["session", "up", &file]).expect(0);

    let page = host.ssh("out-1", &format!("wget -q -O - http://{site}/hello"));
    assert_eq!(page, "hello /hello", "the file says nothing of it, and the machine is on the internet");
    host.ssh("out-1", &format!("nslookup site.example {site}"));
    assert_eq!((public.count("site"), asked.count("site")), (1, 0), "a datagram went out and came back");
    names_of_the_internet(&host, &asked);
    nothing_on_this_side(&host, &watch, &asked);
    nowhere_at_all(&host, site, &asked);
    a_download_outlives_its_agent(&mut host, site, printer, &sent);
    watch.nobody_came();
}

/// Starts the agent on a computer whose resolver is `resolver`, in its own network.
fn start(host: &mut Host, resolver: Ipv4Addr) {
    let file = host.scratch().join("resolv.conf");
    fs::write(&file, format!("nameserver {resolver}\n")).expect("a file");
    let inside = "mount --bind \"$0\" /etc/resolv.conf && exec \"$AGENT\" run";
    host.spawn_by(&format!("exec unshare -m sh -c '{inside}' {}", file.display()));
    eventually(Duration::from_secs(30), "the agent serves its API", || {
        let answer = host.agent(&["status", "--json"]);
        if answer.code == 0 { Ok(()) } else { Err(format!("{}{}", answer.stderr, host.log_text())) }
    });
}

fn names_of_the_internet(host: &Host, asked: &Asked) {
    let by_name = "wget -q -O - http://site.example/by-name";
    assert_eq!(host.ssh("out-1", by_name), "hello /by-name");
    let before = asked.count("site");
    assert_eq!(host.ssh("out-1", by_name), "hello /by-name");
    assert_eq!(asked.count("site"), before, "the second time its resolver is not asked");
    // A name that is its owner's to point anywhere.
    let evil = host.ssh("out-1", "nslookup evil.example; wget -q -O - http://evil.example:8080/ || echo not");
    assert!(evil.contains("not") && !evil.contains("192.168."), "{evil}");
    let lost = host.ssh("out-1", "nslookup lost.example 2>&1; true");
    assert!(lost.contains("NXDOMAIN"), "{lost}");
    // 100 addresses fit into no datagram: the guest's own question by TCP brings all.
    let question = "\\000\\035\\000\\007\\001\\000\\000\\001\\000\\000\\000\\000\\000\\000\
                    \\003big\\007example\\000\\000\\001\\000\\001";
    // The header of the answer, after its length: number, flags, questions, answers.
    let by_tcp = format!(
        "gateway=$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'); \
         (printf '{question}'; sleep 3) | nc $gateway 53 | hexdump -v -e '1/1 \"%02x \"' | cut -c 7-29"
    );
    let answer = host.ssh("out-1", &by_tcp);
    assert!(answer.starts_with("00 07 81 80 00 01 00 64"), "{answer}");
    // Its own session's names are still the agent's to answer.
    let own = host.ssh("out-1", "nslookup shut-1.way.mesh.internal");
    assert!(own.contains("Name:") && own.contains("10."), "{own}");
}

fn nothing_on_this_side(host: &Host, watch: &Watch, asked: &Asked) {
    for (what, address) in watch.targets() {
        let tried = host.ssh(
            "out-1",
            &format!("timeout 10 wget -q -O - http://{address}/ >/dev/null 2>&1 && echo reached; echo tried"),
        );
        assert_eq!(tried, "tried\n", "{what}");
    }
    let before = asked.all();
    let resolver = host.ssh("out-1", &format!("nslookup other.example {} 2>&1; true", watch.printer));
    assert!(!resolver.contains("NXDOMAIN"), "the home's resolver is its host's to ask: {resolver}");
    assert_eq!(asked.all(), before);
    let ping = host.ssh("out-1", &format!("ping -c 1 -W 2 {} 2>&1; true", watch.printer));
    assert!(ping.contains("100% packet loss"), "{ping}");
}

fn what_went_nowhere_is_counted(host: &Host) {
    let flows = host.json(&["net", "flows"]);
    let of = |machine: &str| {
        let rows = flows["machines"].as_array().expect("machines");
        let row = rows.iter().find(|row| row["machine"] == machine && row["session"] == "way");
        row.unwrap_or_else(|| panic!("no {machine} in {flows}"))["outside"].clone()
    };
    let denied = |machine| of(machine)["denied"].as_u64().expect("a count");
    assert!(denied("out-1") >= 6 && denied("shut-1") >= 1, "{flows}");
    assert_eq!((&of("out-1")["full"], &of("out-1")["connections"]), (&0.into(), &1.into()), "{flows}");
}

fn nowhere_at_all(host: &Host, site: Ipv4Addr, asked: &Asked) {
    let before = asked.all();
    let script = format!(
        "begin=$(cut -d. -f1 /proc/uptime); \
         wget -q -O - http://{site}/ 2>&1; nslookup other.example 2>&1; wget -q -O - http://other.example/ 2>&1; \
         echo took $(($(cut -d. -f1 /proc/uptime) - begin))"
    );
    let tried = host.ssh("shut-1", &script);
    assert!(tried.contains("NXDOMAIN") && !tried.contains("hello"), "{tried}");
    let took: u64 =
        tried.rsplit("took ").next().and_then(|took| took.trim().parse().ok()).expect("how long it took");
    assert!(took <= 3, "told at once, not after {took} s: {tried}");
    assert_eq!(asked.all(), before, "nobody was asked");
}

fn a_download_outlives_its_agent(host: &mut Host, site: Ipv4Addr, resolver: Ipv4Addr, sent: &AtomicUsize) {
    let fetch =
        format!("(wget -q -O - http://{site}/slow | wc -c > /tmp/size.new; mv /tmp/size.new /tmp/size)");
    host.ssh("out-1", &format!("{fetch} </dev/null >/dev/null 2>&1 &"));
    let begun = Instant::now();
    let passes = |goal: usize| {
        eventually(Duration::from_secs(30), "the download goes on", || {
            let now = sent.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} bytes")) }
        });
    };
    passes(SLOW_BYTES / 10);
    what_went_nowhere_is_counted(host);
    host.kill();
    let killed = sent.load(Ordering::Relaxed);
    assert!(killed < SLOW_BYTES / 2, "it is in its middle");
    passes(killed + SLOW_BYTES / 10);
    start(host, resolver);
    eventually(Duration::from_secs(60), "the download is whole", || {
        let size = host.ssh("out-1", "cat /tmp/size 2>/dev/null || true");
        if size.trim() == SLOW_BYTES.to_string() { Ok(()) } else { Err(size) }
    });
    assert!(begun.elapsed() >= SLOW_PIECE * SLOW_PIECES as u32 / 2, "it was slow");
}

/// Lets programs of a host send pings.
fn allow_pings(lab: &netsim::Lab, host: &str) {
    in_shell(lab, host, "echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range");
}

fn in_shell(lab: &netsim::Lab, host: &str, line: &str) {
    let mut sh = lab.command(host, "sh").expect("a host");
    assert!(sh.args(["-ec", line]).status().expect("sh").success(), "{line}");
}

/// What guests must not reach, each with somebody who would notice.
struct Watch {
    listeners: Vec<(&'static str, TcpListener, SocketAddr)>,
    printer: Ipv4Addr,
    agents: Vec<(&'static str, SocketAddr)>,
}

impl Watch {
    fn begin(lab: &netsim::Lab, nas: Ipv4Addr, printer: Ipv4Addr) -> Watch {
        for (host, address) in [("nas", "169.254.1.1/16".to_owned()), ("printer", format!("{METADATA}/16"))] {
            let mut ip = lab.command(host, "ip").expect("a host");
            assert!(ip.args(["addr", "add", &address, "dev", "eth0"]).status().expect("ip").success());
        }
        let listen = |what, host: &str, address: Ipv4Addr, port: u16| {
            let listener = lab.inside(host, move || TcpListener::bind((address, port))).expect("a host");
            let listener = listener.unwrap_or_else(|error| panic!("{what}: {error}"));
            listener.set_nonblocking(true).expect("a listener");
            let at = listener.local_addr().expect("an address");
            (what, listener, at)
        };
        let listeners = vec![
            listen("the host's own address", "nas", nas, 0),
            listen("its loopback", "nas", Ipv4Addr::new(127, 64, 9, 9), 0),
            listen("a neighbour on its LAN", "printer", printer, 8080),
            listen("cloud metadata", "printer", METADATA, 80),
        ];
        // The host itself gets there, so only rules keep the guest away.
        for (what, listener, at) in &listeners {
            let at = *at;
            let stream = lab.inside("nas", move || TcpStream::connect(at)).expect("a host");
            stream.unwrap_or_else(|error| panic!("{what}: {error}"));
            eventually(Duration::from_secs(5), what, || listener.accept().map_err(|error| error.to_string()));
        }
        let agent = |what, port| (what, SocketAddr::new(IpAddr::V4(nas), port));
        let agents = vec![agent("the agent's names", 7453), agent("its front door", 7080)];
        Watch { listeners, printer, agents }
    }

    fn targets(&self) -> Vec<(&'static str, SocketAddr)> {
        let listeners = self.listeners.iter().map(|(what, _, at)| (*what, *at));
        listeners.chain(self.agents.iter().copied()).collect()
    }

    fn nobody_came(&self) {
        for (what, listener, _) in &self.listeners {
            assert!(listener.accept().is_err(), "{what} was reached");
        }
    }
}

/// Answers every path with itself, `/slow` slowly; `sent` counts bytes of slow pages.
fn serve_pages(lab: &netsim::Lab, host: &str, at: IpAddr, sent: Arc<AtomicUsize>) {
    let listener = lab.inside(host, move || TcpListener::bind((at, 80))).expect("a host").expect("port 80");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let sent = sent.clone();
            // A guest that goes away ends it.
            thread::spawn(move || page(stream, &sent).ok());
        }
    });
}

fn page(mut stream: TcpStream, sent: &AtomicUsize) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    if path != "/slow" {
        let text = format!("hello {path}");
        return write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {SLOW_BYTES}\r\n\r\n")?;
    for _ in 0..SLOW_PIECES {
        thread::sleep(SLOW_PIECE);
        stream.write_all(&[b'x'; SLOW_BYTES / SLOW_PIECES])?;
        sent.fetch_add(SLOW_BYTES / SLOW_PIECES, Ordering::Relaxed);
    }
    Ok(())
}

/// How often each name was asked for its IPv4 addresses.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<BTreeMap<String, usize>>>);

impl Asked {
    fn count(&self, name: &str) -> usize {
        self.0.lock().expect("no panic").get(name).copied().unwrap_or_default()
    }

    fn all(&self) -> usize {
        self.0.lock().expect("no panic").values().sum()
    }
}

/// Answers for `NAME.example`; `big.example` has a hundred addresses, and what is not known does not exist.
fn serve_names(lab: &netsim::Lab, host: &str, at: IpAddr, known: BTreeMap<&'static str, Ipv4Addr>) -> Asked {
    let sockets = lab.inside(host, move || (UdpSocket::bind((at, 53)), TcpListener::bind((at, 53))));
    let (udp, tcp) = sockets.expect("a host");
    let (udp, tcp) = (udp.expect("port 53"), tcp.expect("port 53"));
    let asked = Asked::default();
    let by_udp = (asked.clone(), known.clone());
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut question) {
            let mut answer = answer(&question[..length], &by_udp.1, &by_udp.0);
            if answer.len() > 512 {
                answer.truncate(12);
                answer[2] |= 2;
                answer[6..12].fill(0);
                answer.extend_from_slice(&question[12..17 + name_length(&question)]);
            }
            // Who asked may be gone.
            udp.send_to(&answer, from).ok();
        }
    });
    let by_tcp = (asked.clone(), known);
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut length = [0; 2];
            let mut question = vec![0; 512];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            question.truncate(usize::from(u16::from_be_bytes(length)));
            if stream.read_exact(&mut question).is_ok() {
                let answer = answer(&question, &by_tcp.1, &by_tcp.0);
                let length = u16::try_from(answer.len()).expect("an answer").to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat()).ok();
            }
        }
    });
    asked
}

/// Counts the bytes of a question's name, without its last.
fn name_length(question: &[u8]) -> usize {
    let mut at = 12;
    while question[at] != 0 {
        at += 1 + usize::from(question[at]);
    }
    at - 12
}

fn answer(question: &[u8], known: &BTreeMap<&'static str, Ipv4Addr>, asked: &Asked) -> Vec<u8> {
    let end = 17 + name_length(question);
    let name = String::from_utf8_lossy(&question[13..13 + usize::from(question[12])]).into_owned();
    let for_v4 = question[end - 4..end - 2] == [0, 1];
    if for_v4 {
        *asked.0.lock().expect("no panic").entry(name.clone()).or_default() += 1;
    }
    let addresses: Vec<Ipv4Addr> = match &*name {
        _ if !for_v4 => Vec::new(),
        "big" => (0..100).map(|number| Ipv4Addr::new(203, 0, 113, number)).collect(),
        name => known.get(name).copied().into_iter().collect(),
    };
    let exists = name == "big" || known.contains_key(&*name);
    let mut answer = question[..2].to_vec();
    answer.extend_from_slice(&[
        0x81,
        if exists { 0x80 } else { 0x83 },
        0,
        1,
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    answer.extend_from_slice(&question[12..end]);
    for address in addresses {
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    answer
}
