//! Transcripts: a story in plain words is played in a [`World`], and what happens is written between
//! its lines. The results beside the scripts are reviewed like prose. Commands, one a line:
//!
//! ```text
//! # text                          stays as it is
//! host NAME MEMORY [image]        before everything else: a host, MiB given to the mesh
//! up HOST [replace]               a user asks for the groups in the indented lines below it, and that
//!                                 disks which cannot stay may be lost:
//!     GROUP COUNT MEMORY [needs A,B] [disk MIB] [setup TEXT]
//! down HOST                       a user ends the session
//! stop HOST MACHINE | start HOST MACHINE
//! off HOST | on HOST              power
//! agent dies HOST | agent starts HOST
//! crash MACHINE                   its QEMU dies
//! cut HOST,HOST                   these hosts reach each other only, and so do the others
//! heal
//! wait N                          seconds
//! settle                          until everything is as the plan wants it, 5 minutes at most
//! status HOST                     what that host would show
//! ask HOST NAME                   what a guest there resolves
//! ```

use std::{collections::BTreeMap, fmt::Write};

use proto::{
    id::{HostId, MachineName, Name},
    names::{self, Kind, Resolution, View},
    picture::rows,
    run::Rules,
    session::Replace,
    topology::{Egress, Intent, Topology},
};

use crate::world::{
    SESSION, World,
    fault::{Basis, Fault, group},
    invariants::Violation,
};

/// The longest time that `settle` waits.
const SETTLE_MS: u64 = 300_000;
/// Time after a command in which its first effects are told.
const MOMENT_MS: u64 = 200;

/// Why a script cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// A line is no command.
    #[error("line {0}: {1}")]
    Line(usize, String),
    /// A promise was broken on the way.
    #[error("line {0}: {1}")]
    Broken(usize, #[source] Violation),
}

/// Plays a script and gives its transcript.
pub fn play(script: &str) -> Result<String, ScriptError> {
    let mut stage = Stage { hosts: Vec::new(), world: None, out: String::new() };
    let mut lines = script.lines().enumerate().map(|(at, line)| (at + 1, line)).peekable();
    while let Some((at, line)) = lines.next() {
        stage.out.push_str(line);
        stage.out.push('\n');
        let mut block = Vec::new();
        while let Some((_, indented)) = lines.next_if(|(_, next)| next.starts_with(' ')) {
            stage.out.push_str(indented);
            stage.out.push('\n');
            block.push(indented.trim());
        }
        stage.command(line, &block).map_err(|error| match error {
            Failed::Wrong(what) => ScriptError::Line(at, what),
            Failed::Broken(violation) => ScriptError::Broken(at, violation),
        })?;
    }
    Ok(stage.out)
}

enum Failed {
    Wrong(String),
    Broken(Violation),
}

impl From<Violation> for Failed {
    fn from(violation: Violation) -> Failed {
        Failed::Broken(violation)
    }
}

fn wrong(what: impl Into<String>) -> Failed {
    Failed::Wrong(what.into())
}

struct Stage {
    hosts: Vec<(Name, u64, bool)>,
    world: Option<World>,
    out: String,
}

