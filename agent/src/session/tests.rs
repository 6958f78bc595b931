//! Sessions on real meshes on loopback, without machines: who is believed, what a crash leaves, who
//! votes. Every host has its own directory and may be stopped and started.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use mesh::{Config, Founding, Joining, Mesh, Ports, Serve};
use proto::{
    id::{HostId, Name, SessionId},
    picture::Picture,
    run::host::Owner,
    session::{Command, Decision, Directory, Mandate, Prefix, Replace, Share, SignedMandate, slice},
    time::Timestamp,
    topology::{Intent, Parcel, Topology},
    trust::{Capability, Genesis, May, Statement, Tombstone},
    wire::{
        record::{Body, HostRecord, Reach, RecordKey},
        rpc::{Answer, Refusal, Request},
    },
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::sessions::Sessions;
use crate::{
    app::{App, Served},
    daemon::build::{Built, Parts, build},
};

mod gone;
mod limited;
mod logs;
mod mandates;

/// The longest that anything in these tests may take.
const WITHIN: Duration = Duration::from_secs(40);

struct Host {
    dir: TempDir,
    name: Name,
    sessions: Sessions,
    app: App,
    mesh: Mesh,
    built: Built,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn about(name: &Name) -> HostRecord {
    HostRecord {
        name: name.clone(),
        version: "0.1.0".to_owned(),
        reach: Reach::default(),
        arch: "x86_64".to_owned(),
        accelerator: None,
        cpus: 2,
        memory_mib: 1024,
        disk_mib: 1024,
        disk_kept_mib: 0,
        trouble: None,
        runs_machines: true,
        memory_used_mib: BTreeMap::new(),
        tags: BTreeMap::new(),
        prefixes: Vec::new(),
        steady: true,
        issuer: false,
        tells_seen: true,
        level: proto::level::LEVEL,
        published: BTreeMap::new(),
        lan: false,
        publishes: false,
    }
}

impl Host {
    async fn founder(label: &str) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let founding = Founding { name: name(label), mesh_name: name("home"), tags: BTreeMap::new() };
        mesh::identity::create(dir.path(), founding, mesh::Clock.timestamp()).unwrap();
        Host::start(dir, name(label)).await
    }

    async fn joiner(label: &str, issuer: &Host) -> Host {
        Host::limited(label, issuer, May::ALL).await
    }

    /// A member that may do only this.
    async fn limited(label: &str, issuer: &Host, may: May) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let wanted = mesh::TokenWish { expires_ms: 3_600_000, uses: 10, admin: false, may };
        let token = issuer.mesh.token_create(wanted).await.unwrap().text;
        let joining =
            Joining { data: dir.path().to_owned(), token, name: name(label), ports: Ports::Loopback };
        mesh::join(joining).await.unwrap();
        Host::start(dir, name(label)).await
    }

    async fn start(dir: TempDir, label: Name) -> Host {
        let parts = Parts {
            data: crate::host::data::DataDir::choose(Some(dir.path())).unwrap(),
            mesh: Config {
                ports: Ports::Loopback,
                serve: Serve::Off,
                outward: mesh::Outward::default(),
                foreign: proto::reachability::fallback::Foreign::default(),
                about: about(&label),
            },
            zone: "mesh.internal".to_owned(),
            run: dir.path().join("run"),
            owner: Owner::default(),
            qemu: watch::channel(crate::machine::Qemu::default()).1,
            offered: watch::channel(true).1,
            stop: CancellationToken::new(),
        };
        let built = build(parts).await.unwrap();
        let (sessions, mesh, app) =
            (built.sessions.clone(), built.mesh.clone(), built.app(Served::default()));
        Host { dir, name: label, sessions, app, mesh, built }
    }

    async fn stop(self) -> (TempDir, Name) {
        assert_eq!(self.built.end().await, Vec::<&str>::new(), "all of it ends in time");
        (self.dir, self.name)
    }

    async fn restart(self) -> Host {
        let (dir, label) = self.stop().await;
        Host::start(dir, label).await
    }

    fn id(&self) -> HostId {
        self.sessions.ground.me()
    }

    fn raft_dir(&self, session: SessionId) -> std::path::PathBuf {
        self.sessions.requests.store.raft(session)
    }

    /// States a birth, as the host that starts a session does.
    fn bear(&self) -> SessionId {
        let salt = rand::random();
        let session = SessionId::born(self.id(), &salt);
        let genesis = Genesis {
            session,
            salt,
            name: name("shop"),
            stamp: Timestamp(1),
            voters: vec![self.id()],
            bound: false,
        };
        self.mesh.say(&Statement::Genesis(genesis)).unwrap();
        session
    }

    async fn up(&self) -> SessionId {
        self.app.up(parcel(), Default::default(), None).await.unwrap().id.unwrap()
    }

    fn voters(&self, session: SessionId) -> BTreeSet<HostId> {
        let group = self.sessions.table.log(session);
        group.map(|group| group.lead().borrow().voters.values().copied().collect()).unwrap_or_default()
    }
}

