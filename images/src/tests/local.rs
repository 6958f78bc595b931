//! Import, names, removal, repair: one host.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

use crate::{ImageError, Images, qcow2::Refused, tests::*};

#[tokio::test]
async fn an_imported_raw_disk_is_a_sparse_read_only_file_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    let digest = disk(&source, 64 * MIB, 4 * MIB);
    let mut host = Host::start(&dir.path().join("images"), 1).await;
    let mut changes = host.images.watch();
    let wanted = host.import(&source, "tiny").await.unwrap();
    assert_eq!((wanted.digest, wanted.size), (digest, 64 * MIB));

    let path = host.images.path(digest).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&source).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    // The data and one block for the boot sector; the written zeros have become holes.
    assert!(allocated(&path) <= 5 * MIB, "{}", allocated(&path));
    assert!(taken(&host.dir) <= 8 * MIB, "{}", taken(&host.dir));

    assert!(changes.has_changed().unwrap());
    let record = changes.borrow_and_update()[&digest].clone();
    assert_eq!((record.complete, record.size, record.names.len()), (true, 64 * MIB, 1));
    assert_eq!(record.allocated, allocated(&path));
    assert_eq!(host.facts(), ["image tiny is here, 67108864 bytes from import"]);
    host.stop().await;
}

#[tokio::test]
async fn images_and_names_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    let digest = disk(&source, 8 * MIB, MIB);
    let host = Host::start(&dir.path().join("images"), 1).await;
    host.import(&source, "tiny").await.unwrap();
    let before = host.images.list();
    let host = Host::start(&host.stop().await, 1).await;
    assert_eq!(host.images.list(), before);
    assert!(host.images.path(digest).unwrap().exists());
    host.stop().await;
}

#[tokio::test]
async fn a_name_of_other_content_is_refused_and_nothing_is_kept_unless_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.raw"), dir.path().join("b.raw"));
    let (first, second) = (disk(&a, 8 * MIB, MIB), disk(&b, 16 * MIB, MIB));
    let host = Host::start(&dir.path().join("images"), 1).await;
    host.import(&a, "tiny").await.unwrap();
    // The same content again is no clash.
    host.import(&a, "tiny").await.unwrap();
    let refused = host.import(&b, "tiny").await.unwrap_err();
    assert!(matches!(&refused, ImageError::NameTaken { digest, .. } if *digest == first), "{refused}");
    assert_eq!((files(&host.dir.join("raw")), files(&host.dir.join("scratch"))), (1, 0));

    let replace = Giving { replace: true, ..giving("tiny") };
    host.images.import(&b, replace, "x86_64", &progress()).await.unwrap();
    let records = host.images.list();
    assert!(records[&first].names.is_empty());
    let meanings = proto::picture::images::resolve(records.iter().map(|(digest, record)| (*digest, record)));
    assert_eq!(meanings["tiny"].0, second);
    host.stop().await;
}

#[tokio::test]
async fn a_qcow2_disk_becomes_the_raw_disk_that_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
    let digest = disk(&raw, 64 * MIB, 4 * MIB);
    let (from, to) = (raw.to_str().unwrap(), qcow2.to_str().unwrap());
    if !qemu_img(&["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", from, to]) {
        return;
    }
    let host = Host::start(&dir.path().join("images"), 1).await;
    let wanted = host.import(&qcow2, "tiny").await.unwrap();
    assert_eq!((wanted.digest, wanted.size), (digest, 64 * MIB));
    assert!(allocated(&host.images.path(digest).unwrap()) <= 5 * MIB);
    host.stop().await;
}

#[tokio::test]
async fn hostile_qcow2_files_of_the_real_tool_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    disk(at("secret.raw").as_ref(), MIB, 1024);
    let backed = ["create", "-f", "qcow2", "-b", &at("secret.raw"), "-F", "raw", &at("backed.qcow2")];
    if !qemu_img(&backed) {
        return;
    }
    let external = format!("data_file={},data_file_raw=on", at("data.raw"));
    qemu_img(&["create", "-f", "qcow2", "-o", &external, &at("external.qcow2"), "1M"]);
    let locked = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    let secret = ["--object", "secret,id=s,data=x"];
    qemu_img(&["create", secret[0], secret[1], "-f", "qcow2", "-o", locked, &at("locked.qcow2"), "1M"]);

    let host = Host::start(&dir.path().join("images"), 1).await;
    let said = async |name: &str| match host.import(at(name).as_ref(), "x").await {
        Err(ImageError::Refused(refused)) => refused,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(said("backed.qcow2").await, Refused::BackingFile(at("secret.raw")));
    assert_eq!(said("external.qcow2").await, Refused::ExternalData);
    assert_eq!(said("locked.qcow2").await, Refused::Encrypted);
    assert_eq!((files(&host.dir.join("raw")), files(&host.dir.join("scratch"))), (0, 0));
    host.stop().await;
}

