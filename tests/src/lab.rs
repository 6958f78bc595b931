//! Three hosts in a lab, each with a real agent: `vps` on the public net with the relay, `nas` behind
//! a cone NAT, `laptop` behind a symmetric one. Dropping it ends the hosts first, then their network.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use crate::{Host, Place, eventually, http_get};

/// The network of `make demo`.
const NETWORK: &str = include_str!("../../examples/labs/three-hosts.lab");
/// Far longer than anything here takes; it only matters when a story fails, or on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The three hosts and their network.
pub struct Lab {
    /// Public, the first of the mesh, serves the relay.
    pub vps: Host,
    /// Behind a cone NAT.
    pub nas: Host,
    /// Behind a symmetric NAT.
    pub laptop: Host,
    network: netsim::Lab,
}

impl Drop for Lab {
    /// All are looked at while all are there.
    fn drop(&mut self) {
        let judged: Vec<String> =
            self.hosts_mut().into_iter().filter_map(|host| host.judge().err()).collect();
        if !judged.is_empty() {
            panic!("its story is over, and a host of the lab holds on:\n{}", judged.join("\n"));
        }
    }
}

/// One host in a network of its own, the only one of its mesh, with the tiny guest imported.
pub struct Solo {
    /// The host.
    pub host: Host,
    _network: netsim::Lab,
}

impl Solo {
    /// Makes it.
    pub fn started() -> Solo {
        let network = netsim::Lab::up("host solo").expect("a lab");
        let place = Place::Namespace(network.namespace("solo").expect("a host of the lab"));
        let host = Host::first("solo", place);
        host.import_tiny();
        Solo { host, _network: network }
    }
}

impl Lab {
    /// Makes the network and three empty hosts.
    pub fn empty() -> Lab {
        Lab::on(NETWORK)
    }

    /// Makes a network of another shape, and three empty hosts in it: `vps`, `nas` and `laptop`.
    pub fn on(network: &str) -> Lab {
        let network = netsim::Lab::up(network).expect("a lab");
        let host = |name: &str| {
            let namespace = network.namespace(name).expect("a host of the lab");
            Host::new(name, Place::Namespace(namespace))
        };
        Lab { vps: host("vps"), nas: host("nas"), laptop: host("laptop"), network }
    }

    /// Makes a lab with the first host running, and one token for all others.
    pub fn with_first() -> (Lab, String) {
        let mut lab = Lab::empty();
        let token = lab.begun();
        (lab, token)
    }

    fn begun(&mut self) -> String {
        self.vps.agent(&["init", "--name", "vps"]).expect(0);
        self.vps.start();
        self.vps.token(&[])
    }

    /// Makes a mesh of all three, that has settled.
    pub fn joined() -> Lab {
        let mut lab = Lab::empty();
        lab.join();
        lab
    }

    /// Makes a mesh of all three in a network of another shape, that has settled.
    pub fn joined_on(network: &str) -> Lab {
        let mut lab = Lab::on(network);
        lab.join();
        lab
    }

    /// Makes a mesh of all three, whose agents are another program, that has settled.
    pub fn joined_by(program: &Path) -> Lab {
        let mut lab = Lab::empty();
        for host in lab.hosts_mut() {
            host.program = Some(program.to_owned());
        }
        lab.join();
        lab
    }

    fn join(&mut self) {
        let token = self.begun();
        for host in [&mut self.nas, &mut self.laptop] {
            let name = host.name.clone();
            host.agent(&["join", &token, "--name", &name]).expect(0);
            host.start();
        }
        self.settled();
    }

    /// Names the place of a host, for one more data directory there.
    pub fn place(&self, name: &str) -> Place {
        Place::Namespace(self.network.namespace(name).expect("a host of the lab"))
    }

    /// Gives every host.
    pub fn hosts(&self) -> [&Host; 3] {
        [&self.vps, &self.nas, &self.laptop]
    }

    /// Gives every host, to change it.
    pub fn hosts_mut(&mut self) -> [&mut Host; 3] {
        [&mut self.vps, &mut self.nas, &mut self.laptop]
    }

