//! Files with holes: read without touching the holes, copied with them, hashed as if they were zeros,
//! and given back the holes that a transfer filled with zeros. A file system without holes only costs space.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use proto::id::Digest;
use rustix::{
    fs::{FallocateFlags, SeekFrom},
    io::Errno,
};

use crate::{
    error::{ImageError, io},
    progress::Tick,
};

/// Zeros of this many bytes, aligned, become a hole: small enough to find most, large enough that a
/// file does not fall into crumbs.
pub(crate) const HOLE_BYTES: usize = 64 * 1024;
/// Read at once.
const READ_BYTES: usize = 1024 * 1024;
/// Bytes that stay free for everything else of the agent: logs of Raft, launch files, the catalogue.
pub(crate) const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// A file that exists only as long as somebody works on it.
#[derive(Debug)]
pub(crate) struct Scratch(Option<PathBuf>);

impl Scratch {
    /// Takes responsibility for whatever is or will be at `path`.
    pub(crate) fn new(path: PathBuf) -> Scratch {
        Scratch(Some(path))
    }

    /// Borrows the path.
    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().expect("only `rename` takes it, and consumes self")
    }

    /// Makes the file at the path, readable and writable by us only.
    pub(crate) fn create(&self) -> Result<File, ImageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(self.path()).map_err(io(format!("create {}", self.path().display())))
    }

    /// Gives the file its final name; from now on it stays.
    pub(crate) fn rename(mut self, to: &Path) -> Result<(), ImageError> {
        std::fs::rename(self.path(), to).map_err(io(format!("rename a file to {}", to.display())))?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

enum Piece<'a> {
    Hole(Range<u64>),
    Data(u64, &'a [u8]),
}

/// Copies `from` to the new file `to`, holes and zeros left out, and hashes it on the way.
pub(crate) fn copy(from: &File, to: &File, size: u64, tick: &Tick) -> Result<Digest, ImageError> {
    to.set_len(size).map_err(io("set the size of the copy"))?;
    let mut hasher = blake3::Hasher::new();
    walk(from, 0..size, &mut |piece| match piece {
        Piece::Hole(hole) => hash_zeros(&mut hasher, hole, tick),
        Piece::Data(at, data) => {
            hasher.update(data);
            for run in runs(at, data) {
                if let Run::Data(at, data) = run {
                    to.write_all_at(data, at).map_err(io("write the copy"))?;
                }
            }
            tick.at(at + data.len() as u64)
        }
    })?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// Hashes the first `size` bytes of a file.
pub(crate) fn hash(file: &File, size: u64, tick: &Tick) -> Result<Digest, ImageError> {
    let mut hasher = blake3::Hasher::new();
    walk(file, 0..size, &mut |piece| match piece {
        Piece::Hole(hole) => hash_zeros(&mut hasher, hole, tick),
        Piece::Data(at, data) => {
            hasher.update(data);
            tick.at(at + data.len() as u64)
        }
    })?;
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// Turns long zeros within `range` into holes. The bytes that a reader sees stay the same.
pub(crate) fn punch(file: &File, range: Range<u64>) -> Result<(), ImageError> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut supported = true;
    walk(file, range, &mut |piece| {
        let Piece::Data(at, data) = piece else { return Ok(()) };
        for run in runs(at, data) {
            let Run::Zeros(zeros) = run else { continue };
            if !supported {
                return Ok(());
            }
            match rustix::fs::fallocate(file, mode, zeros.start, zeros.end - zeros.start) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => supported = false,
                Err(error) => return Err(io("punch a hole")(error.into())),
            }
        }
        Ok(())
    })
}

/// Gives the bytes of a file that are not holes.
pub(crate) fn allocated(file: &File) -> Result<u64, ImageError> {
    file.metadata().map(|meta| meta.blocks() * 512).map_err(io("look at the image"))
}

/// Fails unless `needed` bytes, and the reserve, are free where `path` is.
pub(crate) fn room(path: &Path, needed: u64) -> Result<(), ImageError> {
    let stat = rustix::fs::statvfs(path).map_err(|error| io("ask for free space")(error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < needed.saturating_add(RESERVE_BYTES) {
        return Err(ImageError::NoRoom { needed, free });
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ImageError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(format!("sync {}", dir.display())))
}

fn hash_zeros(hasher: &mut blake3::Hasher, hole: Range<u64>, tick: &Tick) -> Result<(), ImageError> {
    static ZEROS: [u8; READ_BYTES] = [0; READ_BYTES];
    let mut at = hole.start;
    while at < hole.end {
        let step = (hole.end - at).min(READ_BYTES as u64);
        hasher.update(&ZEROS[..step as usize]);
        at += step;
        tick.at(at)?;
    }
    Ok(())
}

/// Shows a file piece by piece, in order, without reading its holes.
fn walk(
    file: &File,
    range: Range<u64>,
    on: &mut dyn FnMut(Piece<'_>) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut buffer = vec![0; READ_BYTES];
    let mut at = range.start;
    while at < range.end {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(range.end),
            Err(Errno::NXIO) => range.end,
            // No holes on this file system: all is data.
            Err(_) => at,
        };
        if data > at {
            on(Piece::Hole(at..data))?;
            at = data;
            continue;
        }
        let hole = rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(range.end).min(range.end).max(at + 1);
        while at < hole {
            // Up to the next multiple, so that pieces and holes stay aligned.
            let step = (hole - at).min(READ_BYTES as u64 - at % READ_BYTES as u64) as usize;
            file.read_exact_at(&mut buffer[..step], at).map_err(io("read the image"))?;
            on(Piece::Data(at, &buffer[..step]))?;
            at += step as u64;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Run<'a> {
    Data(u64, &'a [u8]),
    Zeros(Range<u64>),
}

/// Cuts `data`, which lies at `at` in its file, into aligned blocks of zeros and the rest; neighbours
/// of one kind are joined.
fn runs(at: u64, data: &[u8]) -> Vec<Run<'_>> {
    let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
    let mut start = 0;
    while start < data.len() {
        let to_boundary = HOLE_BYTES - ((at + start as u64) % HOLE_BYTES as u64) as usize;
        let end = (start + to_boundary).min(data.len());
        let zero = end - start == HOLE_BYTES && is_zero(&data[start..end]);
        match runs.last_mut() {
            Some((kind, last)) if *kind == zero => last.end = end,
            _ => runs.push((zero, start..end)),
        }
        start = end;
    }
    let place = |(zero, range): (bool, Range<usize>)| match zero {
        true => Run::Zeros(at + range.start as u64..at + range.end as u64),
        false => Run::Data(at + range.start as u64, &data[range]),
    };
    runs.into_iter().map(place).collect()
}

fn is_zero(block: &[u8]) -> bool {
    // Sixteen bytes at a time is what the compiler turns into vector instructions.
    let (chunks, rest) = block.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = HOLE_BYTES as u64;

    #[test]
    fn zeros_are_cut_at_aligned_blocks_only() {
        let mut data = vec![0u8; 4 * HOLE_BYTES];
        data[2 * HOLE_BYTES + 5] = 1;
        let kinds = |at| -> Vec<String> {
            let show = |run: &Run<'_>| match run {
                Run::Data(at, data) => format!("data {at}+{}", data.len()),
                Run::Zeros(range) => format!("zeros {range:?}"),
            };
            runs(at, &data).iter().map(show).collect()
        };
        assert_eq!(kinds(0), ["zeros 0..131072", "data 131072+65536", "zeros 196608..262144"]);
        // Half a block at either end is not worth a hole.
        let shifted =
            ["data 32768+32768", "zeros 65536..131072", "data 131072+65536", "zeros 196608..262144"];
        assert_eq!(kinds(BLOCK / 2)[..4], shifted);
        assert_eq!(kinds(BLOCK / 2)[4..], ["data 262144+32768"]);
    }
}
