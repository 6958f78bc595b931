//! What time it is for certificates and tokens, when every clock may be wrong: a computer that was five years ahead
//! when the mesh was made, one that begins in 1970 at each boot, one that stands still. Nothing else is decided by it.

use crate::{
    time::Timestamp,
    trust::members::{CLOCK_TOLERANCE_MS, MemberSet},
};

/// No clock that shows an earlier time is believed: 2026-01-01, before there was this program.
const EARLIEST: Timestamp = Timestamp(1_767_225_600_000);
/// A clock that is this far from others is told.
const CLOCK_OFF_MS: u64 = 10 * 60 * 1000;

/// Gives the mesh's time: the median of the own clock and of what members' clocks show, but not before what the root
/// or an issuer has signed, as far as that is within the tolerance. One wrong clock changes nothing, a host without a
/// clock follows the others, and no statement moves anybody's time by more than the tolerance. The exception is a host
/// without a clock that has heard nobody: it has nothing to hold a statement against and takes what was signed last,
/// however far ahead, until it hears one clock. Nothing better is at hand: an issuer's certificate has no end that
/// would bound it, and a median over what signers have signed is pulled back by every issuer that retired.
pub fn mesh_time(own: Timestamp, heard: &[Timestamp], set: &MemberSet) -> Timestamp {
    match median(own, heard) {
        Some(median) => median.max(set.latest(median.plus_ms(CLOCK_TOLERANCE_MS))),
        // Alone and without a clock: what was signed last is the best that is known.
        None => own.max(set.latest(Timestamp(u64::MAX))),
    }
}

/// Gives the middle of the clocks that can be believed. Of two in the middle the own one counts, or the one next to
/// it: where as many say this as that, nobody can know who is right.
fn median(own: Timestamp, heard: &[Timestamp]) -> Option<Timestamp> {
    let all = heard.iter().copied().chain([own]);
    let mut clocks: Vec<Timestamp> = all.filter(|clock| *clock >= EARLIEST).collect();
    clocks.sort();
    let (low, high) = (clocks.get(clocks.len().saturating_sub(1) / 2)?, clocks.get(clocks.len() / 2)?);
    Some(own.clamp(*low, *high))
}

/// How far a host's clock is off, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockError {
    /// It shows a time that is still to come.
    Ahead(u64),
    /// It shows a time that is over.
    Behind(u64),
}

/// Tells whether the own clock is off: most of those heard say so, or, when there is no majority, an issuer has signed
/// a later time. Of two hosts that differ each is told; nobody can know which is right. What was signed far ahead says
/// nothing: the clock that it was signed by may have been wrong.
pub fn clock_error(own: Timestamp, heard: &[Timestamp], set: &MemberSet) -> Option<ClockError> {
    let beyond = |later: Timestamp, earlier: Timestamp| {
        Some(later.0.saturating_sub(earlier.0)).filter(|off| *off > CLOCK_OFF_MS)
    };
    let ahead: Vec<u64> = heard.iter().filter_map(|other| beyond(own, *other)).collect();
    let behind: Vec<u64> = heard.iter().filter_map(|other| beyond(*other, own)).collect();
    let is_most = |count: usize| 2 * count > heard.len();
    let agreeing = heard.len() - ahead.len() - behind.len();
    if !heard.is_empty() && 2 * (agreeing + 1) > heard.len() + 1 {
        return None;
    }
    let until = if own < EARLIEST { Timestamp(u64::MAX) } else { own.plus_ms(CLOCK_TOLERANCE_MS) };
    match (ahead.iter().min(), behind.iter().min()) {
        (Some(off), _) if is_most(ahead.len()) => Some(ClockError::Ahead(*off)),
        (_, Some(off)) if is_most(behind.len()) => Some(ClockError::Behind(*off)),
        _ => beyond(set.latest(until), own).map(ClockError::Behind),
    }
}

#[cfg(test)]
mod tests;
