//! Pure: what goes wrong in a running lab, as a readable text. A scenario is one fault a line, and waits between them.
//!
//! ```text
//! link attic delay=200ms loss=5%      # both ways; what is not named stays
//! link attic out loss=100%            # one way: out of the home, or out of the host
//! link attic longest=1280             # IP packets beyond vanish without a word
//! wait 3s
//! mend attic                          # as the lab file has it, and plugged in
//! cut nas                             # pull the plug
//! block nas udp                       # its firewall drops it, both ways
//! block nas udp 1200                  # only packets that are longer
//! unblock nas
//! split vps | nas laptop              # hosts of two sides hear nothing of each other
//! heal
//! freeze nas                          # SIGSTOP for all that runs there; `thaw` lets it go on
//! kill laptop                         # SIGKILL
//! clock nas +3h                       # its wall clock, for programs that were started with `clock`'s library
//! ```
//! Nothing here knows namespaces or commands: `netns` carries it out.

use std::{fmt, time::Duration};

use crate::lab::{Home, Host, Layout, Link, Mistake, longest, set};

/// A scenario: what happens, and how long nothing does in between.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scenario(pub Vec<Beat>);

/// One line of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub enum Beat {
    /// Nothing happens for so long.
    Wait(Duration),
    /// This happens.
    Fault(Fault),
}

/// One thing that goes wrong, or well again.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The plug of a host or home is pulled.
    Cut(String),
    /// The link of a host or home is as the lab file has it, and plugged in.
    Mend(String),
    /// The link of a host or home is another one now.
    Change {
        /// The host or home.
        name: String,
        /// `None` = both ways.
        way: Option<Direction>,
        /// What is different.
        settings: Vec<Setting>,
    },
    /// A host's or home's firewall drops a protocol.
    Block {
        /// The host or home.
        name: String,
        /// What is dropped.
        protocol: Protocol,
        /// Only packets longer than so many bytes; `None` = all.
        longer: Option<u16>,
    },
    /// The firewall of a host or home lets everything pass again.
    Unblock(String),
    /// Hosts of the two sides hear nothing of each other.
    Split([Vec<String>; 2]),
    /// No side is apart any more.
    Heal,
    /// All that runs on a host stands still.
    Freeze(String),
    /// It goes on.
    Thaw(String),
    /// All that runs on a host is killed.
    Kill(String),
    /// The wall clock of a host is so many seconds ahead.
    Clock {
        /// The host.
        name: String,
        /// Below zero: behind.
        ahead_s: i64,
    },
}

/// One way of a link, as its host or home sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the host or home.
    In,
    /// Away from it.
    Out,
}

/// What a firewall drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// A setting of a link as the lab file spells it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting(String);

impl Setting {
    /// Changes a link.
    pub fn apply(&self, link: &mut Link) {
        // It was read once, and reads the same again.
        let _unchanged_on_error = set(link, &self.0);
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        })
    }
}

/// Longest wait of a line: a scenario that stands still for longer is a mistake.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Reads a scenario for a lab; on mistakes, says all of them.
pub fn scenario(text: &str, layout: &Layout) -> Result<Scenario, Vec<Mistake>> {
    let (mut beats, mut mistakes) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or("").split_whitespace().collect();
        match words[..] {
            [] => {}
            ["wait", time] => match wait(time) {
                Ok(time) => beats.push(Beat::Wait(time)),
                Err(what) => mistakes.push(Mistake { line: index + 1, what }),
            },
            _ => match fault(&words, layout) {
                Ok(fault) => beats.push(Beat::Fault(fault)),
                Err(what) => mistakes.push(Mistake { line: index + 1, what }),
            },
        }
    }
    if mistakes.is_empty() { Ok(Scenario(beats)) } else { Err(mistakes) }
}

