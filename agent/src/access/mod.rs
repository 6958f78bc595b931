//! How programs of this host reach machines: forward addresses, without root.

pub mod forward;
