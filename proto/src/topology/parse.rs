//! `topology.toml` -> [`Topology`] and every mistake with its line. What a key means is said in
//! `mod.rs`; rules over several keys are in `check.rs`.

use std::{collections::BTreeMap, ops::Range};

use toml::de::DeTable;

use super::{
    Diagnostic, Egress, Failover, FileSpec, Group, ImageRef, Place, Probe, Protocol, Publish, Ready, Restart,
    Service, Topology, check,
    read::{Table, Value},
    report::Report,
    rules,
};
use crate::{id::Name, limits};

/// Milliseconds between two readiness checks, unless the file says so.
const INTERVAL_MS: u64 = 2_000;
/// Milliseconds after a start in which a failed check is no news: the slowest guest that we boot.
const GRACE_MS: u64 = 60_000;

/// Where each group was found, also one with mistakes in it, for the rules that come after.
pub(super) type Places = BTreeMap<Name, Range<usize>>;

/// Reads a topology. The diagnostics are complete: all of them are shown at once. A topology comes
/// only without any.
pub fn parse(text: &str) -> (Option<Topology>, Vec<Diagnostic>) {
    let mut report = Report::new(text);
    if text.len() > limits::MAX_TOPOLOGY_BYTES {
        let what = format!("the file has {} bytes", text.len());
        report.add(None, what, format!("at most {} bytes are read", limits::MAX_TOPOLOGY_BYTES));
        return (None, report.found);
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report.add(error.span().as_ref(), error.message().to_owned(), "this is not TOML: https://toml.io");
    }
    if !errors.is_empty() {
        return (None, report.found);
    }
    let topology = root(document.get_ref(), &mut report);
    report.found.sort_by_key(|diagnostic| diagnostic.line);
    match topology {
        Some(topology) if report.found.is_empty() => (Some(topology), Vec::new()),
        _ => (None, report.found),
    }
}

fn root(document: &DeTable<'_>, report: &mut Report) -> Option<Topology> {
    let mut table = Table::new(String::new(), document);
    let session = match table.take("session") {
        Some(value) => {
            value.parsed::<Name>(report).filter(|name| holds(rules::unreserved(name), &value, report))
        }
        None => {
            report.add(None, "the session has no name", "write session = \"NAME\" at the top");
            None
        }
    };
    let defaults = table.take("defaults").and_then(|value| value.table(report));
    let machines = table.take("machines").and_then(|value| value.table(report));
    table.finish(report);
    let none = DeTable::new();
    let mut defaults = defaults.unwrap_or_else(|| Table::new("defaults".into(), &none));
    let shared = settings(&mut defaults, &Settings::default(), report);
    defaults.finish(report);

    let (mut groups, mut places) = (BTreeMap::new(), Places::new());
    for (key, value) in machines.map(|table| table.all()).unwrap_or_default() {
        let name = group_name(&key, &value, report);
        let group = value.table(report).and_then(|table| group(table, &value, &shared, report));
        let Some(name) = name else { continue };
        places.insert(name.clone(), value.at);
        groups.extend(group.map(|group| (name, group)));
    }
    if groups.is_empty() && report.found.is_empty() {
        report.add(None, "the topology has no machines", "add a table such as [machines.web]");
    }
    check::check(&groups, &places, report);
    Some(Topology { session: session?, groups })
}

/// Reports at this value what a rule says of it, and tells whether the rule holds.
fn holds(rule: Result<(), rules::Flaw>, value: &Value, report: &mut Report) -> bool {
    if let Err((what, hint)) = &rule {
        report.add(Some(&value.at), what.as_str(), *hint);
    }
    rule.is_ok()
}

fn group_name(key: &str, value: &Value, report: &mut Report) -> Option<Name> {
    let name = match key.parse::<Name>() {
        Ok(name) => name,
        Err(error) => {
            report.add(Some(&value.at), format!("machines: {error}"), "choose another name");
            return None;
        }
    };
    let free = rules::unnumbered(&name).and_then(|()| rules::unreserved(&name));
    holds(free, value, report).then_some(name)
}

