//! How many descriptors a guest's own doing may take of its shim: never more than half of what the process may
//! have, or nobody could speak to it any more. Of that half streams have one part, sockets for datagrams and
//! questions for names the other, so that no flood of one kind keeps a guest from the others.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The guest's share.
const SHARE: usize = 2;
/// What is assumed where the system sets no limit, and the most that is shared out: far more than all flows
/// of a guest can take.
const PLENTY: u64 = 1 << 16;

/// The guest's share. Clones share it.
#[derive(Clone)]
pub struct Descriptors {
    streams: Arc<Semaphore>,
    sockets: Arc<Semaphore>,
    questions: Arc<Semaphore>,
    refused: Arc<AtomicU64>,
}

/// Descriptors that were taken; they come back when this is dropped.
pub type Taken = OwnedSemaphorePermit;

impl Descriptors {
    /// Shares out what this process may have.
    pub fn of_process() -> Descriptors {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(PLENTY).min(PLENTY);
        Descriptors::new(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Shares out what a process with that limit may have.
    pub fn new(limit: usize) -> Descriptors {
        let part = |of: usize| Arc::new(Semaphore::new(limit / SHARE / of));
        Descriptors { streams: part(2), sockets: part(4), questions: part(4), refused: Arc::default() }
    }

    /// Takes what a stream needs; `None` when so many are not there. Whoever asks tells it to the edge, which
    /// counts it.
    pub fn stream(&self, count: u32) -> Option<Taken> {
        self.streams.clone().try_acquire_many_owned(count).ok()
    }

    /// Takes one for a socket, or counts that there is none.
    pub fn socket(&self) -> Option<Taken> {
        self.counted(&self.sockets)
    }

    /// Takes one for a question to a resolver, or counts that there is none.
    pub fn question(&self) -> Option<Taken> {
        self.counted(&self.questions)
    }

    fn counted(&self, part: &Arc<Semaphore>) -> Option<Taken> {
        let taken = part.clone().try_acquire_owned().ok();
        if taken.is_none() {
            self.refuse();
        }
        taken
    }

    /// Counts something of the guest that was refused for want of a place.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells how often that was, streams apart.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_never_has_more_than_half() {
        for limit in [0, 16, 64, 1024, 65_536] {
            let all = Descriptors::new(limit);
            let mut held = Vec::new();
            for take in [Descriptors::socket, Descriptors::question, |all: &Descriptors| all.stream(1)] {
                held.extend(std::iter::from_fn(|| take(&all)));
            }
            assert!(held.len() <= limit / 2 && held.len() + 4 > limit / 2, "{} of {limit}", held.len());
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(PLENTY).min(PLENTY);
        let most = u32::try_from(limit / 4).unwrap();
        let here = Descriptors::of_process();
        assert!(here.stream(most + 1).is_none() && here.stream(most).is_some());
    }

    #[test]
    fn what_is_given_back_is_there_again_and_what_was_not_to_be_had_is_counted() {
        let few = Descriptors::new(16);
        let three = few.stream(3).unwrap();
        assert!(few.stream(2).is_none());
        assert_eq!(few.refused(), 0);
        let sockets = [few.socket().unwrap(), few.socket().unwrap()];
        let questions = [few.question().unwrap(), few.question().unwrap()];
        assert!(few.socket().is_none() && few.question().is_none());
        assert_eq!(few.refused(), 2);
        drop((three, sockets, questions));
        assert!(few.stream(4).is_some() && few.socket().is_some() && few.question().is_some());
    }
}
