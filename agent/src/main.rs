//! The program `agent`: one binary that is daemon, command line and the parent of a machine.
//! Nothing is decided here; `cli` reads the command line and hands on.

mod api;
mod app;
mod cli;
mod client;
mod config;
mod data;
mod doctor;
mod facts;
mod openssh;

fn main() -> std::process::ExitCode {
    cli::main()
}
