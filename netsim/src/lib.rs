//! Simulated surroundings for the rules of `proto` and for real agents.
//!
//! - `script`: stories in plain words, played in a world, with golden transcripts;
//! - `world`: many hosts of pure rules on a virtual clock, from a seed, with invariants.

pub mod script;
pub mod world;
