//! Carries faults out in a running lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::PoisonError,
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Lab, LabError, REGISTRY, because, carry_out};
use crate::{
    fault::{self, Beat, Direction, Fault, Protocol, Scenario},
    lab::Link,
    rules::{HostAddress, Port, Step},
};

/// The width of a link in whose way nothing stands.
const ETHERNET_MTU: u16 = 1500;
/// Moves the wall clock of one program, as a wrong clock of its computer would; the time since the start stays right.
/// A file says by how many seconds.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    const char *file = getenv("NETSIM_CLOCK");
    if (!result && id == CLOCK_REALTIME && file) {
        char text[32] = {0};
        int from = open(file, O_RDONLY | O_CLOEXEC);
        if (from >= 0 && read(from, text, sizeof text - 1) > 0) now->tv_sec += atoll(text);
        if (from >= 0) close(from);
    }
    return result;
}
"#;

impl Lab {
    /// Plays a scenario to its end; its text is read for this lab.
    pub fn play(&self, text: &str) -> Result<(), LabError> {
        let Scenario(beats) = fault::scenario(text, &self.layout).map_err(LabError::Parse)?;
        for beat in &beats {
            match beat {
                Beat::Wait(time) => thread::sleep(*time),
                Beat::Fault(fault) => self.suffer(fault)?,
            }
        }
        Ok(())
    }

    /// Makes one fault happen.
    pub fn suffer(&self, fault: &Fault) -> Result<(), LabError> {
        match fault {
            Fault::Cut(name) => self.cut(name),
            Fault::Mend(name) => self.mend(name),
            Fault::Change { name, way, settings } => self.change(name, *way, |link| {
                settings.iter().for_each(|setting| setting.apply(link));
            }),
            Fault::Block { name, protocol, longer } => {
                self.rules(name, "blocked", &blocked(*protocol, *longer))
            }
            Fault::Unblock(name) => self.rules(name, "blocked", ""),
            Fault::Split(sides) => self.split(sides),
            Fault::Heal => self.hosts().iter().try_for_each(|host| self.rules(&host.name, "apart", "")),
            Fault::Freeze(name) => self.signal(name, Signal::STOP),
            Fault::Thaw(name) => self.signal(name, Signal::CONT),
            Fault::Kill(name) => self.signal(name, Signal::KILL),
            Fault::Clock { name, ahead_s } => {
                let file = self.clock_file(name)?;
                fs::write(&file, ahead_s.to_string()).map_err(because("set a clock"))
            }
        }
    }

    /// Pulls the plug of a host or home.
    pub fn cut(&self, name: &str) -> Result<(), LabError> {
        self.plug(name, "down")
    }

    /// Makes the link of a host or home what the lab file says, and puts its plug back in.
    pub fn mend(&self, name: &str) -> Result<(), LabError> {
        let link = self.port(name)?.link;
        if link.needs_wire() {
            self.change(name, None, |now| *now = link)?;
        } else {
            self.plug(name, &format!("mtu {ETHERNET_MTU}"))?;
        }
        self.plug(name, "up")
    }

    /// Makes the link of a host or home carry IP packets of at most `bytes`. Longer ones vanish without a word.
    pub fn narrow(&self, name: &str, bytes: u16) -> Result<(), LabError> {
        match self.port(name)?.link.needs_wire() {
            true => self.change(name, None, |link| link.longest = bytes),
            false => self.plug(name, &format!("mtu {bytes}")),
        }
    }

