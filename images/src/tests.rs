//! Images on real disks, between real endpoints on loopback, from a real HTTP server of a few lines.

mod download;
mod full;
mod local;
mod members;

use std::{
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use iroh::{
    Endpoint, RelayMode, SecretKey,
    address_lookup::memory::MemoryLookup,
    endpoint::{PortmapperConfig, presets},
    protocol::Router,
};
use proto::{facts::Fact, id::Digest, time::Timestamp};
use tokio::sync::{broadcast, watch};

use crate::{Giving, Holder, Images, Progress, WantedImage};

const MIB: u64 = 1024 * 1024;

/// What every wait of these tests ends by.
const WITHIN: Duration = Duration::from_secs(60);

/// One host: its directory, its images, its endpoint.
struct Host {
    dir: PathBuf,
    images: Images,
    facts: broadcast::Receiver<Fact>,
    endpoint: Endpoint,
    lookup: MemoryLookup,
    router: Router,
}

impl Host {
    async fn start(dir: &Path, seed: u8) -> Host {
        let (facts_in, facts) = broadcast::channel(100);
        let images = Images::open(dir, facts_in).await.unwrap();
        let (endpoint, lookup) = endpoint(seed).await;
        let router = Router::builder(endpoint.clone()).accept(iroh_blobs::ALPN, images.protocol()).spawn();
        Host { dir: dir.to_owned(), images, facts, endpoint, lookup, router }
    }

    fn holder(&self, name: &str) -> Holder {
        holder(self.endpoint.id(), name)
    }

    fn knows(&self, others: &[&Endpoint]) {
        others.iter().for_each(|other| self.lookup.add_endpoint_info(other.addr()));
    }

    async fn ensure(&self, wanted: &WantedImage, holders: Vec<Holder>) -> Result<PathBuf, crate::ImageError> {
        let (_sender, holders) = watch::channel(holders);
        tokio::time::timeout(WITHIN, self.images.ensure(wanted, holders, &self.endpoint)).await.unwrap()
    }

    async fn import(&self, path: &Path, name: &str) -> Result<WantedImage, crate::ImageError> {
        let imported = self.images.import(path, giving(name), "x86_64", &progress()).await?;
        let names = self.images.list()[&imported.digest].names.clone();
        Ok(WantedImage { digest: imported.digest, size: imported.size, arch: "x86_64".to_owned(), names })
    }

    fn facts(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.facts.try_recv().ok()).map(|fact| fact.to_string()).collect()
    }

    async fn stop(self) -> PathBuf {
        self.router.shutdown().await.unwrap();
        self.images.shutdown().await.unwrap();
        self.dir
    }
}

async fn endpoint(seed: u8) -> (Endpoint, MemoryLookup) {
    let lookup = MemoryLookup::new();
    let endpoint = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::from_bytes(&[seed; 32]))
        .relay_mode(RelayMode::Disabled)
        .portmapper_config(PortmapperConfig::Disabled)
        .address_lookup(lookup.clone())
        .bind_addr(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))
        .unwrap()
        .bind()
        .await
        .unwrap();
    (endpoint, lookup)
}

fn holder(id: iroh::EndpointId, name: &str) -> Holder {
    Holder { id, name: name.to_owned(), complete: true, direct: true, rtt_ms: Some(1.0) }
}

fn giving(name: &str) -> Giving {
    Giving { name: name.to_owned(), replace: false, elsewhere: None, now: Timestamp(1_000) }
}

fn progress() -> watch::Sender<Progress> {
    watch::Sender::default()
}

/// A disk of `size` bytes with `data` pseudo-random bytes in its middle, half of them written zeros
/// around it, and holes elsewhere.
fn disk(path: &Path, size: u64, data: u64) -> Digest {
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let start = size / 4;
    file.write_all_at(&noise(data), start).unwrap();
    file.write_all_at(&vec![0; data.min(size / 4) as usize], start + data).unwrap();
    file.write_all_at(b"\xeb\x63 boot", 0).unwrap();
    Digest::of(&std::fs::read(path).unwrap())
}

fn noise(bytes: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes as usize];
    blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
    noise
}

fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes that everything below `dir` takes on the disk; a file with two names counts once.
fn taken(dir: &Path) -> u64 {
    let (mut seen, mut stack, mut bytes) = (std::collections::HashSet::new(), vec![dir.to_owned()], 0);
    while let Some(dir) = stack.pop() {
        for file in std::fs::read_dir(dir).unwrap().flatten() {
            let meta = file.metadata().unwrap();
            if meta.is_dir() {
                stack.push(file.path());
            } else if seen.insert(meta.ino()) {
                bytes += meta.blocks() * 512;
            }
        }
    }
    bytes
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Runs `qemu-img`; says so and skips when it is not installed.
fn qemu_img(args: &[&str]) -> bool {
    match std::process::Command::new("qemu-img").args(args).output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) => {
            eprintln!("SKIPPED: qemu-img: {error}");
            false
        }
    }
}
