//! iroh-blobs behind our own words: content by digest, complete or partial, served to members.
//! Owns DATA/images/blobs. It is disposable: every complete image is a file in DATA/images/raw, from which it
//! can be made again. Collection of garbage never runs by itself, only for a digest that [`Content::forget`]s.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use iroh::{
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use iroh_blobs::{
    BlobFormat, BlobsProtocol, Hash, HashAndFormat,
    api::{
        Store,
        blobs::{AddPathOptions, BlobStatus, ImportMode},
        proto::Bitfield,
    },
    store::{
        GcConfig, ProtectCb, ProtectOutcome,
        fs::{
            FsStore,
            options::{InlineOptions, Options, PathOptions},
        },
    },
};
use proto::id::Digest;
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};

use crate::error::{ImageError, store as failed};

/// What a crash may lose of a fetch is what was received in this time.
const COMMIT_WITHIN: Duration = Duration::from_millis(50);
/// A sweep deletes a few entries of a small table and files; minutes mean that it died.
const SWEEP_WITHIN: Duration = Duration::from_secs(60);
/// Members served at once; the others wait for their turn.
const MAX_SERVED: usize = 32;

/// Tells an answer of the system from damage. Between here and the system are error types that do not
/// give their cause, so the number is read from the text that the standard library writes.
fn unopened(path: &Path, error: ImageError) -> ImageError {
    let text = error.to_string();
    let number = text.split("(os error ").nth(1).and_then(|rest| rest.split(')').next());
    match number.and_then(|number| number.parse().ok()) {
        Some(number) => ImageError::Io {
            what: format!("open the image store {}", path.display()),
            source: std::io::Error::from_raw_os_error(number),
        },
        None => error,
    }
}

/// Everything that iroh-blobs knows.
#[derive(Debug)]
pub(crate) struct Content {
    store: FsStore,
    paths: PathOptions,
    sweeps: Mutex<mpsc::Sender<Sweep>>,
}

/// One collection: everything but `keep` goes.
#[derive(Debug)]
struct Sweep {
    keep: HashSet<Hash>,
    done: oneshot::Sender<()>,
}

impl Content {
    /// Opens the store in `dir`. A store that cannot be read is made anew, and the caller adds the
    /// images to it again: only partial fetches are lost. One that the system does not give now, on a full
    /// disk or without a descriptor, is left as it is. The caller holds the lock on the data directory.
    pub(crate) async fn open(dir: &Path) -> Result<Content, ImageError> {
        match Content::load(dir).await {
            Ok(content) => Ok(content),
            Err(error @ ImageError::Io { .. }) => Err(error),
            Err(error) => {
                tracing::warn!("the image store cannot be read and is made anew: {error}");
                std::fs::remove_dir_all(dir)
                    .map_err(crate::error::io("remove the unreadable image store"))?;
                Content::load(dir).await
            }
        }
    }

    async fn load(dir: &Path) -> Result<Content, ImageError> {
        let (sweeps, wanted) = mpsc::channel(1);
        let mut options = Options::new(dir);
        options.batch.max_write_duration = COMMIT_WITHIN;
        // An image is always a file, however small: QEMU opens it.
        options.inline = InlineOptions { max_data_inlined: 0, ..InlineOptions::default() };
        options.gc =
            Some(GcConfig { interval: Duration::from_millis(10), add_protected: Some(on_demand(wanted)) });
        let paths = options.path.clone();
        let path = dir.join("blobs.db");
        let loaded = FsStore::load_with_opts(path.clone(), options).await;
        let store = loaded.map_err(|error| unopened(&path, failed(error)))?;
        Ok(Content { store, paths, sweeps: Mutex::new(sweeps) })
    }

    /// Borrows the store.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Where the store keeps the bytes of a fetched image.
    pub(crate) fn data_path(&self, digest: Digest) -> PathBuf {
        self.paths.data_path(&hash(digest))
    }

    /// Says whether all of it is here.
    pub(crate) async fn is_complete(&self, digest: Digest) -> Result<bool, ImageError> {
        self.store.blobs().has(hash(digest)).await.map_err(failed)
    }

    /// Says whether nothing is known of it.
    pub(crate) async fn is_absent(&self, digest: Digest) -> Result<bool, ImageError> {
        let status = self.store.blobs().status(hash(digest)).await.map_err(failed)?;
        Ok(matches!(status, BlobStatus::NotFound))
    }

    /// Says which bytes are here.
    pub(crate) async fn held(&self, digest: Digest) -> Result<Bitfield, ImageError> {
        self.store.blobs().observe(hash(digest)).await.map_err(failed)
    }

    /// Keeps content, here or to come.
    pub(crate) async fn tag(&self, digest: Digest) -> Result<(), ImageError> {
        self.store.tags().set(tag(digest), HashAndFormat::raw(hash(digest))).await.map_err(failed)
    }

