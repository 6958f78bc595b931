//! `agent config`: the settings of this host and where each comes from. Reads the file and the
//! environment for `crate::config`, which does neither.

use std::{fs, io, path::Path};

use proto::wire::api::{Error, Kind};
use serde::Serialize;

use super::{Cx, Done, error::Exit, file, ui::table};
use crate::{
    config::{self, Config, Layers, Setting},
    host::data::DataDir,
};

/// The manual of all settings has some KiB.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show every setting with its value and where it comes from
    ///
    /// Later layers win: the defaults, config.toml in the data directory, the environment
    /// (policy.cpus is AGENT_POLICY_CPUS), --set.
    #[command(after_help = "Example:\n  agent config show\n  agent config show --default > config.toml")]
    Show {
        /// Overrule a setting, to see what `agent run` would make of it
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Print the manual of all settings instead, as a config.toml
        #[arg(long, conflicts_with = "set")]
        default: bool,
    },
}

#[derive(Serialize)]
struct Shown {
    settings: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    key: String,
    value: String,
    origin: String,
}

pub fn run(cx: &Cx, verb: Verb) -> Done {
    let Verb::Show { set, default } = verb;
    if default {
        // What it did not take is told at the end of every command.
        let _taken = cx.ui.line(config::DEFAULT.trim_end().as_bytes());
        return Ok(Exit::WELL);
    }
    let (_, settings) = load(&cx.data, set)?;
    let row = |Setting { key, value, origin }| Row { key, value, origin: origin.to_string() };
    let shown = Shown { settings: settings.into_iter().map(row).collect() };
    cx.ui.show(&shown, |shown, width| {
        let rows =
            shown.settings.iter().map(|row| vec![row.key.clone(), row.value.clone(), row.origin.clone()]);
        table(&["SETTING", "VALUE", "FROM"], rows, width)
    });
    Ok(Exit::WELL)
}

/// Reads the layers of a data directory and this process.
pub fn load(data: &DataDir, flags: Vec<String>) -> Result<(Config, Vec<Setting>), Error> {
    let path = data.config();
    // The settings of another user's agent are that user's; who is its guest goes by the defaults.
    let text = if data.is_open_to_guest() { None } else { read(&path)? };
    let file = text.map(|text| (path.display().to_string(), text));
    let ours = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with("AGENT_"))?;
        Some((name, value.to_string_lossy().into_owned()))
    });
    config::load(&Layers { file, environment: ours.collect(), flags }).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        Error::new(Kind::Invalid, "the settings of this host are wrong")
            .because(lines.join("; "))
            .next("agent config show --default    prints the manual of all settings")
    })
}

/// Reads the owner's settings, if there are any.
fn read(path: &Path) -> Result<Option<String>, Error> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    let text = String::from_utf8(file::read(path, MAX_BYTES)?);
    text.map(Some).map_err(|_| {
        Error::new(Kind::Invalid, format!("{} is no text", path.display()))
            .because("it is not UTF-8")
            .next("agent config show --default    prints one that is")
    })
}
