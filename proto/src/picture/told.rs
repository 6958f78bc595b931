//! What a host tells gossip of itself, made to fit: the memory that its machines may take, and what it reports of
//! them. Reports of many machines are told in several records. Where not every reason finds room in one, those of
//! machines in trouble come first and those of machines at rest last; what was shortened ends with an ellipsis, and
//! where a reason is left out, the report says so. No machine is ever left out.

use std::collections::BTreeMap;

use super::{Reports, Shares};
use crate::{
    id::SessionId,
    limits::{MAX_RECORD_BYTES, MAX_REPORTS_PER_RECORD},
    reasons::Because,
    session::{MachineReport, Phase, Share},
    wire::{
        self,
        record::{Body, RecordKey, SessionRecord},
    },
};

/// Bytes of a session's record before it is sealed: signed and spelled for gossip it has twice as many.
const ROOM: usize = MAX_RECORD_BYTES / 2;
/// The longest words of a reason.
const MOST_CHARS: usize = 200;
/// Words of this length still say what is wrong.
const FEW_CHARS: usize = 30;
/// Words of this length say nearly everything.
const SOME_CHARS: usize = 80;

/// How much somebody has from a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Something is wrong.
    Trouble,
    /// It goes on by itself.
    Waits,
    /// It is as it shall be.
    Rests,
}

/// How much of a reason is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// So many letters.
    Words(usize),
    /// Its words, and its data.
    Whole,
}

/// What finds room first.
const ORDER: [(Use, Told); 10] = [
    (Use::Trouble, Told::Words(FEW_CHARS)),
    (Use::Waits, Told::Words(FEW_CHARS)),
    (Use::Trouble, Told::Words(SOME_CHARS)),
    (Use::Trouble, Told::Words(MOST_CHARS)),
    (Use::Trouble, Told::Whole),
    (Use::Waits, Told::Words(SOME_CHARS)),
    (Use::Waits, Told::Words(MOST_CHARS)),
    (Use::Waits, Told::Whole),
    (Use::Rests, Told::Words(MOST_CHARS)),
    (Use::Rests, Told::Whole),
];

/// Sums what machines may take that a host has by its shares, in MiB by session.
pub fn memory_used_mib(shares: &Shares) -> BTreeMap<SessionId, u64> {
    let sum = |share: &Share| share.machines.iter().map(|spec| spec.memory_mib).fold(0, u64::saturating_add);
    let used = shares.values().map(|share| (share.session, sum(share)));
    used.filter(|(_, mib)| *mib > 0).collect()
}

/// Gives what gossip is told of every session; see [`session`].
pub fn sessions(reports: &Reports) -> impl Iterator<Item = (RecordKey, Body)> + '_ {
    reports.iter().flat_map(|(of, acted)| session(*of, acted.version, &acted.machines))
}

/// Gives the records that tell what a host reports of its machines of a session; without machines there are none.
pub fn session(
    session: SessionId,
    version: u64,
    machines: &[MachineReport],
) -> impl Iterator<Item = (RecordKey, Body)> + '_ {
    let parts = machines.chunks(MAX_REPORTS_PER_RECORD);
    keys(session, machines.len()).zip(parts).map(move |(key, part)| (key, Body::Session(fit(version, part))))
}

/// Names the records that it takes to report so many machines of a session.
pub fn keys(session: SessionId, machines: usize) -> impl Iterator<Item = RecordKey> {
    let last = machines.div_ceil(MAX_REPORTS_PER_RECORD).try_into().unwrap_or(u8::MAX);
    (0..last).map(move |part| match part {
        0 => RecordKey::Session(session),
        part => RecordKey::More(session, part),
    })
}

/// Fits reports into one record.
fn fit(version: u64, machines: &[MachineReport]) -> SessionRecord {
    let whole = SessionRecord {
        version,
        machines: machines.iter().map(|report| told(report, Some(Told::Whole))).collect(),
    };
    if wire::len(&whole) <= ROOM {
        return whole;
    }
    let bare = machines.iter().map(|report| told(report, None)).collect();
    let mut record = SessionRecord { version, machines: bare };
    let mut bytes = wire::len(&record);
    for (of, much) in ORDER {
        for (at, report) in machines.iter().enumerate().filter(|(_, report)| usefulness(report) == of) {
            let more = told(report, Some(much));
            let next = bytes - wire::len(&record.machines[at]) + wire::len(&more);
            if next <= ROOM {
                (record.machines[at], bytes) = (more, next);
            }
        }
    }
    record
}

fn usefulness(report: &MachineReport) -> Use {
    match report.phase {
        Phase::Failed | Phase::Paused => Use::Trouble,
        Phase::Waiting | Phase::Fetching | Phase::Starting | Phase::Running | Phase::Booted => Use::Waits,
        Phase::Ready | Phase::Stopped => Use::Rests,
    }
}

/// Gives a report with so much of its reason.
fn told(report: &MachineReport, much: Option<Told>) -> MachineReport {
    let Some(words) = &report.reason else { return report.clone() };
    let (reason, why) = match much {
        None => (None, Some(Because::Untold)),
        Some(Told::Words(chars)) => (Some(cut(words, chars)), None),
        Some(Told::Whole) => (Some(cut(words, MOST_CHARS)), report.why.clone()),
    };
    MachineReport { reason, why, ..report.clone() }
}

