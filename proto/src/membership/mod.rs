//! Who is in the mesh, who is there, and how everybody comes to know it.
//!
//! - `spread`: with whom this host compares statements, and when;
//! - `house`: which certificates an issuer owes;
//! - `returning`: when a host that was away serves again;
//! - `pushes`: with whom it exchanges gossip, and when;
//! - `starts`: which start of a host is believed;
//! - `silence`: who is only suspected.
//!
//! Nothing here sends or reads a clock.

pub mod house;
pub mod pushes;
pub mod returning;
pub mod silence;
pub mod spread;
pub mod starts;

pub use house::{Owed, owed};
pub use pushes::{Opening, Pushes};
pub use returning::Returning;
pub use silence::Silence;
pub use spread::Spread;
pub use starts::Starts;

#[cfg(test)]
mod tests;
