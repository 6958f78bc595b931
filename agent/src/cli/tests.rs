//! What the command line reads and shows: arguments, help, tables, JSON, exit codes.

use clap::{CommandFactory, Parser};
use expect_test::{expect, expect_file};
use proto::{
    facts::{Event, Fact},
    id::{Digest, HostId, MachineName, MeshId, SessionId},
    level::{LEVEL, Level},
    reachability::situation::{Mapping, Standing, Udp},
    session::{Accelerator, ChangeAction, Guard, How, Phase},
    time::Timestamp,
    topology::Diagnostic,
    trust::Capability,
    wire::api::*,
};

use super::{
    Cli, Noun, check, config, doctor, down, error, events, host, image, machine, net, ping, plan, session,
    status, token, ui, up, value,
};

mod plans;
mod sessions;
mod tables;
mod words;

fn shop() -> SessionId {
    SessionId([0x0a; 16])
}

fn row(name: &str, host: &str, state: Phase, reason: Option<&str>) -> MachineRow {
    let name: MachineName = name.parse().unwrap();
    MachineRow {
        group: name.group.to_string(),
        address: Some(format!("10.64.7.{}", 10 + name.index)),
        name,
        session: "shop".into(),
        session_id: shop(),
        host: Some(host.into()),
        state,
        guard: Guard::Hold,
        epoch: 1,
        reason: reason.map(str::to_owned),
        why: None,
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("agent").chain(line.split_whitespace()))
}