fn parcel() -> Parcel {
    Parcel { intent: intent(), contents: Default::default() }
}

fn intent() -> Intent {
    let topology = Topology { session: name("shop"), groups: BTreeMap::new() };
    Intent { topology, files: BTreeMap::new(), ssh_keys: BTreeMap::new() }
}

fn share(session: SessionId, version: u64) -> Share {
    Share {
        session,
        name: name("shop"),
        stamp: Timestamp(1),
        recovery: 0,
        version,
        generation: proto::id::Generation(1),
        ended: false,
        directory: Directory { subnet: Prefix::NONE, groups: BTreeMap::new() },
        machines: Vec::new(),
        drops: Vec::new(),
        ssh_seed: [0; 32],
        level: proto::level::LEVEL,
        mandate: None,
    }
}

/// Signs what follows the mandate of a host's own log. Any image's name means the same.
fn signed(host: &Host, session: SessionId, wanted: (&Intent, &Replace)) -> SignedMandate {
    let state = host.sessions.table.log(session).unwrap().state().borrow().clone().unwrap();
    let share = slice::share(&state, host.id());
    let means = |_: &proto::topology::ImageRef| Some(proto::id::Digest([1; 32]));
    host.mesh.mandate(&Mandate::up(session, Some(&share), wanted, means))
}

