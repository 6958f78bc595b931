//! What is remembered of names, with real listeners behind them: nothing longer than it is so.

use std::time::Instant;

use hickory_proto::{
    op::{Message, Query},
    rr::{Name as DnsName, RecordType},
};
use mesh::link::Carrier;

use super::*;
use crate::{
    access::fixture::{SESSION, forwards, pictures},
    dns::Answers,
};

const PORT: u16 = 80;
/// Longer than a forward listens without being used, and than a day has.
const LATER: Duration = Duration::from_secs(2 * 24 * 3600);

struct Scene {
    zones: Zones,
    forwards: Forwards,
    answers: Answers,
    question: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let forwards = forwards(&dir, &["web-1"], |_, _, _| async {});
        let (_, interfaces) = watch::channel(Arc::default());
        let zones = Zones::new("mesh.internal".into(), pictures(), interfaces, forwards.clone());
        let answers = Answers::new(View::Host, zones.resolve());
        let mut question = Message::query();
        question
            .add_query(Query::query(DnsName::from_ascii("web.shop.mesh.internal.").unwrap(), RecordType::A));
        let question = question.to_vec().unwrap();
        Scene { zones, forwards, answers, question, _dir: dir }
    }

    /// Asks until the answer is remembered: the first one may change where the ports listen.
    async fn ask(&self) {
        for _ in 0..2 {
            self.answers.answer(&self.question, Carrier::Datagram).await.unwrap();
        }
        assert!(self.listens() && self.remembers());
    }

    fn remembers(&self) -> bool {
        self.answers.remembered(&self.question, &mut Vec::new())
    }

    fn listens(&self) -> bool {
        self.forwards.listening((SESSION, "web"), PORT).is_some()
    }
}

#[tokio::test]
async fn a_name_is_remembered_while_its_ports_listen_and_asked_anew_once_one_is_closed() {
    let scene = Scene::new();
    assert!(!scene.listens());
    scene.ask().await;
    scene.zones.refresh();
    assert!(scene.remembers(), "nothing has changed");
    assert!(scene.forwards.close((SESSION, "web"), PORT));
    assert!(!scene.remembers());
    scene.ask().await;
    scene.forwards.keep(|_| false);
    assert!(!scene.listens() && !scene.remembers());
}

#[tokio::test]
async fn a_name_that_is_asked_from_memory_alone_keeps_its_ports() {
    let scene = Scene::new();
    scene.ask().await;
    scene.forwards.sweep(Instant::now());
    assert!(scene.listens() && !scene.remembers(), "whoever asks next is seen");
    scene.ask().await;
    scene.forwards.sweep(Instant::now() + LATER);
    assert!(!scene.listens() && !scene.remembers());
    scene.ask().await;
}
