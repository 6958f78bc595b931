//! Hosts and topologies in a line each, for the data tests of this directory.

use std::collections::BTreeMap;

use super::*;
use crate::{
    level::LEVEL,
    topology::{
        Egress, Failover, Group, ImageRef, Place, Probe, Protocol, Publish, Ready, Restart, Service, Topology,
    },
};

/// The session of all data tests.
pub const SESSION: SessionId = SessionId([7; 16]);

/// The host of this name: its id starts with the name's bytes, so that it is stable and readable.
pub fn host_id(name: &str) -> HostId {
    let mut id = [0; 32];
    id.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    HostId(id)
}

/// Reads the name back from [`host_id`].
pub fn host_name(id: HostId) -> String {
    id.0.iter().take_while(|b| **b != 0).map(|b| char::from(*b)).collect()
}

/// Reads hosts, one a line: `NAME MEMORY [down] [tcg] [no-qemu] [no-machines] [lan] [publishes] [image] [cpus=N]
/// [used=MIB] [disk=MIB] [kept=MIB] [arch=A] [level=N] [rtt=MS] [net=10.0.0.0/8] [tag:KEY=VALUE]`, or `NAME out` for one
/// that is out of the mesh. Image `tiny` of 64 MiB exists.
pub fn inventory(text: &str) -> Inventory {
    let image = ImageFacts { digest: Digest([1; 32]), size: 64 << 20, arch: "x86_64".into() };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (out, in_mesh): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.ends_with(" out"));
    let out = out.iter().filter_map(|line| line.split_whitespace().next()).map(host_id).collect();
    let hosts = in_mesh.into_iter().map(host).collect();
    Inventory { hosts, images: [("tiny".to_owned(), image)].into(), out }
}

fn host(line: &str) -> (HostId, HostFacts) {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    let mut facts = HostFacts {
        name: name.parse().unwrap(),
        up: true,
        arch: "x86_64".into(),
        accelerator: Some(Accelerator::Kvm),
        cpus: 4,
        memory_mib: words.next().unwrap().parse().unwrap(),
        disk_mib: 10_000,
        disk_kept_mib: 0,
        runs_machines: true,
        memory_used_mib: 0,
        tags: BTreeMap::new(),
        images: BTreeSet::new(),
        prefixes: vec![],
        rtt_ms: None,
        level: LEVEL,
        lan: false,
        publishes: false,
        barred: false,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("down", _) => facts.up = false,
            ("tcg", _) => facts.accelerator = Some(Accelerator::Tcg),
            ("no-qemu", _) => facts.accelerator = None,
            ("no-machines", _) => facts.runs_machines = false,
            ("lan", _) => facts.lan = true,
            ("barred", _) => facts.barred = true,
            ("publishes", _) => facts.publishes = true,
            ("image", _) => facts.images = [Digest([1; 32])].into(),
            ("cpus", n) => facts.cpus = n.parse().unwrap(),
            ("used", n) => facts.memory_used_mib = n.parse().unwrap(),
            ("disk", n) => facts.disk_mib = n.parse().unwrap(),
            ("kept", n) => facts.disk_kept_mib = n.parse().unwrap(),
            ("arch", arch) => facts.arch = arch.into(),
            ("level", n) => facts.level = n.parse::<u32>().unwrap().into(),
            ("rtt", n) => facts.rtt_ms = Some(n.parse().unwrap()),
            ("net", net) => {
                let (base, len) = net.split_once('/').unwrap();
                facts.prefixes.push(Prefix { base: base.parse().unwrap(), len: len.parse().unwrap() });
            }
            (tag, value) => {
                let key = tag.strip_prefix("tag:").unwrap_or_else(|| panic!("unknown word {word}"));
                facts.tags.insert(key.into(), value.into());
            }
        }
    }
    (host_id(name), facts)
}