/// Reads one fault for a lab.
pub fn fault(words: &[&str], layout: &Layout) -> Result<Fault, String> {
    let place = |name: &str| known(layout, name).map(str::to_owned);
    let host = |name: &str| host(layout, name).map(|host| host.name.clone());
    match words {
        ["cut", name] => Ok(Fault::Cut(place(name)?)),
        ["mend", name] => Ok(Fault::Mend(place(name)?)),
        ["link", name, "in", settings @ ..] => change(layout, name, Some(Direction::In), settings),
        ["link", name, "out", settings @ ..] => change(layout, name, Some(Direction::Out), settings),
        ["link", name, settings @ ..] => change(layout, name, None, settings),
        ["block", name, protocol, longer @ ..] if longer.len() <= 1 => {
            let longer = longer.first().map(|bytes| longest(bytes)).transpose()?;
            Ok(Fault::Block { name: place(name)?, protocol: read_protocol(protocol)?, longer })
        }
        ["unblock", name] => Ok(Fault::Unblock(place(name)?)),
        ["split", rest @ ..] => split(layout, rest),
        ["heal"] => Ok(Fault::Heal),
        ["freeze", name] => Ok(Fault::Freeze(host(name)?)),
        ["thaw", name] => Ok(Fault::Thaw(host(name)?)),
        ["kill", name] => Ok(Fault::Kill(host(name)?)),
        ["clock", name, ahead] => Ok(Fault::Clock { name: host(name)?, ahead_s: read_ahead(ahead)? }),
        _ => Err(format!(
            "`{}` is no fault: cut, mend, link, block, unblock, split, heal, freeze, thaw, kill, clock; or wait TIME",
            words.join(" ")
        )),
    }
}

fn known<'a>(layout: &'a Layout, name: &str) -> Result<&'a str, String> {
    let homes = layout.homes.iter().map(|home| &home.name);
    let mut names = homes.chain(layout.hosts.iter().map(|host| &host.name));
    names.find(|known| *known == name).map(String::as_str).ok_or_else(|| format!("the lab has no `{name}`"))
}

fn host<'a>(layout: &'a Layout, name: &str) -> Result<&'a Host, String> {
    let home = |home: &&Home| home.name == name;
    layout.hosts.iter().find(|host| host.name == name).ok_or_else(|| match layout.homes.iter().find(home) {
        Some(_) => format!("`{name}` is a home: nothing of ours runs there; name a host"),
        None => format!("the lab has no host `{name}`"),
    })
}

fn change(layout: &Layout, name: &str, way: Option<Direction>, settings: &[&str]) -> Result<Fault, String> {
    let name = known(layout, name)?.to_owned();
    if settings.is_empty() {
        return Err(format!("what of the link of `{name}`? Such as `link {name} delay=50ms loss=2%`"));
    }
    let home = layout.homes.iter().find(|home| home.name == name).map(|home| home.link);
    let link = home.or_else(|| layout.hosts.iter().find(|host| host.name == name).map(|host| host.link));
    if !link.is_some_and(|link| link.needs_wire()) {
        return Err(format!(
            "the link of `{name}` cannot change while it runs: say `wire` in its line of the lab file"
        ));
    }
    let read = |setting: &&str| set(&mut Link::default(), setting).map(|()| Setting((*setting).to_owned()));
    let settings = settings.iter().map(read).collect::<Result<_, _>>()?;
    Ok(Fault::Change { name, way, settings })
}

fn split(layout: &Layout, words: &[&str]) -> Result<Fault, String> {
    let sides: Vec<&[&str]> = words.split(|word| *word == "|").collect();
    let [one, other] = sides[..] else { return Err("two sides, as in `split vps | nas laptop`".into()) };
    if one.is_empty() || other.is_empty() {
        return Err("two sides with hosts, as in `split vps | nas laptop`".into());
    }
    for name in one {
        let first = host(layout, name)?;
        if other.contains(name) {
            return Err(format!("`{name}` is on both sides"));
        }
        // From outside, the hosts of a home have one address.
        for second in other.iter().map(|name| host(layout, name)) {
            if first.home.is_some() && first.home == second?.home && one.len() + other.len() > 2 {
                return Err(format!(
                    "`{name}` shares its home with a host of the other side: split those two alone"
                ));
            }
        }
    }
    let names = |side: &[&str]| side.iter().map(|name| (*name).to_owned()).collect();
    other.iter().try_for_each(|name| host(layout, name).map(|_| ()))?;
    Ok(Fault::Split([names(one), names(other)]))
}

fn read_protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "udp" => Ok(Protocol::Udp),
        "tcp" => Ok(Protocol::Tcp),
        other => Err(format!("`{other}` is no protocol: udp, tcp")),
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no wait: such as 500ms, 3s, 2m; an hour at most");
    let time = Duration::from_millis(millis(text).ok_or_else(wrong)?);
    if time <= WAIT_MAX { Ok(time) } else { Err(wrong()) }
}