/// The keys that `[defaults]` and a group share.
#[derive(Clone, Default)]
struct Settings {
    image: Option<ImageRef>,
    /// Whether an image was written at all, valid or not.
    names_image: bool,
    cpus: Option<u64>,
    memory_mib: Option<u64>,
    disk_mib: Option<u64>,
    failover: Option<Failover>,
    restart: Option<Restart>,
    setup: Option<Vec<String>>,
    env: BTreeMap<String, String>,
    ssh_keys: Option<Vec<String>>,
    user: Option<Name>,
    egress: Option<Egress>,
}

fn settings(table: &mut Table, defaults: &Settings, report: &mut Report) -> Settings {
    let mut env = defaults.env.clone();
    env.extend(table.take("env").and_then(|v| v.text_map(report)).unwrap_or_default());
    let failover = [("restart", Failover::Restart), ("hold", Failover::Hold)];
    let restart =
        [("always", Restart::Always), ("on-failure", Restart::OnFailure), ("never", Restart::Never)];
    Settings {
        names_image: defaults.names_image || table.has("image"),
        image: table.take("image").and_then(|v| image(&v, report)).or(defaults.image.clone()),
        cpus: table.take("cpus").and_then(|v| v.number(rules::CPUS, report)).or(defaults.cpus),
        memory_mib: table
            .take("memory")
            .and_then(|v| v.mib(rules::MEMORY_MIB, report))
            .or(defaults.memory_mib),
        disk_mib: table.take("disk").and_then(|v| v.mib(rules::DISK_MIB, report)).or(defaults.disk_mib),
        failover: table.take("failover").and_then(|v| v.choice(&failover, report)).or(defaults.failover),
        restart: table.take("restart").and_then(|v| v.choice(&restart, report)).or(defaults.restart),
        setup: table.take("setup").and_then(|v| v.texts(report)).map(line_ends).or(defaults.setup.clone()),
        env,
        ssh_keys: table.take("ssh_keys").and_then(|v| v.texts(report)).or(defaults.ssh_keys.clone()),
        user: table.take("user").and_then(|v| v.parsed(report)).or(defaults.user.clone()),
        egress: table.take("egress").and_then(|v| egress(&v, report)).or(defaults.egress),
    }
}

/// Reads commands as their author saw them: an editor that ends lines with CR and LF means a line end.
fn line_ends(commands: Vec<String>) -> Vec<String> {
    commands.into_iter().map(|command| command.replace("\r\n", "\n")).collect()
}

fn egress(value: &Value, report: &mut Report) -> Option<Egress> {
    value.choice(&[("internet", Egress::Internet), ("none", Egress::None), ("lan", Egress::Lan)], report)
}

fn image(value: &Value, report: &mut Report) -> Option<ImageRef> {
    if value.is_table() {
        let hint = "name one image; hosts of other architectures are not chosen";
        report.add(Some(&value.at), format!("{} per architecture is not supported yet", value.path), hint);
        return None;
    }
    let text = value.text(report)?;
    if text.contains("://") {
        let hint = "fetch it first: agent image pull URL --sha256 HEX --name NAME, then image = \"NAME\"";
        report.add(Some(&value.at), format!("{}: an URL is not supported yet", value.path), hint);
        return None;
    }
    if text.starts_with(['.', '/', '~']) {
        let hint = "import it first: agent image import PATH --name NAME, then image = \"NAME\"";
        report.add(Some(&value.at), format!("{}: a path is not supported yet", value.path), hint);
        return None;
    }
    if text.starts_with("blake3:") {
        return match text.parse() {
            Ok(digest) => Some(ImageRef::Pinned(digest)),
            Err(error) => {
                report.add(
                    Some(&value.at),
                    format!("{}: {error}", value.path),
                    "write blake3: and 64 hex digits",
                );
                None
            }
        };
    }
    holds(rules::image_name(&value.path, &text), value, report).then_some(ImageRef::Named(text))
}

