//! How members reach each other: which addresses a host has and tells, where others may be, whom to
//! dial now, which relays carry what nothing else does.
//!
//! ```text
//! interfaces, addresses, describe  which of this host's addresses are told
//! book      where members may be, on disk, for iroh and the swarm
//! relay     the embedded relay            relays   makes the endpoint use those of others
//! pins      their certificates            lan      who is on the same LAN
//! outside   whether this host is reached from outside, and what follows: with mapping (its router's ports) and
//!           dialback (what others do to prove it)
//! ```
//! What follows from what is seen is `proto::reachability`'s to say.

pub(crate) mod addresses;
pub(crate) mod book;
pub(crate) mod describe;
pub(crate) mod dialback;
pub(crate) mod interfaces;
pub(crate) mod lan;
pub(crate) mod mapping;
pub(crate) mod outside;
pub(crate) mod pins;
pub(crate) mod relay;
pub(crate) mod relays;
