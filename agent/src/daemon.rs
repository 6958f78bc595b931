//! The daemon: takes the data directory, lets `build` put the subsystems together, serves people, and ends all of it
//! when it is told to. Machines run on; the next daemon finds them. Nothing is decided here.
//!
//! - `init`, `join`, `restore`: what makes a data directory one of a mesh; `leave`: how it is none any more; `original`: whether it
//!   is a copy;
//! - `build`: the subsystems, put together and ended;
//! - `about`, `follow`: what this host says of itself and of its images.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use futures::FutureExt;
use mesh::Ports;
use proto::{
    facts::Fact,
    id::Name,
    run::host::Owner,
    wire::{
        api::{self, Error, Kind},
        record::HostRecord,
    },
};
use rustix::fs::Mode;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use self::build::{Built, Parts, core};
use crate::{
    access::{forward::Forwards, front, interface, socks},
    app::{App, Served},
    config::Config,
    dns,
    doctor::firewall,
    host::words::words,
    host::{
        data::DataDir,
        disk,
        limits::{self, Shares},
        log, notify, private, runtime, users,
    },
    install::{carry::Root, names::look as names},
    machine::Qemu,
};

mod about;
pub(crate) mod build;
mod follow;
mod init;
mod join;
mod leave;
mod original;
mod restore;

pub use self::{
    init::init,
    join::join,
    leave::{leave, out},
    restore::{not_restored, restore},
};

/// How often it is looked for forwards that are idle, and for those that were opened by hand and do not listen.
const SWEEP: Duration = Duration::from_secs(30);

/// What `agent run` was asked for.
#[derive(Debug)]
pub struct Run {
    /// Where everything is kept.
    pub data: DataDir,
    /// The settings.
    pub config: Config,
    /// A token to join with first, and the name to take.
    pub join: Option<api::JoinRequest>,
    /// Somebody says that a directory that is another one than before is the only one.
    pub moved: bool,
}

type ApiResult<T> = Result<T, Error>;

/// Says why there is no mesh to run in.
fn no_mesh(error: &mesh::MeshError) -> Error {
    match error {
        mesh::MeshError::Out { mesh, because, since } => leave::is_out(*because, mesh, &since.to_string()),
        mesh::MeshError::Twice => original::twice(),
        error => failed(error),
    }
}

fn failed(error: &dyn std::error::Error) -> Error {
    Error::new(Kind::Failed, "the agent cannot run").because(words(error)).next("agent doctor")
}

/// Takes the data directory for this process, or says who has it.
fn take(data: &DataDir) -> ApiResult<disk::Lock> {
    let taken = disk::open(data).and_then(|()| disk::Lock::take(data));
    taken.map_err(|error| {
        let what = "the data directory cannot be used";
        Error::new(Kind::Failed, what).because(words(&error)).next(error.next())
    })
}

/// Runs the daemon until it is told to stop; machines go on running.
pub async fn run(run: Run) -> ApiResult<()> {
    // Whatever is written below the data directory is the owner's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let data = run.data.clone();
    let _lock = take(&data)?;
    run_locked(run).await.map_err(|error| with_disk(&data, error))
}

/// Adds to a failure what is wrong with the disk, if something is: most likely it is the reason.
fn with_disk(data: &DataDir, error: Error) -> Error {
    let Some(trouble) = disk::look(data) else { return error };
    let because = error.because.iter().cloned().chain([disk::line(&trouble)]).collect::<Vec<_>>().join("; ");
    let told = Error::new(error.kind, &error.what).because(because);
    trouble.next.into_iter().fold(told, |told, next| told.next(next))
}

