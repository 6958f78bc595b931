//! Whether a firewall of this host keeps others out, and the line that opens it. Most hosts reach the mesh all the same,
//! from inside; who lets nobody in can be nobody's relay, and finds fewer direct ways.

use std::{fs, path::Path, process::Command};

use proto::wire::api::{Check, CheckState};

use super::{check, ok};
use crate::host::{data::DataDir, log};

/// Where ufw keeps its switch, its default, and the rules of its user.
const UFW: [&str; 3] = ["/etc/ufw/ufw.conf", "/etc/default/ufw", "/etc/ufw/user.rules"];
const UFW_PROFILE: &str = "/etc/ufw/applications.d/agent";
/// The first of the usual pair of ports, for which profile and service of the package are made.
const USUAL: u16 = 7440;

/// What was seen of host firewalls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walls {
    /// The first port of the pair that this host uses.
    pub port: u16,
    /// Texts of ufw, where it is installed: switch, default, and rules if they may be read.
    pub ufw: Option<(String, String, Option<String>)>,
    /// Whether our profile of ufw is there.
    pub profile: bool,
    /// Where firewalld runs: for each of our three ports whether it is open, and whether it knows our service.
    pub firewalld: Option<([bool; 3], bool)>,
}

/// Looks at the firewalls of this host.
pub fn look(data: &DataDir, usual: u16) -> Walls {
    let read = |path: &str| fs::read_to_string(path).ok();
    let port =
        fs::read_to_string(data.path().join("mesh/ports")).ok().and_then(|text| text.trim().parse().ok());
    let port = port.unwrap_or(usual);
    let ufw = read(UFW[0]).map(|switch| (switch, read(UFW[1]).unwrap_or_default(), read(UFW[2])));
    Walls { port, ufw, profile: Path::new(UFW_PROFILE).exists(), firewalld: firewalld(port) }
}

/// Asks firewalld, where it runs and this user may ask.
fn firewalld(port: u16) -> Option<([bool; 3], bool)> {
    let asked =
        |word: &str| Command::new("firewall-cmd").arg(word).output().is_ok_and(|said| said.status.success());
    if !asked("--state") {
        return None;
    }
    let open = ports(port).map(|(port, kind)| asked(&format!("--query-port={port}/{kind}")));
    let service = port == USUAL && asked("--query-service=agent");
    Some((open.map(|open| open || service), asked("--info-service=agent")))
}

/// The ports that others come to.
fn ports(port: u16) -> [(u16, &'static str); 3] {
    [(port, "udp"), (port.saturating_add(1), "udp"), (port, "tcp")]
}

/// Decides what the firewalls mean: nothing where there is none.
pub fn judge(walls: &Walls) -> Option<Check> {
    ufw(walls).or_else(|| firewalld_says(walls))
}

fn ufw(walls: &Walls) -> Option<Check> {
    let (switch, default, rules) = walls.ufw.as_ref()?;
    if setting(switch, "ENABLED") != Some("yes") || setting(default, "DEFAULT_INPUT_POLICY") == Some("ACCEPT")
    {
        return None;
    }
    let (port, next) = (walls.port, walls.port.saturating_add(1));
    let open = match walls.profile && port == USUAL {
        true => "sudo ufw allow agent".to_owned(),
        false => format!("sudo ufw allow {port}:{next}/udp && sudo ufw allow {port}/tcp"),
    };
    Some(match rules {
        None => {
            let what = format!(
                "ufw is on, and only root may read whether it lets UDP {port}, {next} and TCP {port} in"
            );
            check("firewall", CheckState::Limited, what, Some(open))
        }
        Some(rules) => told("ufw", port, ports(port).map(|(port, kind)| allows(rules, port, kind)), open),
    })
}

fn firewalld_says(walls: &Walls) -> Option<Check> {
    let (found, service) = walls.firewalld?;
    let (port, next) = (walls.port, walls.port.saturating_add(1));
    let what = match service && port == USUAL {
        true => "--add-service=agent".to_owned(),
        false => format!("--add-port={port}-{next}/udp --add-port={port}/tcp"),
    };
    let open = format!("sudo firewall-cmd --permanent {what} && sudo firewall-cmd --reload");
    Some(told("firewalld", port, found, open))
}

fn told(name: &str, port: u16, open: [bool; 3], line: String) -> Check {
    let closed: Vec<String> = ports(port)
        .iter()
        .zip(open)
        .filter(|(_, open)| !open)
        .map(|((port, kind), _)| format!("{} {port}", kind.to_ascii_uppercase()))
        .collect();
    if closed.is_empty() {
        return ok("firewall", format!("{name} lets the ports of the mesh in"));
    }
    let what =
        format!("{name} keeps {} out: others reach this host only by what it began", closed.join(", "));
    check("firewall", CheckState::Limited, what, Some(line))
}

/// Reads `KEY=value` or `KEY="value"`.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim().trim_matches('"'))
}

