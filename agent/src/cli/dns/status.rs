//! `agent dns status`: whom this system's programs ask, what that one was told, and whether it works, tried as every
//! program would.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_proto::rr::{Name, RData, RecordType};
use proto::wire::api::{Error, Kind, Status};
use serde::Serialize;

use super::super::{Cx, Done, config, error::Exit, reach, ui::or_dash};
use super::setup::by_root;
use crate::{
    dns::ask,
    host::holder::holder,
    install::{
        carry::{self, Root, Standing},
        names::{self, Cannot, Hook, RECORD, Resolver, look},
    },
};

/// C libraries wait five seconds for one server.
const FOUND_WITHIN: Duration = Duration::from_secs(6);

#[derive(Serialize)]
struct Shown {
    /// Whom programs ask, if that can be told of a zone.
    resolver: Option<Resolver>,
    /// Why it cannot.
    because: Option<String>,
    zone: String,
    /// Where the agent answers, `IP:PORT`.
    server: Option<String>,
    /// Where the resolver was told that it does.
    told: Option<String>,
    files: Vec<Written>,
    /// Whether the system itself finds a name of the zone; `null` = there was none to try.
    found: Option<bool>,
    /// The name that was tried.
    tried: Option<String>,
    /// Who does not see the zone all the same.
    blind: Vec<&'static str>,
    next: Option<String>,
}

#[derive(Serialize)]
struct Written {
    path: PathBuf,
    state: Standing,
}

pub async fn status(cx: &Cx, root: Option<PathBuf>) -> Done {
    let root = Root(root);
    let zone = config::load(&cx.data, Vec::new())?.0.dns.zone;
    let agent: Option<Status> = cx.client.get("/v1/status").await.ok();
    let runs = agent.is_some();
    let server = agent.as_ref().and_then(|status| status.dns.clone());
    let seen = look::look(&root);
    let resolver = names::resolver(&seen);
    let record = carry::record(&root, Some(Path::new(RECORD)));
    let files = record.iter().flat_map(|record| &record.files).filter_map(|(path, written)| {
        let state = carry::standing(&root, path, written).ok()?;
        Some(Written { path: path.clone(), state })
    });
    let files = files.collect();
    let hook = look::hooked(&root, cx.data.path());
    let tried = agent.map(|status| format!("{}.host.{zone}", status.host.name));
    let address = server.as_ref().and_then(|server| server.parse().ok());
    let found = match (address, &tried) {
        (Some(address), Some(name)) => finds(address, name).await,
        _ => None,
    };
    let mut shown = Shown {
        because: resolver.as_ref().err().map(ToString::to_string),
        resolver: resolver.as_ref().ok().copied(),
        zone,
        server,
        told: hook.as_ref().map(|hook| format!("127.0.0.1:{}", hook.port)),
        files,
        found,
        tried,
        blind: names::blind(&seen),
        next: None,
    };
    let wrong = hook.as_ref().and_then(|hook| wrong(cx, &shown, hook, &resolver, runs));
    shown.next = match (&wrong, hook, resolver) {
        (Some((_, next)), _, _) => Some(next.clone()),
        (None, Some(_), _) => None,
        (None, None, Ok(_)) => Some(by_root(cx, "setup")),
        (None, None, Err(cannot)) => Some(cannot.next()),
    };
    cx.ui.show(&shown, |shown, _| in_words(shown));
    match wrong {
        None => Ok(Exit::WELL),
        Some((because, next)) => {
            let what = "programs of this system do not find names of the mesh";
            Err(Error::new(Kind::Failed, what).because(because).next(next))
        }
    }
}

/// Says why programs do not find names although the resolver was told of them, and what helps.
fn wrong(
    cx: &Cx,
    shown: &Shown,
    hook: &Hook,
    resolver: &Result<Resolver, Cannot>,
    runs: bool,
) -> Option<(String, String)> {
    let port = hook.port;
    let anew = || format!("{}    then {}", by_root(cx, "undo"), by_root(cx, "setup"));
    if shown.files.iter().any(|file| file.state != Standing::Written) {
        return Some(("what was written for the resolver is not as it was written".to_owned(), anew()));
    }
    match &shown.server {
        None if runs => {
            let by = holder(port).unwrap_or_else(|| "somebody".to_owned());
            return Some((format!("port {port} is taken by {by}"), "agent doctor".to_owned()));
        }
        None => {
            return Some(("no agent runs that could answer".to_owned(), reach::start(&cx.data).to_owned()));
        }
        Some(server) if Some(server) != shown.told.as_ref() => {
            let because = format!("the agent answers at {server}, and the resolver asks port {port}");
            return Some((because, by_root(cx, "setup")));
        }
        Some(_) if shown.found != Some(false) => return None,
        Some(_) => {}
    }
    let cannot = match resolver {
        Ok(now) if *now == hook.resolver => {
            let because = format!("{} was told of the zone and does not find a name of it", now.name());
            let reload = names::reload(*now).first().map(|command| format!("sudo {}", command.line()));
            return Some((because, reload.unwrap_or_else(anew)));
        }
        Ok(now) => &Cannot::Moved(hook.resolver, *now),
        Err(cannot) => cannot,
    };
    Some((cannot.to_string(), cannot.next()))
}

/// Tells whether the system finds what the name server says of a name; `None`: it says nothing of it.
async fn finds(server: SocketAddr, name: &str) -> Option<bool> {
    let mut asked: Name = name.parse().ok()?;
    asked.set_fqdn(true);
    let mut ours: Vec<IpAddr> = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = ask(server, &asked, kind).await.ok()?;
        ours.extend(answer.answers.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        }));
    }
    if ours.is_empty() {
        return None;
    }
    let found = tokio::time::timeout(FOUND_WITHIN, tokio::net::lookup_host((name, 0))).await;
    Some(found.is_ok_and(|found| found.is_ok_and(|mut found| found.any(|to| ours.contains(&to.ip())))))
}

fn in_words(shown: &Shown) -> String {
    let state = |state: Standing| match state {
        Standing::Written => "as written",
        Standing::Changed => "changed since",
        Standing::Gone => "gone",
    };
    let resolver = match (&shown.resolver, &shown.because) {
        (Some(resolver), _) => resolver.name().to_owned(),
        (None, because) => or_dash(because.as_ref()),
    };
    let mut lines = vec![
        format!("resolver  {resolver}"),
        format!("zone      {}, answered at {}", shown.zone, or_dash(shown.server.as_ref())),
        format!("told      {}", shown.told.as_deref().unwrap_or("nothing: names are not hooked in")),
    ];
    lines.extend(
        shown.files.iter().map(|file| format!("file      {}, {}", file.path.display(), state(file.state))),
    );
    let found = match (shown.found, &shown.tried) {
        (Some(true), Some(name)) => format!("yes: every program finds {name}"),
        (Some(false), Some(name)) => format!("no: programs do not find {name}"),
        _ => "not tried: there is no name with an address to try".to_owned(),
    };
    lines.push(format!("found     {found}"));
    lines.extend(shown.blind.iter().map(|who| format!("blind     {who}")));
    if let Some(next) = &shown.next {
        lines.push(format!("next      {next}"));
    }
    lines.join("\n")
}
