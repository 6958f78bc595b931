//! A data directory on a small disk of its own, which can be filled and grown. Needs root.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Host;

/// A small disk of its own somewhere, taken away when dropped. Needs root.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a tmpfs.
    #[track_caller]
    pub fn tmpfs(at: &Path, options: &str) -> Mounted {
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        let done = done.expect("mount starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that was just ended may still hold it for a moment.
        let _done = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Host {
    /// Puts the data directory on a disk of `mib` MiB, or gives the one there another size.
    #[track_caller]
    pub fn small_disk(&mut self, mib: u32) {
        let data = self.data();
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        if self.mounted {
            mount.args(["-o", &format!("remount,{size}")]);
        } else {
            fs::create_dir_all(&data).expect("a directory");
            mount.args(["-t", "tmpfs", "-o", &format!("{size},mode=0700"), "tmpfs"]);
        }
        let done = mount.arg(&data).output().expect("mount starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.mounted = true;
    }

    /// Fills the disk of the data directory to its last byte, and names the file that does it.
    #[track_caller]
    pub fn fill_disk(&self) -> PathBuf {
        assert!(self.mounted, "only a small disk is filled");
        let path = self.data().join("filling");
        let mut file = File::create(&path).expect("a file");
        for block in [1024 * 1024, 4096, 1] {
            let zeros = vec![0; block];
            while file.write_all(&zeros).is_ok() {}
        }
        path
    }

    /// Takes the small disk away, once nothing runs on it.
    pub(crate) fn unmount(&mut self) {
        if std::mem::take(&mut self.mounted) {
            // Lazily: a process that was just killed may still hold it for a moment.
            let _done = Command::new("umount").arg("-l").arg(self.data()).status();
        }
    }
}
