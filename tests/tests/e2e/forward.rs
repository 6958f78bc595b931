//! A port of this computer that leads to a service for as long as a command runs.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use tests::{Host, Place, Running, eventually, lab_or_skip, tiny_topology};

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(30);

/// A forward at work, and where it listens.
struct Forward {
    command: Running,
    here: SocketAddr,
}

impl Forward {
    #[track_caller]
    fn to(host: &Host, service: &str, scheme: &str) -> Forward {
        let command = host.begin(&["service", "forward", &format!("0:{service}")]);
        let here = eventually(SOON, &format!("a forward to {service}"), || {
            let said = command.stdout();
            let here = said.trim().strip_prefix(scheme).and_then(|here| here.parse().ok());
            here.ok_or(said)
        });
        Forward { command, here }
    }

    /// Ends it by Ctrl-C, and sees that nothing listens any more.
    #[track_caller]
    fn ends(self) {
        self.command.interrupt();
        self.command.ended(SOON).expect(130);
        TcpStream::connect(self.here).expect_err("nobody listens");
    }
}

/// Says something, ends that direction, and reads to the end.
fn asked(here: SocketAddr, words: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(here)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(words.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    ask().map_err(|error| error.to_string())
}

/// Listens on loopback, and says back what it was told once that has ended.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let here = listener.local_addr().expect("it listens");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut told = Vec::new();
            if stream.read_to_end(&mut told).is_ok() {
                // Who asked may be gone.
                stream.write_all(&told).ok();
            }
        }
    });
    here
}

#[test]
fn a_forward_leads_to_a_service_while_it_runs_and_waits_for_an_agent_that_begins_again() {
    let mut host = Host::first("nas", Place::Here);
    let echo = echo();
    host.agent(&["service", "publish", "files", "--port", &echo.port().to_string()]).expect(0);

    let forward = Forward::to(&host, "files.nas.host.mesh.internal", "tcp://");
    assert_eq!(asked(forward.here, "one").as_deref(), Ok("one"));
    host.stop();
    let here = forward.here;
    let meanwhile = thread::spawn(move || asked(here, "two"));
    host.start();
    assert_eq!(meanwhile.join().expect("it ends").as_deref(), Ok("two"));
    assert_eq!(asked(forward.here, "three").as_deref(), Ok("three"));

    let port = forward.here.port().to_string();
    let taken = host.agent(&["service", "forward", &format!("{port}:files.nas.host")]).expect(1);
    assert!(taken.stderr.contains("because: agent (process "), "{taken:?}");
    assert!(taken.stderr.contains("hint: choose another port: agent service forward 0:files"), "{taken:?}");
    let unknown = host.agent(&["service", "forward", "0:file.nas.host"]).expect(3);
    assert!(unknown.stderr.contains("did you mean files?"), "{unknown:?}");
    host.agent(&["service", "forward", "0:web.shop"]).expect(3);
    host.agent(&["service", "forward", "files.nas.host"]).expect(2);
    forward.ends();
}

#[test]
fn a_forward_shares_its_connections_among_the_machines_of_a_service() {
    if !lab_or_skip("a_forward_shares_its_connections_among_the_machines_of_a_service") {
        return;
    }
    let host = Host::first("nas", Place::Here);
    host.import_tiny();
    let echo = "memory = \"128MiB\"\nsetup = [\"nc -ll -p 7001 -e cat >/dev/null 2>&1 </dev/null &\"]";
    let mut topology = tiny_topology("shop", 2).replace("memory = \"128MiB\"", echo);
    topology
        .push_str("\n[machines.web.services.echo]\nport = 7001\nready = { tcp = true, interval = \"1s\" }\n");
    host.agent(&["session", "up", &host.topology(&topology)]).expect(0);

    let several = host.agent(&["service", "forward", "0:web.shop"]).expect(3);
    assert!(several.stderr.contains("its services are: echo, http; write echo.web.shop"), "{several:?}");
    let forward = Forward::to(&host, "http.web.shop", "http://");
    let opened: Vec<TcpStream> =
        (0..4).map(|_| TcpStream::connect(forward.here).expect("it listens")).collect();
    eventually(SOON, "each machine has two of four connections", || {
        let held = host.held()?;
        let dials: Vec<Option<usize>> = held.shims.iter().map(|shim| shim.dials).collect();
        if dials == [Some(2), Some(2)] { Ok(()) } else { Err(format!("{dials:?}")) }
    });
    drop(opened);
    let (_, page) = tests::http_get(forward.here, "/").expect("a page");
    assert!(!page.is_empty());

    // One machine alone, by the name that lists print it with, and each direction ends by itself.
    let one = Forward::to(&host, "shop/web-2/echo", "tcp://");
    assert_eq!(asked(one.here, "half").as_deref(), Ok("half"));
    host.agent(&["machine", "stop", "shop/web-2"]).expect(0);
    host.reaches("web-2", "stopped");
    asked(one.here, "nobody").expect_err("no machine is there");
    assert!(!tests::http_get(forward.here, "/").expect("the other one answers").1.is_empty());
    one.ends();
    forward.ends();
}
