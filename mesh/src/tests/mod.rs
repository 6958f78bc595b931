//! Real hosts on loopback in one process.

mod harness;
mod joining;
mod living;
