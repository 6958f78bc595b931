//! What this host says about itself: what its owner gives, what is used, what runs guests. Found out
//! at the start and again now and then; the mesh adds name, addresses and issuer itself.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use mesh::Mesh;
use proto::{
    facts::Fact,
    id::{Name, SessionId},
    level::LEVEL,
    picture::{self, Change, Picture, Shares},
    reasons::Why,
    session::Accelerator,
    wire::{
        api::Trouble,
        record::{Body, HostRecord, Reach, RecordKey},
    },
};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::free_mib;
use crate::{
    access::published::Services,
    config::Config,
    host::words::words,
    host::{data::DataDir, disk},
    machine::{Qemu, guard, qemu},
    picture::Pictures,
    session::ports::OFFER_WAIT,
};

/// Disk that stays with the host unless its owner says otherwise, in MiB.
const DISK_LEFT_MIB: u64 = 2048;
/// Memory that stays with the host unless its owner says otherwise, in MiB.
const MEMORY_LEFT_MIB: u64 = 1024;
/// How often free disk is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// What is free of a disk is told anew when it is another by one part in so many: it moves all the time, and each time
/// everybody would be told.
const DISK_PARTS: u64 = 32;
/// A host that was up for this long is steady also with a battery.
const STEADY_UPTIME_S: f64 = 24.0 * 3600.0;

/// What is found out here, for everyone else.
pub struct Found {
    /// The proved QEMU.
    pub qemu: watch::Sender<Qemu>,
    /// Whether the record tells it.
    pub offered: watch::Sender<bool>,
}