async fn run_locked(run: Run) -> ApiResult<()> {
    let (Run { data, config, join, moved }, began) = (run, SystemTime::now());
    let stop = stop_signal().map_err(|error| failed(&error))?;
    if let Some(request) = join::first(&data, join)? {
        tokio::select! {
            joined = join::until_member(&data, request) => joined?,
            () = stop.cancelled() => return Ok(()),
        }
    }
    // It may have been ended while it ended.
    if let Some(out) = leave::out(data.path()) {
        leave::halt(&data).await.map_err(|error| failed(&error))?;
        return Err(out);
    }
    original::check(&data, moved)?;
    let (offer, offered) = watch::channel(false);
    let (found, qemu) = watch::channel(Qemu::default());
    let about = about::gather(&config, &data, None, &BTreeMap::new()).await;
    let mesh = mesh_config(&config, about);
    let run_dir = data.run().map_err(|error| failed(&error))?;
    let (socket, zone) = (data.socket(), config.dns.zone.clone());
    let owner = Owner { lan: config.policy.lan, no_machines: !config.policy.machines };
    let parts = Parts { data: data.clone(), mesh, zone, run: run_dir.clone(), owner, qemu, offered, stop };
    keep_runtime(&run_dir, &data);
    let mut built = build::build(parts).await?;
    serve_people(&mut built, &config, &data).await?;
    let name = built.mesh.name();
    let mesh_name = built.mesh.mesh_name().map_or_else(|| "?".to_owned(), |name| name.to_string());
    tell_people(&name, &mesh_name);
    let (kept, warned, usual) = (data.clone(), data.clone(), config.listen_port);
    tokio::task::spawn_blocking(move || firewall::warn(&warned, usual));
    // Nobody listening is no error.
    built.facts.send(Fact::AgentStarted { version: env!("CARGO_PKG_VERSION").to_owned() }).ok();
    let lan = built.lan.clone().run(built.mesh.name(), config.policy.publish, built.stop.clone());
    built.tasks.spawn(core("services in the LAN", lan));
    let (found, host_interface) = (about::Found { qemu: found, offered: offer }, config.net.host_interface);
    built.tasks.spawn(core("host record", about::keep(built.around(), config, data, found)));
    if host_interface {
        join_networks(&mut built);
    }
    built.tasks.spawn(core("forwards", sweep(built.forwards.clone(), built.stop.clone())));

    let early = built.ended().await;
    let (roll, me, stood_down) = (built.mesh.roll(), built.mesh.me(), built.stood_down);
    notify::stopping();
    built.facts.send(Fact::AgentStopped).ok();
    for part in built.end().await {
        tracing::warn!("{part} did not end in time");
    }
    std::fs::remove_file(socket).ok();
    // Unless machines run on, nothing of this host stays outside its data directory.
    runtime::leave(&run_dir);
    let out = roll.borrow().out.get(&me).cloned();
    match out {
        Some(out) => leave::ended(&kept, &out, &mesh_name).await,
        // What this one started runs there too.
        None if stood_down => Err(original::stopped(&kept, began).await),
        None => early.map_or(Ok(()), Err),
    }
}

/// Puts this host itself on the networks of its sessions.
fn join_networks(built: &mut Built) {
    let parts = interface::Parts {
        me: built.mesh.me(),
        net: built.mesh.net(),
        pictures: built.pictures.clone(),
        shown: built.interface.clone(),
    };
    built.tasks.spawn(core("host interface", interface::run(parts, built.stop.clone())));
}

/// Serves names and the local API.
async fn serve_people(built: &mut Built, config: &Config, data: &DataDir) -> ApiResult<()> {
    let (shares, stop) = (limits::shares(), built.stop.clone());
    // What the system's resolver was told stands: another port would lead nobody here.
    let hooked = names::hooked(&Root(None), data.path()).map(|hook| hook.port);
    let wanted = config.dns.port.or(hooked);
    let bound = dns::bind(&data.path().join("dns.port"), wanted).await;
    let bound = bound.inspect_err(|error| tracing::error!(%error, "names are not served on this host")).ok();
    let doors = doors(built, config, data, shares).await;
    let dns = bound.as_ref().map(|bound| bound.address);
    let app: App = built.app(Served { dns, dns_wanted: wanted, ..doors });
    let group = config.api_group.as_deref().and_then(group);
    private::passable(data.path(), group).map_err(|error| failed(&error))?;
    let listener = crate::api::listen(&data.socket(), group).map_err(|error| failed(&error))?;
    if let Some(bound) = bound {
        let resolve = built.zones.resolve();
        built.tasks.spawn(core("names", dns::serve(bound, resolve, shares.names, stop.clone())));
    }
    let served = crate::api::serve(listener, shares.api, crate::api::router(app), stop.cancelled_owned());
    built.tasks.spawn(core(
        "local API",
        served.map(|served| served.unwrap_or_else(|error| tracing::error!(%error, "the local API ended"))),
    ));
    Ok(())
}

