//! What is believed of a machine. Only the host that owns a machine's current epoch is believed, and only while
//! it is heard: an older incarnation's readiness, another host's word and a silent host's last word are no news.

use std::collections::{BTreeMap, BTreeSet};

use super::Picture;
use crate::{
    id::{MachineName, SessionId},
    run::Mutant,
    session::{MachineEntry, MachineReport, Phase, Share},
};

/// Gives what is believed of one machine of a session.
pub fn report<'a>(
    picture: &'a Picture,
    session: SessionId,
    entry: &MachineEntry,
) -> Option<&'a MachineReport> {
    if !picture.is_up(entry.host) {
        return None;
    }
    let any = picture.rules.broken(Mutant::AnswersOldEpochs);
    let current =
        |report: &&MachineReport| report.machine == entry.machine && (any || report.epoch == entry.epoch);
    if entry.host == picture.me {
        return picture.reports.get(&session)?.machines.iter().find(current);
    }
    let said = picture.session_records(entry.host, session);
    let found = said.filter_map(|record| Some((record.version, record.machines.iter().find(current)?)));
    // When machines come or go, a machine is told in another record than before, and for a moment in both.
    found.reduce(|one, other| if other.0 > one.0 { other } else { one }).map(|(_, report)| report)
}

/// Gives what is believed of every machine of a share; of some nothing is.
pub fn known<'a>(picture: &'a Picture, share: &Share) -> BTreeMap<MachineName, &'a MachineReport> {
    let believed = share
        .directory
        .machines()
        .filter_map(|entry| Some((entry.machine.clone(), report(picture, share.session, entry)?)));
    believed.collect()
}

/// Lists the machines of a share that are ready.
pub fn ready(picture: &Picture, share: &Share) -> BTreeSet<MachineName> {
    let entries = share.directory.machines();
    entries
        .filter(|entry| is_ready(picture, share.session, entry))
        .map(|entry| entry.machine.clone())
        .collect()
}

/// Tells whether a machine is ready. One that is to stop is not: nobody is led there any more, whatever its host has
/// said of it last.
pub fn is_ready(picture: &Picture, session: SessionId, entry: &MachineEntry) -> bool {
    entry.run && report(picture, session, entry).is_some_and(|report| report.phase == Phase::Ready)
}

/// Tells whether a machine is to stop and still runs: what is connected to it may end.
pub fn drains(picture: &Picture, session: SessionId, entry: &MachineEntry) -> bool {
    let runs = |phase| matches!(phase, Phase::Running | Phase::Booted | Phase::Ready | Phase::Paused);
    !entry.run && report(picture, session, entry).is_some_and(|report| runs(report.phase))
}

/// Lists the ready machines behind a label, a group's or a machine's own: those of this host first, then the
/// nearest.
pub fn behind(picture: &Picture, share: &Share, label: &str) -> Vec<MachineName> {
    if share.ended {
        return Vec::new();
    }
    let mut found: Vec<(bool, u64, &MachineName)> = Vec::new();
    for (group, entry) in &share.directory.groups {
        let named = |machine: &MachineName| group.as_str() == label || machine.to_string() == label;
        for entry in entry.machines.iter().filter(|entry| named(&entry.machine)) {
            if is_ready(picture, share.session, entry) {
                let rtt = picture.members.get(&entry.host).and_then(|member| member.rtt_ms());
                let micros = rtt.map_or(u64::MAX, |rtt| (rtt * 1000.0) as u64);
                found.push((entry.host != picture.me, micros, &entry.machine));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, _, machine)| machine.clone()).collect()
}
