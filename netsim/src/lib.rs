//! Networks to test in: labs of network namespaces with homes behind NATs, and links with delay, loss and rate.
//!
//! ```no_run
//! let lab = netsim::Lab::up("host vps\nhome attic nat=symmetric delay=10ms\nhost nas in attic").unwrap();
//! let agent = lab.command("nas", "agent").unwrap().arg("run").spawn().unwrap();
//! ```

pub mod control;
pub mod lab;
mod netns;
pub mod rules;
pub mod tap;

pub use netns::{Lab, LabError, lab_or_skip, possible};
