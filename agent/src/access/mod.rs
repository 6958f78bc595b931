//! How programs of this host reach machines and what other hosts publish, without root: forward addresses, the front
//! door for browsers, and SOCKS; and what this host publishes.

pub mod balance;
#[cfg(test)]
mod fixture;
pub mod forward;
pub mod front;
pub mod places;
pub mod published;
pub mod socks;
