//! Fetching between hosts: resume, bad and absent holders.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
};

use iroh::{endpoint::Connection, protocol::AcceptError, protocol::ProtocolHandler};

use crate::{ImageError, Step, tests::*};

#[tokio::test]
async fn a_fetched_image_is_the_same_sparse_read_only_file_and_there_is_one_copy() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 160 * MIB, 8 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let mut b = Host::start(&dir.path().join("b"), 2).await;
    b.knows(&[&a.endpoint]);
    let wanted = a.import(&source, "tiny").await.unwrap();
    let path = b.ensure(&wanted, vec![a.holder("nas")]).await.unwrap();
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), wanted.digest);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.nlink()), (0o444, 2));
    assert!(allocated(&path) <= 9 * MIB, "{}", allocated(&path));
    assert!(taken(&b.dir) <= 12 * MIB, "{}", taken(&b.dir));
    // Names travel with their moments, so that they outlive the host that gave them.
    let (here, there) = (a.images.list()[&wanted.digest].clone(), b.images.list()[&wanted.digest].clone());
    assert_eq!((here.names, here.size, here.complete), (there.names, there.size, there.complete));
    assert_eq!(b.facts(), ["image tiny is here, 167772160 bytes from nas"]);
    assert!(b.images.transfers().borrow().is_empty());
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_fetched_image_is_served_on_and_survives_removal_and_restart() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 16 * MIB, 2 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let b = Host::start(&dir.path().join("b"), 2).await;
    b.knows(&[&a.endpoint]);
    let wanted = a.import(&source, "tiny").await.unwrap();
    for _ in 0..2 {
        b.ensure(&wanted, vec![a.holder("a")]).await.unwrap();
        b.images.remove(wanted.digest, &Default::default()).await.unwrap();
        assert_eq!((files(&b.dir.join("raw")), files(&b.dir.join("blobs/data"))), (0, 0));
    }
    b.ensure(&wanted, vec![a.holder("a")]).await.unwrap();
    a.stop().await;
    let b = Host::start(&b.stop().await, 2).await;
    let c = Host::start(&dir.path().join("c"), 3).await;
    c.knows(&[&b.endpoint]);
    c.ensure(&wanted, vec![b.holder("b")]).await.unwrap();
    b.stop().await;
    c.stop().await;
}

#[tokio::test]
async fn two_machines_that_need_the_same_image_share_one_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 16 * MIB, 8 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let mut b = Host::start(&dir.path().join("b"), 2).await;
    b.knows(&[&a.endpoint]);
    let wanted = a.import(&source, "tiny").await.unwrap();
    let holders = || vec![a.holder("a")];
    let (one, two) = tokio::join!(b.ensure(&wanted, holders()), b.ensure(&wanted, holders()));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(b.facts().len(), 1);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_dropped_fetch_keeps_what_came_and_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 192 * MIB, 48 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let b = Host::start(&dir.path().join("b"), 2).await;
    b.knows(&[&a.endpoint]);
    let wanted = a.import(&source, "tiny").await.unwrap();
    let mut transfers = b.images.transfers();
    let half = async {
        let enough = |done: u64| done >= 70 * MIB;
        transfers.wait_for(|all| all.get(&wanted.digest).is_some_and(|p| enough(p.done))).await.unwrap();
    };
    tokio::select! {
        _ = b.ensure(&wanted, vec![a.holder("a")]) => panic!("not dropped"),
        () = half => {}
    }
    assert!(!b.images.list()[&wanted.digest].complete);
    let b = Host::start(&b.stop().await, 2).await;
    b.knows(&[&a.endpoint]);
    let held = b.images.0.content.held(wanted.digest).await.unwrap().total_bytes();
    assert!(held >= 64 * MIB, "{held}");
    let path = b.ensure(&wanted, vec![a.holder("a")]).await.unwrap();
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), wanted.digest);
    a.stop().await;
    b.stop().await;
}