/// Tells whether a rule of ufw lets everybody in at a port, by the lines in which it notes what its user typed.
fn allows(rules: &str, port: u16, kind: &str) -> bool {
    let tuples = rules.lines().filter_map(|line| line.strip_prefix("### tuple ### "));
    let allowed = tuples.filter_map(|tuple| {
        let words: Vec<&str> = tuple.split_whitespace().collect();
        let [action, protocol, ports, _, _, source, ..] = words[..] else { return None };
        let all = source == "0.0.0.0/0" && words.last() == Some(&"in");
        (["allow", "limit"].contains(&action) && ["any", kind].contains(&protocol) && all).then_some(ports)
    });
    allowed.flat_map(|ports| ports.split(',')).any(|span| within(span, port))
}

fn within(span: &str, port: u16) -> bool {
    let (first, last) = span.split_once(':').unwrap_or((span, span));
    span == "any"
        || matches!((first.parse(), last.parse()), (Ok(first), Ok(last)) if (first..=last).contains(&port))
}

/// Says at the start of the agent what is in the way.
pub fn warn(data: &DataDir, usual: u16) {
    let Some(found) = judge(&look(data, usual)).filter(|found| found.state != CheckState::Ok) else { return };
    log::say(&format!("{}\nhint: {}", found.what, found.mend.unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: (&str, &str) =
        ("# comment\nENABLED=yes\nLOGLEVEL=low\n", "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\n");

    fn ufw_with(rules: Option<&str>, port: u16) -> Walls {
        let ufw = Some((ON.0.to_owned(), ON.1.to_owned(), rules.map(str::to_owned)));
        Walls { port, ufw, profile: true, firewalld: None }
    }

    fn line(walls: &Walls) -> (CheckState, String, Option<String>) {
        let found = judge(walls).unwrap();
        (found.state, found.what, found.mend)
    }

    #[test]
    fn ufw_is_named_with_the_ports_that_it_keeps_out_and_the_line_that_opens_them() {
        let (state, what, mend) = line(&ufw_with(Some("### RULES ###\n"), 7440));
        assert_eq!(state, CheckState::Limited);
        assert!(what.starts_with("ufw keeps UDP 7440, UDP 7441, TCP 7440 out"), "{what}");
        assert_eq!(mend.as_deref(), Some("sudo ufw allow agent"));
        // The profile is of the usual ports only.
        let mend = line(&ufw_with(Some(""), 7450)).2;
        assert_eq!(mend.as_deref(), Some("sudo ufw allow 7450:7451/udp && sudo ufw allow 7450/tcp"));
        let (state, what, _) = line(&ufw_with(None, 7440));
        assert!(state == CheckState::Limited && what.contains("only root may read"), "{what}");
    }

    #[test]
    fn what_ufw_lets_in_is_read_from_what_its_user_typed() {
        let by_profile = "### tuple ### allow tcp 7440 0.0.0.0/0 any 0.0.0.0/0 agent - in\n\
                          ### tuple ### allow udp 7440:7441 0.0.0.0/0 any 0.0.0.0/0 agent - in\n";
        assert_eq!(line(&ufw_with(Some(by_profile), 7440)).0, CheckState::Ok);
        let some = "### tuple ### allow udp 7440,7450:7460 0.0.0.0/0 any 0.0.0.0/0 in\n\
                    ### tuple ### deny tcp 7440 0.0.0.0/0 any 0.0.0.0/0 in\n\
                    ### tuple ### allow udp 7441 0.0.0.0/0 any 192.0.2.7 in\n";
        let what = line(&ufw_with(Some(some), 7440)).1;
        assert!(what.starts_with("ufw keeps UDP 7441, TCP 7440 out"), "{what}");
        let everything = "### tuple ### allow any any 0.0.0.0/0 any 0.0.0.0/0 in\n";
        assert_eq!(line(&ufw_with(Some(everything), 7440)).0, CheckState::Ok);
    }

    #[test]
    fn a_firewall_that_is_off_or_lets_all_in_is_no_matter() {
        let mut walls = ufw_with(Some(""), 7440);
        walls.ufw = Some(("ENABLED=no\n".into(), ON.1.into(), None));
        assert_eq!(judge(&walls), None);
        walls.ufw = Some((ON.0.into(), "DEFAULT_INPUT_POLICY=\"ACCEPT\"\n".into(), None));
        assert_eq!(judge(&walls), None);
        assert_eq!(judge(&Walls::default()), None);
    }

    #[test]
    fn firewalld_is_opened_by_our_service_where_it_knows_it() {
        let walls =
            |open, service| Walls { port: 7440, firewalld: Some((open, service)), ..Walls::default() };
        let (state, what, mend) = line(&walls([true, false, true], true));
        assert_eq!(
            (state, what.split(" out").next()),
            (CheckState::Limited, Some("firewalld keeps UDP 7441"))
        );
        let mend = mend.unwrap();
        assert_eq!(mend, "sudo firewall-cmd --permanent --add-service=agent && sudo firewall-cmd --reload");
        let mend = line(&walls([false; 3], false)).2.unwrap();
        assert!(mend.contains("--add-port=7440-7441/udp --add-port=7440/tcp"), "{mend}");
        assert_eq!(line(&walls([true; 3], true)).0, CheckState::Ok);
    }
}
