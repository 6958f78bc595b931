//! What shells and `man` read of the command line. Made of the very definitions that `--help` shows, so that they
//! cannot say anything else; nothing here knows a verb by name.

use std::{fs, path::PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use proto::wire::api::{Error, Kind};

use super::{Cli, Cx, Done, error::Exit};

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agent completions bash > ~/.local/share/bash-completion/completions/agent"
)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Write a manual page for each command into a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent man ~/.local/share/man/man1")]
pub struct Man {
    /// The directory; it is made when it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub fn completions(cx: &Cx, args: Completions) -> Done {
    // What it did not take is told at the end of every command.
    let _taken = cx.ui.line(completion(args.shell).trim_end().as_bytes());
    Ok(Exit::WELL)
}

pub fn man(cx: &Cx, args: Man) -> Done {
    let pages = manual();
    let written = fs::create_dir_all(&args.dir)
        .and_then(|()| pages.iter().try_for_each(|(name, page)| fs::write(args.dir.join(name), page)));
    written.map_err(|error| {
        Error::new(Kind::Failed, format!("the pages cannot be written into {}", args.dir.display()))
            .because(error)
            .next("agent man DIR    with a directory that you may write")
    })?;
    cx.ui.say(&format!("{} pages are in {}", pages.len(), args.dir.display()));
    Ok(Exit::WELL)
}

/// Gives the completions of a shell.
pub fn completion(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "agent", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Gives every manual page with the name of its file, such as `agent-session-up.1`. What is hidden has none.
pub fn manual() -> Vec<(String, String)> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages);
    pages
}

fn collect(command: &Command, pages: &mut Vec<(String, String)>) {
    let page = clap_mangen::Man::new(command.clone()).manual("agent");
    let mut text = Vec::new();
    // A Vec takes every write.
    page.render(&mut text).ok();
    pages.push((page.get_filename(), String::from_utf8_lossy(&text).into_owned()));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        collect(verb, pages);
    }
}
