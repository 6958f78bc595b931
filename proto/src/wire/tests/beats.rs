//! What hosts say to each other to know who is there, and what each holds of gossip.

use super::{golden::Sample, sessions::host};
use crate::{
    id::{HostId, MeshId},
    liveness::{Beat, Finding, Signed, Testimony},
    seal::Seed,
    wire::{Summary, WireError},
};

const MESH: MeshId = MeshId([6; 32]);
const SEED: Seed = Seed([11; 32]);

pub(super) fn samples() -> Vec<Sample> {
    let findings = [
        ("here", Finding::Here),
        ("leaving", Finding::Leaving),
        ("clear", Finding::Clear),
        ("alarm", Finding::Alarm),
        ("suspect", Finding::Suspect),
        ("down", Finding::Down),
        ("twice", Finding::Twice),
    ];
    let word = || testimony(Finding::Down).sign(&SEED).bytes;
    let mut samples = vec![
        Sample::message("beat.probe", Beat::Probe { number: 70_000, accused: true }),
        Sample::message("beat.answer", Beat::Answer { number: 70_000 }),
        Sample::message("beat.testimony", Beat::Testimony(word())),
        Sample::message(
            "gossip-summary.one",
            Summary::of(1_790_000_000_000, [("0123456789abcdef", 1_790_000_000_000, 12)]),
        ),
        Sample::closed("testimony-signed.down", word(), |bytes| {
            let malformed = |what: String| WireError::Malformed(what);
            let read = Signed::open(bytes, MESH, |_| true).map_err(|error| malformed(error.to_string()))?;
            let read = read.ok_or_else(|| malformed("unwanted".into()))?;
            Ok(read.testimony.sign(&SEED).bytes)
        }),
    ];
    let said =
        findings.map(|(name, finding)| Sample::signed(format!("testimony.{name}"), testimony(finding)));
    samples.extend(said);
    samples
}

fn testimony(finding: Finding) -> Testimony {
    let observer = HostId(SEED.public());
    let of_itself = finding.is_of_itself();
    Testimony {
        mesh: MESH,
        observer,
        about: if of_itself { observer } else { host(2) },
        generation: 1_790_000_000_000,
        seq: 12,
        finding,
        evidence: if of_itself { 0 } else { 905 },
    }
}
