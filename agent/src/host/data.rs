//! Where things are kept: the data directory and the short runtime directory that belongs to it.
//! Paths only: nothing here opens or writes what they name.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::private;

/// Longest runtime directory inside a data directory: 107 bytes less the name of a machine's socket.
const RUN_MAX: usize = 90;

/// Where root's agent keeps everything, and where others look for the agent of this computer.
pub const SYSTEM: &str = "/var/lib/agent";

/// The data directory. It need not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Takes the flag, else `AGENT_DATA_DIR`, else `/var/lib/agent` as root, else
    /// `~/.local/share/agent`. The answer is absolute.
    pub fn choose(flag: Option<&Path>) -> io::Result<DataDir> {
        let root = rustix::process::geteuid().is_root();
        let chosen = choose(flag, |key| env::var_os(key).filter(|value| !value.is_empty()), root);
        chosen.map(std::path::absolute).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())).map(DataDir)
    }

    /// Tells whether somebody names a directory, so that none is looked for.
    pub fn is_chosen(flag: Option<&Path>) -> bool {
        flag.is_some() || env::var_os("AGENT_DATA_DIR").is_some_and(|value| !value.is_empty())
    }

    /// Gives that of root's agent.
    pub fn system() -> DataDir {
        DataDir(SYSTEM.into())
    }

    /// Gives the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives the local API's socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("api.sock")
    }

    /// Tells whether it is somebody else's, whose agent lets this user ask it.
    pub fn is_open_to_guest(&self) -> bool {
        let me = rustix::process::geteuid().as_raw();
        let others = fs::metadata(&self.0).is_ok_and(|seen| seen.uid() != me);
        others && me != 0 && rustix::fs::access(self.socket(), rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// Gives the settings file of the host's owner.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// Gives the keys' directory; it exists once the host belongs to a mesh.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// Gives where everything of sessions is kept.
    pub fn sessions(&self) -> PathBuf {
        self.0.join("sessions")
    }

    /// Gives the directory of the recorded facts.
    pub fn facts(&self) -> PathBuf {
        self.0.join("facts")
    }

    /// Makes the runtime directory (0700) of this data directory and gives it. It is short, because
    /// socket paths end at 107 bytes, and one per data directory. Machines outlive the agent and the
    /// login that started it, so nothing of the environment decides: XDG_RUNTIME_DIR differs between
    /// a desktop, ssh and cron, and goes with the last login. One that somebody else owns is refused:
    /// in `/tmp` anyone could have made it first.
    pub fn run(&self) -> io::Result<PathBuf> {
        let real = fs::canonicalize(&self.0)?;
        let me = rustix::process::geteuid().as_raw();
        let mine = fs::metadata(&real)?.uid() == me;
        let dir = run_dir(me, mine, &real);
        private::own(&dir)?;
        Ok(dir)
    }
}

fn choose(flag: Option<&Path>, var: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let home = || var("HOME").map(|home| PathBuf::from(home).join(".local/share/agent"));
    flag.map(PathBuf::from)
        .or_else(|| var("AGENT_DATA_DIR").map(PathBuf::from))
        .or_else(|| if root { Some(SYSTEM.into()) } else { home() })
}

fn run_dir(uid: u32, mine: bool, data: &Path) -> PathBuf {
    let hash = blake3::hash(data.as_os_str().as_encoded_bytes()).to_hex();
    let inside = data.join("run");
    match uid {
        0 => PathBuf::from(format!("/run/agent-{}", &hash[..8])),
        _ if mine && inside.as_os_str().len() <= RUN_MAX => inside,
        _ => PathBuf::from(format!("/tmp/agent-{uid}-{}", &hash[..8])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_wins_over_the_environment_and_that_over_the_default() {
        let set = |key: &str| match key {
            "AGENT_DATA_DIR" => Some(OsString::from("/env")),
            "HOME" => Some(OsString::from("/home/me")),
            _ => None,
        };
        let home_only = |key: &str| (key == "HOME").then(|| OsString::from("/home/me"));
        assert_eq!(choose(Some(Path::new("/flag")), set, true), Some("/flag".into()));
        assert_eq!(choose(None, set, true), Some("/env".into()));
        assert_eq!(choose(None, home_only, true), Some(SYSTEM.into()));
        assert_eq!(choose(None, home_only, false), Some("/home/me/.local/share/agent".into()));
        assert_eq!(choose(None, |_| None, false), None);
    }

    #[test]
    fn the_runtime_directory_is_short_and_own() {
        let data = Path::new("/home/me/.local/share/agent");
        assert_eq!(run_dir(7, true, data), data.join("run"));
        let (root, deep) =
            (run_dir(0, true, data), run_dir(7, true, &Path::new("/home").join("d".repeat(90))));
        assert!(root.to_str().unwrap().starts_with("/run/agent-"), "{root:?}");
        assert!(deep.to_str().unwrap().starts_with("/tmp/agent-7-"), "{deep:?}");
        // Who uses root's agent has no place in its data directory.
        assert!(run_dir(7, false, data).to_str().unwrap().starts_with("/tmp/agent-7-"));
        assert_ne!(root, run_dir(0, true, Path::new("/var/lib/agent")));
    }
}
