//! What a host keeps of each session on disk: its share, written durably before anything acts on it.
//! A share that cannot be read is set aside with a reason, never deleted: machines may be running.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{
    id::{HostId, MachineName, SessionId},
    session::{Share, Voices},
    topology::Content,
    wire,
};

use crate::host::{durable, private};

/// What writes into a session that ends is gone within milliseconds.
const REMOVE_TRIES: u32 = 10;
const REMOVE_AGAIN: Duration = Duration::from_millis(20);

/// The directory of all sessions of this host.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// What was found on disk.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every share that can be read.
    pub shares: BTreeMap<SessionId, Share>,
    /// Files that cannot be read, and why.
    pub broken: Vec<(PathBuf, String)>,
}

impl Store {
    /// Opens the directory, makes it when it is missing.
    pub fn open(root: PathBuf) -> io::Result<Store> {
        private::dir(&root)?;
        Ok(Store { root })
    }

    /// Tells whether a file can be written here now.
    pub fn takes_files(&self) -> bool {
        crate::host::disk::takes_files(&self.root)
    }

    /// Gives the directory of one session.
    pub fn session(&self, session: SessionId) -> PathBuf {
        self.root.join(session.to_string())
    }

    /// Gives the directory of one machine.
    pub fn machine(&self, session: SessionId, machine: &MachineName) -> PathBuf {
        self.session(session).join(machine.to_string())
    }

    /// Gives the directory of a session's Raft log.
    pub fn raft(&self, session: SessionId) -> PathBuf {
        self.session(session).join("raft")
    }

    /// Makes the directory of a session's Raft log.
    pub fn make_raft(&self, session: SessionId) -> io::Result<PathBuf> {
        let dir = self.raft(session);
        private::dir(&dir)?;
        Ok(dir)
    }

    /// Reads every share. What cannot be read is reported with its path.
    pub fn load(&self) -> io::Result<Loaded> {
        let Loaded { mut shares, mut broken } = Loaded::default();
        for session in self.ids()? {
            let path = self.session(session).join("share");
            match fs::read(&path) {
                Ok(bytes) => match wire::decode::<Share>(&bytes, usize::MAX) {
                    Ok(share) if share.session == session => {
                        shares.insert(session, share);
                    }
                    Ok(_) => broken.push((path, "it belongs to another session".into())),
                    Err(error) => broken.push((path, error.to_string())),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => broken.push((path, error.to_string())),
            }
        }
        Ok(Loaded { shares, broken })
    }

    /// Lists the sessions that have a directory here, with or without a share.
    pub fn ids(&self) -> io::Result<Vec<SessionId>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            if let Ok(id) = entry?.file_name().to_string_lossy().parse() {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// Lists the machines that have a directory here.
    pub fn machines(&self, session: SessionId) -> Vec<MachineName> {
        let Ok(entries) = fs::read_dir(self.session(session)) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
    }

    /// Writes a share durably. Bytes that it does not name go.
    pub fn put(&self, share: &Share) -> io::Result<()> {
        let dir = self.session(share.session);
        private::dir(&dir)?;
        durable::write(&dir.join("share"), &wire::encode(share))?;
        let named: BTreeSet<String> = share.named().iter().map(content_name).collect();
        for entry in fs::read_dir(self.contents_dir(share.session)).into_iter().flatten().flatten() {
            if !named.contains(&*entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn contents_dir(&self, session: SessionId) -> PathBuf {
        self.session(session).join("contents")
    }

    /// Writes bytes durably that a share will name.
    pub fn put_content(&self, session: SessionId, bytes: &[u8]) -> io::Result<()> {
        let dir = self.contents_dir(session);
        private::dir(&self.session(session))?;
        private::dir(&dir)?;
        durable::write(&dir.join(content_name(&Content::of(bytes))), bytes)
    }

    /// Reads bytes that are what their name says.
    pub fn content(&self, session: SessionId, content: &Content) -> io::Result<Vec<u8>> {
        let bytes = fs::read(self.contents_dir(session).join(content_name(content)))?;
        if Content::of(&bytes) != *content {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is damaged"));
        }
        Ok(bytes)
    }

    /// Lists those of a share's bytes that are here and not damaged.
    pub fn contents(&self, share: &Share) -> BTreeSet<Content> {
        let named = share.named().into_iter();
        named.filter(|content| self.content(share.session, content).is_ok()).collect()
    }

    /// Tells whether a session has a share here, readable or not.
    pub fn has_share(&self, session: SessionId) -> bool {
        self.session(session).join("share").exists()
    }

    /// Reads whose word counted once. What cannot be read is learned again.
    pub fn voices(&self, session: SessionId) -> BTreeSet<HostId> {
        let bytes = fs::read(self.session(session).join("voices")).unwrap_or_default();
        wire::decode::<Voices>(&bytes, usize::MAX).unwrap_or_default().hosts
    }

    /// Writes down whose word counts.
    pub fn put_voices(&self, session: SessionId, voices: &BTreeSet<HostId>) -> io::Result<()> {
        let voices = Voices { hosts: voices.clone() };
        durable::write(&self.session(session).join("voices"), &wire::encode(&voices))
    }

    /// Moves a Raft log that is of no use out of the way, and gives its new place. Only the newest is kept.
    pub fn put_raft_aside(&self, session: SessionId) -> io::Result<PathBuf> {
        let aside = self.session(session).join("raft.aside");
        remove_all(&aside)?;
        fs::rename(self.raft(session), &aside)?;
        sync_dir(&self.session(session))?;
        Ok(aside)
    }

    /// Removes a session's Raft log, and the session's directory when nothing else is in it.
    pub fn remove_raft(&self, session: SessionId) -> io::Result<()> {
        remove_all(&self.raft(session))?;
        match fs::remove_dir(self.session(session)) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
            _ => sync_dir(&self.root),
        }
    }

    /// Removes everything of a session.
    pub fn remove(&self, session: SessionId) -> io::Result<()> {
        remove_all(&self.session(session))?;
        sync_dir(&self.root)
    }
}

fn content_name(content: &Content) -> String {
    content.digest.to_string()
}

/// Removes a directory with everything in it. A writer that is just ending may add a file while the
/// directory is being read; then it is read again, a few times.
fn remove_all(path: &Path) -> io::Result<()> {
    let mut left = REMOVE_TRIES;
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && left > 1 => {
                left -= 1;
                std::thread::sleep(REMOVE_AGAIN);
            }
            removed => return removed,
        }
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
