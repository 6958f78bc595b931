//! Everything that the program `agent` is made of; `main.rs` only calls [`main`]. A library, so that its
//! process tests use the very modules that the program does.

// A print that fails panics, and what cannot be said must end nothing.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod access;
mod api;
mod app;
mod cli;
mod config;
mod daemon;
mod dns;
mod doctor;
mod facts;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod host;
mod install;
pub mod machine;
mod picture;
mod session;

/// Reads the command line and hands on. The shim comes before it: it must own its main thread and start
/// no runtime of the CLI's.
pub fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "shim" => machine::shim::main(rest),
        _ => cli::main(),
    }
}