fn group(mut table: Table, value: &Value, defaults: &Settings, report: &mut Report) -> Option<Group> {
    table.not_yet(&[
        ("volumes", "disks are lost with their machine in this version"),
        ("user_data", "use setup, files and env"),
        ("env_file", "write env = { KEY = \"value\" }"),
        ("arch", "hosts of the image's architecture are chosen"),
        ("start", "a machine starts when its image is complete"),
        ("secret", "use files"),
        ("firmware", "machines boot by BIOS in this version"),
    ]);
    table.never(&[
        ("gpu", "devices are not passed through"),
        ("usb", "devices are not passed through"),
        ("bridge", "machines have the session's own network"),
        ("windows", "guests are Linux and other systems with virtio and cloud-init"),
    ]);
    let shared = settings(&mut table, defaults, report);
    if !shared.names_image {
        report.add(Some(&value.at), format!("{} has no image", value.path), "write image = \"NAME\"");
    }
    let needs = table.take("needs").and_then(|v| names(&v, report)).unwrap_or_default();
    let place = table.take("place").and_then(|v| place(&v, report)).unwrap_or_default();
    let files = table.take("files").and_then(|v| files(&v, report)).unwrap_or_default();
    let services = table.take("services").and_then(|v| services(&v, report)).unwrap_or_default();
    let count = table.take("count").and_then(|v| v.number(rules::COUNT, report)).unwrap_or(1);
    let role = table.take("role").and_then(|v| v.text(report));
    table.finish(report);
    Some(Group {
        image: shared.image?,
        cpus: u32::try_from(shared.cpus.unwrap_or(1)).ok()?,
        memory_mib: shared.memory_mib.unwrap_or(512),
        disk_mib: shared.disk_mib,
        count: u32::try_from(count).ok()?,
        role,
        needs: needs.into_iter().collect(),
        failover: shared.failover.unwrap_or(Failover::Restart),
        restart: shared.restart.unwrap_or(Restart::Always),
        place,
        setup: shared.setup.unwrap_or_default(),
        files,
        env: shared.env,
        ssh_keys: shared.ssh_keys.unwrap_or_default(),
        user: shared.user,
        services,
        egress: shared.egress.unwrap_or(Egress::Internet),
    })
}

fn names(value: &Value, report: &mut Report) -> Option<Vec<Name>> {
    Some(value.list(report)?.iter().filter_map(|entry| entry.parsed(report)).collect())
}

fn place(value: &Value, report: &mut Report) -> Option<Place> {
    let mut table = value.table(report)?;
    let spread = table.take("spread").and_then(|v| v.choice(&[("host", true)], report));
    let tags = table.take("tags").and_then(|v| v.text_map(report)).unwrap_or_default();
    let mut list = |key: &str| {
        let found = table.take(key).and_then(|v| names(&v, report)).unwrap_or_default();
        found.into_iter().collect()
    };
    let (hosts, near, apart) = (list("hosts"), list("near"), list("apart"));
    table.finish(report);
    Some(Place { spread_host: spread.unwrap_or(false), tags, hosts, near, apart })
}

fn files(value: &Value, report: &mut Report) -> Option<BTreeMap<String, FileSpec>> {
    let mut files = BTreeMap::new();
    for (path, value) in value.table(report)?.all() {
        if !holds(rules::file_path(&value.path, &path), &value, report) {
            continue;
        }
        if let Some(spec) = file(&value, report) {
            files.insert(path, spec);
        }
    }
    for (path, value) in value.table(report)?.all() {
        holds(rules::in_no_file(&value.path, &path, &files), &value, report);
    }
    Some(files)
}

