//! Simulated surroundings for the rules of `proto` and for real agents.
//!
//! - `script`: stories in plain words, played in a world, with golden transcripts;
//! - `world`: many hosts of pure rules on a virtual clock, from a seed, with invariants;
//! - `lab` and `rules`: a text about hosts, homes and NATs, and the commands that build it from network
//!   namespaces; [`Lab`] carries them out, `tap` is a wire with delay, loss and rate;
//! - `fault`: what goes wrong in a running lab, as scenarios that people can read;
//! - `mapper` and `relay`: what stands in such a net beside hosts: a router that maps ports for who asks, and a relay of
//!   strangers;
//! - `card`: a guest without a computer, for measuring what stands behind a network card.
//!
//! ```no_run
//! let lab = netsim::Lab::up("host vps\nhome attic nat=symmetric delay=10ms\nhost nas in attic").unwrap();
//! let agent = lab.command("nas", "agent").unwrap().arg("run").spawn().unwrap();
//! ```

pub mod card;
pub mod control;
pub mod fault;
pub mod lab;
mod mapper;
mod netns;
pub mod relay;
pub mod rules;
pub mod script;
pub mod tap;
pub mod world;

pub use netns::{Lab, LabError, lab_or_skip, possible};
