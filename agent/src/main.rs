//! The one program. Here only what must come before everything else: the shim's own subcommand.

use std::process::ExitCode;

pub mod machine;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "shim" => machine::shim::main(rest),
        _ => ExitCode::FAILURE,
    }
}
