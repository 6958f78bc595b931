//! The agent as something that is installed: where its files go, the service that runs it, and how a newer program takes
//! its place. `plan` and `unit` decide, `look` gathers what this computer is like, `carry` writes and removes, `swap`
//! replaces the program under running machines. `names` has the system's resolver ask us for the zone. Nothing here touches a mesh.

pub mod carry;
mod hook;
pub mod layout;
pub mod look;
pub mod names;
pub mod plan;
pub mod program;
pub mod swap;
#[cfg(test)]
mod tests;
mod unit;

use serde::{Deserialize, Serialize};

/// What the manager calls the service.
pub const SERVICE: &str = "agent.service";

/// Whose service it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// The computer's: root installs it, and a group uses it.
    System,
    /// One user's own.
    User,
}
