//! Two hosts in use for a while: services that are checked ten times a second, connections that end in every
//! way there is, consoles, names, sessions up and down, a cable pulled and put back. Between two bouts everything
//! is quiet, and then agents and shims hold what they held before. `make soak` lets it go on for 20 minutes.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use proto::wire::api::Internals;
use tests::{Host, Lab, eventually, http_get, lab_or_skip, tiny_topology};

/// How long the short form goes on, after its sessions are up.
const SHORT: Duration = Duration::from_secs(20);
/// What ends by itself after a bout: clients that left are noticed, last answers arrive.
const QUIET_WITHIN: Duration = Duration::from_secs(90);
/// How many ways there are to end a connection, see `every_way`.
const WAYS: usize = 10;
/// Connections of each way in one bout.
const EACH: usize = 10;
/// What a settled process may differ by: a check that has just begun, a path that is being tried.
const DESCRIPTORS: usize = 3;
const TASKS: usize = 8;
/// What an allocator keeps, and what grows to a bound: rings of packets, caches, the journal of facts.
const SHORT_KIB: u64 = 24 * 1024;
/// Over many minutes the same again and no more, whatever was done meanwhile.
const LONG_KIB: u64 = 32 * 1024;

/// Ports of the guests: echoes, writes for ever, reads and writes nothing, ends at once.
const PORTS: [(&str, u16, &str); 4] =
    [("echo", 7001, "cat"), ("endless", 7002, "yes"), ("deaf", 7003, "sleep 20"), ("brief", 7004, "true")];

fn topology() -> String {
    let mut text = tiny_topology("soak", 2).replace("interval = \"1s\"", "interval = \"100ms\"");
    for (name, port, _) in PORTS {
        let ready = if name == "echo" { "ready = { tcp = true, interval = \"100ms\" }" } else { "" };
        writeln!(text, "[machines.web.services.{name}]\nport = {port}\n{ready}").expect("text");
    }
    let listen = PORTS
        .map(|(_, port, program)| format!("\"nc -ll -p {port} -e {program} >/dev/null 2>&1 </dev/null &\""));
    let group = format!("memory = \"160MiB\"\nsetup = [{}]", listen.join(", "));
    text.replace("memory = \"128MiB\"", &group)
}

#[test]
fn nothing_piles_up_however_connections_sessions_and_peers_end() {
    if !lab_or_skip("nothing_piles_up_however_connections_sessions_and_peers_end") {
        return;
    }
    let length =
        env::var("SOAK_SECONDS").ok().map(|text| Duration::from_secs(text.parse().expect("seconds")));
    let lab = Lab::joined();
    for host in lab.hosts() {
        // A client that left is forgotten by its kernel after a second, not a minute.
        let path = PathBuf::from("sh");
        let mut command = host.command(&path);
        command.args(["-c", "echo 1 > /proc/sys/net/ipv4/tcp_fin_timeout"]);
        assert!(command.status().expect("a shell").success());
    }
    lab.vps.import_tiny();
    let file = lab.vps.topology(&topology());
    lab.vps.agent(&["session", "up", &file, "--timeout", "4m"]).expect(0);
    let services = Services::open(&lab.vps);

    let mut story = Story { start: Instant::now(), rows: Vec::new(), done: Done::default() };
    story.bout(&lab, &services);
    story.note(&lab);
    let until = Instant::now() + length.unwrap_or(SHORT);
    let mut turn = 0;
    while Instant::now() < until || turn < 2 {
        story.bout(&lab, &services);
        match turn % 6 {
            0 => story.up_and_down(&lab),
            1 => story.cut_and_mend(&lab),
            _ => {}
        }
        story.note(&lab);
        turn += 1;
    }
    eprintln!("{}", story.table());
    if let Some(path) = env::var_os("SOAK_TABLE") {
        std::fs::write(&path, story.table()).expect("the table is written");
    }
    story.is_flat(if length.is_some() { LONG_KIB } else { SHORT_KIB });
    // Still as good as new.
    let (status, _) = eventually(QUIET_WITHIN, "a page after all", || lab.http(&lab.vps, services.web, "/"));
    assert!(status.contains(" 200 "), "{status}");
}

/// Where the services of the session answer on one host.
struct Services {
    web: SocketAddr,
    ports: BTreeMap<&'static str, SocketAddr>,
    refused: SocketAddr,
}

