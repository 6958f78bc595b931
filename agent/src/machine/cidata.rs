//! Puts seed files on a small vfat disk labelled CIDATA, without mkfs or mtools.

use std::{
    io::{self, Cursor, Write},
    path::Path,
};

use super::seed::SeedFile;

/// Room for the file system's own tables, and the least that FAT12 is happy with.
const SPARE_BYTES: usize = 512 * 1024;
const SECTOR_BYTES: usize = 512;

/// Writes the disk to `path`, replacing it whole.
pub fn write(path: &Path, files: &[SeedFile]) -> io::Result<()> {
    crate::host::durable::write(path, &image(files)?)
}

fn image(files: &[SeedFile]) -> io::Result<Vec<u8>> {
    let content: usize = files.iter().map(|file| file.bytes.len()).sum();
    // A FAT entry and half a cluster are lost per cluster at worst; an eighth more covers both.
    let bytes = (content + content / 8 + SPARE_BYTES).next_multiple_of(SECTOR_BYTES);
    let mut disk = Cursor::new(vec![0; bytes]);
    let label = *b"CIDATA     ";
    let options = fatfs::FormatVolumeOptions::new().volume_label(label).volume_id(0x4d455348);
    fatfs::format_volume(&mut disk, options)?;
    let system = fatfs::FileSystem::new(&mut disk, fatfs::FsOptions::new())?;
    for file in files {
        system.root_dir().create_file(file.name)?.write_all(&file.bytes)?;
    }
    system.unmount()?;
    Ok(disk.into_inner())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn files_come_back_as_they_were_written_and_the_label_is_found() {
        let files = [
            SeedFile { name: "meta-data", bytes: b"instance-id: 1\n".to_vec() },
            SeedFile { name: "user-data", bytes: vec![7; 6 * 1024 * 1024] },
            SeedFile { name: "network-config", bytes: Vec::new() },
        ];
        let system =
            fatfs::FileSystem::new(Cursor::new(image(&files).unwrap()), fatfs::FsOptions::new()).unwrap();
        assert_eq!(system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        assert_eq!(system.volume_label(), "CIDATA");
        for file in files {
            let mut bytes = Vec::new();
            system.root_dir().open_file(file.name).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, file.bytes, "{}", file.name);
        }
    }
}