impl Stage {
    fn command(&mut self, line: &str, block: &[&str]) -> Result<(), Failed> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [] => return Ok(()),
            [first, ..] if first.starts_with('#') => return Ok(()),
            ["host", name, memory, rest @ ..] => return self.host(name, memory, rest),
            _ => {}
        }
        if self.world.is_none() {
            let mut world = World::new(1, Rules::default(), &self.hosts, &["shop"]);
            world.log = Some(Vec::new());
            // Hosts hear of each other before the story begins.
            world.run_until(world.now.plus_ms(3_000))?;
            self.world = Some(world);
        }
        let fault = match words.as_slice() {
            ["wait", seconds] => {
                let millis = number(seconds)? * 1000;
                return self.pass(millis);
            }
            ["settle"] => return self.settle(),
            ["status", host] => return self.status(host),
            ["ask", host, name] => return self.ask(host, name),
            ["up", host] => Fault::Up(
                self.id(host)?,
                SESSION,
                Box::new(intent(block)?),
                Replace::default(),
                Basis::Anything,
            ),
            ["up", host, "replace"] => {
                Fault::Up(self.id(host)?, SESSION, Box::new(intent(block)?), Replace::all(), Basis::Anything)
            }
            ["down", host] => Fault::Down(self.id(host)?, SESSION),
            ["stop", host, machine] => Fault::Wish(self.id(host)?, (SESSION, self.machine(machine)?), false),
            ["start", host, machine] => Fault::Wish(self.id(host)?, (SESSION, self.machine(machine)?), true),
            ["off", host] => Fault::PowerOff(self.id(host)?),
            ["on", host] => Fault::PowerOn(self.id(host)?),
            ["agent", "dies", host] => Fault::AgentDies(self.id(host)?),
            ["agent", "starts", host] => Fault::AgentStarts(self.id(host)?),
            ["crash", machine] => self.crash(machine)?,
            ["cut", hosts] => self.cut(hosts)?,
            ["heal"] => Fault::Heal,
            _ => return Err(wrong("no such command")),
        };
        if let Some(world) = &mut self.world {
            world.at(0, fault);
        }
        self.pass(MOMENT_MS)
    }

    fn host(&mut self, name: &str, memory: &str, rest: &[&str]) -> Result<(), Failed> {
        if self.world.is_some() {
            return Err(wrong("hosts come before everything else"));
        }
        let name = name.parse::<Name>().map_err(|error| wrong(error.to_string()))?;
        self.hosts.push((name, number(memory)?, rest.contains(&"image")));
        Ok(())
    }

    fn pass(&mut self, millis: u64) -> Result<(), Failed> {
        let Some(world) = &mut self.world else { return Ok(()) };
        let until = world.now.plus_ms(millis);
        let outcome = world.run_until(until);
        self.tell();
        Ok(outcome?)
    }

    /// Writes down what happened since the last time.
    fn tell(&mut self) {
        let Some(log) = self.world.as_mut().and_then(|world| world.log.as_mut()) else { return };
        for line in log.drain(..) {
            self.out.push_str("  | ");
            self.out.push_str(&line);
            self.out.push('\n');
        }
    }

    fn settle(&mut self) -> Result<(), Failed> {
        let began = self.world.as_ref().map(|world| world.now).unwrap_or_default();
        loop {
            self.pass(500)?;
            let Some(world) = &mut self.world else { return Ok(()) };
            let waited = world.now.since_ms(began);
            match world.settled() {
                Ok(()) => {
                    let seconds = waited as f64 / 1000.0;
                    self.line(&format!("settled after {seconds} s"));
                    return Ok(());
                }
                Err(what) if waited >= SETTLE_MS => {
                    self.line(&format!("not settled after {} s: {what}", waited / 1000));
                    return Ok(());
                }
                Err(_) => {}
            }
        }
    }

    fn status(&mut self, host: &str) -> Result<(), Failed> {
        let id = self.id(host)?;
        let Some(world) = &mut self.world else { return Ok(()) };
        world.look(id);
        let Some(seen) = world.hosts.get(&id) else { return Ok(()) };
        let (Some(agent), Some(share)) = (&seen.agent, seen.disk.shares.get(&SESSION)) else {
            self.line("no agent runs there, or it knows no session");
            return Ok(());
        };
        let mut text = String::new();
        let session = rows::session(&agent.picture, share, seen.coordinator(SESSION));
        let coordinator = session.coordinator.unwrap_or("nobody known".to_owned());
        let state = format!("{:?}", session.state).to_lowercase();
        let _ = writeln!(text, "  | plan {}, {state}, coordinated by {coordinator}", share.generation);
        for row in rows::machines(&agent.picture, share) {
            let (name, on) = (row.name.to_string(), row.host.unwrap_or_default());
            let phase = format!("{:?}", row.state).to_lowercase();
            let reason = row.reason.map(|why| format!(" ({why})")).unwrap_or_default();
            let _ = writeln!(text, "  | {name:8} on {on:8} epoch {}  {phase}{reason}", row.epoch);
        }
        self.out.push_str(&text);
        Ok(())
    }

    fn ask(&mut self, host: &str, name: &str) -> Result<(), Failed> {
        let id = self.id(host)?;
        let Some(world) = &mut self.world else { return Ok(()) };
        world.look(id);
        let Some(host) = world.hosts.get(&id) else { return Ok(()) };
        let zone = host.zone();
        let text = match names::answer(&zone, View::Guest(SESSION, Egress::Internet), name, Kind::A) {
            Resolution::Addresses(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Resolution::NoData => "exists, but nothing of it is ready".to_owned(),
            Resolution::NoName => "no such name".to_owned(),
            other => format!("{other:?}"),
        };
        self.line(&text);
        Ok(())
    }

    fn line(&mut self, text: &str) {
        self.out.push_str("  | ");
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn crash(&self, machine: &str) -> Result<Fault, Failed> {
        let machine = self.machine(machine)?;
        let hosts = self.world.iter().flat_map(|world| world.hosts.values());
        for host in hosts {
            let mut alive = host.shims.iter().filter(|(_, process)| process.alive());
            if let Some(at) = alive.position(|((_, name), _)| *name == machine) {
                return Ok(Fault::QemuDies(host.id, at as u64));
            }
        }
        Err(wrong(format!("{machine} does not run")))
    }

    fn cut(&self, hosts: &str) -> Result<Fault, Failed> {
        let apart = hosts.split(',').map(|name| self.id(name)).collect::<Result<Vec<_>, _>>()?;
        let ids = self.world.iter().flat_map(|world| world.hosts.keys());
        Ok(Fault::Cut(ids.map(|id| (*id, u8::from(!apart.contains(id)))).collect()))
    }

    fn machine(&self, text: &str) -> Result<MachineName, Failed> {
        text.parse().map_err(|error: proto::id::IdError| wrong(error.to_string()))
    }

    fn id(&self, name: &str) -> Result<HostId, Failed> {
        let mut names = self.world.iter().flat_map(|world| &world.names);
        let found = names.find(|(_, known)| known.as_str() == name).map(|(id, _)| *id);
        found.ok_or_else(|| wrong(format!("no host {name}")))
    }
}

fn intent(block: &[&str]) -> Result<Intent, Failed> {
    let mut groups = BTreeMap::new();
    for line in block {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, count, memory, rest @ ..] = words.as_slice() else {
            return Err(wrong(format!("{line:?} is no group")));
        };
        let name = name.parse::<Name>().map_err(|error| wrong(error.to_string()))?;
        let value = |key: &str| rest.windows(2).find(|pair| pair[0] == key).map(|pair| pair[1]);
        let count = number(count)?.try_into().map_err(|_| wrong("too many machines"))?;
        let mut group = group(count, number(memory)?, value("needs").unwrap_or(""));
        group.disk_mib = value("disk").map(number).transpose()?;
        group.setup.extend(value("setup").map(str::to_owned));
        groups.insert(name, group);
    }
    let session = "shop".parse().map_err(|_| wrong("no session name"))?;
    let topology = Topology { session, groups };
    Ok(Intent { topology, files: BTreeMap::new(), ssh_keys: BTreeMap::new() })
}

fn number(text: &str) -> Result<u64, Failed> {
    text.parse().map_err(|_| wrong(format!("{text} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_tells_what_its_golden_file_says() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let mut played = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "txt") {
                let script = std::fs::read_to_string(&path).unwrap();
                let transcript = play(&script).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                expect_test::expect_file![path.with_extension("out")].assert_eq(&transcript);
                played += 1;
            }
        }
        assert!(played >= 3);
    }

    #[test]
    fn a_line_that_is_no_command_is_named() {
        let error = play("host nas 4000 image\n\nfly nas").unwrap_err();
        assert_eq!(error.to_string(), "line 3: no such command");
        assert_eq!(play("off nas").unwrap_err().to_string(), "line 1: no host nas");
    }
}
