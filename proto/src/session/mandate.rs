//! What an operator signed of a session, and whether a share keeps to it. A coordinator decides where and when machines
//! run; what runs, and what may be deleted, a person has said on some host, whose key signed it. Every share carries the
//! mandate as it was signed, and a host takes none that asks for something else: it goes on with the share that it has.
//!
//! A session that began among older hosts has no mandate until its next `up`; from its first one on, no share counts
//! without. One whose birth says that it is bound by mandates never had a share without.
//!
//! Not bound: addresses, hosts, epochs of machines that are new to a host, how often a start was asked for, the session's
//! own key, which every voter has, the login name and the stored size of an image, and what the directory says to all:
//! names, ports, and which services are published in a LAN.

use std::collections::{BTreeMap, BTreeSet};

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::{Guard, MachineSpec, Replace, Share, slice};
use crate::{
    id::{Digest, Epoch, HostId, MachineName, Name, SessionId},
    limits::MAX_MANDATE_BYTES,
    seal::{Domain, Seed, Sig, verify},
    topology::{Failover, Group, ImageRef, Intent, Restart},
    wire::codec::{Form, from_bytes, to_bytes},
};

/// Images that the machines of one group may be made of: what its name means now, and what it meant before, for
/// machines whose disks stay.
const MAX_IMAGES: usize = 8;

/// What an operator wants of a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Mandate {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// Counts the session's mandates from 1: only a greater one takes another's place.
    #[n(1)]
    pub number: u64,
    /// The mandate whose place it takes; `None` = it is the first.
    #[cbor(n(2), with = "crate::wire::fields::option", has_nil)]
    pub parent: Option<Digest>,
    /// The groups of machines.
    #[n(3)]
    pub groups: BTreeMap<Name, Charge>,
    /// Machines that shall not run.
    #[n(4)]
    pub stopped: BTreeSet<MachineName>,
    /// Machines whose disks may be deleted: their incarnations up to this one.
    #[n(5)]
    pub replaced: BTreeMap<MachineName, Epoch>,
    /// Whether the session has ended.
    #[n(6)]
    pub ended: bool,
}

/// What an operator wants of one group.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Charge {
    /// The digest of all that a machine of it is made with, its files too.
    #[n(0)]
    pub definition: Digest,
    /// How many machines.
    #[n(1)]
    pub count: u32,
    /// What they may be made of, the newest first.
    #[n(2)]
    pub images: Vec<Digest>,
    /// The size of a disk in MiB; `None` = the image's own.
    #[n(3)]
    pub disk_mib: Option<u64>,
}

/// A mandate as it was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
#[cbor(map)]
pub struct SignedMandate {
    /// The host on which the operator was.
    #[n(0)]
    pub signer: HostId,
    /// The mandate, encoded.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
    /// The host's word.
    #[n(2)]
    pub sig: Sig,
}

/// What a share asks for that nobody signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// It carries no mandate, and the session is bound by them.
    #[error("it carries no mandate")]
    Missing,
    /// The bytes are no mandate, or the signature is not its signer's.
    #[error("its mandate is forged")]
    Forged,
    /// It is another session's.
    #[error("its mandate is another session's")]
    Foreign,
    /// The signer is no member, or is not allowed to operate.
    #[error("its mandate was signed by a host that is not allowed to operate sessions")]
    Signer,
    /// A newer one is known, or another of the same number.
    #[error("its mandate is number {has}, number {known} is known")]
    Older {
        /// Its number.
        has: u64,
        /// The one that is known.
        known: u64,
    },
    /// The session has ended, by the share or by the mandate, and not by the other.
    #[error("no operator ended the session, or one did and machines are to run")]
    Ended,
    /// A machine that no operator wants.
    #[error("no operator wants {0}")]
    Unwanted(MachineName),
    /// A machine that is made of something else.
    #[error("{0} is to be made of another image than an operator said")]
    Image(MachineName),
    /// A machine that is made with something else.
    #[error("{0} is to be made with other settings, files or environment than an operator said")]
    Definition(MachineName),
    /// A disk that is larger than was said.
    #[error("the disk of {0} is to be larger than an operator said")]
    Disk(MachineName),
    /// A machine that shall run and was stopped, or the other way round.
    #[error("{0} is to run, or not to run, against what an operator said")]
    Run(MachineName),
    /// A disk that nobody said may go.
    #[error("the disk of {0} is to be deleted, and no operator said so")]
    Deleted(MachineName),
}

impl Mandate {
    /// Signs it.
    pub fn sign(&self, seed: &Seed) -> SignedMandate {
        let bytes = to_bytes(self);
        let sig = seed.sign(Domain::Mandate, &[&bytes]);
        SignedMandate { signer: HostId(seed.public()), bytes, sig }
    }

