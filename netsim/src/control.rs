//! Labs that another process owns: found by name in the registry, entered, troubled, and ended.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process::Command,
    sync::Arc,
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;

use crate::{
    Lab,
    netns::{self, Registered},
};

/// Longest scenario that an owner takes.
const SCENARIO_MAX: u64 = 64 * 1024;
/// What an owner answers when all of a scenario has happened.
const DONE: &str = "done";

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
    /// Its owner does not answer.
    #[error("the owner of the lab does not answer")]
    Silent(#[source] io::Error),
    /// Its owner could not do it.
    #[error("{0}")]
    Refused(String),
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

    /// Lets the owner play a scenario, and waits for its end.
    pub fn play(&self, scenario: &str) -> Result<(), ControlError> {
        let said = ask(&self.0.prefix, scenario).map_err(ControlError::Silent)?;
        if said == DONE { Ok(()) } else { Err(ControlError::Refused(said)) }
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

/// Lets others trouble a lab of this process as long as it lives, one scenario after the other.
pub fn serve(lab: &Arc<Lab>) -> io::Result<()> {
    let (lab, prefix) = (Arc::downgrade(lab), lab.prefix().to_owned());
    let listener = UnixListener::bind_addr(&address(&prefix)?)?;
    let served = move || {
        for asked in listener.incoming().flatten() {
            let Some(lab) = lab.upgrade() else { return };
            // Whoever asks and goes away gets no answer.
            let _gone = answer(&lab, asked);
        }
    };
    thread::Builder::new().name("control".into()).spawn(served).map(|_| ())
}

fn answer(lab: &Lab, mut asked: UnixStream) -> io::Result<()> {
    let mut scenario = String::new();
    (&asked).take(SCENARIO_MAX).read_to_string(&mut scenario)?;
    let said = match lab.play(&scenario) {
        Ok(()) => DONE.to_owned(),
        Err(error) => error.to_string(),
    };
    asked.write_all(said.as_bytes())
}

fn ask(prefix: &str, scenario: &str) -> io::Result<String> {
    let mut owner = UnixStream::connect_addr(&address(prefix)?)?;
    owner.write_all(scenario.as_bytes())?;
    owner.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    owner.read_to_string(&mut said)?;
    Ok(said)
}

/// A name without a file: nothing is left of it when the owner is gone.
fn address(prefix: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("netsim-{prefix}"))
}
