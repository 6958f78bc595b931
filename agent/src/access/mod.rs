//! How programs of this host reach machines, without root: forward addresses, the front door for browsers, and SOCKS.

#[cfg(test)]
mod fixture;
pub mod forward;
pub mod front;
pub mod socks;