fn file(value: &Value, report: &mut Report) -> Option<FileSpec> {
    if !value.is_table() {
        return Some(FileSpec { source: value.text(report)?, mode: 0o644, owner: None });
    }
    let mut table = value.table(report)?;
    let source = table.take("source").and_then(|v| v.text(report));
    let mode = table.take("mode").and_then(|v| mode(&v, report)).unwrap_or(0o644);
    let owner = table.take("owner").and_then(|v| v.text(report));
    table.finish(report);
    if source.is_none() {
        report.add(Some(&value.at), format!("{} has no source", value.path), "write { source = \"PATH\" }");
    }
    Some(FileSpec { source: source?, mode, owner })
}

fn mode(value: &Value, report: &mut Report) -> Option<u32> {
    let text = value.text(report)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| rules::MODE.contains(&u64::from(*mode)));
    if mode.is_none() {
        let hint = "write octal digits in quotes, such as \"0644\"";
        report.add(Some(&value.at), format!("{} = {text:?} is no file mode", value.path), hint);
    }
    mode
}

fn services(value: &Value, report: &mut Report) -> Option<BTreeMap<Name, Service>> {
    let mut services = BTreeMap::new();
    for (key, value) in value.table(report)?.all() {
        let name = match key.parse::<Name>() {
            Ok(name) => name,
            Err(error) => {
                report.add(Some(&value.at), format!("{}: {error}", value.path), "choose another name");
                continue;
            }
        };
        let Some(mut table) = value.table(report) else { continue };
        let port = table.take("port").and_then(|v| v.number(rules::PORT, report));
        let ready = table.take("ready").and_then(|v| ready(&v, report));
        let publish = table.take("publish").and_then(|v| publish(&v, report));
        let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
        let protocol = table.take("protocol").and_then(|v| v.choice(&protocols, report)).unwrap_or_default();
        table.finish(report);
        match port.and_then(|port| u16::try_from(port).ok()) {
            Some(port) => {
                let service = Service { port, ready, publish, protocol };
                holds(rules::by_udp(&value.path, &service), &value, report);
                services.insert(name, service);
            }
            None => report.add(Some(&value.at), format!("{} has no port", value.path), "write port = NUMBER"),
        }
    }
    Some(services)
}

fn publish(value: &Value, report: &mut Report) -> Option<Publish> {
    let (before, mut table) = (report.found.len(), value.table(report)?);
    let lan = table.take("lan").and_then(|v| v.number(rules::PORT, report));
    let on = table.take("on").and_then(|v| names(&v, report)).unwrap_or_default();
    table.finish(report);
    // A mistake in either is told already.
    if (lan.is_none() || on.is_empty()) && report.found.len() == before {
        report.add(Some(&value.at), format!("{} does not say where", value.path), rules::WHERE);
    }
    Some(Publish { lan: u16::try_from(lan?).ok()?, on: on.into_iter().collect() })
}

fn ready(value: &Value, report: &mut Report) -> Option<Ready> {
    let mut table = value.table(report)?;
    let tcp = table.take("tcp").and_then(|v| v.flag(report));
    let http = table.take("http").and_then(|v| v.text(report));
    let interval_ms = table.take("interval").and_then(|v| v.millis(report)).unwrap_or(INTERVAL_MS);
    let grace_ms = table.take("grace").and_then(|v| v.millis(report)).unwrap_or(GRACE_MS);
    table.finish(report);
    let probe = match (tcp, http) {
        (Some(true), None) => Some(Probe::Tcp),
        (None, Some(path)) if rules::http_path(&path) => Some(Probe::Http(path)),
        _ => None,
    };
    if probe.is_none() {
        let hint = "write ready = { tcp = true } or ready = { http = \"/path\" }";
        report.add(Some(&value.at), format!("{} does not say what to ask", value.path), hint);
    }
    Some(Ready { probe: probe?, interval_ms, grace_ms })
}
