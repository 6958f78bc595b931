//! How programs of this host reach machines and what other hosts publish, without root: forward addresses, the front
//! door for browsers, and SOCKS; what this host publishes: programs of its own to members, and services to its LAN; and,
//! where its owner wants that, this host itself on the networks of its sessions.

pub mod balance;
#[cfg(test)]
pub mod fixture;
pub mod forward;
pub mod front;
pub mod interface;
pub mod lan;
pub mod places;
pub mod published;
pub mod socks;
