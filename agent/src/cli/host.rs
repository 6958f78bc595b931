//! `agent host`: what the members offer, and who goes, is called what, and may admit others.

use proto::{
    id::Name,
    wire::api::{
        Error, HostIssuer, HostLoss, HostOut, HostPutOut, HostRef, HostRename, HostRow, Hosts, Kind,
        PathKind, RttRow, Rtts, SessionLoss,
    },
};

use super::{
    Cx, Done,
    client::quoted,
    error::Exit,
    status::path,
    token::may,
    ui::{bytes, or_dash, table, word},
};

/// Hosts whose distances still fit side by side.
const MATRIX: usize = 8;

#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// List the hosts of the mesh and what they give to it
    #[command(after_help = "Example:\n  agent host list\n  agent host list -v")]
    List {
        /// Show what each host may do, too
        #[arg(short, long)]
        verbose: bool,
    },
    /// Cut a host off: a lost or stolen one, or one that is not trusted any more
    ///
    /// Says first what is lost. All members drop its connections, relay access and names at once, and the
    /// tokens that it joined by or made end. Its own agent ends and stops its machines. It never comes back
    /// under its key.
    #[command(after_help = "Example:\n  agent host evict attic\n  agent host evict attic --yes --now")]
    Evict {
        /// The host, by name
        host: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Also when sessions lose their majority of voters
        #[arg(long)]
        now: bool,
    },
    /// Remove a host that is gone for good: its name is free again, and nothing waits for it
    ///
    /// For a computer that broke or was wiped. One that still runs leaves by `agent leave` there.
    #[command(after_help = "Example:\n  agent host remove attic\n  agent host remove attic --yes")]
    Remove {
        /// The host, by name
        host: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Give a host another name
    #[command(after_help = "Example:\n  agent host rename attic loft")]
    Rename {
        /// The host, by name
        host: String,
        /// Its new name
        name: Name,
    },
    /// Let a host admit others; needs the root key, which is on the first host
    #[command(after_help = "Example:\n  agent host promote cellar")]
    Promote {
        /// The host, by name
        host: String,
    },
    /// Let a host admit nobody any more; needs the root key, which is on the first host
    ///
    /// Tokens that it made end; hosts that it admitted stay.
    #[command(after_help = "Example:\n  agent host demote cellar")]
    Demote {
        /// The host, by name
        host: String,
    },
    /// Show how far the hosts are from each other
    ///
    /// Each host that is there is asked what it measures itself; a row is who measures, a column to whom. Through a
    /// relay is marked with an r. Whoever does not answer within two seconds, or is of an older version, is named.
    #[command(after_help = "Example:\n  agent host rtt")]
    Rtt,
}

pub async fn run(cx: &Cx, verb: Verb) -> Done {
    match verb {
        Verb::List { verbose } => {
            let hosts: Hosts = cx.client.get("/v1/hosts").await?;
            cx.ui.show(&hosts, if verbose { in_full } else { in_words });
        }
        Verb::Evict { host, yes, now } => put_out(cx, HostPutOut { host, evict: true, now }, yes).await?,
        Verb::Remove { host, yes } => put_out(cx, HostPutOut { host, evict: false, now: true }, yes).await?,
        Verb::Rename { host, name } => {
            let renamed: HostRef =
                cx.client.post("/v1/host/rename", &HostRename { host: host.clone(), name }).await?;
            cx.ui.show(&renamed, |renamed, _| format!("{host} is called {} now", renamed.name));
        }
        Verb::Promote { host } => {
            let made: HostRef = cx.client.post("/v1/host/issuer", &HostIssuer { host, issuer: true }).await?;
            cx.ui.show(&made, |made, _| format!("{} may admit others now", made.name));
        }
        Verb::Demote { host } => {
            let made: HostRef =
                cx.client.post("/v1/host/issuer", &HostIssuer { host, issuer: false }).await?;
            cx.ui.show(&made, |made, _| format!("{} may admit nobody any more", made.name));
        }
        Verb::Rtt => {
            let rtts: Rtts = cx.client.get("/v1/rtts").await?;
            cx.ui.show(&rtts, distances);
        }
    }
    Ok(Exit::WELL)
}

/// Lays the distances out: a matrix as long as it is narrow, else a line a pair.
pub(super) fn distances(rtts: &Rtts, width: Option<u16>) -> String {
    let cell = |row: &RttRow| {
        let relayed = if row.kind == PathKind::Relayed { " r" } else { "" };
        format!("{:.1} ms{relayed}", row.rtt_ms)
    };
    let laid = if rtts.hosts.len() <= MATRIX {
        let find =
            |from: &String, to: &String| rtts.rtts.iter().find(|row| row.from == *from && row.to == *to);
        let row = |from: &String| {
            let cells = rtts.hosts.iter().map(|to| or_dash(find(from, to).map(cell)));
            [from.clone()].into_iter().chain(cells).collect::<Vec<_>>()
        };
        let heading: Vec<&str> = ["FROM"].into_iter().chain(rtts.hosts.iter().map(String::as_str)).collect();
        table(&heading, rtts.hosts.iter().map(row), width)
    } else {
        let row = |row: &RttRow| vec![row.from.clone(), row.to.clone(), cell(row)];
        table(&["FROM", "TO", "RTT"], rtts.rtts.iter().map(row), width)
    };
    match &rtts.silent[..] {
        [] => laid,
        silent => format!("{laid}\n\nno answer: {}", silent.join(", ")),
    }
}

