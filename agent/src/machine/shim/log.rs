//! Keeps `shim.log` short: shim and QEMU append to it for as long as a machine lives, and a guest can
//! make QEMU complain as often as it likes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// How often its length is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Above this it is cut.
const MOST: u64 = 1024 * 1024;
/// What stays: the last words say why something ended.
const KEPT: u64 = 64 * 1024;

/// Cuts the log now and then, for as long as the shim lives.
pub async fn keep_short(path: PathBuf) {
    loop {
        tokio::time::sleep(LOOK).await;
        // A log that cannot be cut must not end the machine; it is tried again.
        cut(&path).ok();
    }
}

/// Leaves the end of a log that has grown too long. Its writers append, so that they go on behind it.
fn cut(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length <= MOST {
        return Ok(());
    }
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(length - KEPT))?;
    file.take(KEPT).read_to_end(&mut end)?;
    let mut log = OpenOptions::new().append(true).open(path)?;
    log.set_len(0)?;
    log.write_all(&end)
}

/// Reads the end of a log, at most as much of it as stays. What cannot be read said nothing.
pub fn last(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        // Only a file has an end.
        if !about.is_file() {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(about.len().saturating_sub(KEPT)))?;
        let mut end = Vec::new();
        file.take(KEPT).read_to_end(&mut end)?;
        io::Result::Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grew_too_long_keeps_its_end_and_its_writers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        writer.write_all(&vec![b'x'; MOST as usize]).unwrap();
        cut(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MOST, "it is not too long yet");
        writer.write_all(b"the last word\n").unwrap();
        cut(&path).unwrap();
        writer.write_all(b"and one more\n").unwrap();
        let left = std::fs::read(&path).unwrap();
        assert!(left.ends_with(b"xthe last word\nand one more\n"));
        assert_eq!(left.len() as u64, KEPT + 13);
        assert!(last(&path).ends_with("word\nand one more\n") && last(&path).len() as u64 == KEPT);
        assert_eq!((last(Path::new("/dev/full")), last(dir.path())), (String::new(), String::new()));
    }
}
