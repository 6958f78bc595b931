//! Which failure ends the program with which code, and how errors of the system become ours. This
//! is the only place that knows exit codes.

use std::{ffi::OsString, io, path::Path, process::ExitCode};

use proto::wire::api::{Error, Kind};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(pub u8);

impl Exit {
    /// All is well.
    pub const WELL: Exit = Exit(0);
    /// The wait was interrupted by Ctrl-C; the work goes on.
    pub const INTERRUPTED: Exit = Exit(130);
    /// What the shell makes of SIGPIPE: nobody reads what the command still has to say.
    pub const CLOSED_PIPE: Exit = Exit(141);
    /// ssh's own code for "ssh itself failed".
    pub const SSH_FAILED: Exit = Exit(255);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.0)
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Exit {
        Exit(match kind {
            Kind::Failed => 1,
            Kind::Usage | Kind::Invalid => 2,
            Kind::NotFound => 3,
            Kind::Refused | Kind::Ambiguous => 4,
            Kind::TimedOut => 5,
            Kind::Partly => 6,
            Kind::Unreachable => 7,
            Kind::NotDirect => 8,
        })
    }
}

/// Tells a file that cannot be read.
pub fn unreadable(path: &Path, error: &io::Error) -> Error {
    let next = match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "check its permissions",
        _ => "check that it is a readable file",
    };
    Error::new(Kind::Failed, format!("{} cannot be read", path.display())).because(error).next(next)
}

/// Tells a command line that clap refused, in our three lines.
pub fn usage(error: &clap::Error) -> Error {
    let text = error.to_string();
    let told = |line: &&str| !line.is_empty() && !line.starts_with("For more information");
    let mut lines = text.lines().map(str::trim).filter(told);
    let what = lines.next().unwrap_or("the command line is wrong").trim_start_matches("error: ").to_owned();
    let rest: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("agent");
    let words =
        usage.split_whitespace().take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
    let command = words.collect::<Vec<_>>().join(" ");
    let wrong = Error::new(Kind::Usage, what).next(format!("{command} --help"));
    if rest.is_empty() { wrong } else { wrong.because(rest.join(" ")) }
}

/// Tells whether a command line that could not be parsed asks for JSON.
pub fn wants_json(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}