    /// Begins a session's, or follows the one of `share`: this topology, and these disks may be lost. `means` says what
    /// an image's name means to the operator's host.
    pub fn up(
        session: SessionId,
        share: Option<&Share>,
        (intent, replace): (&Intent, &Replace),
        means: impl Fn(&ImageRef) -> Option<Digest>,
    ) -> Mandate {
        let (before, mut next) = (before(share), Mandate::follow(session, share));
        next.groups.clear();
        for (name, group) in &intent.topology.groups {
            let was = before.as_ref().and_then(|before| before.groups.get(name));
            let known = was.into_iter().flat_map(|was| was.images.iter().copied());
            let mut images: Vec<Digest> = means(&group.image).into_iter().collect();
            images.extend(known.filter(|image| Some(*image) != means(&group.image)));
            images.truncate(MAX_IMAGES);
            let definition = definition(&asked(intent, name, group));
            let charge = Charge { definition, count: group.count, images, disk_mib: group.disk_mib };
            next.groups.insert(name.clone(), charge);
        }
        next.stopped.retain(|machine| wants(&next.groups, machine).is_some());
        // Machines that go, that a person named, and that are to be made with something else.
        for entry in share.into_iter().flat_map(|share| share.directory.machines()) {
            let (group, machine) = (&entry.machine.group, &entry.machine);
            let same = before.as_ref().and_then(|before| before.groups.get(group)) == next.groups.get(group);
            if !same || wants(&next.groups, machine).is_none() || replace.allows(machine) {
                let epoch = next.replaced.entry(machine.clone()).or_default();
                *epoch = entry.epoch.max(*epoch);
            }
        }
        next
    }

    /// Follows the mandate of `share`: this machine shall run or not. `None` = the session has none yet.
    pub fn wish(share: &Share, machine: &MachineName, run: bool) -> Option<Mandate> {
        before(Some(share))?;
        let mut next = Mandate::follow(share.session, Some(share));
        if run {
            next.stopped.remove(machine);
        } else {
            next.stopped.insert(machine.clone());
        }
        Some(next)
    }

    /// Follows the mandate of `share`: the session ends. `None` = the session has none yet.
    pub fn end(share: &Share) -> Option<Mandate> {
        before(Some(share))?;
        let next = Mandate::follow(share.session, Some(share));
        let (groups, stopped, replaced) = Default::default();
        Some(Mandate { groups, stopped, replaced, ended: true, ..next })
    }

    /// The end of a session that never began: what others may have heard of it is to go.
    pub fn never(session: SessionId) -> Mandate {
        Mandate { number: u64::MAX, ended: true, ..Mandate::follow(session, None) }
    }

    fn follow(session: SessionId, share: Option<&Share>) -> Mandate {
        let parent = share.and_then(|share| share.mandate.as_ref()).map(SignedMandate::digest);
        match before(share) {
            Some(before) => Mandate { number: before.number.saturating_add(1), parent, ..before },
            None => Mandate {
                session,
                number: 1,
                parent: None,
                groups: BTreeMap::new(),
                stopped: BTreeSet::new(),
                replaced: BTreeMap::new(),
                ended: false,
            },
        }
    }

    /// Tells whether a share asks for nothing that this does not say. `known` is the share that the host has.
    pub fn covers(&self, share: &Share, known: Option<&Share>) -> Result<(), Unsigned> {
        if share.ended != self.ended && (share.ended || !share.machines.is_empty()) {
            return Err(Unsigned::Ended);
        }
        for spec in &share.machines {
            let was = known.and_then(|known| known.machines.iter().find(|was| was.machine == spec.machine));
            self.covers_machine(spec, was)?;
        }
        let dropped = known.into_iter().flat_map(|known| &known.drops);
        let dropped: BTreeMap<_, _> = dropped.map(|(machine, epoch)| (machine, epoch)).collect();
        for (machine, epoch) in &share.drops {
            let again = dropped.get(machine).is_some_and(|known| *known >= epoch);
            if !again && !self.may_delete(machine, *epoch) {
                return Err(Unsigned::Deleted(machine.clone()));
            }
        }
        Ok(())
    }

    fn covers_machine(&self, spec: &MachineSpec, was: Option<&MachineSpec>) -> Result<(), Unsigned> {
        let machine = spec.machine.clone();
        let Some(charge) = wants(&self.groups, &machine) else { return Err(Unsigned::Unwanted(machine)) };
        if !charge.images.contains(&spec.image) {
            return Err(Unsigned::Image(machine));
        }
        if charge.definition != definition(spec) {
            return Err(Unsigned::Definition(machine));
        }
        // A disk that was larger once stays so.
        let stays = was.is_some_and(|was| was.disk_mib == spec.disk_mib);
        if !stays && spec.disk_mib.unwrap_or(0) > charge.disk_mib.unwrap_or(0) {
            return Err(Unsigned::Disk(machine));
        }
        if spec.run == self.stopped.contains(&machine) {
            return Err(Unsigned::Run(machine));
        }
        // A host removes an older incarnation before it makes a newer one.
        match was.filter(|was| was.epoch < spec.epoch) {
            Some(was) if !self.may_delete(&machine, was.epoch) => Err(Unsigned::Deleted(machine)),
            _ => Ok(()),
        }
    }

