//! The one task that publishes the picture: it takes in what members, gossip, sessions and the image store say,
//! and wakes those loops whose keys changed. What a picture means is `proto::picture`; nothing is decided here.
//!
//! The picture follows its inputs in a moment. Who has just changed one and must not see what was before waits
//! with [`Pictures::until`].

pub mod tell;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use mesh::{MemberView, Mesh};
use proto::{
    id::{HostId, Name},
    picture::{Change, Departed, Images, Input, Member, Members, Picture, Records, Reports, Shares, Way},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// What the picture is made from.
pub struct Inputs {
    members: watch::Receiver<Arc<mesh::Members>>,
    roll: watch::Receiver<Arc<mesh::Roll>>,
    records: watch::Receiver<Arc<Records>>,
    images: watch::Receiver<Arc<Images>>,
    shares: watch::Receiver<Arc<Shares>>,
    reports: watch::Receiver<Arc<Reports>>,
}

/// What this host's sessions tell the picture.
#[derive(Clone)]
pub struct Own {
    /// Its shares.
    pub shares: watch::Sender<Arc<Shares>>,
    /// What it reports of its machines.
    pub reports: watch::Sender<Arc<Reports>>,
}

/// Handle to the picture.
#[derive(Clone)]
pub struct Pictures {
    now: watch::Receiver<Arc<Picture>>,
    waiting: Arc<Mutex<Vec<Weak<Waiting>>>>,
}

struct Waiting {
    wants: Box<dyn Fn(&Change) -> bool + Send + Sync>,
    woken: Notify,
}

/// A loop's keys: it sleeps through all other changes.
pub struct Wakes {
    waiting: Arc<Waiting>,
}

/// Puts the picture together. Nothing follows its inputs until the future is polled.
pub fn build(
    mesh: &Mesh,
    images: watch::Receiver<Arc<Images>>,
    stop: CancellationToken,
) -> (Pictures, Own, impl Future<Output = ()> + Send + use<>) {
    let own = Own { shares: watch::Sender::default(), reports: watch::Sender::default() };
    let inputs = Inputs {
        members: mesh.members(),
        roll: mesh.roll(),
        records: mesh.records(),
        images,
        shares: own.shares.subscribe(),
        reports: own.reports.subscribe(),
    };
    let (now, pictures) = make(mesh.me());
    (pictures.clone(), own, run(mesh.me(), inputs, now, pictures.waiting, stop))
}

fn make(me: HostId) -> (watch::Sender<Arc<Picture>>, Pictures) {
    let (sender, now) = watch::channel(Arc::new(Picture::new(me)));
    (sender, Pictures { now, waiting: Arc::default() })
}

impl Pictures {
    /// Makes a picture that never changes.
    #[cfg(test)]
    pub fn fixed(picture: Picture) -> Pictures {
        let (_, now) = watch::channel(Arc::new(picture));
        Pictures { now, waiting: Arc::default() }
    }

    /// Gives what this host knows now.
    pub fn now(&self) -> Arc<Picture> {
        self.now.borrow().clone()
    }

    /// Wakes for some keys from now on.
    pub fn wakes(&self, wants: impl Fn(&Change) -> bool + Send + Sync + 'static) -> Wakes {
        let waiting = Arc::new(Waiting { wants: Box::new(wants), woken: Notify::new() });
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as loops and requests that wait live now: those that ended leave here.
        all.retain(|waiting| waiting.strong_count() > 0);
        all.push(Arc::downgrade(&waiting));
        Wakes { waiting }
    }

    /// Waits until the picture is like this, looking at each change of these keys. Tells whether it was in time.
    pub async fn until(
        &self,
        wants: impl Fn(&Change) -> bool + Send + Sync + 'static,
        within: Duration,
        mut is: impl FnMut(&Picture) -> bool,
    ) -> bool {
        let wakes = self.wakes(wants);
        let waited = async {
            while !is(&self.now()) {
                wakes.changed().await;
            }
        };
        tokio::time::timeout(within, waited).await.is_ok()
    }
}

impl Wakes {
    /// Waits for a change of these keys since the last call, or since the beginning. Cancel-safe.
    pub async fn changed(&self) {
        self.waiting.woken.notified().await;
    }
}

async fn run(
    me: HostId,
    mut inputs: Inputs,
    now: watch::Sender<Arc<Picture>>,
    waiting: Arc<Mutex<Vec<Weak<Waiting>>>>,
    stop: CancellationToken,
) {
    let mut picture = Picture::new(me);
    // Loops may wait already: what there is at the beginning is news to them.
    let first = inputs.all().into_iter().flat_map(|input| picture.apply(input)).collect();
    now.send_replace(Arc::new(picture.clone()));
    wake(&waiting, &first);
    loop {
        // Every arm only takes one value in.
        let input = tokio::select! {
            () = stop.cancelled() => return,
            input = inputs.next() => input,
        };
        // A picture that stood still would be taken for what is so.
        let Some(input) = input else { return };
        let changes = picture.apply(input);
        now.send_replace(Arc::new(picture.clone()));
        wake(&waiting, &changes);
    }
}

fn wake(waiting: &Mutex<Vec<Weak<Waiting>>>, changes: &BTreeSet<Change>) {
    if changes.is_empty() {
        return;
    }
    let all = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    for waiting in all.iter().filter_map(Weak::upgrade) {
        if changes.iter().any(|change| (waiting.wants)(change)) {
            waiting.woken.notify_one();
        }
    }
}

impl Inputs {
    /// Gives every input as it is now.
    fn all(&mut self) -> [Input; 6] {
        [
            Input::Out(Arc::new(departed(&self.roll.borrow_and_update()))),
            Input::Members(Arc::new(members(&self.members.borrow_and_update()))),
            Input::Records(self.records.borrow_and_update().clone()),
            Input::Images(self.images.borrow_and_update().clone()),
            Input::Shares(self.shares.borrow_and_update().clone()),
            Input::Reports(self.reports.borrow_and_update().clone()),
        ]
    }

    /// Waits for the next change; `None` = one of those who tell has ended.
    async fn next(&mut self) -> Option<Input> {
        // Cancel-safe: watches.
        let (changed, input) = tokio::select! {
            changed = self.members.changed() => {
                (changed, Input::Members(Arc::new(members(&self.members.borrow_and_update()))))
            }
            changed = self.roll.changed() => {
                (changed, Input::Out(Arc::new(departed(&self.roll.borrow_and_update()))))
            }
            changed = self.records.changed() => {
                (changed, Input::Records(self.records.borrow_and_update().clone()))
            }
            changed = self.images.changed() => {
                (changed, Input::Images(self.images.borrow_and_update().clone()))
            }
            changed = self.shares.changed() => {
                (changed, Input::Shares(self.shares.borrow_and_update().clone()))
            }
            changed = self.reports.changed() => {
                (changed, Input::Reports(self.reports.borrow_and_update().clone()))
            }
        };
        changed.ok().map(|()| input)
    }
}

/// Lists the hosts that are out for good, by the statements.
fn departed(roll: &mesh::Roll) -> Departed {
    roll.out.iter().map(|(host, out)| (*host, out.name.clone())).collect()
}

/// Puts what the mesh says of its members into the words of the picture.
fn members(members: &mesh::Members) -> Members {
    members.hosts.values().map(|view| (view.id, member(view))).collect()
}

fn member(view: &MemberView) -> Member {
    Member {
        name: view.name.clone(),
        state: view.state,
        issuer: view.issuer,
        may: view.may,
        level: view.level,
        way: view.path.clone().map(|path| way(path, view.via.clone())),
    }
}

/// Puts a path into the words of the picture, with the member whose relay carries it.
pub fn way(path: mesh::Path, owner: Option<Name>) -> Way {
    Way { direct: path.kind == mesh::PathKind::Direct, rtt_ms: path.rtt_ms, via: path.via, owner }
}

#[cfg(test)]
mod tests;
