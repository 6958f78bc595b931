//! What this host publishes: programs of its own, on its loopback, that every member may reach by
//! `SERVICE.HOST.host.mesh.internal` through the mesh. It is its owner's word, kept until its owner takes it back.
//!
//! Owns the file that says so, and tells the session network which ports it may connect to. Gossip is told by others.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use proto::{
    id::Name,
    limits::MAX_PUBLISHED,
    wire::{self, WireError, record::Published},
};
use tokio::sync::watch;

use super::places::lock;
use crate::host::durable;

/// Bytes of the file: several times what it needs.
const MAX_BYTES: usize = 16 * 1024;

/// What is published, by name: ports on this host's loopback.
pub type Services = Arc<BTreeMap<Name, u16>>;

/// Lets members reach these ports and no others.
pub type Open = Box<dyn Fn(BTreeSet<u16>) + Send + Sync>;

/// Why something is not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There are [`MAX_PUBLISHED`] already.
    #[error("this host publishes {MAX_PUBLISHED} services already, the most that one may")]
    Full,
    /// What was published before cannot be read, and is not to be lost.
    #[error("{path} cannot be read: {because}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        because: String,
    },
    /// It cannot be kept.
    #[error("it cannot be kept")]
    Io(#[from] io::Error),
}

/// Handle to what this host publishes.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    /// Why the file cannot be read; nothing is written over it then.
    flaw: Option<String>,
    open: Open,
    /// One change at a time.
    changing: Mutex<()>,
    now: watch::Sender<Services>,
}

impl Publisher {
    /// Reads what is published in `path`, and lets members reach it by `open`.
    pub fn new(path: PathBuf, open: Open) -> Publisher {
        let (services, flaw) = match read(&path) {
            Ok(published) => (published.services, None),
            Err(flaw) => {
                tracing::error!(path = %path.display(), flaw, "what this host publishes is not known");
                (BTreeMap::new(), Some(flaw))
            }
        };
        let now = watch::Sender::new(Arc::new(services));
        let publisher =
            Publisher { inner: Arc::new(Inner { path, flaw, open, changing: Mutex::default(), now }) };
        publisher.tell();
        publisher
    }

    /// Shows what is published, whenever that changes.
    pub fn watch(&self) -> watch::Receiver<Services> {
        self.inner.now.subscribe()
    }

    /// Publishes a port under a name, in place of what had that name.
    pub fn publish(&self, name: Name, port: u16) -> Result<(), PublishError> {
        let _one = lock(&self.inner.changing);
        let mut services = (**self.inner.now.borrow()).clone();
        services.insert(name, port);
        if services.len() > MAX_PUBLISHED {
            return Err(PublishError::Full);
        }
        self.keep(services)
    }

    /// Takes a service back: nobody connects to it any more, and connections that stand go on. Tells whether it was
    /// published.
    pub fn unpublish(&self, name: &Name) -> Result<bool, PublishError> {
        let _one = lock(&self.inner.changing);
        let mut services = (**self.inner.now.borrow()).clone();
        if services.remove(name).is_none() {
            return Ok(false);
        }
        self.keep(services)?;
        Ok(true)
    }

    fn keep(&self, services: BTreeMap<Name, u16>) -> Result<(), PublishError> {
        let Inner { path, flaw, .. } = &*self.inner;
        if let Some(because) = flaw.clone() {
            return Err(PublishError::Unreadable { path: path.clone(), because });
        }
        durable::write(path, &wire::encode(&Published { services: services.clone() }))?;
        self.inner.now.send_replace(Arc::new(services));
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        (self.inner.open)(self.inner.now.borrow().values().copied().collect());
    }
}

fn read(path: &Path) -> Result<Published, String> {
    match std::fs::read(path) {
        Ok(bytes) => wire::decode(&bytes, MAX_BYTES).map_err(|flaw: WireError| flaw.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Published::default()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn open(dir: &tempfile::TempDir) -> Publisher {
        Publisher::new(dir.path().join("published"), Box::new(|_| {}))
    }

    #[test]
    fn what_is_published_is_kept_until_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir).publish(name("files"), 445).unwrap();
        open(&dir).publish(name("files"), 8080).unwrap();
        let again = open(&dir);
        assert_eq!(**again.watch().borrow(), [(name("files"), 8080)].into());
        assert!(again.unpublish(&name("files")).unwrap());
        assert!(!again.unpublish(&name("files")).unwrap());
        assert!(open(&dir).watch().borrow().is_empty());
    }

    #[test]
    fn members_reach_what_is_published_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let opened: Arc<Mutex<BTreeSet<u16>>> = Arc::default();
        let told = opened.clone();
        let publisher =
            Publisher::new(dir.path().join("published"), Box::new(move |ports| *lock(&told) = ports));
        publisher.publish(name("files"), 445).unwrap();
        publisher.publish(name("photos"), 80).unwrap();
        assert_eq!(*lock(&opened), [80, 445].into());
        publisher.unpublish(&name("files")).unwrap();
        assert_eq!(*lock(&opened), [80].into());
    }

    #[test]
    fn a_host_publishes_so_many_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let publisher = open(&dir);
        for number in 0..MAX_PUBLISHED {
            publisher.publish(name(&format!("s{number}")), 80).unwrap();
        }
        assert!(matches!(publisher.publish(name("more"), 80), Err(PublishError::Full)));
        publisher.publish(name("s1"), 81).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_left_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("published"), b"of tomorrow").unwrap();
        let refused = open(&dir).publish(name("files"), 80);
        assert!(matches!(refused, Err(PublishError::Unreadable { .. })), "{refused:?}");
        assert_eq!(std::fs::read(dir.path().join("published")).unwrap(), b"of tomorrow");
    }
}
