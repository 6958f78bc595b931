//! Two computers on one LAN, each with many more addresses than ways. They find each other whatever else is there, and
//! again when all that they knew of each other is wrong.

use std::{
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use proto::trust::Token;
use tests::{Host, Place, eventually, lab_or_skip};

const HOME: &str = "seed 1\nhome attic nat=cone\nhost nas in attic\nhost desk in attic\nhost tv in attic\n";
/// Far longer than anything here takes: a lost connection is noticed after 8 s, and dialled again within 15 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// The computers of a home, and what is done to their networks.
struct Home {
    network: netsim::Lab,
}

impl Home {
    fn up() -> Home {
        Home { network: netsim::Lab::up(HOME).expect("a lab") }
    }

    fn place(&self, name: &str) -> Place {
        Place::Namespace(self.network.namespace(name).expect("a host of the lab"))
    }

    /// Runs a command of a shell where `name` is.
    #[track_caller]
    fn run(&self, name: &str, command: &str) {
        let mut sh = Command::new("sh");
        let output = self.network.exec(name, sh.args(["-ec", command])).expect("a shell");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Gives a computer the six networks of six compositions of containers.
    fn add_bridges(&self, name: &str) {
        self.run(
            name,
            "for n in 17 18 19 20 21 22; do ip link add br-$n type bridge; ip addr add 172.$n.0.1/16 dev br-$n; \
             ip link set br-$n up; done",
        );
    }

    fn remove_bridges(&self, name: &str) {
        self.run(name, "for n in 17 18 19 20 21 22; do ip link del br-$n; done");
    }

    /// Gives a computer another address on its LAN.
    fn renumber(&self, name: &str, old: &str, new: &str) {
        let command = format!(
            "ip addr del {old}/24 dev eth0; ip addr add {new}/24 dev eth0; ip route replace default via 192.168.1.1"
        );
        self.run(name, &command);
    }
}

/// Waits until `host` knows that `other` is at `address`, which only `other` itself can have told it.
#[track_caller]
fn knows(host: &Host, other: &Host, address: &str) {
    let name = format!("{}.host.mesh.internal", other.name);
    eventually(PATIENCE, &format!("{} finds {} at {address}", host.name, other.name), || {
        let found = host.addresses(&name);
        // The others of `nas` are of the other family; a bridge's address would lead to the asker itself.
        if found.first().is_some_and(|first| first == address) {
            up(host, &other.name, true)
        } else {
            Err(format!("{found:?}"))
        }
    });
}

/// Asserts that nothing but the LAN is told of a host.
#[track_caller]
fn tells_no_bridge(host: &Host, other: &str) {
    let found = host.addresses(&format!("{other}.host.mesh.internal"));
    assert!(
        !found.iter().any(|address| address.starts_with("172.")),
        "{other} seen from {}: {found:?}",
        host.name
    );
}

fn up(host: &Host, other: &str, wanted: bool) -> Result<(), String> {
    let status = host.status();
    let row = status["members"].as_array().into_iter().flatten().find(|row| row["name"] == other);
    let is_up = row.is_some_and(|row| row["state"] == "up" && row["path"]["kind"].is_string());
    if is_up == wanted { Ok(()) } else { Err(status["members"].to_string()) }
}

fn ips(token: &str) -> Vec<IpAddr> {
    let token: Token = token.parse().expect("a token");
    // The host that made it stands first.
    token.bootstrap[0].addresses.iter().map(|address| address.ip()).collect()
}

#[test]
fn two_hosts_on_a_lan_meet_whatever_other_networks_they_have_and_wherever_they_move() {
    if !lab_or_skip("two_hosts_on_a_lan_meet_whatever_other_networks_they_have_and_wherever_they_move") {
        return;
    }
    let home = Home::up();
    for name in ["nas", "desk"] {
        home.add_bridges(name);
    }
    home.run(
        "nas",
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; \
         for n in 1 2 3; do ip addr add 2001:db8::$n/64 dev eth0 nodad; done",
    );

    // A token leads to the LAN, also who has no IPv6.
    let mut nas = Host::first("nas", home.place("nas"));
    let token = eventually(PATIENCE, "a token with addresses of both families", || {
        let token = nas.token(&[]);
        let told = ips(&token);
        let (v4, v6) = (told.iter().any(IpAddr::is_ipv4), told.iter().any(IpAddr::is_ipv6));
        if v4 && v6 { Ok(token) } else { Err(format!("{told:?}")) }
    });
    assert!(ips(&token).contains(&"192.168.1.2".parse().expect("an address")), "{:?}", ips(&token));
    let mut desk = Host::joined("desk", home.place("desk"), &token);
    knows(&desk, &nas, "192.168.1.2");
    knows(&nas, &desk, "192.168.1.3");
    tells_no_bridge(&desk, "nas");
    tells_no_bridge(&nas, "desk");

    // Both off at once, and on again; then once more without the bridges, as they never were.
    for without_bridges in [false, true] {
        nas.stop();
        desk.stop();
        if without_bridges {
            home.remove_bridges("nas");
            home.remove_bridges("desk");
        }
        nas.spawn(&[]);
        desk.start();
        knows(&desk, &nas, "192.168.1.2");
        knows(&nas, &desk, "192.168.1.3");
    }

    // Both get new addresses at once: nobody can tell them but the LAN itself.
    home.renumber("nas", "192.168.1.2", "192.168.1.102");
    home.renumber("desk", "192.168.1.3", "192.168.1.103");
    knows(&desk, &nas, "192.168.1.102");
    knows(&nas, &desk, "192.168.1.103");
}

#[test]
fn two_hosts_that_moved_where_the_lan_tells_nothing_meet_again_by_a_token() {
    if !lab_or_skip("two_hosts_that_moved_where_the_lan_tells_nothing_meet_again_by_a_token") {
        return;
    }
    let home = Home::up();
    for name in ["nas", "desk"] {
        home.run(name, "nft 'add table ip deaf; add chain ip deaf in { type filter hook input priority 0; }; add rule ip deaf in udp dport 5353 drop'");
    }
    let mut nas = Host::first("nas", home.place("nas"));
    let mut desk = Host::joined("desk", home.place("desk"), &nas.token(&[]));
    knows(&nas, &desk, "192.168.1.3");

    home.renumber("nas", "192.168.1.2", "192.168.1.102");
    home.renumber("desk", "192.168.1.3", "192.168.1.103");
    for (host, other) in [(&nas, "desk"), (&desk, "nas")] {
        eventually(PATIENCE, &format!("{} loses {other}", host.name), || up(host, other, false));
    }
    // The only running agent that a member talks to by the token is its own.
    let token = token_of(&nas, "192.168.1.102");
    let met = desk.agent(&["join", &token, "--json"]).expect(0).json();
    assert_eq!(met["again"]["reached"], serde_json::json!(["nas"]), "{met}");
    knows(&desk, &nas, "192.168.1.102");

    // And without an agent: for the next start.
    desk.stop();
    home.renumber("nas", "192.168.1.102", "192.168.1.112");
    home.renumber("desk", "192.168.1.103", "192.168.1.113");
    let token = token_of(&nas, "192.168.1.112");
    let said = desk.agent(&["join", &token]).expect(0);
    assert!(said.stdout.contains("nas are tried when the agent runs"), "{said:?}");
    desk.start();
    knows(&nas, &desk, "192.168.1.113");
    nas.stop();
}

#[test]
fn an_interface_that_flaps_a_hundred_times_leaves_everything_as_it_was_and_a_new_address_is_found() {
    if !lab_or_skip(
        "an_interface_that_flaps_a_hundred_times_leaves_everything_as_it_was_and_a_new_address_is_found",
    ) {
        return;
    }
    let home = Home::up();
    let nas = Host::first("nas", home.place("nas"));
    let desk = Host::joined("desk", home.place("desk"), &nas.token(&[]));
    knows(&desk, &nas, "192.168.1.2");
    knows(&nas, &desk, "192.168.1.3");

    home.run(
        "nas",
        "for n in $(seq 100); do ip link set eth0 down; ip link set eth0 up; sleep 0.03; done; \
         ip route replace default via 192.168.1.1",
    );
    let since = Instant::now();
    for (host, other) in [(&desk, "nas"), (&nas, "desk")] {
        eventually(PATIENCE, &format!("{} sees {other} after the flapping", host.name), || {
            up(host, other, true)
        });
    }
    println!("after a hundred flaps both are up within {:.1} s", since.elapsed().as_secs_f64());
    let pinged = desk.agent(&["net", "ping", "nas", "--require", "direct", "--json"]);
    assert_eq!(pinged.code, 0, "{pinged:?}");

    home.renumber("nas", "192.168.1.2", "192.168.1.102");
    let since = Instant::now();
    knows(&desk, &nas, "192.168.1.102");
    println!("a new address is known within {:.1} s", since.elapsed().as_secs_f64());
    let pinged = desk.agent(&["net", "ping", "nas", "--require", "direct", "--json"]);
    assert_eq!(pinged.code, 0, "{pinged:?}");
}

/// Makes a token once the host has noticed its new address.
#[track_caller]
fn token_of(host: &Host, address: &str) -> String {
    eventually(PATIENCE, &format!("a token that leads to {address}"), || {
        let token = host.token(&[]);
        let told = ips(&token);
        if told == [address.parse::<IpAddr>().expect("an address")] {
            Ok(token)
        } else {
            Err(format!("{told:?}"))
        }
    })
}
