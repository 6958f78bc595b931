//! Real hosts on loopback in one process.

mod doubles;
mod harness;
mod joining;
mod living;
