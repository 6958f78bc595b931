//! Images, and how they come here.

use serde::{Deserialize, Serialize};

use crate::id::Digest;

/// `agent image list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// Images that the mesh knows.
    pub images: Vec<ImageRow>,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRow {
    /// Its name; `null` = known by content only.
    pub name: Option<String>,
    /// BLAKE3 of the raw content.
    pub digest: Digest,
    /// Size of the raw content in bytes.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: Option<u64>,
    /// CPU architecture.
    pub arch: String,
    /// Hosts that hold all of it.
    pub hosts: Vec<String>,
    /// Whether this host holds all of it.
    pub here: bool,
}

/// What `image import` asks for. The agent reads the file: it must be on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageImport {
    /// Absolute path of a raw or qcow2 file.
    pub path: String,
    /// The name to give.
    pub name: String,
    /// Whether the name may be taken from other content.
    pub replace: bool,
}

/// What `image pull` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePull {
    /// Where it is.
    pub url: String,
    /// SHA-256 of the file at that place, in hex.
    pub sha256: String,
    /// The name to give.
    pub name: String,
    /// Whether the name may be taken from other content.
    pub replace: bool,
}