    /// Finds a host.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts().into_iter().find(|host| host.name == name).expect("a host of the lab")
    }

    /// Finds a host, to change it.
    pub fn host_mut(&mut self, name: &str) -> &mut Host {
        self.hosts_mut().into_iter().find(|host| host.name == name).expect("a host of the lab")
    }

    /// Waits until every host sees the two others up, with a path, and knows that all can run machines.
    #[track_caller]
    pub fn settled(&self) {
        for host in self.hosts() {
            eventually(PATIENCE, &format!("{} sees everyone up", host.name), || {
                let status = host.status();
                let seen = rows(&status["members"]);
                let up = seen.iter().filter(|row| row["state"] == "up" && row["path"]["kind"].is_string());
                if up.count() == 3 { Ok(()) } else { Err(status["members"].to_string()) }
            });
            eventually(PATIENCE, &format!("{} knows what everyone offers", host.name), || {
                let list = host.json(&["host", "list"]);
                let able = rows(&list["hosts"]).iter().filter(|row| row["accelerator"].is_string());
                if able.count() == 3 { Ok(()) } else { Err(list.to_string()) }
            });
        }
    }

    /// Waits until `host` says that `member` is in `state`.
    #[track_caller]
    pub fn sees(&self, host: &Host, member: &str, state: &str) {
        eventually(PATIENCE, &format!("{} sees {member} {state}", host.name), || {
            let status = host.status();
            let seen =
                rows(&status["members"]).iter().any(|row| row["name"] == member && row["state"] == state);
            if seen { Ok(()) } else { Err(status["members"].to_string()) }
        });
    }

    /// Waits until every host of `hosts` says that the session is in `state`.
    #[track_caller]
    pub fn session_is(&self, hosts: &[&str], session: &str, state: &str) {
        for name in hosts {
            eventually(PATIENCE * 2, &format!("{name} says that {session} is {state}"), || {
                let answer = self.host(name).agent(&["session", "status", session, "--json"]);
                match answer.code {
                    0 if answer.json()["state"] == state => Ok(()),
                    _ => Err(format!("{}{}", answer.stdout, answer.stderr)),
                }
            });
        }
    }

    /// Fetches a page from where `host` is.
    pub fn http(&self, host: &Host, address: SocketAddr, path: &str) -> Result<(String, String), String> {
        let path = path.to_owned();
        self.network
            .inside(&host.name, move || http_get(address, &path))
            .map_err(|error| error.to_string())?
    }

    /// Does something from where `host` is.
    pub fn inside<T: Send + 'static>(&self, host: &Host, what: impl FnOnce() -> T + Send + 'static) -> T {
        self.network.inside(&host.name, what).expect("a host of the lab")
    }

    /// Makes something go wrong in the network, or well again: a scenario of `netsim::fault`.
    pub fn play(&self, scenario: &str) {
        self.network.play(scenario).expect("a scenario");
    }

    /// Pulls the plug of a host or a home.
    pub fn cut(&self, name: &str) {
        self.network.cut(name).expect("a plug");
    }

    /// Puts the plug back in.
    pub fn mend(&self, name: &str) {
        self.network.mend(name).expect("a plug");
    }

    /// Makes the link of a host or a home carry IP packets of at most `bytes`.
    pub fn narrow(&self, name: &str, bytes: u16) {
        self.network.narrow(name, bytes).expect("a plug");
    }

    /// Watches from now on that no machine ever has two QEMUs in the whole lab.
    pub fn copies(&self) -> Copies {
        let dirs = self.hosts().map(|host| (host.name.clone(), host.data().to_string_lossy().into_owned()));
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let watch = move || {
            let mut twice = Vec::new();
            while !ended.load(Ordering::Relaxed) && twice.is_empty() {
                twice = doubles(&dirs);
                std::thread::sleep(Duration::from_millis(50));
            }
            twice
        };
        Copies { stop, thread: Some(std::thread::spawn(watch)) }
    }

    /// Gives the host of each machine that has a QEMU now.
    pub fn running(&self) -> BTreeMap<String, String> {
        let dirs = self.hosts().map(|host| (host.name.clone(), host.data().to_string_lossy().into_owned()));
        living(&dirs).into_iter().map(|qemu| (qemu.machine, qemu.host)).collect()
    }
}