/// What is looked at and told.
pub struct Around {
    /// Where the record is published.
    pub mesh: Mesh,
    /// Shows when the record is known here.
    pub pictures: Pictures,
    /// What this host's machines take.
    pub shares: watch::Receiver<Arc<Shares>>,
    /// What it publishes.
    pub published: watch::Receiver<Services>,
    /// Where facts go.
    pub facts: broadcast::Sender<Fact>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Gathers the record. `used` is what machines hold, in MiB by session.
pub async fn gather(
    config: &Config,
    data: &DataDir,
    accelerator: Option<Accelerator>,
    used: &BTreeMap<SessionId, u64>,
) -> HostRecord {
    let policy = &config.policy;
    let total = memory_mib();
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    HostRecord {
        name: placeholder(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        reach: Reach::default(),
        arch: std::env::consts::ARCH.to_owned(),
        accelerator,
        cpus: policy.cpus.unwrap_or(cpus),
        memory_mib: policy.memory_mib.unwrap_or(total - (total / 4).max(MEMORY_LEFT_MIB).min(total)),
        disk_mib: policy.disk_mib.unwrap_or_else(|| free_mib(data.path()).saturating_sub(DISK_LEFT_MIB)),
        disk_kept_mib: if policy.disk_mib.is_none() { DISK_LEFT_MIB } else { 0 },
        trouble: None,
        runs_machines: policy.machines,
        memory_used_mib: used.clone(),
        tags: config.tags.clone(),
        prefixes: mesh::interfaces().await.prefixes(),
        steady: config.steady.unwrap_or_else(steady),
        issuer: false,
        tells_seen: true,
        level: LEVEL,
        published: BTreeMap::new(),
        lan: policy.lan,
        publishes: policy.publish,
    }
}

/// Proves the local QEMU, then keeps the record true until the daemon ends.
pub async fn keep(around: Around, config: Config, data: DataDir, found: Found) {
    let Found { qemu: found, offered } = found;
    let stop = around.stop.clone();
    let cache = data.path().join("qemu.json");
    let Some(probed) = stop.run_until_cancelled(qemu::probe(&cache, guard::SELF.as_ref())).await else {
        return;
    };
    match probed {
        Ok(facts) => {
            if let Some(because) = facts.refused.clone() {
                let why = facts.no_kvm.clone().map(Why::new);
                around.facts.send(Fact::AcceleratorRefused { because, why }).ok();
            }
            found.send_replace(Qemu::Usable(Arc::new(facts)));
        }
        Err(error) => {
            let because = words(&error);
            tracing::warn!(because, "this host runs no machines");
            found.send_replace(Qemu::Unusable(because));
        }
    }
    let mut shares = around.shares.clone();
    let mut published = around.published.clone();
    let (mut trouble, mut disk_mib) = (None, 0);
    loop {
        let accelerator = found.borrow().usable().map(|facts| facts.accelerator);
        let used = picture::told::memory_used_mib(&shares.borrow_and_update().clone());
        trouble = watch_disk(&around, &data, trouble).await;
        let gathered = gather(&config, &data, accelerator, &used).await;
        let trouble_told = trouble.as_ref().map(|trouble| trouble.what.clone());
        let services = (**published.borrow_and_update()).clone();
        disk_mib = worth_telling(disk_mib, gathered.disk_mib);
        let record = HostRecord { trouble: trouble_told, published: services, disk_mib, ..gathered };
        around.mesh.publish(RecordKey::Host, Some(Body::Host(record))).await;
        if !*offered.borrow() && told(&around, accelerator).await {
            offered.send_replace(true);
        }
        // Every arm only wakes the loop.
        tokio::select! {
            () = stop.cancelled() => return,
            changed = shares.changed() => if changed.is_err() { return },
            changed = published.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Gives what is told of the free disk, after what was told last.
fn worth_telling(told_mib: u64, free_mib: u64) -> u64 {
    if told_mib.abs_diff(free_mib) <= told_mib / DISK_PARTS { told_mib } else { free_mib }
}

/// Looks at the disk of the data directory, and tells when something begins or ends there.
async fn watch_disk(around: &Around, data: &DataDir, before: Option<Trouble>) -> Option<Trouble> {
    let (data, known) = (data.clone(), before.clone());
    let looked = tokio::task::spawn_blocking(move || disk::glance(&data, known.as_ref())).await;
    let now = looked.unwrap_or(None);
    let what = |trouble: &Option<Trouble>| trouble.as_ref().map(|trouble| trouble.what.clone());
    if what(&now) == what(&before) {
        return now;
    }
    let fact = match &now {
        Some(Trouble { what, because, why, .. }) => {
            tracing::warn!("{what}: {because}");
            Fact::StorageTrouble { what: what.clone(), because: because.clone(), why: why.clone() }
        }
        None => {
            tracing::info!("the data directory can be written again");
            Fact::StorageWell
        }
    };
    around.facts.send(fact).ok();
    now
}

/// Waits until the picture, which is what plans are made from, says of this host what was published. Tells
/// whether it does: another look tries again.
async fn told(around: &Around, accelerator: Option<Accelerator>) -> bool {
    let me = around.mesh.me();
    let says = |picture: &Picture| {
        let record = picture.host_record(me);
        picture.members.contains_key(&me) && record.is_some_and(|record| record.accelerator == accelerator)
    };
    around.pictures.until(move |change| *change == Change::Host(me), OFFER_WAIT, says).await
}

fn memory_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// Tells whether this host is fit to be a voter: no battery, or up for a day.
fn steady() -> bool {
    let battery = fs::read_dir("/sys/class/power_supply").is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            fs::read_to_string(entry.path().join("type")).is_ok_and(|kind| kind.trim() == "Battery")
        })
    });
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds: f64 = uptime.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    !battery || seconds > STEADY_UPTIME_S
}

/// The mesh puts the real name in its place.
fn placeholder() -> Name {
    "unnamed".parse().expect("it is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_is_told_when_it_is_clearly_another() {
        assert_eq!(worth_telling(0, 100_000), 100_000, "the first time");
        assert_eq!(worth_telling(100_000, 99_000), 100_000);
        assert_eq!(worth_telling(100_000, 103_000), 100_000);
        assert_eq!(worth_telling(100_000, 95_000), 95_000);
        // The less there is, the more exactly; that nothing is left is told.
        assert_eq!(worth_telling(20, 19), 19);
        assert_eq!(worth_telling(1, 0), 0);
    }
}