/// Opens the doors of this host's programs into the sessions. One that cannot be opened is told, and the rest works.
async fn doors(built: &mut Built, config: &Config, data: &DataDir, shares: Shares) -> Served {
    let mut served = Served::default();
    if let Some(port) = config.net.browser {
        match front::bind(port, &data.path().join("browser.port")).await {
            Ok(bound) => {
                served.browser = Some(bound.port);
                let (forwards, pictures) = (built.forwards.clone(), built.pictures.clone());
                let host = built.mesh.name().to_string();
                let front = front::Front { forwards, pictures, host, port: bound.port };
                let serve = front::serve(bound, front, shares.browsing, built.stop.clone());
                built.tasks.spawn(core("front door", serve));
            }
            Err(error) => tracing::error!(port, %error, "browsers find no front door on this host"),
        }
    }
    if let Some(port) = config.net.socks {
        match socks::bind(port, &data.path().join("socks.port")).await {
            Ok(listener) => {
                served.socks = listener.local_addr().ok();
                let (forwards, pictures) = (built.forwards.clone(), built.pictures.clone());
                let proxy = socks::Proxy { forwards, pictures, zone: config.dns.zone.clone() };
                let serve = socks::serve(listener, proxy, shares.proxied, built.stop.clone());
                built.tasks.spawn(core("SOCKS", serve));
            }
            Err(error) => tracing::error!(port, %error, "there is no SOCKS proxy on this host"),
        }
    }
    served
}

/// Tells whoever started it that it runs, and the service manager.
fn tell_people(name: &Name, mesh: &str) {
    log::say(&format!("{name} runs in the mesh {mesh}; Ctrl-C ends the agent, machines run on"));
    notify::ready(&format!("{name} is in the mesh {mesh}"));
}

/// Finds the group that may use the local API. A user's agent is that user's alone.
fn group(name: &str) -> Option<u32> {
    users::group(name).map(|group| group.gid).filter(|_| rustix::process::geteuid().is_root())
}

/// Says whose the runtime directory is, and removes those that are nobody's any more.
fn keep_runtime(run: &Path, data: &DataDir) {
    if let Err(error) = runtime::claim(run, data.path()) {
        tracing::warn!(path = %run.display(), %error, "it does not say whose it is");
    }
    for gone in runtime::sweep(run) {
        tracing::info!(path = %gone.display(), "removed: its data directory is gone");
    }
}

/// Turns SIGINT and SIGTERM into a token.
fn stop_signal() -> std::io::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

fn mesh_config(config: &Config, about: HostRecord) -> mesh::Config {
    let outward = mesh::Outward { public: config.net.public, map: config.listen_map };
    let (ports, foreign) = (Ports::Fixed(config.listen_port), config.relay.fallback.clone());
    mesh::Config { ports, serve: serve(config), outward, foreign, about }
}

fn serve(config: &Config) -> mesh::Serve {
    match config.relay.serve {
        None => mesh::Serve::Auto,
        Some(true) => mesh::Serve::On,
        Some(false) => mesh::Serve::Off,
    }
}

async fn sweep(forwards: Forwards, stop: CancellationToken) {
    loop {
        forwards.open_held().await;
        forwards.sweep(Instant::now());
        if stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_none() {
            return;
        }
    }
}

/// Reads how much is free below a path, in MiB.
pub fn free_mib(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20)
}
