//! What single values of a topology may be, once for both ways in: `parse` asks here for each key that it
//! reads, and [`values`] asks for a topology that a member sent and that nobody here has read from a file.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{FileSpec, Group, ImageRef, Intent, Probe, Protocol, Service, Topology, report::Report};
use crate::{id::Name, limits};

/// Virtual CPUs of a machine: what QEMU's common machine types take.
pub(super) const CPUS: RangeInclusive<u64> = 1..=256;
/// MiB of memory of a machine.
pub(super) const MEMORY_MIB: RangeInclusive<u64> = limits::MIN_MEMORY_MIB..=u64::MAX >> 20;
/// MiB of a machine's disk.
pub(super) const DISK_MIB: RangeInclusive<u64> = 1..=limits::MAX_DISK_MIB;
/// Machines of a group.
pub(super) const COUNT: RangeInclusive<u64> = 1..=limits::MAX_COUNT as u64;
/// A TCP or UDP port.
pub(super) const PORT: RangeInclusive<u64> = 1..=65_535;
/// Permission bits of a file.
pub(super) const MODE: RangeInclusive<u64> = 0..=0o7777;
/// Milliseconds between two readiness checks, and those of grace: a check more often would be a load, and
/// what is silent for longer is not starting.
pub(super) const MILLIS: RangeInclusive<u64> = 100..=3_600_000;
/// How to say where a service is published.
pub(super) const WHERE: &str = "write { lan = PORT, on = [\"HOST\"] }";
/// Labels that names of ours use themselves.
const RESERVED: [&str; 7] = ["host", "nearest", "rr", "svc", "mesh", "www", "localhost"];

/// What is wrong with a value and what to write instead.
pub(super) type Flaw = (String, &'static str);

/// Tells whether a session or a group may be called so.
pub(super) fn unreserved(name: &Name) -> Result<(), Flaw> {
    match RESERVED.contains(&name.as_str()) {
        true => Err((format!("the name {name:?} is reserved"), "choose another name")),
        false => Ok(()),
    }
}

/// Tells whether a group may be called so: its machines are numbered.
pub(super) fn unnumbered(name: &Name) -> Result<(), Flaw> {
    let tail = name.as_str().rsplit_once('-').map(|(_, tail)| tail);
    match tail.is_some_and(|tail| tail.bytes().all(|b| b.is_ascii_digit())) {
        true => Err((
            format!("the group {name} ends in a number"),
            "machines are numbered by us: web-1, web-2; choose a name without a number at the end",
        )),
        false => Ok(()),
    }
}

/// Tells whether an image may be called so.
pub(super) fn image_name(path: &str, text: &str) -> Result<(), Flaw> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b":.-_".contains(&b);
    match !text.is_empty() && text.len() <= 63 && text.bytes().all(plain) {
        true => Ok(()),
        false => Err((
            format!("{path} = {text:?} is no image name"),
            "write a name such as tiny or debian:12, as `agent image list` shows it",
        )),
    }
}

/// Tells whether a service that is reached by UDP asks for nothing that only TCP has here.
pub(super) fn by_udp(shown: &str, service: &Service) -> Result<(), Flaw> {
    if service.protocol == Protocol::Tcp {
        return Ok(());
    }
    if service.ready.is_some() {
        let hint = "remove ready: the machine is ready once it has booted and its other services answer";
        return Err((format!("{shown}.ready: a UDP service cannot be checked"), hint));
    }
    if service.publish.is_some() {
        return Err((format!("{shown}.publish of a UDP service is not supported yet"), "remove it"));
    }
    Ok(())
}

/// Tells whether a file can be written there in a machine; `shown` is how messages call it.
pub(super) fn file_path(shown: &str, path: &str) -> Result<(), Flaw> {
    if !path.starts_with('/') || path.ends_with('/') {
        let hint = "write the full path in the machine, such as \"/etc/app.toml\"";
        return Err((format!("{shown} is no absolute path of a file"), hint));
    }
    if path.contains(['\0', '\n']) || path.split('/').any(|part| part == ".." || part == ".") {
        let hint = "write the path without . and .. and line ends, as `realpath` prints it";
        return Err((format!("{} is no plain path of a file", shown.escape_debug()), hint));
    }
    Ok(())
}