impl Services {
    fn open(host: &Host) -> Services {
        let open = |name: &str| -> SocketAddr {
            let opened = host.json(&["service", "open", &format!("web.soak/{name}")]);
            let text = |key: &str| opened[key].to_string().trim_matches('"').to_owned();
            format!("{}:{}", text("address"), text("port")).parse().expect("an address")
        };
        let web = open("http");
        let ports = PORTS.map(|(name, ..)| (name, open(name)));
        Services { web, ports: ports.into(), refused: SocketAddr::new(web.ip(), 9) }
    }
}

/// Ends one connection in each way, and counts those that carried something both ways. How a way ends for its
/// client says nothing else here.
fn every_way(web: SocketAddr, refused: SocketAddr, [echo, endless, deaf, brief]: [SocketAddr; 4]) -> usize {
    let connect = |to: SocketAddr| {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.set_write_timeout(Some(Duration::from_millis(50))).ok()?;
        Some(stream)
    };
    let quickly = |to: SocketAddr, way: &dyn Fn(&mut TcpStream) -> std::io::Result<()>| {
        connect(to).is_some_and(|mut stream| way(&mut stream).is_ok())
    };
    let page = http_get(web, "/").is_ok();
    quickly(refused, &|_| Ok(()));
    // At once; after a word; after its end; in order.
    quickly(echo, &|_| Ok(()));
    quickly(deaf, &|stream| stream.write_all(b"hello"));
    quickly(deaf, &|stream| stream.shutdown(Shutdown::Write));
    let echoed = quickly(echo, &|stream| {
        stream.write_all(b"hello")?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_exact(&mut [0; 5])?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    // With unread bytes, which resets; with more than anybody takes; reset and ended by the guest.
    let begun = quickly(web, &|stream| {
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read_exact(&mut [0; 12])
    });
    let unread = quickly(endless, &|stream| stream.read_exact(&mut [0; 4096]));
    quickly(deaf, &|stream| stream.write_all(&vec![0; 2 << 20]));
    quickly(brief, &|stream| {
        stream.write_all(&[0; 50_000])?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    [page, echoed, begun, unread].into_iter().filter(|carried| *carried).count()
}

/// One process at one quiet moment.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    tasks: usize,
    flows: usize,
    anonymous_kib: u64,
}

/// How often what was done.
#[derive(Debug, Default)]
struct Done {
    connections: usize,
    carried: usize,
    consoles: usize,
    sessions: usize,
    cuts: usize,
}

/// What was held at each quiet moment, by process.
struct Story {
    start: Instant,
    rows: Vec<(Duration, BTreeMap<String, Held>)>,
    done: Done,
}

impl Story {
    /// Makes many connections of each way to end, from a host whose machines are here and elsewhere.
    fn bout(&mut self, lab: &Lab, services: &Services) {
        for _ in 0..EACH {
            let (web, refused) = (services.web, services.refused);
            let ports = ["echo", "endless", "deaf", "brief"].map(|name| services.ports[name]);
            self.done.carried += lab.inside(&lab.vps, move || every_way(web, refused, ports));
            self.done.connections += WAYS;
        }
        let machine = lab.running().into_keys().next().expect("a machine");
        for host in [&lab.vps, &lab.nas] {
            // Names by TCP, by clients that hang up on the answer.
            let dns: SocketAddr = host.status()["dns"].as_str().expect("text").parse().expect("an address");
            lab.inside(host, move || (0..EACH).for_each(|_| drop(TcpStream::connect(dns))));
            assert!(!host.addresses("web.soak.mesh.internal").is_empty());
            // Somebody looks at a console and closes the window.
            let console = host.begin(&["machine", "console", &machine]);
            eventually(Duration::from_secs(20), "the console shows something", || {
                if console.stdout().is_empty() { Err("nothing yet") } else { Ok(()) }.map_err(str::to_owned)
            });
            drop(console);
            self.done.consoles += 1;
            host.agent(&["machine", "ssh", "soak/web-1", "--", "true"]).expect(0);
        }
    }

    fn up_and_down(&mut self, lab: &Lab) {
        let text = "session = \"brief\"\n[machines.one]\nimage = \"tiny\"\nmemory = \"128MiB\"\n\
                    place = { hosts = [\"nas\"] }\n";
        let file = lab.nas.topology(text);
        lab.nas.agent(&["session", "up", &file, "--wait", "running", "--timeout", "4m"]).expect(0);
        lab.vps.agent(&["session", "down", "brief", "--timeout", "2m"]).expect(0);
        self.done.sessions += 1;
    }

    fn cut_and_mend(&mut self, lab: &Lab) {
        lab.cut("nas");
        lab.sees(&lab.vps, "nas", "down");
        lab.mend("nas");
        lab.settled();
        self.done.cuts += 1;
    }

    /// Waits until nothing is under way, or as much as at the last quiet moment at most, and notes what is held.
    fn note(&mut self, lab: &Lab) {
        let first = self.rows.first().map(|(_, held)| held.clone());
        let held = eventually(QUIET_WITHIN, "all connections are over", || {
            let mut all = BTreeMap::new();
            for host in lab.hosts() {
                all.extend(processes(&host.name, &host.held()?));
            }
            let busy = all.iter().find(|(_, held)| held.flows > 0);
            let more = all.iter().find(|(who, held)| {
                let before = first.as_ref().and_then(|first| first.get(*who));
                before.is_some_and(|before| !flat(before, held))
            });
            match busy.or(more) {
                None => Ok(all),
                Some((who, held)) => Err(format!("{who}: {held:?}")),
            }
        });
        self.rows.push((self.start.elapsed(), held));
    }

    fn table(&self) -> String {
        let mut text = String::from("| minute | process | descriptors | tasks | flows | anonymous MiB |\n");
        text += "|---|---|---|---|---|---|\n";
        let every = self.rows.len().div_ceil(11).max(1);
        let last = self.rows.len() - 1;
        for (at, (when, held)) in self.rows.iter().enumerate() {
            if at % every != 0 && at != last {
                continue;
            }
            for (who, Held { descriptors, tasks, flows, anonymous_kib }) in held {
                let (minutes, mib) = (when.as_secs_f64() / 60.0, *anonymous_kib as f64 / 1024.0);
                writeln!(text, "| {minutes:.1} | {who} | {descriptors} | {tasks} | {flows} | {mib:.1} |")
                    .expect("text");
            }
        }
        let Done { connections, consoles, sessions, cuts, .. } = self.done;
        writeln!(
            text,
            "\n{connections} connections ended in {WAYS} ways, {consoles} consoles, {sessions} sessions up and \
             down, {cuts} cables pulled."
        )
        .expect("text");
        text
    }

    /// Asserts that the last quiet moment is like the first one, whose bout had warmed everything up.
    fn is_flat(&self, margin_kib: u64) {
        // Four of them carry something both ways.
        let good = self.done.connections / WAYS * 4;
        assert!(self.done.carried * 2 > good, "only {} of {good} worked", self.done.carried);
        let ((_, first), (_, last)) = (&self.rows[0], &self.rows[self.rows.len() - 1]);
        assert!(first.len() >= 5, "three agents and two shims: {first:?}");
        assert_eq!(first.keys().collect::<Vec<_>>(), last.keys().collect::<Vec<_>>(), "the same processes");
        for (who, before) in first {
            let after = &last[who];
            assert!(flat(before, after), "{who} held {before:?} and holds {after:?}");
            assert!(
                after.anonymous_kib <= before.anonymous_kib + margin_kib,
                "{who} grows: {before:?}, then {after:?}\n{}",
                self.table()
            );
        }
    }
}

fn flat(before: &Held, after: &Held) -> bool {
    after.descriptors <= before.descriptors + DESCRIPTORS && after.tasks <= before.tasks + TASKS
}

fn processes(host: &str, held: &Internals) -> Vec<(String, Held)> {
    let agent = Held {
        descriptors: held.descriptors,
        tasks: held.tasks,
        flows: held.flows,
        anonymous_kib: held.anonymous_kib.unwrap_or(0),
    };
    let shims = held.shims.iter().map(|shim| {
        let row = Held {
            descriptors: shim.descriptors,
            tasks: shim.tasks.unwrap_or(usize::MAX),
            flows: shim.dials.unwrap_or(usize::MAX),
            anonymous_kib: shim.anonymous_kib.unwrap_or(0),
        };
        (format!("shim {}", shim.machine), row)
    });
    shims.chain([(format!("agent {host}"), agent)]).collect()
}
