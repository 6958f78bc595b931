//! A host on the network of a session by an interface of its own: its programs reach machines at their own addresses.

use std::{
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use proto::{id::SessionId, session::overlay};
use rustix::net::{AddressFamily, SocketType, bind, ipproto, socket};
use tests::{Host, Place, eventually, lab_or_skip};

const TOPOLOGY: &str = r#"
session = "near"

[machines.web]
image = "tiny"
memory = "128MiB"
place = { hosts = ["desk"] }
"#;

#[test]
fn a_host_with_an_interface_reaches_a_machine_elsewhere_at_its_own_address() {
    if !lab_or_skip("a_host_with_an_interface_reaches_a_machine_elsewhere_at_its_own_address") {
        return;
    }
    let lab = netsim::Lab::up("home attic nat=cone\nhost nas in attic\nhost desk in attic").expect("a lab");
    let place = |name: &str| Place::Namespace(lab.namespace(name).expect("a host of the lab"));
    let shell = |line: &str| said(&lab, line);
    // A lab is of IPv4; interfaces that come later shall have both.
    shell("echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6")
        .expect("IPv6");
    let mut nas = Host::new("nas", place("nas"));
    nas.agent(&["init", "--name", "nas"]).expect(0);
    fs::write(nas.data().join("config.toml"), "[net]\nhost_interface = true\n").expect("a file");
    nas.start();
    let token = nas.json(&["token", "create"])["token"].as_str().expect("a token").to_owned();
    let desk = Host::joined("desk", place("desk"), &token);
    desk.import_tiny();
    eventually(Duration::from_secs(30), "it is known that desk runs machines", || {
        let hosts = nas.json(&["host", "list"]);
        let rows = hosts["hosts"].as_array().expect("hosts");
        let desk = rows.iter().find(|row| row["name"] == "desk");
        if desk.is_some_and(|row| row["accelerator"].is_string()) { Ok(()) } else { Err(hosts.to_string()) }
    });
    let file = nas.topology(TOPOLOGY);
    nas.agent(&["session", "up", &file]).expect(0);
    let row = nas.reaches("web-1", "ready");
    let at: Ipv4Addr = row["address"].as_str().and_then(|at| at.parse().ok()).expect("its address");
    assert_eq!((&row["host"], &nas.json(&["status"])["interface"]), (&"desk".into(), &"mesh0".into()));

    shell("echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range").expect("pings");
    let pings = |from: Option<IpAddr>, to: IpAddr| lab.inside("nas", move || ping(from, to)).expect("a host");
    eventually(Duration::from_secs(20), "the machine answers its own address", || pings(None, at.into()));
    its_ssh_answers(&lab, at);
    let session: SessionId = row["session_id"].as_str().and_then(|id| id.parse().ok()).expect("its session");
    let at_v6 = overlay::machine_v6(session, &"web-1".parse().expect("a name"));
    eventually(Duration::from_secs(20), "by IPv6 as well", || pings(None, at_v6.into()));

    nobody_elses_address(&nas, at, &shell, &pings);
    a_route_of_the_hosts_own_goes_first(&nas, at, &shell);
    eventually(Duration::from_secs(30), "it is back when that route is gone", || pings(None, at.into()));
    no_program_of_the_host_is_reached(&lab, &nas, at, &shell);

    nas.stop();
    assert!(shell("ip link show mesh0").is_err(), "it is gone with the agent");
    without_the_right_it_is_told(&mut nas);
}

/// Has a shell of nas do something, and tells what it said.
fn said(lab: &netsim::Lab, line: &str) -> Result<String, String> {
    let output = lab.command("nas", "sh").expect("a host").args(["-c", line]).output().expect("sh");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// No port of a service: it is the machine that answers, not what stands for it.
fn its_ssh_answers(lab: &netsim::Lab, at: Ipv4Addr) {
    eventually(Duration::from_secs(20), "the machine's own SSH answers", || {
        let greeted = lab.inside("nas", move || {
            let mut stream = TcpStream::connect((at, 22))?;
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).map(|()| greeting)
        });
        match greeted.expect("a host") {
            Ok(greeting) if &greeting == b"SSH-" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

type Shell<'a> = dyn Fn(&str) -> Result<String, String> + 'a;
type Pings<'a> = dyn Fn(Option<IpAddr>, IpAddr) -> Result<(), String> + 'a;

/// Sends one ping and waits two seconds for its answer.
fn ping(from: Option<IpAddr>, to: IpAddr) -> Result<(), String> {
    let (family, protocol, kinds) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, [8, 0]),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, [128, 129]),
    };
    let socket = socket(family, SocketType::DGRAM, Some(protocol)).map_err(|error| error.to_string())?;
    if let Some(from) = from {
        bind(&socket, &SocketAddr::new(from, 0)).map_err(|error| error.to_string())?;
    }
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let mut answer = [0; 64];
    let answered = socket
        .send_to(&[kinds[0], 0, 0, 0, 0, 1, 0, 1], SocketAddr::new(to, 0))
        .and_then(|_| socket.recv_from(&mut answer))
        .map_err(|error| error.to_string())?;
    if answered.1.ip() == to && answer[0] == kinds[1] { Ok(()) } else { Err(format!("{answered:?}")) }
}

/// What a host sends as if it were a machine goes nowhere.
fn nobody_elses_address(nas: &Host, at: Ipv4Addr, shell: &Shell, pings: &Pings) {
    let forged = |flows: serde_json::Value| flows["hosts"][0]["lost"]["forged"].as_u64().expect("a count");
    let before = forged(nas.json(&["net", "flows"]));
    let [a, b, c, _] = at.octets();
    let other = Ipv4Addr::new(a, b, c, 99);
    shell(&format!("ip addr add {other}/32 dev mesh0")).expect("an address");
    assert!(pings(Some(other.into()), at.into()).is_err(), "a machine's address is no host's");
    assert!(forged(nas.json(&["net", "flows"])) > before, "it is counted");
    shell(&format!("ip addr del {other}/32 dev mesh0")).expect("an address");
}

fn a_route_of_the_hosts_own_goes_first(nas: &Host, at: Ipv4Addr, shell: &Shell) {
    let [a, b, c, _] = at.octets();
    let part = format!("{a}.{b}.{c}.128/25");
    shell(&format!("ip route add blackhole {part}")).expect("a route");
    eventually(Duration::from_secs(30), "the session's network is left to the host's own route", || {
        let status = nas.json(&["status"]);
        let routes = shell("ip route show dev mesh0")?;
        let told = status["warnings"].to_string().contains("is routed elsewhere here already");
        if told && !routes.contains(&format!("{a}.{b}.{c}.0/24")) { Ok(()) } else { Err(routes) }
    });
    shell(&format!("ip route del blackhole {part}")).expect("a route");
}

fn without_the_right_it_is_told(nas: &mut Host) {
    nas.spawn_by("exec setpriv --bounding-set -net_admin --inh-caps -net_admin \"$AGENT\" run");
    eventually(Duration::from_secs(30), "what it lacks is told, with what grants it", || {
        let answer = nas.agent(&["status", "--json"]);
        if answer.code == 0 && answer.stdout.contains("CapabilityBoundingSet=CAP_NET_ADMIN") {
            Ok(())
        } else {
            Err(format!("{}{}", answer.stdout, answer.stderr))
        }
    });
    assert_eq!(nas.json(&["status"])["interface"], serde_json::Value::Null);
}

/// A machine knows its host's address as soon as it was spoken to, and begins nothing there.
fn no_program_of_the_host_is_reached(lab: &netsim::Lab, nas: &Host, at: Ipv4Addr, shell: &Shell) {
    let told = shell(&format!("ip route get {at}")).expect("a route");
    let own = told.split("src ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a source").to_owned();
    assert!(own.starts_with("198.18.") || own.starts_with("198.19."), "{told}");
    let listener = lab.inside("nas", || TcpListener::bind("0.0.0.0:8099")).expect("a host").expect("a port");
    listener.set_nonblocking(true).expect("a listener");
    let tried = nas.ssh(
        "web-1",
        &format!(
            "timeout 5 wget -q -O - http://{own}:8099/ 2>&1 && echo reached; ping -c 1 -W 2 {own} 2>&1; echo tried"
        ),
    );
    assert!(tried.contains("100% packet loss") && !tried.contains("reached"), "{tried}");
    assert!(listener.accept().is_err(), "nobody came");
}
