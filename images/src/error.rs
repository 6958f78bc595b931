//! Everything that can go wrong with an image, as one enum: what failed, and what was observed.

use std::{io, path::PathBuf};

use proto::id::Digest;

use crate::{name::NameError, qcow2::Refused, sparse::RESERVE_BYTES};

/// Whole MiB, so that what is needed is never told as less than it is.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1024 * 1024)
}

/// Why an image is not here.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The disk has no room; nothing half is left behind.
    #[error("no room left on the disk that holds the images")]
    DiskFull,
    /// The disk has too little room to begin; nothing was written.
    #[error(
        "too little room on the disk that holds the images: {} MiB are needed, {} are free, {} stay in reserve",
        mib(*needed), mib(*free), mib(RESERVE_BYTES)
    )]
    NoRoom {
        /// Bytes that the next step takes, without the reserve that always stays free.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The file is no disk image that we take.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The name breaks the rule of names.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name means other content.
    #[error("the name {name} is taken by other content, {digest}")]
    NameTaken {
        /// The name.
        name: String,
        /// What it means now.
        digest: Digest,
    },
    /// No such image here.
    #[error("no image {0} on this host")]
    Unknown(Digest),
    /// A machine of this host runs on it.
    #[error("the image {0} is used by machines of this host")]
    InUse(Digest),
    /// Another command works on the same content.
    #[error("another command is working on the same image")]
    Busy,
    /// More than gossip can tell of.
    #[error("this host has {0} images already, remove some first")]
    TooMany(usize),
    /// Its record would not fit into gossip.
    #[error("the image has {0} names already")]
    TooManyNames(usize),
    /// `qemu-img` is missing or did not like the image.
    #[error("cannot convert the image: {0}")]
    Convert(String),
    /// The download failed.
    #[error("cannot download {url}: {because}")]
    Download {
        /// From where.
        url: String,
        /// What was observed.
        because: String,
    },
    /// The bytes are not those that were asked for.
    #[error("the checksum differs: sha256 {got} instead of {want}")]
    Checksum {
        /// What was asked for.
        want: String,
        /// What was received.
        got: String,
    },
    /// The mesh told another size than the content has.
    #[error("the image {digest} has {got} bytes, not {want}")]
    Size {
        /// The content.
        digest: Digest,
        /// What records said.
        want: u64,
        /// What the content proves.
        got: u64,
    },
    /// Nobody has it, and nobody will be named any more.
    #[error("no member has the image {0}")]
    NoHolder(Digest),
    /// The file changed while it was read.
    #[error("{0} changed while it was read")]
    Changed(PathBuf),
    /// The catalogue on disk cannot be opened, or is of another agent; it is never overwritten then.
    #[error("cannot read the image catalogue {path}: {because}")]
    Catalogue {
        /// The file.
        path: PathBuf,
        /// What was observed.
        because: String,
    },
    /// A file of this process may not become so large.
    #[error("File too large: the system lets no file of the agent grow so far (ulimit -f)")]
    MayNotGrow,
    /// iroh-blobs refused or failed.
    #[error("the image store failed: {0}")]
    Store(String),
    /// The system said no.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The caller went away, or the agent is stopping.
    #[error("stopped")]
    Stopped,
}

/// Says what was tried when a system call failed. A full disk keeps its own variant, because people
/// can do something about it.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> ImageError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageError::DiskFull,
        io::ErrorKind::FileTooLarge => ImageError::MayNotGrow,
        _ => ImageError::Io { what: what.into(), source },
    }
}

/// For the store's own error types, which share no trait but `Display`.
pub(crate) fn store(error: impl std::fmt::Display) -> ImageError {
    ImageError::Store(format!("{error:#}"))
}

impl ImageError {
    /// Says whether the disk is the reason, so that what is half done should make room.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, ImageError::DiskFull | ImageError::MayNotGrow | ImageError::NoRoom { .. })
    }
}
