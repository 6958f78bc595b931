//! The program `agent`: one binary that is daemon, command line and the parent of a machine.

fn main() -> std::process::ExitCode {
    agent::main()
}
