//! Pure: the readable lab file. Text in, hosts, homes and links out, or every mistake with its line.
//!
//! ```text
//! seed 7
//! host vps                                  # on the public net
//! home attic nat=cone delay=10ms rate=50mbit
//! home flat nat=symmetric delay=20ms jitter=2ms loss=1%
//! home barn wire                            # nothing yet, but `fault` may change it
//! host nas in attic
//! host desk in flat
//! home cellar in flat ports=mapped          # a router behind a router; it maps ports for who asks
//! host tv in cellar ip=4+6+ula
//! ```
//! Nothing here knows namespaces or commands: `rules` does.

use std::fmt;

/// A parsed lab file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// Where loss and jitter are drawn from.
    pub seed: u64,
    /// In the order of the file.
    pub homes: Vec<Home>,
    /// In the order of the file.
    pub hosts: Vec<Host>,
}

/// A private network behind a router.
#[derive(Clone, Debug, PartialEq)]
pub struct Home {
    /// Unique among homes and hosts.
    pub name: String,
    /// Index of the home that its router is in; `None` = on the public net.
    pub within: Option<usize>,
    /// What the router does.
    pub nat: Nat,
    /// Whether the router maps ports for who asks by PCP or NAT-PMP.
    pub maps: bool,
    /// Whether the router lets UDP pass.
    pub udp: bool,
    /// Between the router and the public net.
    pub link: Link,
}

/// A computer.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Unique among homes and hosts.
    pub name: String,
    /// Index into `homes`; `None` = on the public net.
    pub home: Option<usize>,
    /// Its addresses.
    pub ip: Families,
    /// Between the host and its network.
    pub link: Link,
}

/// Of which families a host has addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6, reached from everywhere as far as routers let it.
    pub v6: bool,
    /// IPv6 of its own network alone (fd00::/8).
    pub ula: bool,
}

impl Default for Families {
    fn default() -> Families {
        Families { v4: true, v6: false, ula: false }
    }
}

/// What a home's router does with addresses and ports, and whom it lets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nat {
    /// Keeps ports; lets everybody in, to the home's first host ("exposed host").
    Open,
    /// Keeps ports: one mapping for all destinations; lets in only answers.
    #[default]
    Cone,
    /// Another port, but one for all destinations; lets in only answers.
    Shifted,
    /// A new random port for each destination; lets in only answers.
    Symmetric,
    /// Each host has a public address of its own, at which everybody is let in (1:1).
    Static,
}

/// What a link does to frames, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// One way.
    pub delay_us: u64,
    /// Drawn evenly from -jitter to +jitter; frames keep their order.
    pub jitter_us: u64,
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Bits per second; 0 = as fast as the machine can.
    pub rate_bps: u64,
    /// The longest IP packet that passes; longer ones vanish without a word. 0 = all pass.
    pub longest: u16,
    /// Whether it can become another one while the lab runs.
    pub wire: bool,
}

impl Link {
    /// Whether a wire of ours plays this link: the kernel alone has no delay or loss here, only rates.
    pub fn needs_wire(&self) -> bool {
        self.wire || self.delay_us > 0 || self.jitter_us > 0 || self.loss > 0.0 || self.longest > 0
    }
}

/// One mistake in a lab file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// What is wrong, and what is right.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// The longest name: with a lab's prefix it must fit where interface and namespace names go.
const NAME_MAX: usize = 24;
/// Homes and public hosts share one /24.
const PUBLIC_MAX: usize = 200;

/// Reads a lab file; on mistakes, says all of them.
pub fn parse(text: &str) -> Result<Layout, Vec<Mistake>> {
    let mut layout = Layout { seed: 1, ..Layout::default() };
    let mut mistakes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        if let Err(what) = statement(&mut layout, &words) {
            mistakes.push(Mistake { line: index + 1, what });
        }
    }
    let public = layout.homes.len() + layout.hosts.iter().filter(|host| host.home.is_none()).count();
    if layout.hosts.is_empty() && mistakes.is_empty() {
        mistakes.push(Mistake { line: 1, what: "a lab needs at least one `host NAME`".into() });
    }
    if public > PUBLIC_MAX {
        mistakes.push(Mistake { line: 1, what: format!("at most {PUBLIC_MAX} homes and public hosts") });
    }
    if mistakes.is_empty() { Ok(layout) } else { Err(mistakes) }
}

