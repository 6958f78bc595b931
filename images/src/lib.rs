//! Images of this host: imported, downloaded, fetched from members, served to members. An image is one blob,
//! and its file in DATA/images/raw is what QEMU reads: ordinary, sparse, read-only.
//! Owns DATA/images. Never decides who is a member, which image a machine gets, or when one is removed.
//!
//! ```text
//! catalogue.json   the list; what it does not name is not kept
//! catalogue.copy.json   the same, for a damaged one is rebuilt from it and from raw/
//! raw/HASH         complete images, 0444; a hard link to the store's file when it was fetched
//! blobs/           iroh-blobs: hash trees, partial fetches; disposable
//! pulls/           downloads that may be resumed
//! scratch/         work in progress; emptied at every start
//! ```

mod catalogue;
mod convert;
mod error;
mod fetch;
mod holders;
mod import;
pub mod name;
mod progress;
mod pull;
pub mod qcow2;
mod sparse;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use proto::{facts::Fact, id::Digest, wire::record::ImageRecord};
use tokio::sync::{broadcast, watch};

pub use catalogue::Giving;
pub use error::ImageError;
pub use fetch::WantedImage;
pub use holders::Holder;
pub use import::Imported;
pub use iroh_blobs::ALPN;
pub use progress::{Progress, Step};
pub use pull::Download;
pub use store::Serve;

use catalogue::{Catalogue, Found};
use error::io;
use store::Content;

/// What this host has, as records for the mesh.
pub type ImageRecords = Arc<BTreeMap<Digest, ImageRecord>>;

