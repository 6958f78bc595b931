//! Pure: what a disk image file is, told from its first bytes, and whether a qcow2 header is one that we open.
//! A hostile qcow2 can name any file of this host as its backing or data file; it is refused here, by name,
//! before QEMU's tools see it. Nothing here reads a file.
//! Format: <https://www.qemu.org/docs/master/interop/qcow2.html>

use std::ops::Range;

/// Bytes of a file's start that are enough to judge it: the header and its extensions.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Virtual size that we accept. A header that claims more is a mistake or an attack on our disk.
pub const MAX_VIRTUAL_BYTES: u64 = 1 << 40;

/// QEMU's own ceiling for the first-level table.
const MAX_L1_BYTES: u64 = 32 * 1024 * 1024;

const MAGIC: &[u8] = b"QFI\xfb";
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// A qcow2 file that is safe to convert.
    Qcow2 {
        /// Size of the disk inside in bytes.
        virtual_size: u64,
    },
}

/// Why a file is not taken as a disk image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// Packed or of another program.
    #[error("the file is {0}; only raw and qcow2 images are taken, unpack or convert it first")]
    Foreign(&'static str),
    /// The file ends inside its header.
    #[error("the qcow2 header is cut short")]
    Short,
    /// Version 1 or one that we do not know.
    #[error("qcow2 version {0} is not known, only 2 and 3 are")]
    Version(u32),
    /// It would read another file of this host.
    #[error("the qcow2 image has a backing file {0:?}; flatten it with `qemu-img convert` first")]
    BackingFile(String),
    /// It would read another file of this host.
    #[error("the qcow2 image keeps its data in an external file")]
    ExternalData,
    /// We have no key.
    #[error("the qcow2 image is encrypted")]
    Encrypted,
    /// Its writer did not close it.
    #[error("the qcow2 image is in use or was not closed; repair it with `qemu-img check -r all` first")]
    Dirty,
    /// QEMU itself marked it.
    #[error("the qcow2 image is marked corrupt")]
    Corrupt,
    /// Bits or values of a newer format.
    #[error("the qcow2 image needs a feature that is not known here: {0}")]
    Feature(String),
    /// A field has a value that the format forbids.
    #[error("the qcow2 header is wrong: {0}")]
    Field(&'static str),
    /// Larger than [`MAX_VIRTUAL_BYTES`].
    #[error("the image claims {0} bytes, more than is accepted")]
    TooLarge(u64),
}

/// Judges a file by its first [`HEAD_BYTES`] (all of it, if it is shorter) and its length.
pub fn judge(head: &[u8], file_size: u64) -> Result<Format, Refused> {
    if head.is_empty() || file_size == 0 {
        return Err(Refused::Empty);
    }
    if head.starts_with(MAGIC) {
        return header(head, file_size).map(|virtual_size| Format::Qcow2 { virtual_size });
    }
    if let Some(foreign) = foreign(head) {
        return Err(Refused::Foreign(foreign));
    }
    if file_size > MAX_VIRTUAL_BYTES {
        return Err(Refused::TooLarge(file_size));
    }
    Ok(Format::Raw)
}

/// Names formats that people mistake for disk images. None of these starts is a boot sector.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let known: [(usize, &[u8], &str); 11] = [
        (0, b"\x1f\x8b", "compressed with gzip"),
        (0, b"\xfd7zXZ\0", "compressed with xz"),
        (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (0, b"BZh", "compressed with bzip2"),
        (0, b"PK\x03\x04", "a zip archive"),
        (0, b"KDMV", "a VMDK image"),
        (0, b"# Disk DescriptorFile", "a VMDK description"),
        (0, b"vhdxfile", "a VHDX image"),
        (0, b"conectix", "a VHD image"),
        (64, b"\x7f\x10\xda\xbe", "a VDI image"),
        (257, b"ustar", "a tar archive"),
    ];
    known
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|k| k.2)
}

/// Checks a qcow2 header and gives the virtual size.
fn header(head: &[u8], file_size: u64) -> Result<u64, Refused> {
    let version = u32_at(head, 4)?;
    if !(2..=3).contains(&version) {
        return Err(Refused::Version(version));
    }
    backing_file(head)?;
    let cluster_bits = u32_at(head, 20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Refused::Field("cluster size"));
    }
    if u32_at(head, 32)? != 0 {
        return Err(Refused::Encrypted);
    }
    let header_length = if version == 2 { 72 } else { features(head, cluster_bits)? };
    extensions(head, header_length, 1 << cluster_bits)?;
    tables(head, cluster_bits, file_size)?;
    match u64_at(head, 24)? {
        0 => Err(Refused::Field("virtual size is 0")),
        size if size > MAX_VIRTUAL_BYTES => Err(Refused::TooLarge(size)),
        size => Ok(size),
    }
}