    /// Adds a complete file by reference, and gives the digest that it really has.
    pub(crate) async fn add(&self, path: &Path, digest: Digest) -> Result<Digest, ImageError> {
        self.tag(digest).await?;
        let options =
            AddPathOptions { path: path.to_owned(), format: BlobFormat::Raw, mode: ImportMode::TryReference };
        let added = self.store.blobs().add_path_with_opts(options).temp_tag().await.map_err(failed)?;
        let got = Digest(*added.hash().as_bytes());
        self.settle().await?;
        Ok(got)
    }

    /// Waits until what the store was told is on its disk.
    pub(crate) async fn settle(&self) -> Result<(), ImageError> {
        self.store.sync_db().await.map_err(failed)
    }

    /// Removes everything that is known of `digest`, and waits until it is gone. The store can only
    /// collect garbage, so this is a collection that keeps all others.
    pub(crate) async fn forget(&self, digest: Digest) -> Result<(), ImageError> {
        let sweeps = self.sweeps.lock().await;
        self.store.tags().delete(tag(digest)).await.map_err(failed)?;
        // The list below shows only what is on the disk.
        self.settle().await?;
        let mut keep: HashSet<Hash> =
            self.store.blobs().list().hashes().await.map_err(failed)?.into_iter().collect();
        if !keep.remove(&hash(digest)) {
            return Ok(());
        }
        let (done, swept) = oneshot::channel();
        sweeps.send(Sweep { keep, done }).await.map_err(|_| failed("its collector has ended"))?;
        match tokio::time::timeout(SWEEP_WITHIN, swept).await {
            Ok(Ok(())) if self.is_absent(digest).await? => Ok(()),
            _ => Err(failed("its collector did not remove the image")),
        }
    }

    /// Lists everything that is known, complete or not.
    pub(crate) async fn list(&self) -> Result<Vec<Digest>, ImageError> {
        let hashes = self.store.blobs().list().hashes().await.map_err(failed)?;
        Ok(hashes.into_iter().map(|hash| Digest(*hash.as_bytes())).collect())
    }

    /// Closes the database. Nothing may be asked afterwards.
    pub(crate) async fn shutdown(&self) -> Result<(), ImageError> {
        self.store.shutdown().await.map_err(failed)
    }
}

/// The collector's question "what shall live?", which stays unanswered until somebody wants a sweep.
/// It is asked again only after a sweep has ended, which is how we learn that.
fn on_demand(wanted: mpsc::Receiver<Sweep>) -> ProtectCb {
    let state = Arc::new(Mutex::new((wanted, None::<oneshot::Sender<()>>)));
    Arc::new(move |live| {
        let state = state.clone();
        Box::pin(async move {
            let (wanted, running) = &mut *state.lock().await;
            if let Some(done) = running.take() {
                // The one who asked may have gone; the sweep was right all the same.
                done.send(()).ok();
            }
            match wanted.recv().await {
                Some(Sweep { keep, done }) => {
                    live.extend(keep);
                    *running = Some(done);
                    ProtectOutcome::Continue
                }
                // The store is being closed, and this task with it.
                None => std::future::pending().await,
            }
        })
    })
}

/// Serves images to members. Who may connect is decided by the endpoint's gate before this is reached;
/// pushing into the store and listing it are not allowed to anybody.
#[derive(Clone, Debug)]
pub struct Serve {
    blobs: BlobsProtocol,
    turns: Arc<Semaphore>,
}

impl Serve {
    pub(crate) fn new(content: &Content) -> Serve {
        Serve {
            blobs: BlobsProtocol::new(content.store(), None),
            turns: Arc::new(Semaphore::new(MAX_SERVED)),
        }
    }
}

impl ProtocolHandler for Serve {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let Ok(_turn) = self.turns.acquire().await else { return Ok(()) };
        self.blobs.accept(connection).await
    }

    // Not forwarded: a router that stops must not close the store under those who still use it.
    async fn shutdown(&self) {}
}

pub(crate) fn hash(digest: Digest) -> Hash {
    Hash::from_bytes(digest.0)
}

fn tag(digest: Digest) -> String {
    format!("image/{digest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_damaged_store_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (db, fetched) = (dir.path().join("blobs.db"), dir.path().join("fetched"));
        std::fs::write(&fetched, "half of an image").unwrap();
        // The system refuses to open it.
        std::os::unix::fs::symlink(&db, &db).unwrap();
        let error = Content::open(dir.path()).await.unwrap_err();
        assert!(
            matches!(&error, ImageError::Io { source, .. } if source.raw_os_error().is_some()),
            "{error}"
        );
        assert!(error.to_string().contains(db.to_str().unwrap()), "{error}");
        assert!(fetched.exists());
        std::fs::remove_file(&db).unwrap();
        std::fs::write(&db, "this is no store").unwrap();
        Content::open(dir.path()).await.unwrap();
        assert!(!fetched.exists());
    }
}
