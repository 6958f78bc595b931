//! The list of images on this host, durable: names, sizes, where they came from. What the catalogue does
//! not list is not kept. The rules on it are pure; reading and writing the file is at the end.

use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use proto::{id::Digest, picture::images::newer, time::Timestamp, wire::record::ImageRecord};
use serde::{Deserialize, Serialize};

use crate::{
    error::{ImageError, io as failed},
    name,
    sparse::{self, Scratch},
};

/// Each image is one gossip record, and a host has `MAX_RECORDS_PER_HOST` of them for everything.
pub(crate) const MAX_IMAGES: usize = 128;
/// A record with more long names would not fit into `MAX_RECORD_BYTES`.
pub(crate) const MAX_NAMES: usize = 16;

const VERSION: u32 = 1;
/// The source of an image that a rebuilt catalogue found on the disk.
const FOUND: &str = "found";

/// What the file holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// There is none.
    Absent,
    /// A catalogue.
    Whole(Catalogue),
    /// Something else; why it cannot be understood.
    Damaged(String),
}

/// All images of this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Catalogue {
    version: u32,
    pub(crate) images: BTreeMap<Digest, Entry>,
}

/// One image: the manifest that goes with its bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Names, and when each was given. A name stands at one entry only.
    pub(crate) names: BTreeMap<String, Timestamp>,
    pub(crate) size: u64,
    pub(crate) allocated: u64,
    pub(crate) arch: String,
    pub(crate) complete: bool,
    /// `import`, a URL, or `mesh`.
    pub(crate) source: String,
    /// Checksum of the file at the URL, which is not the raw content.
    #[serde(default)]
    pub(crate) sha256: Option<String>,
}

/// A name for an image, and what is known of this name so far.
#[derive(Clone, Debug)]
pub struct Giving {
    /// The name.
    pub name: String,
    /// Whether the name may be taken from other content.
    pub replace: bool,
    /// What the name means on other members, from [`proto::picture::images::resolve`].
    pub elsewhere: Option<(Digest, Timestamp)>,
    /// The mesh's time.
    pub now: Timestamp,
}

impl Default for Catalogue {
    fn default() -> Catalogue {
        Catalogue { version: VERSION, images: BTreeMap::new() }
    }
}

impl Catalogue {
    /// Says what a name means here.
    pub(crate) fn meaning(&self, name: &str) -> Option<(Digest, Timestamp)> {
        self.images.iter().find_map(|(digest, entry)| Some((*digest, *entry.names.get(name)?)))
    }

    /// Gives a name to `digest`, which is listed already. The moment of the giving is later than that of
    /// the giving it replaces, whatever the clocks say: otherwise the mesh would undo it.
    pub(crate) fn give(&mut self, digest: Digest, giving: &Giving) -> Result<(), ImageError> {
        let here = self.meaning(&giving.name);
        let newest = match (here, giving.elsewhere) {
            (Some(here), Some(elsewhere)) if newer(elsewhere, here) => Some(elsewhere),
            (Some(here), _) => Some(here),
            (None, elsewhere) => elsewhere,
        };
        let given = match newest {
            None => giving.now,
            Some((same, given)) if same == digest => given,
            Some((other, _)) if !giving.replace => {
                return Err(ImageError::NameTaken { name: giving.name.clone(), digest: other });
            }
            Some((_, given)) => giving.now.max(given.plus_ms(1)),
        };
        self.put(digest, &giving.name, given)
    }

    /// Takes over names that other members gave to `digest`, unless a newer giving is known here.
    pub(crate) fn learn(&mut self, digest: Digest, names: &BTreeMap<String, Timestamp>) {
        for (name, given) in names {
            let known = self.meaning(name).is_some_and(|known| !newer((digest, *given), known));
            if !known && name::check(name).is_ok() {
                // A name too many is not worth a failed fetch.
                self.put(digest, name, *given).ok();
            }
        }
    }

    fn put(&mut self, digest: Digest, name: &str, given: Timestamp) -> Result<(), ImageError> {
        let entry = self.images.get(&digest).ok_or(ImageError::Unknown(digest))?;
        if entry.names.len() >= MAX_NAMES && !entry.names.contains_key(name) {
            return Err(ImageError::TooManyNames(MAX_NAMES));
        }
        for (other, entry) in &mut self.images {
            match *other == digest {
                true => entry.names.insert(name.to_owned(), given),
                false => entry.names.remove(name),
            };
        }
        Ok(())
    }

