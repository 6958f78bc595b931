//! Answers the messages of those who see the same names: the programs of this host, or one machine. Datagrams from
//! memory, where the same was asked before; what is asked by TCP costs a connection anyway.

use std::sync::{Mutex, PoisonError};

use mesh::link::Carrier;
use proto::names::View;

use super::{
    Resolve,
    memory::Memory,
    respond::{Written, respond},
};

/// Answers what those ask who see the same names. Each has a memory of its own, so that no machine can fill another's.
pub struct Answers {
    view: View,
    resolve: Resolve,
    memory: Mutex<Memory>,
}

impl Answers {
    /// Answers those with this view.
    pub fn new(view: View, resolve: Resolve) -> Answers {
        Answers { view, resolve, memory: Mutex::default() }
    }

    /// Writes the answer to a datagram after what is in `into`, if it is remembered. Tells whether it is.
    pub fn remembered(&self, message: &[u8], into: &mut Vec<u8>) -> bool {
        let edition = (self.resolve.edition)();
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.answer(message, edition, into)
    }

    /// Answers a message. `None`: silence is the answer.
    pub async fn answer(&self, message: &[u8], carrier: Carrier) -> Option<Vec<u8>> {
        let mut answer = Vec::new();
        if carrier == Carrier::Datagram && self.remembered(message, &mut answer) {
            return Some(answer);
        }
        self.fresh(message, carrier).await
    }

    /// Answers a message anew, and remembers it.
    pub async fn fresh(&self, message: &[u8], carrier: Carrier) -> Option<Vec<u8>> {
        // Of before: what changes meanwhile may be in the answer, or not.
        let edition = (self.resolve.edition)();
        let Written { bytes, lasting } = respond(message, self.view, carrier, &self.resolve).await?;
        if lasting && carrier == Carrier::Datagram {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.keep(message, &bytes, edition);
        }
        Some(bytes)
    }
}
