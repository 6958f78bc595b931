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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use hickory_proto::{
        op::{Edns, Message, Query},
        rr::{Name, RecordType},
    };

    use super::*;
    use crate::dns::{Found, respond::tests::resolve};

    /// Counts what is found, and has an edition that the test changes.
    fn counted() -> (Answers, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (found, edition) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(1)));
        let (inner, counter, current) = (resolve(), found.clone(), edition.clone());
        let find = move |view, name, kind| {
            counter.fetch_add(1, Ordering::Relaxed);
            (inner.find)(view, name, kind)
        };
        let now = move || current.load(Ordering::Relaxed);
        let resolve = Resolve { find: Arc::new(find), edition: Arc::new(now) };
        (Answers::new(View::Host, resolve), found, edition)
    }

    fn questions() -> Vec<Vec<u8>> {
        let names = [
            "web.shop.mesh.internal.",
            "WEB.shop.Mesh.internal.",
            "many.shop.mesh.internal.",
            "no.mesh.internal.",
        ];
        let kinds = [RecordType::A, RecordType::AAAA, RecordType::SOA, RecordType::ANY];
        let mut all = Vec::new();
        for (name, kind) in names.iter().flat_map(|name| kinds.map(|kind| (name, kind))) {
            let mut message = Message::query();
            message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
            all.push(message.to_vec().unwrap());
            message.metadata.recursion_desired = true;
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            message.edns = Some(edns);
            all.push(message.to_vec().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn what_is_remembered_is_what_would_be_written_anew_for_every_question() {
        let (answers, found, edition) = counted();
        let all = questions();
        for again in 0..3 {
            for (number, message) in all.iter().enumerate() {
                let mut message = message.clone();
                message[..2].copy_from_slice(&[again, number as u8]);
                let fresh = respond(&message, View::Host, Carrier::Datagram, &resolve()).await.unwrap().bytes;
                assert_eq!(answers.answer(&message, Carrier::Datagram).await.unwrap(), fresh);
            }
        }
        assert_eq!(found.load(Ordering::Relaxed), all.len() as u64, "each was found once");
        edition.store(2, Ordering::Relaxed);
        answers.answer(&all[0], Carrier::Datagram).await.unwrap();
        assert_eq!(found.load(Ordering::Relaxed), all.len() as u64 + 1, "nothing outlives what it stands on");
    }

    #[tokio::test]
    async fn what_changes_while_it_is_answered_and_what_does_not_last_is_not_remembered() {
        let (edition, found) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
        let (current, counter) = (edition.clone(), found.clone());
        let inner = resolve();
        let find = move |view, name: String, kind| -> futures::future::BoxFuture<'static, Found> {
            counter.fetch_add(1, Ordering::Relaxed);
            // The first time something changes meanwhile; what is asked of `many` never lasts.
            if counter.load(Ordering::Relaxed) == 1 {
                edition.store(2, Ordering::Relaxed);
            }
            let lasting = !name.starts_with("many");
            let found = (inner.find)(view, name, kind);
            Box::pin(async move { Found { lasting, ..found.await } })
        };
        let now = move || current.load(Ordering::Relaxed);
        let answers = Answers::new(View::Host, Resolve { find: Arc::new(find), edition: Arc::new(now) });
        let all = questions();
        for finds in [1, 2, 2] {
            answers.answer(&all[0], Carrier::Datagram).await.unwrap();
            assert_eq!(found.load(Ordering::Relaxed), finds);
        }
        let many = all.iter().find(|message| message.windows(4).any(|part| part == b"many")).unwrap();
        for finds in [3, 4] {
            answers.answer(many, Carrier::Datagram).await.unwrap();
            assert_eq!(found.load(Ordering::Relaxed), finds);
        }
    }
}
