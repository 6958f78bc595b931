//! `agent doctor`: what is missing here and the command that mends it.

use hickory_proto::rr::{Name, RecordType};
use proto::wire::api::{Check, CheckState, Checks, Error, Hosts, Kind, Status};

use super::{
    Cx, Done, config,
    error::Exit,
    ui::{set_in, table},
};
use crate::{dns, doctor};

/// See what is missing on this host, with the command that mends it
///
/// Looks at QEMU, hardware acceleration, ports, settings, disk and the running agent; changes
/// nothing. Ends with 1 when something needs mending.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  agent doctor")]
pub struct Args {}

pub async fn run(cx: &Cx, Args {}: Args) -> Done {
    let settings = config::load(&cx.data, Vec::new());
    let running = cx.client.is_running().await;
    let mut checks =
        doctor::examine(&doctor::look(&cx.data, settings.as_ref().ok().map(|(config, _)| config), running));
    if let Err(error) = settings {
        let what = format!("{}: {}", error.what, error.because.unwrap_or_default());
        checks.push(Check { name: "settings".into(), state: CheckState::Missing, what, mend: error.next });
    }
    if running {
        if let Ok(hosts) = cx.client.get::<Hosts>("/v1/hosts").await {
            checks.extend(doctor::relays(&hosts.hosts).await);
        }
        match cx.client.get::<Checks>("/v1/doctor").await {
            // What the daemon proved counts more than what was guessed from outside.
            Ok(proved) => {
                checks.retain(|check| proved.checks.iter().all(|other| other.name != check.name));
                checks.extend(proved.checks);
            }
            Err(error) => checks.push(Check {
                name: "agent".into(),
                state: CheckState::Missing,
                what: format!("{}: {}", error.what, error.because.unwrap_or_default()),
                mend: error.next,
            }),
        }
    }
    names(cx, &mut checks).await;
    let missing = checks.iter().filter(|check| check.state == CheckState::Missing).count();
    cx.ui.show(&Checks { checks }, in_words);
    match missing {
        0 => Ok(Exit::WELL),
        count => Err(Error::new(Kind::Failed, format!("{count} of these need mending"))),
    }
}

/// Asks the name server, if the agent has one, and lets its answer count.
async fn names(cx: &Cx, checks: &mut Vec<Check>) {
    let Ok(status) = cx.client.get::<Status>("/v1/status").await else { return };
    let Some(server) = status.dns.and_then(|dns| dns.parse().ok()) else { return };
    // Any answer will do, also that there is no such name.
    let asked = dns::ask(server, &Name::root(), RecordType::SOA).await;
    let proved = doctor::names_answered(server, asked.as_ref().map(|_| ()));
    checks.retain(|check| check.name != proved.name);
    checks.push(proved);
}

/// Lays checks out, each with its remedy below it.
pub fn in_words(checks: &Checks, width: Option<u16>) -> String {
    let state = |state: CheckState| match state {
        CheckState::Ok => "ok",
        CheckState::Limited => "limited",
        CheckState::Missing => "MISSING",
    };
    let row = |check: &Check| vec![state(check.state).to_owned(), check.name.clone(), check.what.clone()];
    let mut text = table(&["", "CHECK", "SEEN"], checks.checks.iter().map(row), width);
    for check in &checks.checks {
        if let Some(mend) = &check.mend {
            text.push_str(&format!("\nmend {}: {}", check.name, set_in(mend)));
        }
    }
    text
}