/// The other process of the next test: it fetches, and says how far it is, until it is killed.
#[tokio::test]
async fn a_process_that_fetches_until_it_is_killed() {
    let Ok(task) = std::env::var("IMAGES_TEST_FETCH") else { return };
    let [dir, address, digest, size]: [&str; 4] = task.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let host = Host::start(Path::new(dir), 2).await;
    let id = SecretKey::from_bytes(&[1; 32]).public();
    let address = iroh::TransportAddr::Ip(address.parse().unwrap());
    host.lookup.add_endpoint_info(iroh::EndpointAddr::from_parts(id, [address]));
    let (digest, size) = (digest.parse().unwrap(), size.parse().unwrap());
    let wanted = WantedImage { digest, size, arch: "x86_64".to_owned(), names: Default::default() };
    let mut transfers = host.images.transfers();
    tokio::spawn(async move {
        while transfers.changed().await.is_ok() {
            let done = transfers.borrow_and_update().values().map(|progress| progress.done).sum::<u64>();
            println!("at {done}");
        }
    });
    host.ensure(&wanted, vec![holder(id, "a")]).await.unwrap();
    println!("at {size}");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_loses_little_of_its_fetch() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 192 * MIB, 48 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let wanted = a.import(&source, "tiny").await.unwrap();
    let b = dir.path().join("b");
    let address = a.endpoint.bound_sockets()[0];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::members::a_process_that_fetches_until_it_is_killed", "--nocapture"])
        .env("IMAGES_TEST_FETCH", format!("{} {address} {} {}", b.display(), wanted.digest, wanted.size))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let half = tokio::task::spawn_blocking(move || {
        let done = |line: String| line.split_once("at ")?.1.parse::<u64>().ok();
        lines.map_while(Result::ok).filter_map(done).find(|done| *done >= 80 * MIB)
    });
    let reached = tokio::time::timeout(WITHIN, half).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reached.unwrap().unwrap().is_some(), "the process ended too early");

    let b = Host::start(&b, 2).await;
    b.knows(&[&a.endpoint]);
    let held = b.images.0.content.held(wanted.digest).await.unwrap().total_bytes();
    assert!(held >= 32 * MIB, "{held}");
    let path = b.ensure(&wanted, vec![a.holder("a")]).await.unwrap();
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), wanted.digest);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_holder_whose_disk_rots_is_given_up_and_another_one_finishes() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 32 * MIB, 8 * MIB);
    let rotten = Host::start(&dir.path().join("a"), 1).await;
    let good = Host::start(&dir.path().join("b"), 2).await;
    let mut c = Host::start(&dir.path().join("c"), 3).await;
    c.knows(&[&rotten.endpoint, &good.endpoint]);
    let wanted = rotten.import(&source, "tiny").await.unwrap();
    good.import(&source, "tiny").await.unwrap();
    let path = rotten.images.path(wanted.digest).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 12 * MIB).unwrap();

    let far = Holder { rtt_ms: Some(50.0), ..good.holder("good") };
    let path = c.ensure(&wanted, vec![far, rotten.holder("rotten")]).await.unwrap();
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), wanted.digest);
    let facts = c.facts();
    assert!(facts[0].starts_with("image tiny: gave up on rotten: "), "{facts:?}");
    assert_eq!(facts[1], "image tiny is here, 33554432 bytes from rotten, good");
    for host in [rotten, good, c] {
        host.stop().await;
    }
}

/// Answers every request with a right size and wrong bytes, or never.
#[derive(Debug, Clone)]
struct Liar {
    size: Option<u64>,
}

impl ProtocolHandler for Liar {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, _recv)) = connection.accept_bi().await {
            let Some(size) = self.size else { return std::future::pending().await };
            let mut lie = size.to_le_bytes().to_vec();
            lie.extend(noise(64 * 1024));
            // The other side hangs up in the middle, which is what is tested.
            send.write_all(&lie).await.ok();
            send.finish().ok();
        }
        Ok(())
    }
}

async fn liar(seed: u8, size: Option<u64>) -> (Endpoint, Router) {
    let (endpoint, _) = endpoint(seed).await;
    let router = Router::builder(endpoint.clone()).accept(iroh_blobs::ALPN, Liar { size }).spawn();
    (endpoint, router)
}

