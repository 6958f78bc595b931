//! A disk without room, for which these tests mount a small one; without root they say that they skip.

use std::process::Command;

use crate::{ImageError, tests::*};

struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf, mib: u64) -> Option<Mounted> {
        std::fs::create_dir(&path).unwrap();
        let options = format!("size={mib}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        match mount {
            Ok(output) if output.status.success() => Some(Mounted(path)),
            other => {
                eprintln!("SKIPPED: cannot mount a small disk, which takes root: {other:?}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazy, because a failed test may still have files open.
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

#[tokio::test]
async fn no_room_is_said_plainly_and_nothing_half_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Mounted::new(dir.path().join("small"), 40) else { return };
    let (raw, qcow2) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
    disk(&raw, 256 * MIB, 64 * MIB);
    // Of a few kilobytes, and 128 MiB when unpacked.
    let bomb = dir.path().join("bomb.raw");
    std::fs::write(&bomb, vec![1; 128 * MIB as usize]).unwrap();
    let packed = qemu_img(&["convert", "-c", "-O", "qcow2", bomb.to_str().unwrap(), qcow2.to_str().unwrap()]);

    let big = Host::start(&dir.path().join("big"), 1).await;
    let mut host = Host::start(&small.0.join("images"), 2).await;
    host.knows(&[&big.endpoint]);
    let empty = taken(&host.dir);
    let check = |host: &Host, result: Result<(), ImageError>| {
        let error = result.unwrap_err();
        assert!(error.is_full(), "{error:?}");
        let left = ["raw", "scratch", "pulls", "blobs/data"].map(|sub| files(&host.dir.join(sub)));
        assert_eq!(left, [0; 4]);
        assert!(host.images.list().is_empty());
        // The database of the store grows a little; nothing else does.
        assert!(taken(&host.dir) < empty + 4 * MIB, "{}", taken(&host.dir));
    };
    check(&host, host.import(&raw, "tiny").await.map(drop));
    if packed {
        check(&host, host.import(&qcow2, "tiny").await.map(drop));
    }
    let wanted = big.import(&raw, "tiny").await.unwrap();
    check(&host, host.ensure(&wanted, vec![big.holder("big")]).await.map(drop));
    assert_eq!(host.facts(), Vec::<String>::new());

    // And what fits still works.
    let fits = dir.path().join("fits.raw");
    disk(&fits, 8 * MIB, MIB);
    let wanted = big.import(&fits, "fits").await.unwrap();
    host.ensure(&wanted, vec![big.holder("big")]).await.unwrap();
    big.stop().await;
    host.stop().await;
}
