//! Real hosts on loopback in one process.

mod away;
mod crashes;
mod doubles;
pub(crate) mod golden;
mod harness;
mod hostile;
mod joining;
mod living;
mod out;
mod outside;
mod presence;
mod quiet;
mod restoring;
