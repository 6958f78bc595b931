//! The one view of what a host knows now: members, records, shares, own reports, own images. A value that is
//! cheap to clone; [`Picture::apply`] takes one observation in and says whose readers see something else now.
//! The readers live in the files beside this one, each question once, for the agent and the simulator alike:
//!
//! - `readiness`: what is believed of a machine, and who is ready;
//! - `zone`: what names are answered from; `labels` of sessions are in `crate::names`;
//! - `images`: which image a name means, who holds it; `inventory`: what the planner is given;
//! - `heads`: who speaks for a session, and which shares are older than that;
//! - `lan`: what a host is asked to publish in its own network;
//! - `loss`: what goes with a host that goes for good;
//! - `rows`: sessions, machines and hosts as people see them; `health`: what is wrong elsewhere;
//! - `told`: what a host tells gossip of its sessions; `acks`: what hosts say that they have seen; `level`: what the members understand.
//!
//! Nothing here decides what to do, and nothing here is remembered: the same observations give the same picture.

pub mod acks;
pub mod heads;
pub mod health;
pub mod images;
pub mod inventory;
pub mod lan;
pub mod level;
pub mod loss;
pub mod readiness;
pub mod rows;
pub mod told;
pub mod zone;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    id::{Digest, HostId, Name, SessionId},
    level::Level,
    run::Rules,
    session::{MachineReport, Share},
    trust::{Capability, May},
    wire::{
        api::MemberState,
        record::{Body, HostRecord, ImageRecord, RecordKey, SessionRecord},
    },
};

/// The members by id.
pub type Members = BTreeMap<HostId, Member>;
/// The hosts that were members and are out for good, with their last labels.
pub type Departed = BTreeMap<HostId, Option<Name>>;
/// The newest verified record of every host, by owner and key.
pub type Records = BTreeMap<(HostId, RecordKey), Body>;
/// This host's shares.
pub type Shares = BTreeMap<SessionId, Arc<Share>>;
/// What this host says of its own machines.
pub type Reports = BTreeMap<SessionId, Acted>;
/// The images of this host.
pub type Images = BTreeMap<Digest, ImageRecord>;

/// A member as this host sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its label.
    pub name: Name,
    /// Whether it is heard.
    pub state: MemberState,
    /// Whether it may admit others.
    pub issuer: bool,
    /// What its certificate lets it do.
    pub may: May,
    /// What it understands, as it told last, also before it went away; `None` = it never told.
    pub level: Option<Level>,
    /// The way to it; `None` for this host itself and without a connection.
    pub way: Option<Way>,
}

impl Member {
    /// Tells whether it is heard.
    pub fn is_up(&self) -> bool {
        self.state == MemberState::Up
    }

    /// Gives the round trip to it in milliseconds, when there is a way.
    pub fn rtt_ms(&self) -> Option<f64> {
        self.way.as_ref().map(|way| way.rtt_ms)
    }
}

/// How a member is reached now.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// Straight, or through a relay.
    pub direct: bool,
    /// Smoothed round trip in milliseconds.
    pub rtt_ms: f64,
    /// The address that answers, or the relay's URL.
    pub via: String,
    /// The member whose relay carries it.
    pub owner: Option<Name>,
}

/// What this host says of its machines of one session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acted {
    /// The newest version of the share that the reports are about.
    pub version: u64,
    /// The reports.
    pub machines: Vec<MachineReport>,
}

/// One observation: the new value of one input, whole.
#[derive(Clone, Debug)]
pub enum Input {
    /// The members.
    Members(Arc<Members>),
    /// The hosts that are out for good.
    Out(Arc<Departed>),
    /// The records.
    Records(Arc<Records>),
    /// This host's shares.
    Shares(Arc<Shares>),
    /// This host's own reports.
    Reports(Arc<Reports>),
    /// This host's own images.
    Images(Arc<Images>),
}

/// Whose readers see something else than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A member: who it is, whether it is heard, how it is reached, what it offers. Never its round trip or
    /// its free disk: those are read when somebody asks, and wake nobody.
    Host(HostId),
    /// A session: its share, its heads, what hosts report, and whether these hosts are heard.
    Session(SessionId),
    /// An image: its names, who holds it.
    Image(Digest),
    /// What a member says that it has seen; only who waits for that looks at it.
    Seen(HostId),
}

/// What a host knows now.
#[derive(Clone, Debug)]
pub struct Picture {
    /// This host.
    pub me: HostId,
    /// Everybody, this host included.
    pub members: Arc<Members>,
    /// The hosts that were members and are out for good.
    pub out: Arc<Departed>,
    /// The records, this host's own among them.
    pub records: Arc<Records>,
    /// This host's shares.
    pub shares: Arc<Shares>,
    /// This host's own reports: they are newer than its record of them.
    pub reports: Arc<Reports>,
    /// This host's own images: they are newer than its records of them.
    pub images: Arc<Images>,
    /// The rules of its readers.
    pub rules: Rules,
}

impl Picture {
    /// Makes the picture of a host that has observed nothing.
    pub fn new(me: HostId) -> Picture {
        Picture {
            me,
            members: Arc::default(),
            out: Arc::default(),
            records: Arc::default(),
            shares: Arc::default(),
            reports: Arc::default(),
            images: Arc::default(),
            rules: Rules::default(),
        }
    }

