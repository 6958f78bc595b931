//! What a hostile member says of who is there: datagrams, and words that it signs or cannot sign.

use bytes::Bytes;
use proto::liveness::{Beat, Finding, MAX_BEAT_BYTES, Testimony};

use super::Bot;

fn send(bot: &Bot, datagrams: impl IntoIterator<Item = Vec<u8>>) {
    for bytes in datagrams {
        bot.host.mesh.gate().send(&bot.target, &Bytes::from(bytes));
    }
}

pub(super) async fn no_beats(bot: &Bot) {
    send(bot, (0..3_000_usize).map(|at| vec![at as u8; at % (2 * MAX_BEAT_BYTES)]));
}

pub(super) async fn probes(bot: &Bot) {
    send(bot, (0..3_000).map(|number| Beat::Probe { number, accused: true }.encode()));
    send(bot, (0..3_000).map(|number| Beat::Answer { number }.encode()));
}

/// Says this of that host by two hundred words, each newer than the one before, as whom `by` says.
fn says(bot: &Bot, by: proto::id::HostId, about: proto::id::HostId, findings: [Finding; 2]) {
    let word = |seq: u64| Testimony {
        mesh: bot.mesh,
        observer: by,
        about,
        generation: u64::MAX,
        seq,
        finding: findings[seq as usize % 2],
        evidence: u16::MAX,
    };
    send(bot, (0..200).map(|seq| Beat::Testimony(word(seq).sign(&bot.seed).bytes).encode()));
}

pub(super) async fn calls_gone(bot: &Bot) {
    for about in [bot.victim, bot.target] {
        says(bot, bot.host.id(), about, [Finding::Down, Finding::Suspect]);
    }
}

pub(super) async fn in_another_name(bot: &Bot) {
    says(bot, bot.victim, bot.target, [Finding::Down; 2]);
    says(bot, bot.victim, bot.victim, [Finding::Leaving; 2]);
}

pub(super) async fn comes_and_goes(bot: &Bot) {
    says(bot, bot.host.id(), bot.host.id(), [Finding::Leaving, Finding::Here]);
}