/// Tells whether a readiness check can ask for this.
pub(super) fn http_path(path: &str) -> bool {
    path.starts_with('/') && !path.contains(char::is_whitespace)
}

/// Tells whether a variable of the environment may be called so: the names reach a shell as they are.
pub(super) fn variable(shown: &str, key: &str) -> Result<(), Flaw> {
    let valid = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    match valid {
        true => Ok(()),
        false => Err((format!("{shown}: {key:?} is no name of a variable"), "use letters, digits and _")),
    }
}

/// Tells whether a text can be handed on: NUL ends it in every system that these texts reach.
pub(super) fn text(shown: &str, text: &str) -> Result<(), Flaw> {
    match text.contains('\0') {
        true => Err((format!("{shown} holds a NUL character"), "remove it: no system reads on behind it")),
        false => Ok(()),
    }
}

/// Says that a number is not within its range, as [`Report::add`] takes it.
pub(super) fn out_of_range(shown: &str, number: &str, range: &RangeInclusive<u64>) -> (String, String) {
    let (low, high) = (range.start(), range.end());
    (format!("{shown} = {number} is out of range"), format!("write a number from {low} to {high}"))
}

/// Reports every value of a topology that `parse` would not have let through.
pub(super) fn values(topology: &Topology, report: &mut Report) {
    flaw(unreserved(&topology.session), report);
    if topology.groups.is_empty() {
        report.add(None, "the topology has no machines", "add a table such as [machines.web]");
    }
    for (name, group) in &topology.groups {
        flaw(unreserved(name).and_then(|()| unnumbered(name)), report);
        let shown = format!("machines.{name}");
        numbers(&shown, group, report);
        texts(&shown, group, report);
        for (path, spec) in &group.files {
            file(&format!("{shown}.files.{path}"), path, spec, report);
            flaw(in_no_file(&format!("{shown}.files.{path}"), path, &group.files), report);
        }
        for (service, spec) in &group.services {
            answers(&format!("{shown}.services.{service}"), spec, report);
        }
    }
}

/// Reports contents that are larger than any file of a topology may be, and keys that are no lines.
pub(super) fn contents(intent: &Intent, report: &mut Report) {
    let most = limits::MAX_FILE_BYTES as u64;
    for (source, content) in intent.files.iter().filter(|(_, content)| content.size > most) {
        let what = format!("the file {source} has {} bytes", content.size);
        report.add(None, what, format!("at most {most} are possible"));
    }
    if let Some(what) = intent.too_large() {
        report.add(None, what, "put large content into the image, or download it in `setup`");
    }
    if intent.files.len() > limits::MAX_FILES {
        let what = format!("the topology has {} files", intent.files.len());
        report.add(None, what, format!("at most {} are possible", limits::MAX_FILES));
    }
    repeated(intent, report);
    for (group, keys) in &intent.ssh_keys {
        if !intent.topology.groups.contains_key(group) {
            report.add(None, format!("there are keys for {group}, which is no group"), "remove them");
        }
        if keys.iter().any(|key| key.contains(['\0', '\n', '\r'])) {
            report.add(None, format!("a key of machines.{group} has more than a line"), "write one a line");
        }
    }
}

/// Reports texts that every machine of a group has by itself and that are too long for so many machines: a
/// host may run all of them, and its share must fit one message.
fn repeated(intent: &Intent, report: &mut Report) {
    let text = |texts: &mut dyn Iterator<Item = &String>| texts.map(String::len).sum::<usize>();
    let of = |(name, group): (&Name, &Group)| {
        let keys = intent.ssh_keys.get(name).into_iter().flatten();
        let texts =
            text(&mut group.setup.iter().chain(group.env.keys()).chain(group.env.values()).chain(keys));
        let paths = text(&mut group.files.keys());
        (texts + paths).saturating_mul(group.count as usize)
    };
    let count = |(name, group): (&Name, &Group)| {
        let texts = group.setup.len() + group.env.len() + group.files.len();
        (texts + intent.ssh_keys.get(name).map_or(0, Vec::len)).saturating_mul(group.count as usize)
    };
    let (total, most) = (intent.topology.groups.iter().map(count).sum::<usize>(), limits::MAX_TEXTS);
    if total > most {
        let what = format!("setup, env, files and keys are {total}, counted for each machine");
        report.add(
            None,
            what,
            format!("at most {most} are possible: put scripts and archives into fewer `files`"),
        );
    }
    let (total, most) = (intent.topology.groups.iter().map(of).sum::<usize>(), limits::MAX_TEXT_BYTES);
    if total > most {
        let what = format!("setup, env and keys have {total} bytes, counted for each machine");
        report.add(None, what, format!("at most {most} are possible: put long scripts into `files`"));
    }
}