/// The images of this host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    content: Content,
    serve: Serve,
    facts: broadcast::Sender<Fact>,
    /// Held while the catalogue on disk changes.
    catalogue: tokio::sync::Mutex<Catalogue>,
    /// What the catalogue says, for everybody.
    records: watch::Sender<ImageRecords>,
    /// Fetches that go on.
    transfers: watch::Sender<BTreeMap<Digest, Progress>>,
    /// One command at a time works on one content.
    turns: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    /// Opens DATA/images, and repairs what a crash left: the catalogue decides. The caller holds the
    /// lock on the data directory. Must be called within a tokio runtime.
    pub async fn open(dir: &Path, facts: broadcast::Sender<Fact>) -> Result<Images, ImageError> {
        let dir = std::path::absolute(dir).map_err(io("find the image directory"))?;
        // Scratch files have no meaning after a restart.
        std::fs::remove_dir_all(dir.join("scratch")).ok();
        for sub in ["raw", "scratch", "pulls", "blobs"] {
            std::fs::create_dir_all(dir.join(sub))
                .map_err(io(format!("make {}", dir.join(sub).display())))?;
        }
        let path = dir.join("catalogue.json");
        let (catalogue, known) = match Catalogue::read(&path)? {
            Found::Whole(catalogue) => (catalogue, true),
            Found::Absent => (Catalogue::default(), false),
            Found::Damaged(because) => (Catalogue::rebuild(&path, &dir.join("raw"), &because), false),
        };
        pull::remove_old(&dir.join("pulls"));
        let content = Content::open(&dir.join("blobs")).await?;
        let serve = Serve::new(&content);
        let images = Images(Arc::new(Inner {
            dir,
            content,
            serve,
            facts,
            records: watch::Sender::new(Arc::new(catalogue.records())),
            transfers: watch::Sender::default(),
            turns: Mutex::default(),
            catalogue: tokio::sync::Mutex::new(catalogue),
        }));
        images.repair(known).await?;
        images
            .change(|catalogue| {
                catalogue.images.retain(|_, entry| !entry.is_rubble());
                Ok(())
            })
            .await?;
        Ok(images)
    }

    /// Gives what is here, complete or being fetched, as records for the mesh.
    pub fn list(&self) -> ImageRecords {
        self.0.records.borrow().clone()
    }

    /// Watches [`Images::list`].
    pub fn watch(&self) -> watch::Receiver<ImageRecords> {
        self.0.records.subscribe()
    }

    /// Watches the fetches that go on.
    pub fn transfers(&self) -> watch::Receiver<BTreeMap<Digest, Progress>> {
        self.0.transfers.subscribe()
    }

    /// Gives the file of a complete image: read-only, never changed.
    pub fn path(&self, digest: Digest) -> Option<PathBuf> {
        self.0.records.borrow().get(&digest)?.complete.then(|| self.raw(digest))
    }

    /// Gives the handler to register for [`iroh_blobs::ALPN`].
    pub fn protocol(&self) -> Serve {
        self.0.serve.clone()
    }

    /// Removes an image, also a half fetched one, with all its names. `in_use` are the images of this
    /// host's machines.
    pub async fn remove(&self, digest: Digest, in_use: &BTreeSet<Digest>) -> Result<(), ImageError> {
        if in_use.contains(&digest) {
            return Err(ImageError::InUse(digest));
        }
        let turn = self.turn(digest);
        let _turn = turn.try_lock().map_err(|_| ImageError::Busy)?;
        if !self.list().contains_key(&digest) {
            return Err(ImageError::Unknown(digest));
        }
        self.discard(digest).await
    }

    /// Closes the store. Call it last when the agent drains; nothing may be asked afterwards.
    pub async fn shutdown(&self) -> Result<(), ImageError> {
        self.0.content.shutdown().await
    }

    /// Where a complete image is.
    fn raw(&self, digest: Digest) -> PathBuf {
        self.0.dir.join("raw").join(digest.to_string())
    }

    /// The lock by which one command at a time works on `digest`.
    fn turn(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.turns.lock().expect("nobody panics while holding it");
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(digest).or_default().clone()
    }

    /// Changes the catalogue on disk, then for everybody. Nothing changes if `change` or the disk fails.
    async fn change<T>(
        &self,
        change: impl FnOnce(&mut Catalogue) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let mut current = self.0.catalogue.lock().await;
        let mut next = current.clone();
        let value = change(&mut next)?;
        if next != *current {
            let (path, written) = (self.0.dir.join("catalogue.json"), next.clone());
            tokio::task::spawn_blocking(move || written.write(&path))
                .await
                .unwrap_or(Err(ImageError::Stopped))?;
            self.0.records.send_replace(Arc::new(next.records()));
            *current = next;
        }
        Ok(value)
    }

    /// Takes an image out of the catalogue, then its bytes. A crash in between leaves bytes without an
    /// entry, which the next start removes.
    async fn discard(&self, digest: Digest) -> Result<(), ImageError> {
        self.change(|catalogue| {
            catalogue.images.remove(&digest);
            Ok(())
        })
        .await?;
        self.erase(digest).await
    }

    /// Removes the bytes of an image that the catalogue does not list as complete.
    async fn erase(&self, digest: Digest) -> Result<(), ImageError> {
        self.0.content.forget(digest).await?;
        match std::fs::remove_file(self.raw(digest)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove the image")(error)),
            _ => Ok(()),
        }
    }

    /// Makes files and store agree with the catalogue. `known` says whether there was one: without it
    /// files are left alone, because somebody may have lost it by mistake.
    async fn repair(&self, known: bool) -> Result<(), ImageError> {
        let records = self.list();
        for (digest, record) in records.iter().filter(|(_, record)| record.complete) {
            let size = std::fs::metadata(self.raw(*digest)).map(|meta| meta.len()).ok();
            let whole = size == Some(record.size)
                && (self.0.content.is_complete(*digest).await?
                    || self.0.content.add(&self.raw(*digest), *digest).await? == *digest);
            if !whole {
                tracing::warn!("the image {digest} is damaged and will be fetched again when it is needed");
                self.erase(*digest).await?;
                self.change(|catalogue| {
                    catalogue.images.entry(*digest).and_modify(|entry| entry.complete = false);
                    Ok(())
                })
                .await?;
            }
        }
        for digest in self.0.content.list().await? {
            if !records.contains_key(&digest) {
                self.0.content.forget(digest).await?;
            }
        }
        if known { self.sweep_raw(&records) } else { Ok(()) }
    }

    /// Removes complete files that the catalogue does not list: of an import or a removal that was cut short.
    fn sweep_raw(&self, records: &ImageRecords) -> Result<(), ImageError> {
        for file in std::fs::read_dir(self.0.dir.join("raw")).map_err(io("list the images"))? {
            let file = file.map_err(io("list the images"))?;
            let digest = file.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if digest.is_some_and(|digest| !records.contains_key(&digest)) {
                std::fs::remove_file(file.path()).map_err(io("remove an image without an entry"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
