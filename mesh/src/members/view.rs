//! Pure: what this host knows of every member, put together from certificates, gossip and
//! connections, and the facts that follow when it changes.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    facts::{Fact, PathTurn},
    id::{HostId, Name},
    level::{LEVEL, Level},
    reachability::{
        fallback::Foreign,
        path::{Path, PathKind},
        turns::{Told, Turn},
    },
    reasons::Why,
    trust::{Capability, May, Member, Out, OutBecause},
    wire::{
        api::MemberState,
        record::{Body, HostRecord, Reach, RecordKey},
    },
};

use crate::{gossip::Records, members::roster::Roll};

/// A member as this host sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberView {
    /// Its id.
    pub id: HostId,
    /// Its label.
    pub name: Name,
    /// Whether it is there.
    pub state: MemberState,
    /// The way to it; `None` for this host itself and without connection.
    pub path: Option<Path>,
    /// The member whose relay carries the path.
    pub via: Option<Name>,
    /// Whether it may admit others.
    pub issuer: bool,
    /// What its certificate lets it do.
    pub may: May,
    /// Whether it is fit to be a voter, as it says itself.
    pub steady: bool,
    /// What it understands, as it told last, also before it went away; `None` = it never told.
    pub level: Option<Level>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it said last.
    pub record: Option<HostRecord>,
}

impl MemberView {
    /// Tells whether it is there.
    pub fn is_up(&self) -> bool {
        self.state == MemberState::Up
    }

    /// Gives the round trip to it in milliseconds, when there is a path.
    pub fn rtt_ms(&self) -> Option<f64> {
        self.path.as_ref().map(|path| path.rtt_ms)
    }
}

/// All members.
#[derive(Clone, Debug, PartialEq)]
pub struct Members {
    /// This host.
    pub me: HostId,
    /// Everybody, this host included.
    pub hosts: BTreeMap<HostId, MemberView>,
    /// Who is a member no more.
    pub out: BTreeMap<HostId, Out>,
}

impl Members {
    /// Finds a member by its id.
    pub fn get(&self, host: HostId) -> Option<&MemberView> {
        self.hosts.get(&host)
    }

    /// Gives a member's label.
    pub fn name(&self, host: HostId) -> Option<Name> {
        self.get(host).map(|member| member.name.clone())
    }

    /// Tells whether a host is a member that is there.
    pub fn is_up(&self, host: HostId) -> bool {
        self.get(host).is_some_and(MemberView::is_up)
    }

    /// Lists the members that are there.
    pub fn up(&self) -> impl Iterator<Item = &MemberView> {
        self.hosts.values().filter(|member| member.state == MemberState::Up)
    }
}

/// What the view is made from.
pub(crate) struct Sources<'a> {
    pub(crate) me: HostId,
    pub(crate) roll: &'a Roll,
    pub(crate) records: &'a Records,
    pub(crate) live: &'a BTreeSet<HostId>,
    /// Those that were live until a moment ago.
    pub(crate) fading: &'a BTreeSet<HostId>,
    pub(crate) path: &'a dyn Fn(&HostId) -> Option<Path>,
    /// What members told of their level, also those that are away.
    pub(crate) levels: &'a BTreeMap<HostId, Level>,
    /// Relays of strangers.
    pub(crate) foreign: &'a Foreign,
}

/// Gives a host's own record.
pub(crate) fn host_record(records: &Records, host: HostId) -> Option<&HostRecord> {
    match records.get(&(host, RecordKey::Host)) {
        Some(Body::Host(record)) => Some(record),
        _ => None,
    }
}

/// Gives how a member says that it is reached. A relay of one that may not relay is none.
pub(crate) fn reach(records: &Records, member: &Member) -> Option<Reach> {
    let said = &host_record(records, member.host)?.reach;
    let serves = said.serves.clone().filter(|_| member.may(Capability::Relay));
    Some(Reach { serves, ..said.clone() })
}