async fn put_out(cx: &Cx, out: HostPutOut, yes: bool) -> Result<(), Error> {
    let loss: HostLoss = cx.client.get(&format!("/v1/host/loss?host={}", quoted(&out.host))).await?;
    let verb = if out.evict { "evict" } else { "remove" };
    confirm(cx, &loss, yes, (verb, &format!("agent host {verb} {}", loss.host)))?;
    let done: HostOut = cx.client.post("/v1/host/out", &out).await?;
    let past = if out.evict { "evicted" } else { "removed" };
    cx.ui.show(&done, |done, _| format!("{} is {past}", done.host.name));
    Ok(())
}

/// Says what goes with a host, and asks. Where nobody can be asked it must have been said before.
pub(super) fn confirm(cx: &Cx, loss: &HostLoss, yes: bool, (verb, again): (&str, &str)) -> Result<(), Error> {
    losses(loss, verb).iter().for_each(|line| cx.ui.say(line));
    if yes {
        return Ok(());
    }
    let stays = Error::new(Kind::Refused, format!("{} stays a host of the mesh", loss.host));
    if !cx.ui.can_ask() {
        return Err(stays.because("nobody can be asked here").next(format!("{again} --yes")));
    }
    let agreed = cx.ui.asks(&format!("{verb} {}, for good. Go on?", loss.host));
    if agreed { Ok(()) } else { Err(stays.because("you said no")) }
}

/// Says what goes with a host, a line each.
pub(super) fn losses(loss: &HostLoss, verb: &str) -> Vec<String> {
    let host = &loss.host;
    let session = |lost: &SessionLoss| {
        let mut parts = Vec::new();
        if !lost.machines.is_empty() {
            parts.push(format!("{} and their disks", lost.machines.join(", ")));
        }
        parts.extend(lost.votes.then(|| "a vote".to_owned()));
        let fallen = if lost.stands { "" } else { "; no majority of its voters is left" };
        format!("{}: loses {} on {host}{fallen}", lost.session, parts.join(" and "))
    };
    let mut lines: Vec<String> = loss.sessions.iter().map(session).collect();
    if !loss.published.is_empty() {
        lines.push(format!("names that go: {}", loss.published.join(", ")));
    }
    if verb == "evict" && !loss.tokens.is_empty() {
        lines.push(format!("tokens that end: {}", loss.tokens.join(", ")));
    }
    if loss.last_issuer {
        lines
            .push(format!("{host} alone may admit hosts: without it nobody can, but by the recovery phrase"));
    }
    if verb == "evict" && !loss.older.is_empty() {
        lines.push(format!(
            "older agents go on talking to it until they are updated: {}",
            loss.older.join(", ")
        ));
    }
    lines
}

const HEADING: [&str; 12] =
    ["HOST", "STATE", "PATH", "RTT", "VERSION", "ARCH", "ACCEL", "CPU", "MEMORY", "DISK", "ROLE", "TAGS"];

pub(super) fn in_words(hosts: &Hosts, width: Option<u16>) -> String {
    table(&HEADING, hosts.hosts.iter().map(row), width)
}

/// With what each may do.
pub(super) fn in_full(hosts: &Hosts, width: Option<u16>) -> String {
    let heading: Vec<&str> = HEADING.into_iter().chain(["MAY"]).collect();
    let full = |host: &HostRow| row(host).into_iter().chain([may(&host.capabilities)]).collect();
    table(&heading, hosts.hosts.iter().map(full), width)
}

fn row(host: &HostRow) -> Vec<String> {
    let (path, rtt) = path(host.path.as_ref());
    let mib = |mib: u64| bytes(mib << 20);
    let memory = host.memory_mib.map(|all| match host.memory_used_mib {
        Some(used) => format!("{} of {} free", mib(all.saturating_sub(used)), mib(all)),
        None => mib(all),
    });
    let mut roles = Vec::new();
    roles.extend(host.issuer.then_some("issuer"));
    roles.extend(host.relay.as_ref().map(|_| "relay"));
    roles.extend((host.runs_machines == Some(false)).then_some("no machines"));
    let tags: Vec<String> = host.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![
        host.name.clone(),
        word(&host.state),
        path,
        rtt,
        or_dash(host.version.as_ref()),
        or_dash(host.arch.as_ref()),
        or_dash(host.accelerator.map(|found| word(&found))),
        or_dash(host.cpus),
        or_dash(memory),
        or_dash(host.disk_mib.map(mib)),
        or_dash(Some(roles.join(", ")).filter(|roles| !roles.is_empty())),
        or_dash(Some(tags.join(" ")).filter(|tags| !tags.is_empty())),
    ]
}