    fn may_delete(&self, machine: &MachineName, epoch: Epoch) -> bool {
        let replaced = self.replaced.get(machine).is_some_and(|replaced| *replaced >= epoch);
        self.ended || replaced || wants(&self.groups, machine).is_none()
    }
}

impl SignedMandate {
    /// Checks the signature and reads it. Who the signer is, the caller knows.
    pub fn open(&self) -> Result<Mandate, Unsigned> {
        if !verify(&self.signer.0, Domain::Mandate, &[&self.bytes], &self.sig) {
            return Err(Unsigned::Forged);
        }
        self.read().ok_or(Unsigned::Forged)
    }

    /// Reads it. The signature is not looked at.
    pub fn read(&self) -> Option<Mandate> {
        from_bytes(&self.bytes, MAX_MANDATE_BYTES, Form::Canonical).ok()
    }

    /// Gives the digest that its successor names.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Says whether this host signed it for this session. For a coordinator, which hands it on and trusts nobody.
    pub fn is_by(&self, host: HostId, session: SessionId) -> bool {
        self.signer == host && self.open().is_ok_and(|mandate| mandate.session == session)
    }
}

/// Tells whether a host may take a share. `known` is the one that it has, `bound` whether the session's birth says that
/// it has mandates, and `operates` who may operate now. A mandate that was taken once stays good, whoever signed it.
pub fn judge(
    share: &Share,
    known: Option<&Share>,
    bound: bool,
    operates: impl Fn(HostId) -> bool,
) -> Result<(), Unsigned> {
    let before = known.and_then(|known| known.mandate.as_ref());
    let Some(signed) = &share.mandate else {
        let asks = share.ended || !share.machines.is_empty() || !share.drops.is_empty();
        return if before.is_some() || (bound && asks) { Err(Unsigned::Missing) } else { Ok(()) };
    };
    if before == Some(signed) {
        return signed.read().ok_or(Unsigned::Forged)?.covers(share, known);
    }
    let mandate = signed.open()?;
    if mandate.session != share.session {
        return Err(Unsigned::Foreign);
    }
    if !operates(signed.signer) {
        return Err(Unsigned::Signer);
    }
    let known_number = before.and_then(SignedMandate::read).map_or(0, |before| before.number);
    if mandate.number <= known_number {
        return Err(Unsigned::Older { has: mandate.number, known: known_number });
    }
    mandate.covers(share, known)
}

fn before(share: Option<&Share>) -> Option<Mandate> {
    share?.mandate.as_ref()?.read()
}

fn wants<'a>(groups: &'a BTreeMap<Name, Charge>, machine: &MachineName) -> Option<&'a Charge> {
    groups.get(&machine.group).filter(|charge| (1..=charge.count).contains(&machine.index))
}

/// What a machine of this group is to be, as far as its topology says it.
fn asked(intent: &Intent, name: &Name, group: &Group) -> MachineSpec {
    let ssh_keys = intent.ssh_keys.get(name).cloned().unwrap_or_default();
    MachineSpec {
        cpus: group.cpus,
        memory_mib: group.memory_mib,
        needs: group.needs.clone(),
        restart: group.restart,
        failover: group.failover,
        services: slice::services(group),
        setup: group.setup.clone(),
        files: slice::files(intent, group),
        env: group.env.clone(),
        // The session's own stands behind them.
        ssh_keys: ssh_keys.into_iter().chain([String::new()]).collect(),
        egress: group.egress,
        ..nothing(name)
    }
}

/// Gives the digest of what a topology says of a machine: without where it is, which one it is, and what it is made of.
fn definition(spec: &MachineSpec) -> Digest {
    let mut ssh_keys = spec.ssh_keys.clone();
    ssh_keys.pop();
    let bare = nothing(&spec.machine.group);
    let bare = MachineSpec {
        cpus: spec.cpus,
        memory_mib: spec.memory_mib,
        needs: spec.needs.clone(),
        restart: spec.restart,
        failover: spec.failover,
        services: spec.services.clone(),
        setup: spec.setup.clone(),
        files: spec.files.clone(),
        env: spec.env.clone(),
        ssh_keys,
        egress: spec.egress,
        ..bare
    };
    Digest(blake3::derive_key("mesh mandate definition 1", &to_bytes(&bare)))
}

/// A machine of which nothing is said.
fn nothing(group: &Name) -> MachineSpec {
    MachineSpec {
        machine: MachineName { group: group.clone(), index: 0 },
        epoch: Epoch(0),
        run: true,
        starts: 0,
        image: Digest([0; 32]),
        image_size: 0,
        cpus: 0,
        memory_mib: 0,
        disk_mib: None,
        address: std::net::Ipv4Addr::UNSPECIFIED,
        mac: [0; 6],
        needs: BTreeSet::new(),
        guard: Guard::Hold,
        restart: Restart::Always,
        failover: Failover::Hold,
        services: BTreeMap::new(),
        setup: Vec::new(),
        files: Vec::new(),
        env: BTreeMap::new(),
        ssh_keys: Vec::new(),
        user: None,
        host_key_seed: [0; 32],
        egress: Default::default(),
    }
}

#[cfg(test)]
mod tests;