    /// Takes an observation in. What it says is known afterwards, whether or not it changes a key.
    pub fn apply(&mut self, input: Input) -> BTreeSet<Change> {
        let mut changes = BTreeSet::new();
        match input {
            Input::Members(new) => {
                let old = std::mem::replace(&mut self.members, new);
                for host in differing(&old, &self.members, looks_alike) {
                    changes.insert(Change::Host(host));
                    let was = old.get(&host).is_some_and(Member::is_up);
                    if was != self.is_up(host) {
                        changes.extend(self.with_machines_on(host).map(Change::Session));
                    }
                }
            }
            Input::Out(new) => {
                let old = std::mem::replace(&mut self.out, new);
                for host in differing(&old, &self.out, |a, b| a == b) {
                    changes.insert(Change::Host(host));
                    changes.extend(self.with_machines_on(host).map(Change::Session));
                }
            }
            Input::Records(new) => {
                let old = std::mem::replace(&mut self.records, new);
                let differ = differing(&old, &self.records, says_the_same);
                changes.extend(differ.into_iter().map(|(host, key)| match key {
                    RecordKey::Host => Change::Host(host),
                    RecordKey::Image(digest) => Change::Image(digest),
                    RecordKey::Seen => Change::Seen(host),
                    RecordKey::Session(session) | RecordKey::More(session, _) | RecordKey::Head(session) => {
                        Change::Session(session)
                    }
                }));
            }
            Input::Shares(new) => {
                let old = std::mem::replace(&mut self.shares, new);
                changes.extend(differing(&old, &self.shares, |a, b| a == b).into_iter().map(Change::Session));
            }
            Input::Reports(new) => {
                let old = std::mem::replace(&mut self.reports, new);
                changes
                    .extend(differing(&old, &self.reports, |a, b| a == b).into_iter().map(Change::Session));
            }
            Input::Images(new) => {
                let old = std::mem::replace(&mut self.images, new);
                changes.extend(differing(&old, &self.images, |a, b| a == b).into_iter().map(Change::Image));
            }
        }
        changes
    }

    /// Finds a share.
    pub fn share(&self, session: SessionId) -> Option<&Arc<Share>> {
        self.shares.get(&session)
    }

    /// Tells whether a host is a member that is heard; this host always hears itself.
    pub fn is_up(&self, host: HostId) -> bool {
        host == self.me
            || (self.members.get(&host).is_some_and(Member::is_up) && !self.out.contains_key(&host))
    }

    /// Tells whether a host is a member whose certificate does not let it do this.
    pub fn lacks(&self, host: HostId, what: Capability) -> bool {
        self.members.get(&host).is_some_and(|member| !member.may.has(what))
    }

    /// Lists the members that are heard.
    pub fn up(&self) -> impl Iterator<Item = (HostId, &Member)> {
        self.present().filter(|(_, member)| member.is_up())
    }

    /// Lists the members that are not out.
    pub fn present(&self) -> impl Iterator<Item = (HostId, &Member)> {
        self.members
            .iter()
            .map(|(host, member)| (*host, member))
            .filter(|(host, _)| !self.out.contains_key(host))
    }

    /// Names a host for people.
    pub fn name(&self, host: HostId) -> String {
        let member = self.members.get(&host).map(|member| &member.name);
        let label = member.or_else(|| self.out.get(&host).and_then(Option::as_ref));
        label.map_or_else(|| host.short(), Name::to_string)
    }

    /// Gives what a host says about itself.
    pub fn host_record(&self, host: HostId) -> Option<&HostRecord> {
        match self.records.get(&(host, RecordKey::Host)) {
            Some(Body::Host(record)) => Some(record),
            _ => None,
        }
    }

    /// Gives what a host says about its part in a session, in as many records as that takes.
    pub fn session_records(&self, host: HostId, session: SessionId) -> impl Iterator<Item = &SessionRecord> {
        let first = self.records.get(&(host, RecordKey::Session(session)));
        let (from, to) = (RecordKey::More(session, 0), RecordKey::More(session, u8::MAX));
        let more = self.records.range((host, from)..=(host, to)).map(|(_, body)| body);
        first.into_iter().chain(more).filter_map(|body| match body {
            Body::Session(record) => Some(record),
            _ => None,
        })
    }

    /// Gives what a host says about an image of its own.
    pub fn image_record(&self, host: HostId, digest: Digest) -> Option<&ImageRecord> {
        if host == self.me {
            return self.images.get(&digest);
        }
        match self.records.get(&(host, RecordKey::Image(digest))) {
            Some(Body::Image(record)) => Some(record),
            _ => None,
        }
    }

    fn with_machines_on(&self, host: HostId) -> impl Iterator<Item = SessionId> {
        let shares = self.shares.values();
        shares.filter(move |share| share.directory.machines().any(|m| m.host == host)).map(|s| s.session)
    }
}

/// Lists the keys whose values differ between two maps.
fn differing<K: Ord + Clone, V>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    alike: impl Fn(&V, &V) -> bool,
) -> Vec<K> {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let changed = new.iter().filter(|(key, value)| !old.get(*key).is_some_and(|old| alike(old, value)));
    gone.chain(changed.map(|(key, _)| key)).cloned().collect()
}

/// Round trips move all the time.
fn looks_alike(a: &Member, b: &Member) -> bool {
    let still = |member: &Member| {
        let way = member.way.clone().map(|way| Way { rtt_ms: 0.0, ..way });
        Member { way, ..member.clone() }
    };
    still(a) == still(b)
}

/// Free disk moves all the time.
fn says_the_same(a: &Body, b: &Body) -> bool {
    match (a, b) {
        (Body::Host(a), Body::Host(b)) => {
            HostRecord { disk_mib: 0, ..a.clone() } == HostRecord { disk_mib: 0, ..b.clone() }
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
