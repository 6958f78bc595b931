//! Simulated surroundings for the rules of `proto` and for real agents.
//!
//! - `world`: many hosts of pure rules on a virtual clock, from a seed, with invariants.

pub mod world;
