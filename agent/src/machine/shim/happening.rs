//! What one machine's network hears of but the guest's frames, in one queue: whoever knows something new puts it there.

use bytes::Bytes;
use mesh::link::{Event, Heard, PortMessage};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
};

use super::super::wire::Counts;

/// Happenings that wait for the edge. Senders wait when it is full, so a guest is slowed down.
const MAX_HAPPENINGS: usize = 512;

/// Something that the edge or its wires must know.
#[derive(Debug)]
pub enum Happening {
    /// The guest was reset: its network begins anew.
    Reset,
    /// An agent wants the packets.
    Agent(UnixStream),
    /// A message from the agent.
    FromAgent(PortMessage),
    /// Somebody wants a connection to a port.
    Dial {
        /// The port.
        port: u16,
        /// To be answered, then carried.
        stream: UnixStream,
    },
    /// A dialled connection has something for the edge.
    Dialled(Event),
    /// A socket to the outside has something for the edge with that number.
    Heard(u64, Heard),
    /// A question of the guest for a public name was answered, for the edge with that number.
    Named(u64, Event),
    /// The guest asks something by TCP that only the agent knows.
    Ask(Bytes, oneshot::Sender<Bytes>),
    /// Somebody wants to know how much there is.
    Count(oneshot::Sender<Counts>),
}

/// Makes the queue to [`super::network::carry`].
pub fn channel() -> (mpsc::Sender<Happening>, Happenings) {
    let (sender, receiver) = mpsc::channel(MAX_HAPPENINGS);
    (sender.clone(), Happenings { sender, receiver })
}

/// Both ends of the queue: tasks that [`super::network::carry`] starts report through it.
pub struct Happenings {
    pub sender: mpsc::Sender<Happening>,
    pub receiver: mpsc::Receiver<Happening>,
}
