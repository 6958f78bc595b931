//! Reads what a user names: a regular file, never more of it than is wanted. A FIFO, a socket or a
//! device could hold the program for ever, so it is named and refused.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

use proto::wire::api::{Error, Kind};
use rustix::fs::OFlags;

use super::error;

/// Opens a regular file to read it.
pub fn open(path: &Path) -> Result<File, Error> {
    let unreadable = |error: io::Error| error::unreadable(path, &error);
    // Asked first, because opening a device may already do something to it.
    regular(path, fs::metadata(path).map_err(unreadable)?.file_type())?;
    // Another file may have taken the name since: opening it must not wait, and it is asked again.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    regular(path, file.metadata().map_err(unreadable)?.file_type())?;
    Ok(file)
}

/// Reads a regular file of at most `most` bytes.
pub fn read(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    let file = open(path)?;
    up_to(file, most).map_err(|error| error::unreadable(path, &error))?.ok_or_else(|| {
        Error::new(Kind::Invalid, format!("{} is too large", path.display()))
            .because(format!("at most {most} bytes are possible"))
            .next("check that it is the file you mean")
    })
}

/// Reads a regular file or, as `-`, stdin.
pub fn read_or_stdin(path: &Path, most: usize) -> Result<Vec<u8>, Error> {
    if path != Path::new("-") {
        let pipe = fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo());
        let told = |error: Error| if pipe { error.next("give it on stdin, as the file `-`") } else { error };
        return read(path, most).map_err(told);
    }
    let read = up_to(io::stdin().lock(), most)
        .map_err(|error| Error::new(Kind::Failed, "stdin cannot be read").because(error))?;
    read.ok_or_else(|| {
        Error::new(Kind::Invalid, "what comes from stdin is too large")
            .because(format!("at most {most} bytes are possible"))
    })
}

/// Reads to the end; `None` when there is more than `most`.
fn up_to(from: impl Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    from.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() <= most))
}

fn regular(path: &Path, kind: FileType) -> Result<(), Error> {
    if kind.is_file() {
        return Ok(());
    }
    let is = match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "something else",
    };
    Err(Error::new(Kind::Failed, format!("{} cannot be read", path.display()))
        .because(format!("it is {is}, not a file"))
        .next("name a file, or write what you have into one first"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, Mode};

    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        rustix::fs::mkfifoat(CWD, at("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
        fs::write(at("file"), "x").unwrap();
        let because = |path: &Path| read(path, 9).unwrap_err().because.unwrap();
        assert_eq!(because(dir.path()), "it is a directory, not a file");
        assert_eq!(because(&at("fifo")), "it is a FIFO, not a file");
        assert_eq!(because(&at("link")), "it is a FIFO, not a file");
        assert_eq!(because(&at("socket")), "it is a socket, not a file");
        assert_eq!(because(Path::new("/dev/zero")), "it is a device, not a file");
        assert_eq!(read(&at("file"), 9).unwrap(), b"x");
    }

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "four").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"four");
        assert_eq!(read(&path, 3).unwrap_err().kind, Kind::Invalid);
        assert_eq!(up_to(io::repeat(7), 3).unwrap(), None);
    }
}