    /// What a program of this host is started with, so that `clock` moves its wall clock. The library is built at the
    /// first call, which needs a C compiler.
    pub fn clocked(&self, host: &str) -> Result<[(String, String); 2], LabError> {
        let file = self.clock_file(host)?;
        let library = file.with_file_name("clock.so");
        if !library.exists() {
            let source = file.with_file_name("clock.c");
            fs::write(&source, CLOCK).map_err(because("write the clock's library"))?;
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
            let built = compiler.output().map_err(because("start cc for the clock's library"))?;
            if !built.status.success() {
                let because = String::from_utf8_lossy(&built.stderr).trim().to_owned();
                return Err(LabError::Step { step: format!("{compiler:?}"), because });
            }
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok([("LD_PRELOAD".into(), text(&library)), ("NETSIM_CLOCK".into(), text(&file))])
    }

    fn clock_file(&self, host: &str) -> Result<PathBuf, LabError> {
        let directory = Path::new(REGISTRY).join("clocks").join(&self.prefix);
        fs::create_dir_all(&directory).map_err(because("make a directory for clocks"))?;
        Ok(directory.join(&self.host(host)?.name))
    }

    fn port(&self, name: &str) -> Result<&Port, LabError> {
        let found = self.blueprint.ports.iter().find(|port| port.name == name);
        found.ok_or_else(|| LabError::Unknown(name.into()))
    }

    fn plug(&self, name: &str, state: &str) -> Result<(), LabError> {
        let port = self.port(name)?;
        carry_out(&Step::Ip(format!("-n {} link set {} {state}", port.namespace, port.device)))
    }

    fn change(&self, name: &str, way: Option<Direction>, change: impl Fn(&mut Link)) -> Result<(), LabError> {
        let port = self.port(name)?;
        let wire = self.wires.iter().find(|wire| wire.far == (port.namespace.clone(), port.device.clone()));
        let wire = wire.ok_or_else(|| LabError::NoWire(name.into()))?;
        let mut links = wire.links.lock().unwrap_or_else(PoisonError::into_inner);
        let [out, back] = &mut *links;
        if way != Some(Direction::In) {
            change(out);
        }
        if way != Some(Direction::Out) {
            change(back);
        }
        Ok(())
    }

    /// Puts a firewall table in the place of the one with this name; none when it has no rules.
    fn rules(&self, name: &str, table: &str, chains: &str) -> Result<(), LabError> {
        // The first line makes the second one right when there is no such table yet.
        let mut rules = format!("table inet {table} {{ }}\ndelete table inet {table}\n");
        if !chains.is_empty() {
            rules += &format!("table inet {table} {{\n{chains}}}\n");
        }
        carry_out(&Step::Nft { namespace: self.namespace(name)?, rules })
    }

    fn split(&self, sides: &[Vec<String>; 2]) -> Result<(), LabError> {
        for (side, other) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
            for name in side {
                let near = self.host(name)?;
                let far: Vec<&HostAddress> =
                    other.iter().map(|other| self.host(other)).collect::<Result<_, _>>()?;
                self.rules(name, "apart", &apart(near, &far))?;
            }
        }
        Ok(())
    }

    fn signal(&self, host: &str, signal: Signal) -> Result<(), LabError> {
        let namespace = self.host(host)?.namespace.clone();
        let mut list = Command::new("ip");
        list.args(["netns", "pids", &namespace]);
        let listed = list.output().map_err(because(format!("list what runs in {host}")))?;
        let pids = String::from_utf8_lossy(&listed.stdout).into_owned();
        let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw);
        for pid in pids {
            match kill_process(pid, signal) {
                // It has just ended by itself.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(because(format!("signal what runs in {host}"))(error.into())),
            }
        }
        Ok(())
    }
}

/// What passes through a router is blocked as well as what its own programs say; programs of one host go on talking.
fn blocked(protocol: Protocol, longer: Option<u16>) -> String {
    let longer = longer.map(|bytes| format!(" meta length > {bytes}")).unwrap_or_default();
    let chain = |hook: &str, own: &str| {
        format!(
            "  chain at_{hook} {{\n    type filter hook {hook} priority -10\n{own}    meta l4proto {protocol}{longer} drop\n  }}\n"
        )
    };
    let (came, goes) = ("    iifname \"lo\" accept\n", "    oifname \"lo\" accept\n");
    [chain("input", came), chain("forward", ""), chain("output", goes)].concat()
}

/// Whoever shares a home is met at its own address, others at the one of their home.
fn apart(near: &HostAddress, far: &[&HostAddress]) -> String {
    let home = |host: &HostAddress| (host.public != host.address).then_some(host.public);
    let met = |far: &&HostAddress| match home(near) == home(far) {
        true => far.address,
        false => far.public,
    };
    let addresses = far.iter().map(|far| met(far).to_string()).collect::<Vec<_>>().join(", ");
    format!(
        "  chain heard {{\n    type filter hook input priority -10\n    ip saddr {{ {addresses} }} drop\n  }}\n  \
         chain said {{\n    type filter hook output priority -10\n    ip daddr {{ {addresses} }} drop\n  }}\n"
    )
}
