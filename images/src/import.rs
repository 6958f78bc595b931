//! A file of this host becomes an image: judged, copied sparse or converted, hashed, and given its final
//! name only when it is whole. Whatever fails, nothing half is left.

use std::{
    fs::{File, OpenOptions, Permissions},
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use proto::{facts::Fact, id::Digest};
use rustix::fs::OFlags;
use tokio::sync::watch;

use crate::{
    Images,
    catalogue::{Entry, Giving},
    convert,
    error::{ImageError, io},
    name,
    progress::{Progress, Step, blocking},
    qcow2::{self, Format},
    sparse::{self, Scratch},
};

/// An image that is complete here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its content.
    pub digest: Digest,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: u64,
}

/// Raw bytes in a scratch file, hashed.
pub(crate) struct Whole {
    pub(crate) scratch: Scratch,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) allocated: u64,
}

/// What goes into the catalogue with the bytes.
pub(crate) struct Origin {
    pub(crate) arch: String,
    /// `import` or a URL.
    pub(crate) source: String,
    pub(crate) sha256: Option<String>,
}

impl Images {
    /// Imports a raw or qcow2 file and gives it a name. The file stays as it is.
    pub async fn import(
        &self,
        path: &Path,
        giving: Giving,
        arch: &str,
        progress: &watch::Sender<Progress>,
    ) -> Result<Imported, ImageError> {
        name::check(&giving.name)?;
        let (file, format) = open(path)?;
        let whole = match format {
            Format::Raw => self.copy(path, file, progress).await?,
            Format::Qcow2 { virtual_size } => self.convert(file, virtual_size, progress).await?,
        };
        let origin = Origin { arch: arch.to_owned(), source: "import".to_owned(), sha256: None };
        self.adopt(whole, giving, origin, progress).await
    }

    /// Copies a raw file with its holes.
    async fn copy(
        &self,
        path: &Path,
        file: File,
        progress: &watch::Sender<Progress>,
    ) -> Result<Whole, ImageError> {
        let meta = file.metadata().map_err(io("look at the file"))?;
        let size = meta.len();
        sparse::room(&self.0.dir, sparse::allocated(&file)?.min(size))?;
        let (scratch, path) = (self.scratch(), path.to_owned());
        blocking(Step::Copying, Some(size), progress, move |tick| {
            let to = scratch.create()?;
            let digest = sparse::copy(&file, &to, size, tick)?;
            let after = file.metadata().map_err(io("look at the file"))?;
            if after.len() != size || after.modified().ok() != meta.modified().ok() {
                return Err(ImageError::Changed(path));
            }
            to.sync_all().map_err(io("write the copy"))?;
            Ok(Whole { allocated: sparse::allocated(&to)?, scratch, digest, size })
        })
        .await
    }

    /// Converts a qcow2 file that was judged to a raw one.
    pub(crate) async fn convert(
        &self,
        file: File,
        virtual_size: u64,
        progress: &watch::Sender<Progress>,
    ) -> Result<Whole, ImageError> {
        let scratch = self.scratch();
        convert::convert(file, scratch.path(), virtual_size, progress).await?;
        self.settle(scratch, progress).await
    }

    /// Punches and hashes a raw file that is ours already.
    pub(crate) async fn settle(
        &self,
        scratch: Scratch,
        progress: &watch::Sender<Progress>,
    ) -> Result<Whole, ImageError> {
        let file =
            File::options().read(true).write(true).open(scratch.path()).map_err(io("open the image"))?;
        let size = file.metadata().map_err(io("look at the image"))?.len();
        blocking(Step::Checking, Some(size), progress, move |tick| {
            sparse::punch(&file, 0..size)?;
            let digest = sparse::hash(&file, size, tick)?;
            file.sync_all().map_err(io("write the image"))?;
            Ok(Whole { allocated: sparse::allocated(&file)?, scratch, digest, size })
        })
        .await
    }

    /// Takes a whole file over: final name, store, catalogue, in this order, so that what the catalogue
    /// lists is there.
    pub(crate) async fn adopt(
        &self,
        whole: Whole,
        giving: Giving,
        origin: Origin,
        progress: &watch::Sender<Progress>,
    ) -> Result<Imported, ImageError> {
        let Whole { scratch, digest, size, allocated } = whole;
        let Origin { arch, source, sha256 } = origin;
        let turn = self.turn(digest);
        let _turn = turn.lock().await;
        let imported = Imported { digest, size, allocated };
        let complete = self.path(digest).is_some();
        let entry =
            Entry { names: Default::default(), size, allocated, arch, complete: true, source, sha256 };
        let list = |catalogue: &mut crate::catalogue::Catalogue| {
            if !complete {
                catalogue.list(digest, entry.clone())?;
            }
            catalogue.give(digest, &giving)
        };
        // A name that is taken is found before the work.
        list(&mut self.0.catalogue.lock().await.clone())?;
        if !complete {
            progress.send_replace(Progress { step: Step::Checking, done: size, total: Some(size) });
            self.place(scratch, digest).await?;
        }
        if let Err(error) = self.change(list).await {
            if !complete {
                self.erase(digest).await?;
            }
            return Err(error);
        }
        let fact = Fact::ImageReady { image: giving.name.clone(), bytes: size, from: entry.source };
        // Nobody may be listening; that is no failure of the import.
        self.0.facts.send(fact).ok();
        Ok(imported)
    }

    /// Moves a whole file to its final place, read-only, and adds it to the store, which reads it again:
    /// a disk that lies is found here.
    async fn place(&self, scratch: Scratch, digest: Digest) -> Result<(), ImageError> {
        if !self.0.content.is_absent(digest).await? {
            // A fetch was on its way, or a removal was cut short; the whole file is better than either.
            self.0.content.forget(digest).await?;
        }
        let raw = self.raw(digest);
        std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o444))
            .map_err(io("make the image read-only"))?;
        scratch.rename(&raw)?;
        sparse::sync_dir(&self.0.dir.join("raw"))?;
        let added = self.0.content.add(&raw, digest).await;
        if matches!(added, Ok(got) if got == digest) {
            return Ok(());
        }
        self.erase(digest).await?;
        match added {
            Ok(got) => {
                self.0.content.forget(got).await?;
                Err(ImageError::Store(format!(
                    "the disk gave back other bytes than were written to {digest}"
                )))
            }
            Err(_) if sparse::room(&self.0.dir, 0).is_err() => Err(ImageError::DiskFull),
            Err(error) => Err(error),
        }
    }

    /// A new name for a scratch file.
    pub(crate) fn scratch(&self) -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Scratch::new(self.0.dir.join("scratch").join(format!("{number}.raw")))
    }
}

/// Opens a file and judges what it holds.
pub(crate) fn open(path: &Path) -> Result<(File, Format), ImageError> {
    let what = || format!("read {}", path.display());
    let no_file = || io(what())(std::io::Error::other("it is not a file"));
    // Asked before opening, which already does something to some devices.
    if !std::fs::metadata(path).map_err(io(what()))?.is_file() {
        return Err(no_file());
    }
    // And again afterwards: a pipe without a writer that took the name since must not block for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io(what()))?;
    let meta = file.metadata().map_err(io(what()))?;
    if !meta.is_file() {
        return Err(no_file());
    }
    let size = meta.len();
    let mut head = vec![0; qcow2::HEAD_BYTES.min(usize::try_from(size).unwrap_or(usize::MAX))];
    file.read_exact_at(&mut head, 0).map_err(io(what()))?;
    let format = qcow2::judge(&head, size)?;
    Ok((file, format))
}
