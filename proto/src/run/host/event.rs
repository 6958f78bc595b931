//! What a host's machine is told and what it wants done: data, no handles. Whoever carries an effect out
//! says how it went by an event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    facts::Fact,
    id::{Digest, Epoch, MachineName, Name},
    session::{
        MachineReport, Share,
        reconcile::{Action, Settings, Setup},
    },
    time::Moment,
    wire::rpc::{Answer, Refusal},
};

/// Tells the lives of one machine's shims apart: the same for one process, another for every other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u64);

/// What lies in a machine's directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lies {
    /// Nothing was ever launched from it.
    #[default]
    Nothing,
    /// What its intent says.
    Launched(Settings),
    /// A disk was made for an intent that cannot be read; the epoch that its last process wrote down, if it did.
    Unclear(Option<Epoch>),
}

/// What a shim says of itself and of its QEMU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Which shim.
    pub life: Life,
    /// Whether the guest runs, or ran until the end.
    pub runs: bool,
    /// Since when, if that was in this boot and was noted.
    pub began: Option<Moment>,
    /// Whether the guest has answered.
    pub booted: bool,
    /// Whether it has its IPv6 address.
    pub v6: bool,
    /// What became of its setup.
    pub setup: Setup,
    /// Why QEMU holds the guest, if it does.
    pub paused: Option<String>,
    /// How QEMU ended, if it did.
    pub ended: Option<Ending>,
}

/// How a QEMU ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Whether it was asked to.
    pub asked: bool,
    /// Whether it ended in order.
    pub clean: bool,
    /// Why, in words.
    pub because: String,
}

/// Something that happened. Each may come late, twice, or after what it speaks of is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The agent has started, and this lies on its disk. Before it nothing is begun.
    Begun(BTreeMap<MachineName, Lies>),
    /// The newest share, and which machines of its session are ready.
    Share(Arc<Share>, BTreeSet<MachineName>),
    /// Others are ready now.
    Ready(BTreeSet<MachineName>),
    /// Whether this host's certificate does not let it run machines.
    Barred(bool),
    /// The images that are complete here.
    Images(BTreeSet<Digest>),
    /// The bytes that are here of those that are on their way.
    Arrived(BTreeMap<Digest, u64>),
    /// The session is buried: whatever is here of it goes.
    Buried,
    /// This host is out of the mesh: whatever runs here is stopped, because it may run elsewhere by now.
    Out,
    /// A shim says something new.
    Told(MachineName, Told),
    /// A shim does not answer, although it was asked more than once; what was seen.
    Silent(MachineName, Life, String),
    /// The check of a service passed, or failed, under this shim.
    Probed(MachineName, Life, Name, bool),
    /// A fetch has ended; with why, if it failed.
    Fetched(Digest, Result<(), String>),
    /// An order was carried out.
    Done {
        /// For which machine.
        machine: MachineName,
        /// The order's number.
        number: u64,
        /// What lies in the machine's directory now.
        lies: Lies,
        /// How it went.
        outcome: Outcome,
    },
    /// The moment came that [`Effect::Wake`] named.
    Woken,
    /// The agent ends; machines run on.
    Ending,
}

/// How an order went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not work; why.
    Failed(String),
    /// The coordinator allows the first start.
    Granted(Epoch),
    /// QEMU is being started by this shim.
    Launched(Settings, Told),
    /// It runs already: this shim answers, and was launched with this.
    Adopted(Settings, Told),
    /// It may run, and nobody answers for it; what was seen.
    Unseen(String),
    /// It was looked for, and nothing of it runs; its last words, if there are some.
    Gone(Option<Told>),
    /// QEMU is gone; its last words, if there was a shim.
    Stopped(Option<Told>),
    /// Nothing of it is left on the disk.
    Removed,
    /// The coordinator knows that it is gone.
    Reported,
}

impl Outcome {
    /// Says how a question went that the coordinator was asked for a machine.
    pub fn answered(asked: &Action, answer: Result<Answer, Refusal>) -> Outcome {
        match (asked, answer) {
            (Action::Ask(epoch), Ok(Answer::MayStart(true))) => Outcome::Granted(*epoch),
            (Action::Ask(_), Ok(Answer::MayStart(false))) => {
                Outcome::Failed("the coordinator does not list this incarnation".into())
            }
            (Action::ReportDropped(_), Ok(Answer::Done)) => Outcome::Reported,
            (_, Ok(_)) => Outcome::Failed("the coordinator answered something else".into()),
            (_, Err(Refusal::NoQuorum)) => Outcome::Failed("the session has no quorum of voters now".into()),
            (_, Err(refusal)) => Outcome::Failed(refusal.to_string()),
        }
    }
}

/// Something to do. What waits for nobody is done at once, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Carry this out beside everything else, to its end; [`Event::Done`] says how it went.
    Order(Order),
    /// Get an image here; [`Event::Fetched`] says how it went.
    Fetch {
        /// Its content.
        image: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// Listen to this machine's shim from now on: pass on what it says, ask whether it answers, and run the
    /// checks of its services.
    Watch(MachineName),
    /// Stop listening, and let go of the shim.
    Release(MachineName),
    /// Connect its network card with the session's network.
    Attach(MachineName),
    /// Undo that.
    Detach(MachineName),
    /// Set the session's routes by this share's directory.
    Route(Arc<Share>),
    /// Say this of the machines of the share of this version, in place of what was said before.
    Report(u64, Vec<MachineReport>),
    /// Tell people.
    Tell(Fact),
    /// Come back with [`Event::Woken`] at this moment, or not by time alone. Takes the place of the one before.
    Wake(Option<Moment>),
    /// Nothing of the session runs here or lies on the disk: forget it. The last effect.
    Forget,
    /// Nothing is under way that must not be cut off: the agent may end. The last effect.
    Rest,
}

/// An action with what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The machine.
    pub machine: MachineName,
    /// Tells orders apart.
    pub number: u64,
    /// What is to be done.
    pub action: Action,
    /// The incarnation that its directory is of, as far as anybody knows.
    pub epoch: Epoch,
    /// The share that asks for it.
    pub share: Arc<Share>,
}
