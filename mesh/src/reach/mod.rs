//! How members reach each other: which addresses a host has and tells, where others may be, whom to
//! dial now, which relays carry what nothing else does.
//!
//! ```text
//! interfaces, addresses, describe  which of this host's addresses are told
//! ways      where a member may be         book     that, on disk, for iroh and the swarm
//! dialer    whom to dial now              deaf     connections that hold on to a dead way
//! path      how two hosts reach each other now
//! relay     the embedded relay            relays   the relays in use; the watchdog
//! pins      their certificates            lan      who is on the same LAN
//! ```

pub(crate) mod addresses;
pub(crate) mod book;
pub(crate) mod deaf;
pub(crate) mod describe;
pub(crate) mod dialer;
pub(crate) mod interfaces;
pub(crate) mod lan;
pub(crate) mod path;
pub(crate) mod pins;
pub(crate) mod relay;
pub(crate) mod relays;
pub(crate) mod ways;
