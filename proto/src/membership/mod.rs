//! Who is in the mesh, who is there, and how everybody comes to know it.
//!
//! - `starts`: which start of a host is believed.
//!
//! Nothing here sends or reads a clock.

pub mod starts;

pub use starts::Starts;