fn statement(layout: &mut Layout, words: &[&str]) -> Result<(), String> {
    match words {
        [] => Ok(()),
        ["seed", number] => {
            layout.seed = number.parse().map_err(|_| format!("`{number}` is not a seed: a whole number"))?;
            Ok(())
        }
        ["home", name, settings @ ..] => {
            let home = home(layout, name, settings)?;
            layout.homes.push(home);
            Ok(())
        }
        ["host", name, rest @ ..] => {
            let name = new_name(layout, name)?;
            let (home, settings) = match rest {
                ["in", home, settings @ ..] => (Some(find_home(layout, home)?), settings),
                settings => (None, settings),
            };
            let (mut ip, mut link) = (Families::default(), Link::default());
            for setting in settings {
                match setting.split_once('=') {
                    Some(("ip", families)) => ip = parse_families(families)?,
                    _ => set(&mut link, setting)?,
                }
            }
            layout.hosts.push(Host { name, home, ip, link });
            Ok(())
        }
        [other, ..] => {
            Err(format!("`{other}` begins no statement: `host NAME [in HOME]`, `home NAME`, `seed N`"))
        }
    }
}

fn home(layout: &Layout, name: &str, words: &[&str]) -> Result<Home, String> {
    let name = new_name(layout, name)?;
    let (within, settings) = match words {
        ["in", outer, settings @ ..] => (Some(find_home(layout, outer)?), settings),
        settings => (None, settings),
    };
    let mut home = Home { name, within, nat: Nat::default(), maps: false, udp: true, link: Link::default() };
    for setting in settings {
        match setting.split_once('=') {
            Some(("nat", kind)) => home.nat = parse_nat(kind)?,
            Some(("ports", "mapped")) => home.maps = true,
            Some(("ports", other)) => return Err(format!("`{other}` is nothing that ports are: mapped")),
            Some(("udp", "blocked")) => home.udp = false,
            Some(("udp", other)) => return Err(format!("`{other}` is nothing that UDP is: blocked")),
            _ => set(&mut home.link, setting)?,
        }
    }
    if home.within.is_some() && home.nat == Nat::Static {
        return Err(
            "a router in a home has no public addresses to give: nat=static is for the outer one".into()
        );
    }
    Ok(home)
}

fn parse_families(text: &str) -> Result<Families, String> {
    let mut found = Families { v4: false, v6: false, ula: false };
    for word in text.split('+') {
        match word {
            "4" => found.v4 = true,
            "6" => found.v6 = true,
            "ula" => found.ula = true,
            other => return Err(format!("`{other}` is no family of addresses: 4, 6, ula, as in 4+6")),
        }
    }
    Ok(found)
}

fn find_home(layout: &Layout, name: &str) -> Result<usize, String> {
    layout
        .homes
        .iter()
        .position(|home| home.name == name)
        .ok_or_else(|| format!("no home `{name}` above: write `home {name}` first"))
}

fn new_name(layout: &Layout, name: &str) -> Result<String, String> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase())
        || !name.chars().all(letters)
        || name.len() > NAME_MAX
    {
        return Err(format!("`{name}` is no name: a-z, 0-9 and -, a letter first, at most {NAME_MAX}"));
    }
    let taken = layout.homes.iter().any(|home| home.name == name)
        || layout.hosts.iter().any(|host| host.name == name);
    if taken || name == "net" {
        return Err(format!("the name `{name}` is taken"));
    }
    Ok(name.into())
}

fn parse_nat(kind: &str) -> Result<Nat, String> {
    match kind {
        "open" => Ok(Nat::Open),
        "cone" => Ok(Nat::Cone),
        "shifted" => Ok(Nat::Shifted),
        "symmetric" => Ok(Nat::Symmetric),
        "static" => Ok(Nat::Static),
        other => Err(format!("`{other}` is no kind of NAT: open, cone, shifted, symmetric, static")),
    }
}

/// Changes one setting of a link, as the text says.
pub(crate) fn set(link: &mut Link, setting: &str) -> Result<(), String> {
    if setting == "wire" {
        link.wire = true;
        return Ok(());
    }
    let (key, value) = setting.split_once('=').ok_or_else(|| format!("`{setting}`: expected KEY=VALUE"))?;
    match key {
        "delay" => link.delay_us = micros(value)?,
        "jitter" => link.jitter_us = micros(value)?,
        "loss" => link.loss = share(value)?,
        "rate" => link.rate_bps = rate(value)?,
        "longest" => link.longest = longest(value)?,
        other => {
            return Err(format!(
                "`{other}` is no setting: delay, jitter, loss, rate, longest, wire; nat, ports, udp for homes; ip for hosts"
            ));
        }
    }
    Ok(())
}

fn micros(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no time: such as 10ms, 1.5ms, 300us");
    let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix("us")) {
        (Some(number), _) => (number, 1000.0),
        (_, Some(number)) => (number, 1.0),
        _ => return Err(wrong()),
    };
    let value: f64 = number.parse().map_err(|_| wrong())?;
    if !(0.0..=10_000_000.0).contains(&(value * unit)) {
        return Err(wrong());
    }
    Ok((value * unit) as u64)
}