fn flaw(checked: Result<(), Flaw>, report: &mut Report) {
    if let Err((what, hint)) = checked {
        report.add(None, what, hint);
    }
}

fn within(shown: &str, number: u64, range: RangeInclusive<u64>, report: &mut Report) {
    if !range.contains(&number) {
        let (what, hint) = out_of_range(shown, &number.to_string(), &range);
        report.add(None, what, hint);
    }
}

fn numbers(shown: &str, group: &Group, report: &mut Report) {
    within(&format!("{shown}.cpus"), group.cpus.into(), CPUS, report);
    within(&format!("{shown}.memory"), group.memory_mib, MEMORY_MIB, report);
    within(&format!("{shown}.count"), group.count.into(), COUNT, report);
    if let Some(disk) = group.disk_mib {
        within(&format!("{shown}.disk"), disk, DISK_MIB, report);
    }
}

fn texts(shown: &str, group: &Group, report: &mut Report) {
    if let ImageRef::Named(name) = &group.image {
        flaw(image_name(&format!("{shown}.image"), name), report);
    }
    let tags = group.place.tags.iter().flat_map(|(key, value)| [("place.tags", key), ("place.tags", value)]);
    let all = group.role.iter().map(|role| ("role", role));
    let all = all.chain(group.setup.iter().map(|command| ("setup", command)));
    let all = all.chain(group.env.values().map(|value| ("env", value)));
    let all = all.chain(group.ssh_keys.iter().map(|key| ("ssh_keys", key)));
    for (key, value) in all.chain(tags) {
        flaw(text(&format!("{shown}.{key}"), value), report);
    }
}

/// Refuses a file that another file would have to be the directory of.
pub(super) fn in_no_file(shown: &str, path: &str, files: &BTreeMap<String, FileSpec>) -> Result<(), Flaw> {
    let above = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
    match above.into_iter().find(|above| files.contains_key(*above)) {
        Some(above) => {
            Err((format!("{shown} would be inside {above}, which is a file"), "choose another path"))
        }
        None => Ok(()),
    }
}

fn file(shown: &str, path: &str, spec: &FileSpec, report: &mut Report) {
    flaw(file_path(shown, path), report);
    if !MODE.contains(&spec.mode.into()) {
        let what = format!("{shown}: {:o} is no file mode", spec.mode);
        report.add(None, what, "write octal digits in quotes, such as \"0644\"");
    }
    for value in [Some(&spec.source), spec.owner.as_ref()].into_iter().flatten() {
        flaw(text(shown, value), report);
    }
}

fn answers(shown: &str, service: &Service, report: &mut Report) {
    within(&format!("{shown}.port"), service.port.into(), PORT, report);
    flaw(by_udp(shown, service), report);
    if let Some(publish) = &service.publish {
        within(&format!("{shown}.publish.lan"), publish.lan.into(), PORT, report);
        if publish.on.is_empty() {
            report.add(None, format!("{shown}.publish does not say where"), WHERE);
        }
    }
    let Some(ready) = &service.ready else { return };
    within(&format!("{shown}.ready.interval"), ready.interval_ms, MILLIS, report);
    within(&format!("{shown}.ready.grace"), ready.grace_ms, MILLIS, report);
    if let Probe::Http(path) = &ready.probe
        && !http_path(path)
    {
        report.add(None, format!("{shown}.ready does not say what to ask"), "write { http = \"/path\" }");
    }
}
