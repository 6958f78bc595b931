//! The program `agent`: one binary that is daemon, command line and the parent of a machine.
//! Nothing is decided here; `cli` reads the command line and hands on. The shim comes before it: it
//! must own its main thread and start no runtime of the CLI's.

// A print that fails panics, and what cannot be said must end nothing.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod api;
mod app;
mod cli;
mod client;
mod config;
mod daemon;
mod data;
mod disk;
mod dns;
mod doctor;
mod facts;
mod forward;
mod internals;
mod limits;
mod log;
mod machine;
mod runtime;
mod session;
mod zone;

fn main() -> std::process::ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "shim" => machine::shim::main(rest),
        _ => cli::main(),
    }
}