/// Reads groups, one a line: `NAME COUNT MEMORY [cpus=N] [image=NAME] [disk=MIB] [needs=A,B] [spread]
/// [hosts=A,B] [near=A] [apart=A] [tag:KEY=VALUE] [setup=TEXT] [failover] [never] [service=NAME:PORT]
/// [checked=NAME:PORT] [internet] [lan] [publish=A,B]`; the last says it of the services before it, at port 8080.
pub fn intent(text: &str) -> Intent {
    let groups = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(group).collect();
    Intent {
        topology: Topology { session: "shop".parse().unwrap(), groups },
        files: BTreeMap::new(),
        ssh_keys: BTreeMap::new(),
    }
}

fn group(line: &str) -> (Name, Group) {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap().parse().unwrap();
    let mut group = Group {
        image: ImageRef::Named("tiny".into()),
        cpus: 1,
        count: words.next().unwrap().parse().unwrap(),
        memory_mib: words.next().unwrap().parse().unwrap(),
        disk_mib: None,
        role: None,
        needs: BTreeSet::new(),
        failover: Failover::Hold,
        restart: Restart::Always,
        place: Place::default(),
        setup: vec![],
        files: BTreeMap::new(),
        env: BTreeMap::new(),
        ssh_keys: vec![],
        user: None,
        services: BTreeMap::new(),
        egress: Egress::None,
    };
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let names = || value.split(',').map(|name| name.parse().unwrap()).collect();
        match key {
            "cpus" => group.cpus = value.parse().unwrap(),
            "image" => group.image = ImageRef::Named(value.into()),
            "disk" => group.disk_mib = Some(value.parse().unwrap()),
            "needs" => group.needs = names(),
            "spread" => group.place.spread_host = true,
            "hosts" => group.place.hosts = names(),
            "near" => group.place.near = names(),
            "apart" => group.place.apart = names(),
            "setup" => group.setup.push(value.into()),
            "internet" => group.egress = Egress::Internet,
            "lan" => group.egress = Egress::Lan,
            "failover" => group.failover = Failover::Restart,
            "never" => group.restart = Restart::Never,
            "on-failure" => group.restart = Restart::OnFailure,
            "service" | "checked" | "udp" => {
                let (name, port) = value.split_once(':').unwrap();
                let protocol = if key == "udp" { Protocol::Udp } else { Protocol::Tcp };
                let check = Ready { probe: Probe::Tcp, interval_ms: 2000, grace_ms: 60_000 };
                let ready = (key == "checked").then_some(check);
                let at = Service::at(port.parse().unwrap());
                group.services.insert(name.parse().unwrap(), Service { ready, protocol, ..at });
            }
            "publish" => {
                let publish = Publish { lan: 8080, on: names() };
                group.services.values_mut().for_each(|service| service.publish = Some(publish.clone()));
            }
            tag => {
                let key = tag.strip_prefix("tag:").unwrap_or_else(|| panic!("unknown word {word}"));
                group.place.tags.insert(key.into(), value.into());
            }
        }
    }
    (name, group)
}

/// A session without a plan.
pub fn created() -> State {
    let create = Command::Create {
        id: SESSION,
        name: "shop".parse().unwrap(),
        stamp: Timestamp(1),
        ssh_seed: [5; 32],
    };
    state::apply(None, create).0.unwrap()
}

/// Commits what the planner proposes, which must be free of obstacles and accepted.
pub fn up(state: State, topology: &str, hosts: &str) -> State {
    up_told(state, topology, hosts, Replace::default())
}

/// As [`up`], and these disks may be lost.
fn up_told(state: State, topology: &str, hosts: &str, replace: Replace) -> State {
    let intent = intent(topology);
    let proposal = plan::propose(SESSION, Some(&state), (&intent, &replace), &inventory(hosts));
    let plan = proposal.plan.unwrap_or_else(|| panic!("{:?} {:?}", proposal.obstacles, proposal.unasked));
    command(state, Command::Apply { intent, plan, replace })
}

/// Lets every machine start for the first time.
pub fn started(mut state: State) -> State {
    for p in state.plan.clone().into_iter().flat_map(|plan| plan.placements) {
        state = command(state, Command::Grant { machine: p.machine, host: p.host, epoch: p.epoch });
    }
    state
}

/// Commits a command that must be accepted.
pub fn command(state: State, command: Command) -> State {
    let (state, outcome) = state::apply(Some(state), command);
    assert_eq!(outcome, Ok(()));
    state.unwrap()
}