#[tokio::test]
async fn a_qcow2_file_that_is_cut_short_fails_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (dir.path().join("disk.raw"), dir.path().join("disk.qcow2"));
    disk(&raw, 64 * MIB, 4 * MIB);
    if !qemu_img(&["convert", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]) {
        return;
    }
    std::fs::File::options().write(true).open(&qcow2).unwrap().set_len(MIB).unwrap();
    let host = Host::start(&dir.path().join("images"), 1).await;
    let refused = host.import(&qcow2, "tiny").await.unwrap_err().to_string();
    assert!(refused.contains("damaged or cut short"), "{refused}");
    assert_eq!((files(&host.dir.join("raw")), files(&host.dir.join("scratch"))), (0, 0));
    host.stop().await;
}

#[tokio::test]
async fn a_removed_image_is_gone_from_disk_and_can_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    let digest = disk(&source, 64 * MIB, 8 * MIB);
    let host = Host::start(&dir.path().join("images"), 1).await;
    let empty = taken(&host.dir);
    for _ in 0..2 {
        host.import(&source, "tiny").await.unwrap();
        let used = BTreeSet::from([digest]);
        assert!(matches!(host.images.remove(digest, &used).await, Err(ImageError::InUse(_))));
        host.images.remove(digest, &BTreeSet::new()).await.unwrap();
        assert_eq!(host.images.path(digest), None);
        assert!(taken(&host.dir) < empty + MIB, "{}", taken(&host.dir));
        let again = host.images.remove(digest, &BTreeSet::new()).await;
        assert!(matches!(again, Err(ImageError::Unknown(_))));
    }
    host.stop().await;
}

#[tokio::test]
async fn a_lost_store_is_made_again_from_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    let digest = disk(&source, 8 * MIB, MIB);
    let host = Host::start(&dir.path().join("images"), 1).await;
    let wanted = host.import(&source, "tiny").await.unwrap();
    let images = host.stop().await;
    std::fs::write(images.join("blobs/blobs.db"), b"not a database").unwrap();
    let host = Host::start(&images, 1).await;
    let other = Host::start(&dir.path().join("other"), 2).await;
    other.knows(&[&host.endpoint]);
    other.ensure(&wanted, vec![host.holder("host")]).await.unwrap();
    assert!(host.images.path(digest).unwrap().exists());
    other.stop().await;
    host.stop().await;
}

#[tokio::test]
async fn a_damaged_or_missing_file_is_no_longer_called_complete() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    let digest = disk(&source, 8 * MIB, MIB);
    let host = Host::start(&dir.path().join("images"), 1).await;
    host.import(&source, "tiny").await.unwrap();
    let images = host.stop().await;
    std::fs::remove_file(images.join("raw").join(digest.to_string())).unwrap();
    std::fs::write(images.join("raw").join(Digest([7; 32]).to_string()), b"of a crashed import").unwrap();
    let host = Host::start(&images, 1).await;
    assert_eq!(host.images.path(digest), None);
    assert_eq!(host.images.list()[&digest].names.len(), 1);
    assert_eq!(files(&images.join("raw")), 0);
    host.import(&source, "tiny").await.unwrap();
    assert!(host.images.path(digest).is_some());
    host.stop().await;
}

#[tokio::test]
async fn a_damaged_catalogue_is_rebuilt_from_its_copy_and_from_the_images_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    let digest = disk(&source, 8 * MIB, MIB);
    let mut host = Host::start(&dir.path().join("images"), 1).await;
    host.import(&source, "tiny").await.unwrap();
    for (text, copy) in [(&b""[..], true), (b"{", true), (b"\0\0", false), (b"[7]", false)] {
        let images = host.stop().await;
        std::fs::write(images.join("catalogue.json"), text).unwrap();
        if !copy {
            std::fs::write(images.join("catalogue.copy.json"), text).unwrap();
        }
        let rubble = images.join("raw").join(Digest([7; 32]).to_string());
        std::fs::write(&rubble, b"not what its name says").unwrap();
        host = Host::start(&images, 1).await;
        assert_eq!(std::fs::read(images.join("catalogue.json.damaged")).unwrap(), text);
        let names: Vec<String> = host.images.list()[&digest].names.keys().cloned().collect();
        assert_eq!(names, if copy { vec!["tiny".to_owned()] } else { vec![] }, "{text:?}");
        assert!(host.images.path(digest).unwrap().exists());
        assert!(!rubble.exists() && host.images.list().len() == 1);
    }
    // It has lost its name, and nothing else.
    host.import(&source, "tiny").await.unwrap();
    let images = host.stop().await;
    let host = Host::start(&images, 1).await;
    assert_eq!(host.images.list()[&digest].names.len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_catalogue_of_another_agent_stops_the_start_and_removes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    let digest = disk(&source, 8 * MIB, MIB);
    let host = Host::start(&dir.path().join("images"), 1).await;
    host.import(&source, "tiny").await.unwrap();
    let images = host.stop().await;
    std::fs::write(images.join("catalogue.json"), br#"{"version": 2, "pictures": []}"#).unwrap();
    let opened = Images::open(&images, broadcast::channel(1).0).await;
    assert!(matches!(opened, Err(ImageError::Catalogue { .. })));
    assert!(images.join("raw").join(digest.to_string()).exists());
}
