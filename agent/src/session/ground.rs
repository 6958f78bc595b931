//! What every task of sessions stands on: who this host is, the picture of everybody, this host's own part of it, and
//! where facts go. It holds nothing of what a task does: no files, no machines, no logs.

use std::{collections::BTreeMap, sync::Arc};

use mesh::Mesh;
use proto::{
    facts::Fact,
    id::{HostId, SessionId},
    picture::{Acted, Picture, Shares, told},
    session::{MachineReport, Share},
    trust::{Capability, May},
    wire::{
        record::{Body, RecordKey},
        rpc::Refusal,
    },
};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::picture::{Own, Pictures};

/// Handle to it.
#[derive(Clone)]
pub struct Ground {
    /// The mesh.
    pub mesh: Mesh,
    /// What this host knows now.
    pub pictures: Pictures,
    /// Where its shares and reports enter the picture.
    pub own: Own,
    /// Where facts go.
    pub facts: broadcast::Sender<Fact>,
    /// Ends every task; machines run on.
    pub stop: CancellationToken,
    /// Whether this host is about to leave its mesh: nothing starts here any more.
    pub leaving: watch::Sender<bool>,
}

impl Ground {
    /// Gives this host.
    pub fn me(&self) -> HostId {
        self.mesh.me()
    }

    /// Gives what this host knows now. It follows what is kept here in a moment.
    pub fn picture(&self) -> Arc<Picture> {
        self.pictures.now()
    }

    /// Gives all shares.
    pub fn shares(&self) -> Arc<Shares> {
        self.own.shares.borrow().clone()
    }

    /// Watches them.
    pub fn watch_shares(&self) -> watch::Receiver<Arc<Shares>> {
        self.own.shares.subscribe()
    }

    /// Finds a share.
    pub fn share(&self, session: SessionId) -> Option<Arc<Share>> {
        self.own.shares.borrow().get(&session).cloned()
    }

    /// Shows a share that is written down. Tells whether it is the first of its session.
    pub fn show(&self, share: Arc<Share>) -> bool {
        let (session, mut first) = (share.session, false);
        self.own.shares.send_modify(|all| first = Arc::make_mut(all).insert(session, share).is_none());
        first
    }

    /// Tells whether a statement says that the session has ended and nothing of it is left.
    pub fn buried(&self, session: SessionId) -> bool {
        self.mesh.roll().borrow().set.is_buried(session)
    }

    /// Gives what a member's certificate lets it do; nothing, if it is no member.
    pub fn may(&self, host: HostId) -> May {
        self.mesh.roll().borrow().members.get(&host).map_or(May::only([]), |member| member.may)
    }

    /// Refuses a host whose certificate does not let it do this.
    pub fn judge(&self, host: HostId, needed: Option<Capability>) -> Result<(), Refusal> {
        match needed.filter(|needed| !self.may(host).has(*needed)) {
            Some(lacks) => Err(Refusal::MayNot(lacks)),
            None => Ok(()),
        }
    }

    /// Tells people a fact. Nobody listening is no error.
    pub fn tell(&self, fact: Fact) {
        self.facts.send(fact).ok();
    }

    /// Replaces this host's reports of a session, and gossips them when they changed.
    pub async fn report(&self, session: SessionId, version: u64, machines: Vec<MachineReport>) {
        let acted = Acted { version, machines };
        let (mut said, mut had) = (false, 0);
        self.own.reports.send_if_modified(|all| {
            let before = all.get(&session);
            said = before.map(|before| &before.machines) != Some(&acted.machines);
            had = before.map_or(0, |before| before.machines.len());
            let changed = before != Some(&acted);
            if changed {
                Arc::make_mut(all).insert(session, acted.clone());
            }
            changed
        });
        if said {
            let mut records: BTreeMap<RecordKey, Option<Body>> =
                told::keys(session, had.max(1)).map(|key| (key, None)).collect();
            let now = told::session(session, version, &acted.machines);
            records.extend(now.map(|(key, body)| (key, Some(body))));
            for (key, body) in records {
                self.mesh.publish(key, body).await;
            }
        }
    }

    /// Takes back what this host says of a session.
    pub async fn fall_silent(&self, session: SessionId) {
        let had = self.own.reports.borrow().get(&session).map_or(0, |acted| acted.machines.len());
        for key in told::keys(session, had.max(1)).chain([RecordKey::Head(session)]) {
            self.mesh.publish(key, None).await;
        }
    }

    /// Takes a session out of this host's own part of the picture.
    pub fn remove(&self, session: SessionId) {
        self.own.shares.send_modify(|all| drop(Arc::make_mut(all).remove(&session)));
        self.own.reports.send_modify(|all| drop(Arc::make_mut(all).remove(&session)));
    }
}