fn millis(text: &str) -> Option<u64> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let read =
        |(unit, factor): (&str, u64)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(factor);
    units.into_iter().find_map(read)
}

fn read_ahead(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no clock: such as +3h, -90s, +0s");
    let (sign, amount) = match text.split_at_checked(1) {
        Some(("+", amount)) => (1, amount),
        Some(("-", amount)) => (-1, amount),
        _ => return Err(wrong()),
    };
    let ahead = millis(amount).filter(|ms| ms % 1_000 == 0).and_then(|ms| i64::try_from(ms / 1_000).ok());
    ahead.map(|seconds| sign * seconds).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::lab::parse;

    const LAB: &str = "host vps\nhome attic delay=5ms\nhome flat wire\nhost nas in attic\nhost tv in attic\nhost pc in flat\n";

    fn check(text: &str, found: Expect) {
        let shown = match scenario(text, &parse(LAB).expect("a lab")) {
            Ok(Scenario(beats)) => beats.iter().map(|beat| format!("{beat:?}\n")).collect::<String>(),
            Err(mistakes) => mistakes.iter().map(|mistake| format!("{mistake}\n")).collect(),
        };
        found.assert_eq(&shown);
    }

    #[test]
    fn a_scenario_is_a_fault_a_line_with_waits_between() {
        check(
            "link attic delay=200ms loss=5% # slow\nwait 1500ms\nlink flat out longest=1280\nblock nas udp\nblock attic udp 1200\n\
             split vps | nas tv\nheal\nfreeze pc\nclock pc -90s\ncut attic\nmend attic\n",
            expect![[r#"
                Fault(Change { name: "attic", way: None, settings: [Setting("delay=200ms"), Setting("loss=5%")] })
                Wait(1.5s)
                Fault(Change { name: "flat", way: Some(Out), settings: [Setting("longest=1280")] })
                Fault(Block { name: "nas", protocol: Udp, longer: None })
                Fault(Block { name: "attic", protocol: Udp, longer: Some(1200) })
                Fault(Split([["vps"], ["nas", "tv"]]))
                Fault(Heal)
                Fault(Freeze("pc"))
                Fault(Clock { name: "pc", ahead_s: -90 })
                Fault(Cut("attic"))
                Fault(Mend("attic"))
            "#]],
        );
    }

    #[test]
    fn every_mistake_of_a_scenario_is_told_with_its_line_and_what_is_right() {
        check(
            "cut\ncut cellar\nlink vps loss=1%\nlink attic\nlink attic loss=101%\nkill attic\nwait 3\nwait 2h\n\
             block nas icmp\nsplit vps\nsplit nas | tv vps\nsplit nas | nas\nsplit nas | tv\nclock pc 3h\nclock pc +1500ms\n",
            expect![[r#"
                line 1: `cut` is no fault: cut, mend, link, block, unblock, split, heal, freeze, thaw, kill, clock; or wait TIME
                line 2: the lab has no `cellar`
                line 3: the link of `vps` cannot change while it runs: say `wire` in its line of the lab file
                line 4: what of the link of `attic`? Such as `link attic delay=50ms loss=2%`
                line 5: `101%` is no loss: 0% to 100%
                line 6: `attic` is a home: nothing of ours runs there; name a host
                line 7: `3` is no wait: such as 500ms, 3s, 2m; an hour at most
                line 8: `2h` is no wait: such as 500ms, 3s, 2m; an hour at most
                line 9: `icmp` is no protocol: udp, tcp
                line 10: two sides, as in `split vps | nas laptop`
                line 11: `nas` shares its home with a host of the other side: split those two alone
                line 12: `nas` is on both sides
                line 14: `3h` is no clock: such as +3h, -90s, +0s
                line 15: `+1500ms` is no clock: such as +3h, -90s, +0s
            "#]],
        );
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let layout = parse(LAB).expect("a lab");
        let Ok(Fault::Change { settings, .. }) = fault(&["link", "attic", "loss=25%"], &layout) else {
            panic!("a change");
        };
        let mut link = layout.homes[0].link;
        settings.iter().for_each(|setting| setting.apply(&mut link));
        assert_eq!(link, Link { loss: 0.25, ..layout.homes[0].link });
    }
}