#[tokio::test]
async fn liars_silent_and_absent_holders_are_given_up_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 16 * MIB, 2 * MIB);
    let good = Host::start(&dir.path().join("a"), 1).await;
    let wanted = good.import(&source, "tiny").await.unwrap();
    let mut host = Host::start(&dir.path().join("b"), 2).await;
    let (wrong, _wrong) = liar(3, Some(wanted.size)).await;
    let (huge, _huge) = liar(4, Some(u64::MAX)).await;
    let (silent, _silent) = liar(5, None).await;
    let absent = SecretKey::from_bytes(&[6; 32]).public();
    host.knows(&[&good.endpoint, &wrong, &huge, &silent]);
    let at = |rtt_ms, id, name| Holder { rtt_ms: Some(rtt_ms), ..holder(id, name) };
    let holders = vec![
        at(1.0, wrong.id(), "wrong"),
        at(2.0, huge.id(), "huge"),
        at(3.0, absent, "absent"),
        at(4.0, silent.id(), "silent"),
        at(5.0, good.endpoint.id(), "good"),
    ];
    // One that failed may be asked again before the last one was asked once; so each is named at least once.
    let path = host.ensure(&wanted, holders).await.unwrap();
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), wanted.digest);
    let facts = host.facts();
    for name in ["wrong", "huge", "absent", "silent"] {
        let gave_up = format!("image tiny: gave up on {name}: ");
        assert!(facts.iter().any(|fact| fact.starts_with(&gave_up)), "{name}: {facts:?}");
    }
    assert_eq!(facts.last().unwrap(), "image tiny is here, 16777216 bytes from good");
    good.stop().await;
    host.stop().await;
}

#[tokio::test]
async fn a_fetch_waits_for_holders_and_takes_the_first_that_appears() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 16 * MIB, 2 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let b = Host::start(&dir.path().join("b"), 2).await;
    b.knows(&[&a.endpoint]);
    let wanted = a.import(&source, "tiny").await.unwrap();
    let (appear, holders) = watch::channel(Vec::new());
    let mut transfers = b.images.transfers();
    let ensured = b.images.ensure(&wanted, holders, &b.endpoint);
    let later = async {
        let waits = |step: &Step| *step == Step::Waiting;
        transfers.wait_for(|all| all.get(&wanted.digest).is_some_and(|p| waits(&p.step))).await.unwrap();
        appear.send(vec![a.holder("a")]).unwrap();
    };
    let (path, ()) = tokio::time::timeout(WITHIN, async { tokio::join!(ensured, later) }).await.unwrap();
    assert!(path.unwrap().exists());

    let nobody = WantedImage { digest: Digest([9; 32]), ..wanted };
    let ensured = b.ensure(&nobody, Vec::new());
    // `ensure` of the harness keeps its sender, so the end of the watch is told here.
    let (sender, holders) = watch::channel(Vec::new());
    drop((ensured, sender));
    let ended = b.images.ensure(&nobody, holders, &b.endpoint).await;
    assert!(matches!(ended, Err(ImageError::NoHolder(_))));
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_size_that_the_content_disproves_ends_the_fetch_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 16 * MIB, 2 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let b = Host::start(&dir.path().join("b"), 2).await;
    b.knows(&[&a.endpoint]);
    let wanted = a.import(&source, "tiny").await.unwrap();
    for size in [8 * MIB, 32 * MIB] {
        let lie = WantedImage { size, ..wanted.clone() };
        let ended = b.ensure(&lie, vec![a.holder("a")]).await;
        assert!(matches!(ended, Err(ImageError::Size { got, .. }) if got == 16 * MIB), "{ended:?}");
        assert_eq!((files(&b.dir.join("raw")), files(&b.dir.join("blobs/data"))), (0, 0));
        assert!(b.images.list().is_empty());
    }
    b.ensure(&wanted, vec![a.holder("a")]).await.unwrap();
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn an_import_of_what_is_half_fetched_completes_it() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    disk(&source, 192 * MIB, 48 * MIB);
    let a = Host::start(&dir.path().join("a"), 1).await;
    let b = Host::start(&dir.path().join("b"), 2).await;
    b.knows(&[&a.endpoint]);
    let wanted = a.import(&source, "tiny").await.unwrap();
    let mut transfers = b.images.transfers();
    let some = async {
        transfers.wait_for(|all| all.get(&wanted.digest).is_some_and(|p| p.done >= 8 * MIB)).await.unwrap();
    };
    tokio::select! {
        _ = b.ensure(&wanted, vec![a.holder("a")]) => panic!("not dropped"),
        () = some => {}
    }
    b.import(&source, "mine").await.unwrap();
    assert_eq!(files(&b.dir.join("blobs/data")), 1, "only the hash tree");
    let names: Vec<String> = b.images.list()[&wanted.digest].names.keys().cloned().collect();
    assert_eq!(names, ["mine", "tiny"]);
    b.ensure(&wanted, Vec::new()).await.unwrap();
    a.stop().await;
    b.stop().await;
}
