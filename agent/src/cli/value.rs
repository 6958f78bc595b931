//! Reads the values that people write on the command line. Pure.

use std::{collections::BTreeMap, time::Duration};

use proto::{
    id::{MachineName, Name},
    session::Replace,
    spelling,
    topology::Topology,
    wire::api::{Error, Kind},
};

/// Reads `90s`, `5m`, `2h`, `7d`, `250ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write 90s, 5m, 2h or 7d");
    let unit = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..unit].parse().map_err(|_| wrong())?;
    let millis: u64 = match &text[unit..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(wrong)
}

/// Reads how long something lives: whole seconds, one at least.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    let read = duration(text)?;
    if read.as_secs() == 0 {
        return Err("it would end before anybody could use it: write 1h or 7d".to_owned());
    }
    Ok(read)
}

/// Reads `--replace`s: machines, whole groups, or `all`.
pub fn replace(topology: &Topology, given: &[String]) -> Result<Replace, Error> {
    let mut replace = Replace::default();
    for word in given {
        let group = topology.groups.iter().find(|(name, _)| name.as_str() == word);
        match (word.as_str(), group, word.parse::<MachineName>()) {
            ("all", ..) => replace.all = true,
            (_, Some((name, group)), _) => {
                let machine = |index| MachineName { group: name.clone(), index };
                replace.machines.extend((1..=group.count).map(machine));
            }
            (_, _, Ok(machine)) if topology.machines().any(|known| known == machine) => {
                replace.machines.insert(machine);
            }
            _ => {
                let known: Vec<String> = topology.machines().map(|machine| machine.to_string()).collect();
                let known = spelling::suggestion(word, "machines", known.iter().map(String::as_str));
                return Err(Error::new(
                    Kind::Usage,
                    format!("--replace {word}: the topology has no such machine"),
                )
                .because(known.unwrap_or_else(|| "it has no machines".into()))
                .next("agent session plan FILE"));
            }
        }
    }
    Ok(replace)
}

/// Reads `KEY=VALUE` of a tag.
pub fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or(format!("{text:?} is no tag: write KEY=VALUE"))?;
    let word =
        |word: &str| !word.is_empty() && word.len() <= 63 && word.bytes().all(|b| b.is_ascii_graphic());
    if word(key) && word(value) {
        Ok((key.to_owned(), value.to_owned()))
    } else {
        Err(format!("{text:?} is no tag: KEY and VALUE are 1 to 63 letters, digits or marks"))
    }
}

/// Collects `--tag KEY=VALUE`s; one key twice is a mistake, of which neither value may win.
pub fn tags(given: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Error> {
    let mut tags = BTreeMap::new();
    for (key, value) in given {
        if let Some(first) = tags.insert(key.clone(), value.clone()) {
            return Err(Error::new(Kind::Usage, format!("the tag {key} is given twice"))
                .because(format!("{key}={first} and {key}={value}"))
                .next("agent init --help"));
        }
    }
    Ok(tags)
}

/// Takes the mark away that editors of Windows put in front of UTF-8.
pub fn unmarked(text: String) -> String {
    match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// Makes a host's name of its hostname, as far as one can.
pub fn name_of(hostname: &str) -> Option<Name> {
    let first = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let plain: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let cut: String = plain.chars().take(31).collect();
    cut.trim_end_matches('-').parse().ok()
}

/// Writes a duration in its two largest units.
pub fn span(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m{s}s"),
        (0, ..) => format!("{h}h{m}m"),
        _ => format!("{d}d{h}h"),
    }
}

/// Names this computer.
pub fn hostname() -> Option<Name> {
    name_of(&nodename())
}

/// Says why the computer's own name does not do.
pub fn no_name() -> String {
    format!("the hostname, {:?}, cannot be made one: a name begins with a letter a-z", nodename())
}

fn nodename() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