/// Refuses a backing file, and shows its name as far as the file tells it.
fn backing_file(head: &[u8]) -> Result<(), Refused> {
    let (offset, length) = (u64_at(head, 8)?, u32_at(head, 16)?);
    if offset == 0 && length == 0 {
        return Ok(());
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(length.min(200) as usize);
    let name = head.get(start..end).map(String::from_utf8_lossy).unwrap_or_default();
    Err(Refused::BackingFile(name.into_owned()))
}

/// Checks the feature bits of version 3 and gives the header's length.
fn features(head: &[u8], cluster_bits: u32) -> Result<usize, Refused> {
    let incompatible = u64_at(head, 72)?;
    let unknown = incompatible & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2);
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(Refused::ExternalData);
    }
    if unknown != 0 {
        return Err(Refused::Feature(format!("incompatible bit {}", unknown.trailing_zeros())));
    }
    if incompatible & CORRUPT != 0 {
        return Err(Refused::Corrupt);
    }
    if incompatible & DIRTY != 0 {
        return Err(Refused::Dirty);
    }
    if u32_at(head, 96)? > 6 {
        return Err(Refused::Field("refcount width"));
    }
    let length = u32_at(head, 100)? as usize;
    if length < 104 || !length.is_multiple_of(8) || length > 1 << cluster_bits {
        return Err(Refused::Field("header length"));
    }
    let compression = if length > 104 { byte_at(head, 104)? } else { 0 };
    match (compression, incompatible & COMPRESSION != 0) {
        (0, false) | (1, true) => Ok(length),
        (kind, _) => Err(Refused::Feature(format!("compression type {kind}"))),
    }
}

/// Walks the header extensions, which may name a data file or an encryption header. They end with
/// the first cluster; more than [`HEAD_BYTES`] of them no program writes.
fn extensions(head: &[u8], header_length: usize, cluster: usize) -> Result<(), Refused> {
    let head = &head[..head.len().min(cluster)];
    let mut at = header_length;
    loop {
        // A header that fills its cluster exactly has no room for an end mark.
        if at == cluster {
            return Ok(());
        }
        match u32_at(head, at)? {
            EXTENSION_END => return Ok(()),
            EXTENSION_DATA_FILE => return Err(Refused::ExternalData),
            EXTENSION_ENCRYPTION => return Err(Refused::Encrypted),
            EXTENSION_BACKING_FORMAT => return Err(Refused::BackingFile(String::new())),
            _ => {
                at = at.saturating_add(8).saturating_add((u32_at(head, at + 4)? as usize).next_multiple_of(8))
            }
        }
    }
}

/// Checks that the first-level and refcount tables lie where the file has bytes.
fn tables(head: &[u8], cluster_bits: u32, file_size: u64) -> Result<(), Refused> {
    let cluster = 1u64 << cluster_bits;
    let l1_bytes = u64::from(u32_at(head, 36)?) * 8;
    let refcount_bytes = u64::from(u32_at(head, 56)?) * cluster;
    if l1_bytes > MAX_L1_BYTES || refcount_bytes > MAX_L1_BYTES {
        return Err(Refused::Field("table size"));
    }
    for (at, bytes) in [(40, l1_bytes), (48, refcount_bytes)] {
        let start = u64_at(head, at)?;
        let inside = start.checked_add(bytes).is_some_and(|end| end <= file_size.next_multiple_of(cluster));
        if !start.is_multiple_of(cluster) || !inside {
            return Err(Refused::Field("table outside of the file"));
        }
    }
    Ok(())
}

fn byte_at(head: &[u8], at: usize) -> Result<u8, Refused> {
    head.get(at).copied().ok_or(Refused::Short)
}

fn field<const N: usize>(head: &[u8], range: Range<usize>) -> Result<[u8; N], Refused> {
    head.get(range).and_then(|bytes| bytes.try_into().ok()).ok_or(Refused::Short)
}

fn u32_at(head: &[u8], at: usize) -> Result<u32, Refused> {
    field(head, at..at.saturating_add(4)).map(u32::from_be_bytes)
}

fn u64_at(head: &[u8], at: usize) -> Result<u64, Refused> {
    field(head, at..at.saturating_add(8)).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests;
