//! Layers of settings, and every mistake in them.

use expect_test::{Expect, expect};

use super::*;

fn layers(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Layers {
    Layers {
        file: (!file.is_empty()).then(|| ("config.toml".to_owned(), file.to_owned())),
        environment: environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        flags: flags.iter().map(|flag| flag.to_string()).collect(),
    }
}

fn check(layers: &Layers, expect: Expect) {
    let text = match load(layers) {
        Ok((_, settings)) => settings
            .iter()
            .map(|Setting { key, value, origin }| format!("{key} = {value} ({origin})\n"))
            .collect(),
        Err(mistakes) => mistakes.iter().map(|mistake| format!("{mistake}\n")).collect::<String>(),
    };
    expect.assert_eq(&text);
}

#[test]
fn the_defaults_are_a_valid_configuration() {
    let (config, _) = load(&Layers::default()).unwrap();
    let policy =
        Policy { machines: true, publish: false, cpus: None, memory_mib: None, disk_mib: None, lan: false };
    let dns = Dns { port: None, zone: "mesh.internal".into() };
    assert_eq!(config.relay.fallback.relays().len(), 4, "of iroh's makers");
    let relay = Relay { serve: None, fallback: config.relay.fallback.clone() };
    let (api_group, tags) = (Some("agent".to_owned()), BTreeMap::new());
    let net = Net { public: None, browser: Some(7080), socks: Some(7081), host_interface: false };
    let (listen_port, listen_map) = (7440, true);
    assert_eq!(
        config,
        Config { policy, relay, listen_port, listen_map, dns, net, api_group, steady: None, tags }
    );
}

#[test]
fn the_later_layer_wins_and_says_so() {
    check(
        &layers(
            "tags = { room = \"attic\" }\n[policy]\ncpus = 2\nmemory = \"4GiB\"\n[relay]\nserve = \"off\"\n",
            &[("AGENT_POLICY_CPUS", "3"), ("AGENT_DATA_DIR", "/x"), ("AGENT_TAGS", "floor=2,room=cellar")],
            &["policy.cpus=4", "dns.port = 5353"],
        ),
        expect![[r#"
            steady = auto (default)
            policy.machines = true (default)
            policy.publish = false (default)
            policy.cpus = 4 (--set)
            policy.memory = 4GiB (config.toml:4)
            policy.disk = auto (default)
            policy.lan = false (default)
            relay.serve = off (config.toml:6)
            relay.fallback = ["https://use1-1.relay.n0.iroh.link.", "https://usw1-1.relay.n0.iroh.link.", "https://euc1-1.relay.n0.iroh.link.", "https://aps1-1.relay.n0.iroh.link."] (default)
            listen.port = 7440 (default)
            listen.map = true (default)
            dns.port = 5353 (--set)
            dns.zone = mesh.internal (default)
            net.public = auto (default)
            net.browser = 7080 (default)
            net.socks = 7081 (default)
            net.host_interface = false (default)
            api.group = agent (default)
            tags.room = cellar (environment AGENT_TAGS)
            tags.floor = 2 (environment AGENT_TAGS)
        "#]],
    );
}

#[test]
fn every_unknown_key_is_told_with_its_line_and_the_nearest_one() {
    check(
        &layers(
            "[policy]\ncpu = 2\n\nmachines = true\n[quantum]\nentangled = 1\n",
            &[],
            &["cpus=1", "novalue"],
        ),
        expect![[r#"
            config.toml:2: there is no setting policy.cpu; did you mean policy.cpus?
            config.toml:6: there is no setting quantum.entangled
            --set: there is no setting cpus; did you mean policy.cpus?
            --set: "novalue" is not KEY=VALUE
        "#]],
    );
}

#[test]
fn every_wrong_value_is_told() {
    check(
        &layers(
            "[policy]\ncpus = 0\nmemory = \"4GB\"\nmachines = \"maybe\"\n[listen]\nport = 65535\n",
            &[("AGENT_RELAY_SERVE", "perhaps"), ("AGENT_STEADY", "1")],
            &["relay.fallback=relay.example", "dns.zone=a..b", "net.public=203.0.113.9:80"],
        ),
        expect![[r#"
            config.toml:4: policy.machines is "maybe", it must be true or false
            config.toml:2: policy.cpus is "0", it must be "all" or a number from 1
            environment AGENT_RELAY_SERVE: relay.serve is "perhaps", it must be "auto", "on" or "off"
            --set: relay.fallback is "relay.example", it must be a list of relays such as ["https://relay.example.org"], or [] for none
            --set: dns.zone is "a..b", it must be a domain such as mesh.internal
            --set: net.public is "203.0.113.9:80", it must be "auto", or an address with or without a port such as 203.0.113.9:7440
            config.toml:6: listen.port is "65535", it must be a port from 1 to 65534
            environment AGENT_STEADY: steady is "1", it must be "auto", "yes" or "no"
        "#]],
    );
}

#[test]
fn a_broken_file_is_told_with_its_line() {
    check(
        &layers("[policy]\ncpus = = 2\n", &[], &[]),
        expect![[r#"
            config.toml:2: extra `=`, expected nothing
        "#]],
    );
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let memory = |text: &str| {
        let file = format!("[policy]\nmemory = \"{text}\"\ndisk = \"{text}\"\n");
        let layers = Layers { file: Some(("config.toml".into(), file)), ..Layers::default() };
        load(&layers).map(|(config, _)| (config.policy.memory_mib, config.policy.disk_mib)).ok()
    };
    for text in ["4G", "4GB", "4GiB", "4096M", "4gib", "4 GiB"] {
        assert_eq!(memory(text), Some((Some(4096), Some(4096))), "{text}");
    }
    assert_eq!(memory("auto"), Some((None, None)));
    for wrong in ["4", "4X", "64K", "99999999T"] {
        assert_eq!(memory(wrong), None, "{wrong}");
    }
}
