//! Real hosts on loopback in one process.

mod doubles;
pub(crate) mod golden;
mod harness;
mod joining;
mod living;