impl Host {
    /// Gives `agent status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.json(&["status"])
    }

    /// Gives `agent session status`.
    #[track_caller]
    pub fn session(&self, name: &str) -> Value {
        self.json(&["session", "status", name])
    }

    /// Makes a token.
    #[track_caller]
    pub fn token(&self, flags: &[&str]) -> String {
        self.named_token(flags).1
    }

    /// Makes a token and gives its id with it.
    #[track_caller]
    pub fn named_token(&self, flags: &[&str]) -> (String, String) {
        let made = self.json(&[&["token", "create"], flags].concat());
        let text = |key: &str| made[key].as_str().expect("text").to_owned();
        (text("id"), text("token"))
    }

    /// Runs a command in a machine and gives what it printed.
    #[track_caller]
    pub fn ssh(&self, machine: &str, command: &str) -> String {
        self.agent(&["machine", "ssh", machine, "--", command]).expect(0).stdout
    }

    /// Asks this host's own DNS server.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        self.agent(&["dns", "query", name]).stdout.lines().map(str::to_owned).collect()
    }
}

/// A thread that looks for machines with two QEMUs until it is asked what it saw.
#[must_use = "ask `never_two` at the end"]
pub struct Copies {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Copies {
    /// Asserts that no machine ever had two QEMUs.
    #[track_caller]
    pub fn never_two(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.take().expect("it runs").join().expect("the watch ends well");
        assert!(seen.is_empty(), "one machine, two QEMUs:\n{}", seen.join("\n"));
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone, PartialEq)]
struct Qemu {
    pid: u32,
    host: String,
    session: String,
    machine: String,
}

/// Finds what runs twice, and looks a second time: while one look goes through /proc, one may end
/// and the next begin.
fn doubles(dirs: &[(String, String); 3]) -> Vec<String> {
    let twice = |all: &[Qemu]| -> Vec<Qemu> {
        let same = |a: &Qemu, b: &Qemu| a.session == b.session && a.machine == b.machine && a.pid != b.pid;
        all.iter().filter(|one| all.iter().any(|other| same(one, other))).cloned().collect()
    };
    let first = twice(&living(dirs));
    if first.is_empty() {
        return Vec::new();
    }
    let still: Vec<Qemu> = living(dirs).into_iter().filter(|qemu| first.contains(qemu)).collect();
    let show =
        |qemu: Qemu| format!("{}/{} on {}: process {}", qemu.session, qemu.machine, qemu.host, qemu.pid);
    twice(&still).into_iter().map(show).collect()
}

/// Lists the QEMUs of these data directories: the path of a machine's disk names session and machine.
fn living(dirs: &[(String, String); 3]) -> Vec<Qemu> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&bytes);
        if !line.split('\0').next().is_some_and(|program| program.contains("qemu-system-")) {
            continue;
        }
        for (host, dir) in dirs {
            let Some((_, rest)) = line.split_once(&format!("{dir}/sessions/")) else { continue };
            let mut parts = rest.split('/');
            if let (Some(session), Some(machine)) = (parts.next(), parts.next()) {
                let (session, machine) = (session.to_owned(), machine.to_owned());
                found.push(Qemu { pid, host: host.clone(), session, machine });
            }
        }
    }
    found
}

/// Gives the elements of a JSON list.
fn rows(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// Writes the topology of one group of `count` tiny machines, one on each host while there is room.
pub fn tiny_topology(session: &str, count: u32) -> String {
    format!(
        "session = \"{session}\"\n\
         [machines.web]\n\
         image = \"tiny\"\n\
         cpus = 1\n\
         memory = \"128MiB\"\n\
         count = {count}\n\
         place = {{ spread = \"host\" }}\n\
         [machines.web.services.http]\n\
         port = 8080\n\
         ready = {{ http = \"/\", interval = \"1s\", grace = \"60s\" }}\n"
    )
}
