//! Labs that another process owns: found by name in the registry, entered, and ended.

use std::{ffi::OsStr, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use crate::netns::{self, Registered};

/// Why a lab was not found or could not be used.
#[derive(Debug, Error)]
pub enum ControlError {
    /// None runs, or none of that name.
    #[error("no lab {0}is running")]
    None(String),
    /// Several run and none was named.
    #[error("several labs are running, name one with --lab: {}", .0.join(", "))]
    Several(Vec<String>),
    /// The lab has no such host.
    #[error("the lab {lab} has no `{host}`; it has: {}", .known.join(", "))]
    Unknown {
        /// The lab.
        lab: String,
        /// What was asked for.
        host: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Its owner did not take the signal.
    #[error("cannot end the lab's owner")]
    End(#[source] rustix::io::Errno),
}

/// A lab of another process.
#[derive(Debug)]
pub struct Other(Registered);

/// Finds a lab by name, or the only one there is.
pub fn find(name: Option<&str>) -> Result<Other, ControlError> {
    let mut labs = netns::registered();
    labs.retain(|lab| name.is_none_or(|name| lab.prefix == name));
    match (labs.pop(), labs.len()) {
        (None, _) => Err(ControlError::None(name.map(|name| format!("named `{name}` ")).unwrap_or_default())),
        (Some(lab), 0) => Ok(Other(lab)),
        (Some(last), _) => {
            let names = labs.iter().chain([&last]).map(|lab| lab.prefix.clone()).collect();
            Err(ControlError::Several(names))
        }
    }
}

impl Other {
    /// What `--lab` takes.
    pub fn name(&self) -> &str {
        &self.0.prefix
    }

    /// A command in a host, home, or `net`.
    pub fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Result<Command, ControlError> {
        let own =
            |namespace: &String| namespace.strip_prefix(&format!("{}-", self.0.prefix)).map(String::from);
        let known: Vec<String> = self.0.namespaces.iter().filter_map(own).collect();
        if !known.iter().any(|name| name == host) {
            return Err(ControlError::Unknown { lab: self.0.prefix.clone(), host: host.into(), known });
        }
        Ok(netns::command_in(&format!("{}-{host}", self.0.prefix), program))
    }

    /// Ends the owner; its guard then removes the lab. An owner that is gone already leaves a lab to sweep.
    pub fn end(&self) -> Result<(), ControlError> {
        let (pid, started) = self.0.owner;
        let alive = netns::start_time(pid) == Some(started);
        match i32::try_from(pid).ok().and_then(Pid::from_raw) {
            Some(pid) if alive => kill_process(pid, Signal::TERM).map_err(ControlError::End),
            _ => {
                netns::sweep();
                Ok(())
            }
        }
    }

    /// Whether anything of it is left.
    pub fn is_there(&self) -> bool {
        netns::registered().iter().any(|lab| lab.prefix == self.0.prefix)
    }
}
