//! A picture in a few lines, for the data tests of this directory.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::{
    id::Epoch,
    level::{LEVEL, Level},
    session::{
        MachineReport, Phase, State,
        fixture::{SESSION, host_id},
        slice,
    },
    time::Timestamp,
    wire::record::Reach,
};

/// Gives the picture that `me` has: members, one a line: `NAME [down] [rtt=MS] [relayed] [only=CAN,..] [issuer] [level=N]
/// [trouble=WHAT] [disk=MIB] [used=SESSION:MIB]`; reports in the same text: `NAME: MACHINE@EPOCH PHASE, ...`; images:
/// `NAME has DIGEST NAME@WHEN, ...`, `part` in place of `has` while it is fetched.
pub fn picture(me: &str, state: Option<&State>, text: &str) -> Picture {
    let mut picture = Picture::new(host_id(me));
    observe(&mut picture, state, text);
    picture
}

/// Lets a picture observe all of this anew; gives what changed.
pub fn observe(picture: &mut Picture, state: Option<&State>, text: &str) -> BTreeSet<Change> {
    let me = picture.me;
    let (mut members, mut records) = (Members::new(), Records::new());
    let (mut reports, mut images) = (Reports::new(), Images::new());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some((host, said)) = line.split_once(": ") {
            let machines: Vec<MachineReport> = said.split(", ").map(report).collect();
            if host_id(host) == me {
                let version = state.map_or(0, |state| state.version);
                reports.insert(SESSION, Acted { version, machines: machines.clone() });
            }
            let body = Body::Session(SessionRecord { version: 1, machines });
            records.insert((host_id(host), RecordKey::Session(SESSION)), body);
        } else if let Some((host, told)) = line.split_once(" has ").or_else(|| line.split_once(" part ")) {
            let (digest, record) = image(told, line.contains(" has "));
            if host_id(host) == me {
                images.insert(digest, record.clone());
            }
            records.insert((host_id(host), RecordKey::Image(digest)), Body::Image(record));
        } else {
            let (id, member, record) = member(line, me);
            members.insert(id, member);
            records.insert((id, RecordKey::Host), Body::Host(record));
        }
    }
    let shares: Shares =
        state.map(|state| (state.id, Arc::new(slice::share(state, me)))).into_iter().collect();
    let inputs = [
        Input::Members(Arc::new(members)),
        Input::Records(Arc::new(records)),
        Input::Shares(Arc::new(shares)),
        Input::Reports(Arc::new(reports)),
        Input::Images(Arc::new(images)),
    ];
    inputs.into_iter().flat_map(|input| picture.apply(input)).collect()
}

fn member(line: &str, me: HostId) -> (HostId, Member, HostRecord) {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap();
    let way = Way { direct: true, rtt_ms: 1.0, via: "192.0.2.1:7440".into(), owner: None };
    let mut member = Member {
        name: name.parse().unwrap(),
        state: MemberState::Up,
        issuer: false,
        may: May::ALL,
        level: Some(LEVEL),
        way: (host_id(name) != me).then_some(way),
    };
    let mut record = host_record(name);
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("down", _) => (member.state, member.way) = (MemberState::Down, None),
            ("level", n) => member.level = n.parse::<u32>().ok().map(Level::from),
            ("issuer", _) => member.issuer = true,
            ("rtt", ms) => member.way.as_mut().unwrap().rtt_ms = ms.parse().unwrap(),
            ("only", what) => member.may = May::only(what.split(',').map(|word| word.parse().unwrap())),
            ("relayed", _) => member.way.as_mut().unwrap().direct = false,
            ("via", via) => member.way.as_mut().unwrap().via = via.into(),
            ("at", address) => record.reach.addresses.push(address.parse().unwrap()),
            ("publishes", port) => {
                record.published.insert("files".parse().unwrap(), port.parse().unwrap());
            }
            ("trouble", what) => record.trouble = Some(what.replace('_', " ")),
            ("disk", mib) => record.disk_mib = mib.parse().unwrap(),
            ("used", mib) => {
                let (session, mib) = mib.split_once(':').unwrap();
                let session = SessionId([session.parse().unwrap(); 16]);
                record.memory_used_mib.insert(session, mib.parse().unwrap());
            }
            (word, _) => panic!("unknown word {word}"),
        }
    }
    (host_id(name), member, record)
}

fn host_record(name: &str) -> HostRecord {
    HostRecord {
        name: name.parse().unwrap(),
        version: "0.1.0".into(),
        reach: Reach::default(),
        arch: "x86_64".into(),
        accelerator: None,
        cpus: 4,
        memory_mib: 1000,
        disk_mib: 10_000,
        disk_kept_mib: 0,
        trouble: None,
        runs_machines: true,
        memory_used_mib: BTreeMap::new(),
        tags: BTreeMap::new(),
        prefixes: vec![],
        steady: true,
        issuer: false,
        tells_seen: true,
        level: LEVEL,
        published: BTreeMap::new(),
        lan: false,
        publishes: false,
    }
}

fn report(text: &str) -> MachineReport {
    let (machine, rest) = text.trim().split_once('@').unwrap();
    let (epoch, phase) = rest.split_once(' ').unwrap();
    let phase = match phase {
        "waiting" => Phase::Waiting,
        "fetching" => Phase::Fetching,
        "ready" => Phase::Ready,
        "failed" => Phase::Failed,
        "stopped" => Phase::Stopped,
        other => panic!("unknown phase {other}"),
    };
    MachineReport::new(machine.parse().unwrap(), Epoch(epoch.parse().unwrap()), (phase, None))
}

fn image(text: &str, complete: bool) -> (Digest, ImageRecord) {
    let (digest, names) = text.split_once(' ').unwrap_or((text, ""));
    let name = |text: &str| {
        let (name, when) = text.trim().split_once('@').unwrap();
        (name.to_owned(), Timestamp(when.parse().unwrap()))
    };
    let names = names.split(',').filter(|name| !name.is_empty()).map(name).collect();
    let record = ImageRecord { names, size: 64, allocated: 7, arch: "x86_64".into(), complete };
    (Digest([digest.parse().unwrap(); 32]), record)
}