/// Looks again and again: what is asked is spread over many watches.
async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let until = Instant::now() + WITHIN;
    while !is_so().await {
        assert!(Instant::now() < until, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn three() -> [Host; 3] {
    let attic = Host::founder("attic").await;
    let cellar = Host::joiner("cellar", &attic).await;
    let garden = Host::joiner("garden", &attic).await;
    let hosts = [attic, cellar, garden];
    for host in &hosts {
        let mut members = host.mesh.members();
        let all = members.wait_for(|members| members.up().count() == 3);
        tokio::time::timeout(WITHIN, all).await.unwrap().unwrap();
    }
    hosts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_counts_only_from_a_host_with_a_voice_and_only_when_it_is_newer() {
    let attic = Host::founder("attic").await;
    let (me, stranger) = (attic.id(), HostId([9; 32]));
    let session = attic.bear();
    let sessions = &attic.sessions;
    assert_eq!(sessions.requests.known.accept(stranger, share(session, 99)).await, Err(Refusal::NoVoice));
    assert_eq!(sessions.requests.known.accept(me, share(session, 2)).await, Ok(()));
    assert_eq!(sessions.requests.known.accept(me, share(session, 1)).await, Err(Refusal::Older));
    assert_eq!(sessions.requests.known.accept(me, share(session, 2)).await, Ok(()), "again is no error");
    assert_eq!(sessions.requests.known.accept(stranger, share(session, 99)).await, Err(Refusal::NoVoice));
    assert_eq!(sessions.ground.share(session).unwrap().version, 2);
    let asked = Request::OpenVoter { session, name: name("shop"), outdated: None };
    let answer = super::requests::answer(&sessions.requests, stranger, asked).await;
    assert_eq!(answer, Answer::Refused(Refusal::MayNot(Capability::Vote)), "it is no member");
    // A session whose birth nobody stated.
    let unborn = share(SessionId([1; 16]), 1);
    assert_eq!(sessions.requests.known.accept(stranger, unborn).await, Err(Refusal::NoVoice));
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buried_session_is_cleared_away_and_never_comes_back() {
    let attic = Host::founder("attic").await;
    // Mandates are signed once it knows that all who are there understand them.
    let ground = &attic.sessions.ground;
    let is_told = |picture: &Picture| {
        let level = picture.members.get(&attic.id()).and_then(|member| member.level);
        level == Some(proto::level::LEVEL) && picture.host_record(attic.id()).is_some()
    };
    eventually("its own record", async || is_told(&ground.picture())).await;
    let session = attic.up().await;
    assert!(attic.sessions.ground.share(session).is_some(), "whoever asked finds it at once");
    let tombstone = |mandate| Statement::Tombstone(Tombstone { session, made: attic.mesh.now(), mandate });
    assert!(attic.mesh.say(&tombstone(None)).is_err(), "no operator ended it");
    let ended = attic.mesh.mandate(&Mandate::never(session));
    attic.mesh.say(&tombstone(Some(ended))).unwrap();
    let dir = attic.sessions.requests.store.session(session);
    eventually("the end", async || attic.sessions.ground.share(session).is_none() && !dir.exists()).await;
    assert!(attic.sessions.table.log(session).is_none());
    assert_eq!(
        attic.sessions.requests.known.accept(attic.id(), share(session, 9)).await,
        Err(Refusal::UnknownSession)
    );
    assert!(attic.sessions.table.open(session).await.is_err());
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_of_a_birth_is_removed_and_a_born_session_stays() {
    let attic = Host::founder("attic").await;
    let born = attic.up().await;
    let (empty, created) = (attic.bear(), attic.bear());
    for (session, create) in [(empty, false), (created, true)] {
        let group = attic.sessions.table.open(session).await.unwrap();
        group.init().await.unwrap();
        group.lead().wait_for(|lead| lead.leading).await.unwrap();
        if create {
            let stamp = Timestamp(1);
            let command = Command::Create { id: session, name: name("shop"), stamp, ssh_seed: [1; 32] };
            super::requests::write(&attic.sessions.requests, session, command).await.unwrap();
        }
    }
    let attic = attic.restart().await;
    for session in [empty, created] {
        let gone = async || attic.sessions.table.log(session).is_none() && !attic.raft_dir(session).exists();
        eventually("the rest of a birth is gone", gone).await;
    }
    assert!(attic.sessions.table.log(born).is_some() && attic.sessions.ground.share(born).is_some());
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_ask_for_one_name_at_once_get_one_session() {
    let attic = Host::founder("attic").await;
    let up = || attic.app.up(parcel(), Default::default(), None);
    let (one, two) = tokio::join!(up(), up());
    // Whoever is second asks an existing session for a change, which must have machines.
    let born: Vec<_> = [one, two].into_iter().flatten().map(|answer| answer.id).collect();
    assert_eq!(born.len(), 1, "{born:?}");
    assert_eq!(std::fs::read_dir(attic.dir.path().join("sessions")).unwrap().count(), 1);
    attic.stop().await;
}

/// One machine with a disk of this size, from an image that nobody has just now.
fn shop_with_disk(disk: &str) -> Intent {
    let text = format!("session = \"shop\"\n[machines.web]\nimage = \"tiny\"\ndisk = \"{disk}\"\n");
    let (topology, mistakes) = proto::topology::parse(&text);
    assert_eq!(mistakes, []);
    Intent { topology: topology.unwrap(), files: BTreeMap::new(), ssh_keys: BTreeMap::new() }
}

/// Commits a plan for [`shop_with_disk`] behind the planner's back: no host here runs machines.
async fn place_by_hand(host: &Host, session: SessionId, intent: Intent, on: HostId) {
    let state = host.sessions.table.log(session).unwrap().state().borrow().clone().unwrap();
    let before = state.plan.clone().unwrap();
    let group = intent.topology.groups[&name("web")].clone();
    let placement = proto::session::Placement {
        machine: "web-1".parse().unwrap(),
        host: on,
        epoch: proto::id::Epoch(1),
        address: (u32::from(before.subnet.base) + 10).into(),
        mac: [0x52, 0, 0, 0, 0, 1],
        image: proto::id::Digest([1; 32]),
        image_size: 1 << 20,
        image_name: group.image.clone(),
        guard: proto::session::Guard::Hold,
        because: String::new(),
        disk_mib: group.disk_mib,
        made: proto::session::Made::of(&intent, &name("web"), &group),
    };
    let plan = proto::session::Plan {
        generation: before.generation.next(),
        parent: before.generation,
        placements: vec![placement],
        // The session is raised about now.
        level: proto::level::LEVEL,
        ..before
    };
    let replace = Replace::default();
    let mandate = Some(signed(host, session, (&intent, &replace)));
    let command = Decision::Apply { intent, plan, replace }.entry(mandate);
    super::requests::write(&host.sessions.requests, session, command).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinator_lets_no_started_disk_go_that_nobody_spoke_of() {
    let attic = Host::founder("attic").await;
    let session = attic.up().await;
    place_by_hand(&attic, session, shop_with_disk("8G"), attic.id()).await;
    let web: proto::id::MachineName = "web-1".parse().unwrap();
    let up = async |disk: &str, replace: Replace| {
        let intent = Box::new(shop_with_disk(disk));
        let contents = Default::default();
        let mandate = Some(Box::new(signed(&attic, session, (&intent, &replace))));
        let request = Request::Up { session, intent, index: None, replace, contents, mandate };
        match super::requests::answer(&attic.sessions.requests, attic.id(), request).await {
            Answer::Applied(proposal) => *proposal,
            answer => panic!("{answer:?}"),
        }
    };
    // Nothing was started: a smaller disk costs nobody anything.
    let free = up("7G", Replace::default()).await;
    assert_eq!((free.plan.map(|plan| plan.placements[0].epoch.0), free.unasked), (Some(2), vec![]));
    let dropped = Command::Dropped { machine: web.clone(), host: attic.id(), epoch: proto::id::Epoch(1) };
    super::requests::write(&attic.sessions.requests, session, dropped).await.unwrap();
    let may = Request::MayStart { session, machine: web.clone(), epoch: proto::id::Epoch(2) };
    let granted = super::requests::answer(&attic.sessions.requests, attic.id(), may).await;
    assert_eq!(granted, Answer::MayStart(true));

    let refused = up("6G", Replace::default()).await;
    assert_eq!((refused.plan, refused.unasked.len(), refused.unasked[0].machine.clone()), (None, 1, web));
    let plan =
        attic.sessions.table.log(session).unwrap().state().borrow().clone().unwrap().plan.clone().unwrap();
    assert_eq!(plan.placements[0].epoch.0, 2, "nothing was changed");
    let larger = up("9G", Replace::default()).await.plan.unwrap();
    assert_eq!((larger.placements[0].epoch.0, larger.placements[0].disk_mib), (2, Some(9 << 10)));
    let told = up("6G", Replace::all()).await.plan.unwrap();
    assert_eq!((told.placements[0].epoch.0, told.placements[0].disk_mib), (3, Some(6 << 10)));
    attic.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hosts_vote_all_hear_and_another_leads_when_the_first_is_gone() {
    let [attic, cellar, garden] = three().await;
    let session = attic.up().await;
    let all = BTreeSet::from([attic.id(), cellar.id(), garden.id()]);
    for host in [&attic, &cellar, &garden] {
        eventually("its share", async || host.sessions.ground.share(session).is_some()).await;
        eventually("three voters", async || host.voters(session) == all).await;
        eventually("three voices", async || host.sessions.requests.known.voices(session) == all).await;
    }
    let (dir, label) = attic.stop().await;
    let ended = async || cellar.app.down(session).await.is_ok();
    eventually("another coordinator takes the end", ended).await;
    eventually("the end is heard", async || {
        garden.sessions.ground.share(session).is_none_or(|share| share.ended)
    })
    .await;
    // It comes back to a session that is gone meanwhile, or goes now.
    let attic = Host::start(dir, label).await;
    for host in [&attic, &cellar, &garden] {
        let gone = async || host.sessions.ground.share(session).is_none() && !host.raft_dir(session).exists();
        eventually("nothing is left", gone).await;
    }
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_no_voter_is_not_believed_whatever_it_says() {
    let [attic, cellar, garden] = three().await;
    let session = attic.bear();
    for host in [&cellar, &garden] {
        let mut roll = host.mesh.roll();
        let born = roll.wait_for(|roll| roll.set.genesis(session).is_some());
        tokio::time::timeout(WITHIN, born).await.unwrap().unwrap();
    }
    let head = proto::wire::record::HeadRecord {
        name: name("shop"),
        stamp: Timestamp(1),
        term: u64::MAX,
        recovery: u64::MAX,
        version: u64::MAX,
        generation: proto::id::Generation(1),
        voters: vec![cellar.id()],
        ended: false,
    };
    cellar.mesh.publish(RecordKey::Head(session), Some(Body::Head(head))).await;
    let place = (cellar.id(), RecordKey::Head(session));
    let mut records = garden.mesh.records();
    let heard = records.wait_for(|records| records.contains_key(&place));
    tokio::time::timeout(WITHIN, heard).await.unwrap().unwrap();
    let request = Request::PutShare(Box::new(share(session, u64::MAX)));
    let answer = cellar.mesh.call(garden.id(), request, WITHIN).await.unwrap();
    assert_eq!(answer, Answer::Refused(Refusal::NoVoice));
    assert_eq!(garden.sessions.requests.known.head(session), None);
    // Its word was asked about by now.
    let attic_alone = BTreeSet::from([attic.id()]);
    eventually("the birth is believed", async || {
        garden.sessions.requests.known.voices(session) == attic_alone
    })
    .await;
    let answer = garden.mesh.call(cellar.id(), Request::Voices(session), WITHIN).await.unwrap();
    assert_eq!(answer, Answer::Voices(attic_alone), "not even by itself");
    assert_eq!(garden.sessions.requests.known.head(session), None);
    for host in [attic, cellar, garden] {
        host.stop().await;
    }
}