/// Puts the view together.
pub(crate) fn compose(sources: &Sources<'_>) -> Members {
    let hosts = sources.roll.members.values().map(|member| {
        let host = member.host;
        let record = host_record(sources.records, host).cloned();
        let path = if host == sources.me { None } else { (sources.path)(&host) };
        let heard = host == sources.me || sources.live.contains(&host);
        let state = MemberState::heard(heard, sources.fading.contains(&host));
        let view = MemberView {
            id: host,
            name: member.name.clone(),
            state,
            via: path.as_ref().and_then(|path| {
                relay_owner((sources.me, sources.foreign), sources.roll, sources.records, path)
            }),
            path,
            issuer: member.is_issuer(),
            may: member.may,
            steady: record.as_ref().is_some_and(|record| record.steady),
            level: match &record {
                _ if host == sources.me => Some(LEVEL),
                Some(record) => Some(record.level),
                None => sources.levels.get(&host).copied(),
            },
            tags: member.tags.clone(),
            record,
        };
        (host, view)
    });
    Members { me: sources.me, hosts: hosts.collect(), out: sources.roll.out.clone() }
}

/// What stands for the owner of a stranger's relay.
const FALLBACK: &str = "fallback";

/// Names the member whose relay carries a path; one of a stranger is called `fallback`.
pub(crate) fn relay_owner(
    (me, foreign): (HostId, &Foreign),
    roll: &Roll,
    records: &Records,
    path: &Path,
) -> Option<Name> {
    if path.kind != PathKind::Relayed {
        return None;
    }
    let url = path.via.trim_end_matches('/');
    let stranger = || FALLBACK.parse().ok().filter(|_| foreign.has(url));
    let member = roll.members.values().find_map(|member| {
        let offer = reach(records, member)?.serves?;
        (offer.url.trim_end_matches('/') == url).then(|| member.name.clone())
    });
    // This host goes to its own by loopback.
    let own = || roll.members.get(&me).filter(|_| url.starts_with("http://127.0.0.1:"));
    member.or_else(stranger).or_else(|| own().map(|member| member.name.clone()))
}

/// Tells that a host is out, this one perhaps.
fn gone(old: &Members, new: &Members, out: &Out) -> Fact {
    let before = old.hosts.get(&out.host).map(|host| host.name.to_string());
    let label = || out.name.as_ref().map(Name::to_string);
    let member = before.or_else(label).unwrap_or_else(|| out.host.short());
    let by = new.name(HostId(out.signer)).map(|by| by.to_string());
    match out.because {
        _ if out.host == new.me => Fact::HostOut { because: out.because.as_str().to_owned(), by },
        OutBecause::Left => Fact::MemberLeft { member },
        OutBecause::Removed => Fact::MemberRemoved { member, by },
        OutBecause::Evicted => Fact::MemberEvicted { member, by },
    }
}

/// Tells what happened between two views.
pub(crate) fn facts(old: &Members, new: &Members) -> Vec<Fact> {
    let mut facts: Vec<Fact> = new
        .out
        .values()
        .filter(|out| !old.out.contains_key(&out.host))
        .map(|out| gone(old, new, out))
        .collect();
    for (host, now) in new.hosts.iter().filter(|(host, _)| **host != new.me) {
        let member = now.name.clone();
        let before = old.hosts.get(host);
        if before.is_none() {
            facts.push(Fact::MemberJoined { member: member.clone() });
        }
        let was = before.map_or(MemberState::Down, |before| before.state);
        match (was, now.state) {
            (MemberState::Up | MemberState::Suspect, MemberState::Down) => {
                facts.push(Fact::MemberDown { member });
            }
            (MemberState::Down, MemberState::Up) => facts.push(Fact::MemberUp { member }),
            _ => {}
        }
    }
    facts
}

/// Puts the turn of a way to a member into a fact.
pub(crate) fn turn(told: Told, member: &MemberView) -> Fact {
    let kind = |path: &Option<Path>| path.as_ref().map(|path| path.kind.as_str().to_owned());
    let rtt = |path: &Option<Path>| path.as_ref().map(|path| path.rtt_ms);
    let why = Why::new(told.because);
    let turn = PathTurn {
        member: member.name.clone(),
        from: kind(&told.from),
        to: kind(&told.to),
        via: member.via.as_ref().filter(|_| told.to.is_some()).map(Name::to_string),
        rtt_ms: rtt(&told.to),
        rtt_before_ms: rtt(&told.from),
        because: why.text.clone(),
        why: Some(why),
    };
    match told.turn {
        Turn::Fixed => Fact::PathFixed(turn),
        Turn::Degraded => Fact::PathDegraded(turn),
        Turn::Restored => Fact::PathRestored(turn),
        Turn::Lost => Fact::PathLost(turn),
    }
}
