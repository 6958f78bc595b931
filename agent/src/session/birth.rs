//! The shell of `proto::run::birth`, one task for all sessions of this host: one session is begun at a time, so that
//! two never take one name here. It gathers and carries out; nothing here decides.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use proto::{
    id::SessionId,
    picture::{Change, images, inventory},
    run::{
        birth::{Birth, Effect, Event, Failure, Seeds},
        lead,
    },
    session::{Mandate, Proposal, Replace},
    topology::Parcel,
    trust::{Capability, Statement, Tombstone},
    wire::rpc::Refusal,
};
use tokio::sync::{mpsc, oneshot};

use super::requests::{self, Requests};
use crate::host::words::words;

/// A single voter leads after one write to its disk.
const LED: Duration = Duration::from_secs(5);
/// How long a new share may take to be in the picture; one turn of a task.
const SHOWN: Duration = Duration::from_secs(3);

/// Births that wait; as many as members' requests that are answered at once.
const LETTERS: usize = 64;

/// A session that somebody wants.
struct Letter {
    /// Its topology, with its files.
    parcel: Parcel,
    /// The generation that its user saw.
    index: Option<u64>,
    /// Where the answer goes; whoever asked may be gone by then.
    answer: oneshot::Sender<Born>,
}

/// What came of it.
#[derive(Debug)]
pub enum Born {
    /// There is one of this name already.
    Exists(SessionId),
    /// There are several of this name.
    Several(BTreeSet<SessionId>),
    /// It was born, or has obstacles: then the proposal has no plan, and nothing is left behind.
    New(SessionId, Box<Proposal>),
    /// It was not born, and nothing is left behind.
    Failed(Failure),
}

/// Handle to the births of this host.
#[derive(Clone)]
pub struct Births {
    mailbox: mpsc::Sender<Letter>,
}

/// The task that is not yet running.
pub(super) struct Beginning {
    mailbox: mpsc::Receiver<Letter>,
}

/// Makes the handle and its task.
pub(super) fn build() -> (Births, Beginning) {
    let (sender, mailbox) = mpsc::channel(LETTERS);
    (Births { mailbox: sender }, Beginning { mailbox })
}

impl Births {
    /// Begins a session here, unless there is one of this name. It goes on also when whoever asked goes away.
    pub async fn begin(&self, parcel: Parcel, index: Option<u64>) -> Born {
        let (answer, answered) = oneshot::channel();
        let ends = || Born::Failed(Failure::Failed("its agent is ending".into()));
        match self.mailbox.send(Letter { parcel, index, answer }).await {
            Ok(()) => answered.await.unwrap_or_else(|_| ends()),
            Err(_) => ends(),
        }
    }
}

impl Beginning {
    /// Begins sessions until the daemon ends.
    pub(super) async fn run(mut self, here: Requests) {
        let stop = here.ground.stop.clone();
        while let Some(Some(letter)) = stop.run_until_cancelled(self.mailbox.recv()).await {
            let Letter { parcel, index, answer } = letter;
            let begun = AssertUnwindSafe(begin(&here, parcel, index)).catch_unwind().await;
            let failed = |_| Born::Failed(Failure::Failed("the agent failed: see its log".into()));
            answer.send(begun.unwrap_or_else(failed)).ok();
        }
    }
}

async fn begin(here: &Requests, parcel: Parcel, index: Option<u64>) -> Born {
    match here.called(&parcel.intent.topology.session) {
        Ok(Some(session)) => return Born::Exists(session),
        Err(several) => return Born::Several(several),
        Ok(None) => {}
    }
    // Whoever begins a session stores it, and only operators begin some.
    for needed in [Capability::Operate, Capability::Vote] {
        if let Err(refusal) = here.ground.judge(here.ground.me(), Some(needed)) {
            return Born::Failed(Failure::Refused(refusal));
        }
    }
    let mesh = &here.ground.mesh;
    let (host, salt) = (here.ground.me(), rand::random());
    let session = SessionId::born(host, &salt);
    let wanted = (&parcel.intent, &Replace::default());
    // What the names of images mean is known by then.
    here.offers_known().await;
    let mandate = Mandate::up(session, None, wanted, images::meaning(&here.ground.picture()));
    let mandate = Some(mesh.mandate(&mandate));
    let seeds = Seeds { host, salt, stamp: mesh.now(), ssh_seed: rand::random(), mandate };
    let (mut birth, mut effects) = Birth::new(session, seeds, parcel, index);
    loop {
        let mut next = None;
        for effect in effects {
            match effect {
                Effect::Gather => {
                    here.offers_known().await;
                    let offered = inventory::inventory(&here.ground.picture(), session);
                    next = Some(Event::Offered(Box::new(offered)));
                }
                Effect::OpenLog => next = Some(Event::Opened(open(here, session).await)),
                Effect::Write(command) => {
                    next = Some(Event::Written(requests::write(here, session, *command).await));
                }
                Effect::State(genesis) => {
                    let stated = mesh.say(&Statement::Genesis(genesis));
                    next = Some(Event::Stated(stated.map_err(|error| words(&error))));
                }
                Effect::Show => next = Some(Event::Shown(show(here, session).await)),
                Effect::GiveUp => give_up(here, session).await,
                Effect::Tell(fact) => here.ground.tell(fact),
                Effect::End(Ok(proposal)) => return Born::New(session, proposal),
                Effect::End(Err(failure)) => return Born::Failed(failure),
            }
        }
        let Some(event) = next else {
            return Born::Failed(Failure::Failed("the birth came to no end".into()));
        };
        effects = birth.on(event);
    }
}

async fn open(here: &Requests, session: SessionId) -> Result<(), String> {
    let group = here.table.open(session).await.map_err(|error| words(&error))?;
    group.init().await.map_err(|error| words(&error))?;
    // The only voter elects itself at once.
    let mut lead = group.lead();
    let led = tokio::time::timeout(LED, lead.wait_for(|lead| lead.leading)).await;
    led.map(drop).map_err(|_| "its only voter does not lead it".into())
}

async fn show(here: &Requests, session: SessionId) -> Result<(), Refusal> {
    let state = here.table.log(session).and_then(|group| group.state().borrow().clone());
    let me = here.ground.me();
    here.known.accept(me, lead::share_for(state.as_deref(), me, here.ground.may(me))?).await?;
    let of = move |change: &Change| *change == Change::Session(session);
    here.ground.pictures.until(of, SHOWN, |picture| picture.share(session).is_some()).await;
    Ok(())
}

async fn give_up(here: &Requests, session: SessionId) {
    let mesh = &here.ground.mesh;
    let mandate = Some(mesh.mandate(&Mandate::never(session)));
    if let Err(error) = mesh.say(&Statement::Tombstone(Tombstone { session, made: mesh.now(), mandate })) {
        tracing::warn!(%session, %error, "the end of a session that failed cannot be stated");
    }
    // The host's own task clears a session away that has a share here.
    if here.ground.share(session).is_none() {
        here.table.forget(session).await;
    }
}