fn cut(words: &str, chars: usize) -> String {
    match words.char_indices().nth(chars) {
        Some(_) => words.chars().take(chars - 1).chain(['…']).collect(),
        None => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{Epoch, HostId, MeshId},
        limits::{MAX_MACHINES, MAX_RECORDS_PER_HOST},
        seal::{Seed, SignedRecord},
        session::fixture::SESSION,
    };

    fn report(index: usize, phase: Phase, seen: usize) -> MachineReport {
        // The longest label that there is.
        let machine = format!("{}-{}", "a".repeat(31), index + 1).parse().unwrap();
        let why = (seen > 0).then(|| Because::SetupFailed { seen: "ä".repeat(seen) });
        MachineReport::new(machine, Epoch(u64::MAX - index as u64), (phase, why))
    }

    fn records(reports: &[MachineReport]) -> Vec<SessionRecord> {
        let record = |(_, body)| match body {
            Body::Session(record) => record,
            other => panic!("{other:?}"),
        };
        session(SESSION, u64::MAX, reports).map(record).collect()
    }

    /// Reads how much of each reason is told: letters, `data`, `cut`, `untold`.
    fn reads(report: &MachineReport) -> String {
        match (&report.reason, &report.why) {
            (Some(words), Some(_)) => format!("{} data", words.chars().count()),
            (Some(words), None) if words.ends_with('…') => format!("{} cut", words.chars().count()),
            (Some(words), None) => words.chars().count().to_string(),
            (None, Some(Because::Untold)) => "untold".into(),
            (None, _) => String::new(),
        }
    }

    #[test]
    fn the_most_machines_of_one_host_are_all_told_with_the_longest_names_and_reasons() {
        let phases = [Phase::Failed, Phase::Ready, Phase::Waiting, Phase::Stopped];
        let all: Vec<_> = (0..MAX_MACHINES).map(|n| report(n, phases[n % phases.len()], 900)).collect();
        let seed = Seed([1; 32]);
        let (mut told, mut count) = (Vec::new(), 0);
        for (key, body) in session(SESSION, u64::MAX, &all) {
            let Body::Session(record) = &body else { panic!("{body:?}") };
            told.extend(record.machines.iter().map(|r| (r.machine.clone(), r.epoch, r.phase)));
            let (mesh, host) = (MeshId([7; 32]), HostId(seed.public()));
            let (generation, seq) = (u64::MAX, u64::MAX);
            let signed = SignedRecord { mesh, host, generation, seq, key: key.clone(), body: Some(body) };
            let text = signed.seal(&seed).expect("it fits");
            assert_eq!(SignedRecord::open(&text, mesh, host, &key), Ok(signed));
            assert_eq!(key.to_string().parse(), Ok(key));
            count += 1;
        }
        assert_eq!(told, all.iter().map(|r| (r.machine.clone(), r.epoch, r.phase)).collect::<Vec<_>>());
        assert!((2..MAX_RECORDS_PER_HOST / 8).contains(&count), "{count} records");
        assert_eq!(keys(SESSION, MAX_MACHINES).count(), count);
    }

    #[test]
    fn where_room_lacks_the_reasons_of_machines_at_rest_go_first_and_those_in_trouble_last() {
        let check = |reports: Vec<MachineReport>, as_read: &[(usize, &str)]| {
            let all = records(&reports);
            assert_eq!(all.len(), 1);
            assert!(wire::len(&all[0]) <= ROOM);
            let read: Vec<String> = all[0].machines.iter().map(reads).collect();
            for (at, what) in as_read {
                assert_eq!(read[*at], *what, "{read:?}");
            }
        };
        let few = |n: usize| report(n, [Phase::Stopped, Phase::Waiting, Phase::Failed][n % 3], 70);
        check((0..3).map(few).collect(), &[(0, "70 data"), (1, "70 data"), (2, "70 data")]);
        check((0..9).map(few).collect(), &[(0, "untold"), (1, "70 data"), (7, "70"), (8, "70 data")]);
        check((0..15).map(few).collect(), &[(0, "untold"), (4, "30 cut"), (5, "70"), (3, "untold")]);
        let most = |n: usize| report(n, if n == 31 { Phase::Failed } else { Phase::Waiting }, 70);
        check((0..32).map(most).collect(), &[(0, "30 cut"), (30, "untold"), (31, "30 cut")]);
        let quiet = |n: usize| report(n, Phase::Ready, 0);
        check((0..32).map(quiet).collect(), &[(0, ""), (31, "")]);
    }

    #[test]
    fn reports_of_no_machine_take_no_record() {
        assert_eq!(session(SESSION, 1, &[]).count(), 0);
        assert_eq!(keys(SESSION, 0).count(), 0);
        let first: Vec<RecordKey> = keys(SESSION, MAX_REPORTS_PER_RECORD).collect();
        assert_eq!(first, [RecordKey::Session(SESSION)]);
        let second = keys(SESSION, MAX_REPORTS_PER_RECORD + 1).last();
        assert_eq!(second, Some(RecordKey::More(SESSION, 1)));
    }
}