    /// Lists an image, or updates what is known of it; its names stay.
    pub(crate) fn list(&mut self, digest: Digest, entry: Entry) -> Result<(), ImageError> {
        if self.images.len() >= MAX_IMAGES && !self.images.contains_key(&digest) {
            return Err(ImageError::TooMany(MAX_IMAGES));
        }
        let names = self.images.remove(&digest).map(|old| old.names).unwrap_or_default();
        self.images.insert(digest, Entry { names, ..entry });
        Ok(())
    }

    /// Gives what the mesh may know.
    pub(crate) fn records(&self) -> BTreeMap<Digest, ImageRecord> {
        let record = |entry: &Entry| ImageRecord {
            names: entry.names.clone(),
            size: entry.size,
            allocated: entry.allocated,
            arch: entry.arch.clone(),
            complete: entry.complete,
        };
        self.images.iter().map(|(digest, entry)| (*digest, record(entry))).collect()
    }

    /// Reads the catalogue. One of another version, or one that cannot be opened now, is an error: it may
    /// be whole.
    pub(crate) fn read(path: &Path) -> Result<Found, ImageError> {
        let wrong = |because: String| ImageError::Catalogue { path: path.to_owned(), because };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
            Err(error) => return Err(wrong(error.to_string())),
        };
        let value = serde_json::from_slice::<serde_json::Value>(&text).unwrap_or_default();
        if let Some(version) = value["version"].as_u64().filter(|version| *version != u64::from(VERSION)) {
            return Err(wrong(format!("version {version} is of another agent")));
        }
        Ok(match serde_json::from_slice(&text) {
            Ok(catalogue) => Found::Whole(catalogue),
            Err(error) => Found::Damaged(error.to_string()),
        })
    }

    /// Rebuilds a damaged catalogue from its copy and from the complete images in `raw`, which are named
    /// by their content, and writes it. The damaged file is kept beside it.
    pub(crate) fn rebuild(path: &Path, raw: &Path, because: &str) -> Catalogue {
        let aside = path.with_extension("json.damaged");
        if let Err(error) = std::fs::copy(path, &aside) {
            tracing::warn!(path = %aside.display(), %error, "the damaged catalogue is not kept");
        }
        let mut catalogue = match Catalogue::read(&copy_of(path)) {
            Ok(Found::Whole(copy)) => copy,
            _ => Catalogue::default(),
        };
        let files = std::fs::read_dir(raw).into_iter().flatten().flatten();
        for file in files {
            let digest = file.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if let (Some(digest), Ok(meta)) = (digest, file.metadata())
                && !catalogue.images.contains_key(&digest)
            {
                // One too many is left where it is.
                catalogue.list(digest, Entry::found(&meta)).ok();
            }
        }
        tracing::error!(
            path = %path.display(), because, aside = %aside.display(), images = catalogue.images.len(),
            "the image catalogue was damaged and is rebuilt; agent image list tells what is here"
        );
        if let Err(error) = catalogue.write(path) {
            tracing::warn!(path = %path.display(), %error, "the rebuilt catalogue is not written");
        }
        catalogue
    }

    /// Writes the catalogue; after a crash either the old or the new one is there.
    pub(crate) fn write(&self, path: &Path) -> Result<(), ImageError> {
        let text = serde_json::to_vec_pretty(self).expect("maps with text keys are JSON");
        // The copy first: of the two one is always whole.
        for path in [copy_of(path), path.to_owned()] {
            let scratch = Scratch::new(path.with_extension("new"));
            let put = || {
                let mut file = File::create(scratch.path())?;
                file.write_all(&text)?;
                file.sync_all()
            };
            put().map_err(failed("write the image catalogue"))?;
            scratch.rename(&path)?;
        }
        sparse::sync_dir(path.parent().unwrap_or(Path::new("/")))
    }
}

/// Where the same list is once more: names are nowhere else.
fn copy_of(path: &Path) -> PathBuf {
    path.with_extension("copy.json")
}

impl Entry {
    /// Describes a complete image of which only the file is left.
    fn found(meta: &Metadata) -> Entry {
        Entry {
            names: BTreeMap::new(),
            size: meta.len(),
            allocated: meta.blocks() * 512,
            // Images of others are possible, and are refused by their own boot only.
            arch: std::env::consts::ARCH.to_owned(),
            complete: true,
            source: FOUND.to_owned(),
            sha256: None,
        }
    }

    /// Tells whether nothing is worth keeping: the file that was found is not what its name says.
    pub(crate) fn is_rubble(&self) -> bool {
        self.source == FOUND && !self.complete
    }
}

#[cfg(test)]
mod tests;