fn share(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no loss: 0% to 100%");
    let percent: f64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wrong)?;
    if (0.0..=100.0).contains(&percent) { Ok(percent / 100.0) } else { Err(wrong()) }
}

fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no rate: such as 50mbit, 500kbit, 1gbit");
    let units = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];
    let (number, unit) = units
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))
        .ok_or_else(wrong)?;
    let value: f64 = number.parse().map_err(|_| wrong())?;
    if !(8e3..=100e9).contains(&(value * unit)) {
        return Err(wrong());
    }
    Ok((value * unit) as u64)
}

/// Reads the length of a packet.
pub(crate) fn longest(text: &str) -> Result<u16, String> {
    let bytes = text.parse().ok().filter(|bytes| (68..=65_535).contains(bytes));
    bytes.ok_or_else(|| format!("`{text}` is no length of a packet: 68 to 65535 bytes"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(text: &str, found: Expect) {
        let shown = match parse(text) {
            Ok(layout) => {
                let home = |home: &Home| format!("home {} {:?} {:?}\n", home.name, home.nat, home.link);
                let host = |host: &Host| format!("host {} {:?} {:?}\n", host.name, host.home, host.link);
                layout.homes.iter().map(home).chain(layout.hosts.iter().map(host)).collect()
            }
            Err(mistakes) => mistakes.iter().map(|mistake| format!("{mistake}\n")).collect::<String>(),
        };
        found.assert_eq(&shown);
    }

    #[test]
    fn a_lab_file_names_homes_hosts_and_links() {
        check(
            "seed 7\nhost vps # public\nhome attic nat=symmetric delay=10ms jitter=300us loss=1.5% rate=50mbit\n\
             host nas in attic delay=1ms\n",
            expect![[r#"
                home attic Symmetric Link { delay_us: 10000, jitter_us: 300, loss: 0.015, rate_bps: 50000000, longest: 0, wire: false }
                host vps None Link { delay_us: 0, jitter_us: 0, loss: 0.0, rate_bps: 0, longest: 0, wire: false }
                host nas Some(0) Link { delay_us: 1000, jitter_us: 0, loss: 0.0, rate_bps: 0, longest: 0, wire: false }
            "#]],
        );
    }

    #[test]
    fn routers_stand_behind_routers_map_ports_and_block_and_hosts_have_families() {
        let text = "home a\nhome b in a ports=mapped\nhome c nat=static udp=blocked\nhost h in b ip=4+6+ula\nhost i ip=6";
        let layout = parse(text).unwrap();
        let [a, b, c] = &layout.homes[..] else { panic!("{layout:?}") };
        assert_eq!((a.within, a.maps, a.udp), (None, false, true));
        assert_eq!((b.within, b.maps, b.udp), (Some(0), true, true));
        assert_eq!((c.nat, c.maps, c.udp), (Nat::Static, false, false));
        let [h, i] = &layout.hosts[..] else { panic!("{layout:?}") };
        assert_eq!(h.ip, Families { v4: true, v6: true, ula: true });
        assert_eq!(i.ip, Families { v4: false, v6: true, ula: false });
        check(
            "home a in b\nhome a ports=open\nhome a udp=slow\nhome a\nhome b in a nat=static\nhost h ip=5",
            expect![[r#"
                line 1: no home `b` above: write `home b` first
                line 2: `open` is nothing that ports are: mapped
                line 3: `slow` is nothing that UDP is: blocked
                line 5: a router in a home has no public addresses to give: nat=static is for the outer one
                line 6: `5` is no family of addresses: 4, 6, ula, as in 4+6
            "#]],
        );
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        check(
            "host\nhost a in nowhere\nhome h nat=round\nhost b delay=5\nhost b loss=200%\nhost net\nhost b\nhost b\nlink a b\nhost c rate=1bit x",
            expect![[r#"
                line 1: `host` begins no statement: `host NAME [in HOME]`, `home NAME`, `seed N`
                line 2: no home `nowhere` above: write `home nowhere` first
                line 3: `round` is no kind of NAT: open, cone, shifted, symmetric, static
                line 4: `5` is no time: such as 10ms, 1.5ms, 300us
                line 5: `200%` is no loss: 0% to 100%
                line 6: the name `net` is taken
                line 8: the name `b` is taken
                line 9: `link` begins no statement: `host NAME [in HOME]`, `home NAME`, `seed N`
                line 10: `1bit` is no rate: such as 50mbit, 500kbit, 1gbit
            "#]],
        );
    }
}
