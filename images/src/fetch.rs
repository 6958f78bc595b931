//! An image from members: one holder at a time, span by span, every chunk verified by iroh-blobs, the next
//! holder on failure or stall. What was received stays, also over a restart; zeros become holes as they come.

use std::{
    collections::BTreeMap,
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    pin::pin,
    time::{Duration, Instant},
};

use iroh::{Endpoint, EndpointId, endpoint::Connection};
use iroh_blobs::{
    api::{proto::Bitfield, remote::GetProgressItem},
    get::{GetError, fsm::DecodeError},
    protocol::{ChunkRanges, ChunkRangesExt, GetRequest},
};
use n0_future::StreamExt;
use proto::{facts::Fact, id::Digest, time::Timestamp};
use tokio::sync::watch;

use crate::{
    Images,
    catalogue::Entry,
    error::{ImageError, io, store},
    holders::{Failure, Holder, Next, Tried},
    progress::{Progress, Step},
    sparse,
    store::hash,
};

/// Asked for at once: small enough that zeros take little room before they are punched, large enough
/// that asking costs nothing.
const SPAN_BYTES: u64 = 64 * 1024 * 1024;
/// A holder from which nothing comes for this long is given up.
const STALL: Duration = Duration::from_secs(10);

/// An image that a machine of this host needs.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedImage {
    /// The content.
    pub digest: Digest,
    /// Its size in bytes, as the session or records tell it.
    pub size: u64,
    /// Architecture, for the catalogue.
    pub arch: String,
    /// The names that the mesh knows it by. They are kept with their moments, so that a name outlives
    /// the host that gave it.
    pub names: BTreeMap<String, Timestamp>,
}

/// Why a holder is given up.
struct GaveUp {
    failure: Failure,
    because: String,
}

/// How one try with one holder ended badly.
enum TryError {
    /// The holder's fault: the next one is asked.
    Holder(GaveUp),
    /// Ours: no holder can help.
    Here(ImageError),
}

impl From<ImageError> for TryError {
    fn from(error: ImageError) -> TryError {
        TryError::Here(error)
    }
}

impl Images {
    /// Waits until the image is complete here and gives its file. Holders are asked one after the other
    /// for as long as the caller waits; dropping the future stops the transfer and keeps what came.
    pub async fn ensure(
        &self,
        wanted: &WantedImage,
        mut holders: watch::Receiver<Vec<Holder>>,
        endpoint: &Endpoint,
    ) -> Result<PathBuf, ImageError> {
        let mut tried = Tried::default();
        let transfer = Transfer { images: self, wanted };
        let mut sources = Vec::new();
        loop {
            let next = {
                let turn = self.turn(wanted.digest);
                let _turn = turn.lock().await;
                if let Some(path) = self.path(wanted.digest) {
                    self.learn(wanted).await?;
                    return Ok(path);
                }
                self.begin(wanted).await?;
                if self.0.content.is_complete(wanted.digest).await? {
                    return self.finish(wanted, &sources).await;
                }
                let next = tried.choose(&holders.borrow_and_update(), Instant::now());
                if let Next::Ask(holder) = &next {
                    let before = self.0.content.held(wanted.digest).await?.total_bytes();
                    let result = transfer.try_holder(holder, endpoint).await;
                    if self.0.content.held(wanted.digest).await?.total_bytes() > before {
                        sources.push(holder.name.clone());
                        tried.served(holder.id);
                    }
                    match result {
                        Ok(()) => {}
                        Err(TryError::Holder(gave_up)) => self.give_up(wanted, holder, gave_up, &mut tried),
                        Err(TryError::Here(error)) => return Err(self.abandon(wanted, error).await),
                    }
                }
                next
            };
            transfer.at(Step::Waiting);
            wait(next, &mut holders, wanted.digest).await?;
        }
    }

    /// Lists the image as being fetched, and tags it, before the first byte.
    async fn begin(&self, wanted: &WantedImage) -> Result<(), ImageError> {
        let entry = Entry {
            names: BTreeMap::new(),
            size: wanted.size,
            allocated: 0,
            arch: wanted.arch.clone(),
            complete: false,
            source: "mesh".to_owned(),
            sha256: None,
        };
        self.change(|catalogue| {
            catalogue.list(wanted.digest, entry)?;
            catalogue.learn(wanted.digest, &wanted.names);
            Ok(())
        })
        .await?;
        self.0.content.tag(wanted.digest).await
    }

    async fn learn(&self, wanted: &WantedImage) -> Result<(), ImageError> {
        self.change(|catalogue| {
            catalogue.learn(wanted.digest, &wanted.names);
            Ok(())
        })
        .await
    }

    fn give_up(&self, wanted: &WantedImage, holder: &Holder, gave_up: GaveUp, tried: &mut Tried) {
        tried.failed(holder.id, gave_up.failure, Instant::now());
        let fact = Fact::ImageProviderDropped {
            image: label(wanted),
            provider: holder.name.clone(),
            because: gave_up.because,
        };
        // Nobody may be listening; the fetch goes on all the same.
        self.0.facts.send(fact).ok();
    }

    /// Ends a fetch that no holder can help. A full disk gets back what the fetch took of it, and content
    /// of another size than was asked for is of no use.
    async fn abandon(&self, wanted: &WantedImage, error: ImageError) -> ImageError {
        let full = error.is_full() || sparse::room(&self.0.dir, 0).is_err();
        let useless = full || matches!(error, ImageError::Size { .. });
        if useless && let Err(also) = self.discard(wanted.digest).await {
            tracing::warn!("cannot remove the half of image {}: {also}", wanted.digest);
        }
        match error {
            ImageError::Store(_) | ImageError::Io { .. } if full => ImageError::DiskFull,
            error => error,
        }
    }

    /// Makes a complete fetch an ordinary file: a second name for the store's file, so that there is no
    /// second copy, durable, with holes, read-only. Any of it may be repeated after a crash.
    async fn finish(&self, wanted: &WantedImage, sources: &[String]) -> Result<PathBuf, ImageError> {
        let digest = wanted.digest;
        self.0.content.settle().await?;
        let got = self.0.content.held(digest).await?.size();
        let (data, raw, dir) = (self.0.content.data_path(digest), self.raw(digest), self.0.dir.join("raw"));
        if got != wanted.size || !data.exists() {
            // The second is a store that lost its file; the next try fetches it again.
            self.discard(digest).await?;
            return Err(match got == wanted.size {
                true => ImageError::Store(format!("the file of {digest} is missing")),
                false => ImageError::Size { digest, want: wanted.size, got },
            });
        }
        let path = raw.clone();
        let work = move || {
            let file =
                File::options().read(true).write(true).open(&data).map_err(io("open the fetched image"))?;
            sparse::punch(&file, 0..got)?;
            file.sync_all().map_err(io("write the fetched image"))?;
            file.set_permissions(Permissions::from_mode(0o444)).map_err(io("make the image read-only"))?;
            match std::fs::hard_link(&data, &raw) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(io("give the fetched image its name")(error));
                }
                _ => sparse::sync_dir(&dir)?,
            }
            sparse::allocated(&file)
        };
        let allocated = tokio::task::spawn_blocking(work).await.unwrap_or(Err(ImageError::Stopped))?;
        self.change(|catalogue| {
            let known = |entry: &mut Entry| (entry.complete, entry.allocated) = (true, allocated);
            catalogue.images.entry(digest).and_modify(known);
            Ok(())
        })
        .await?;
        let fact = Fact::ImageReady { image: label(wanted), bytes: got, from: sources.join(", ") };
        self.0.facts.send(fact).ok();
        Ok(path)
    }
}

/// The progress of one `ensure`; it disappears from the watch with it.
struct Transfer<'a> {
    images: &'a Images,
    wanted: &'a WantedImage,
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.images.0.transfers.send_modify(|transfers| {
            transfers.remove(&self.wanted.digest);
        });
    }
}

impl Transfer<'_> {
    fn at(&self, step: Step) {
        self.images
            .0
            .transfers
            .send_modify(|transfers| transfers.entry(self.wanted.digest).or_default().step = step);
    }

    fn done(&self, done: u64) {
        let total = Some(self.wanted.size);
        self.images.0.transfers.send_modify(|transfers| {
            let progress = transfers.entry(self.wanted.digest).or_default();
            *progress = Progress { step: progress.step.clone(), done: done.min(self.wanted.size), total };
        });
    }

    /// Takes from one holder until the image is complete.
    async fn try_holder(&self, holder: &Holder, endpoint: &Endpoint) -> Result<(), TryError> {
        self.at(Step::Fetching(holder.name.clone()));
        let connection = connect(endpoint, holder.id).await.map_err(TryError::Holder)?;
        let (content, digest) = (&self.images.0.content, self.wanted.digest);
        let mut held = content.held(digest).await?;
        loop {
            self.done(held.total_bytes());
            if let Some(got) = held.validated_size().filter(|got| *got != self.wanted.size) {
                return Err(ImageError::Size { digest, want: self.wanted.size, got }.into());
            }
            if held.is_complete() {
                return Ok(());
            }
            let span = next_span(&held, self.wanted.size);
            sparse::room(&self.images.0.dir, span.bytes)?;
            self.take(&connection, &span, held.total_bytes()).await?;
            self.punch(&span).await?;
            let now = content.held(digest).await?;
            if now == held {
                return Err(TryError::Holder(absent("it sent nothing new")));
            }
            held = now;
        }
    }

    /// Takes one span. What arrived before a failure stays in the store.
    async fn take(&self, connection: &Connection, span: &Span, before: u64) -> Result<(), TryError> {
        let request = GetRequest::blob_ranges(hash(self.wanted.digest), span.ranges.clone());
        let content = &self.images.0.content;
        let mut items = pin!(content.store().remote().execute_get(connection.clone(), request).stream());
        loop {
            // Cancel-safe: a dropped transfer keeps what the store has got.
            match tokio::time::timeout(STALL, items.next()).await {
                Err(_) => return Err(TryError::Holder(absent("nothing came for 10 s"))),
                Ok(None) => return Err(TryError::Holder(absent("it stopped early"))),
                Ok(Some(GetProgressItem::Done(_))) => return Ok(()),
                Ok(Some(GetProgressItem::Error(error))) => return Err(blame(error)),
                Ok(Some(GetProgressItem::Progress(received))) if received > span.bytes + SPAN_BYTES => {
                    return Err(TryError::Holder(absent("it sends more than the image has")));
                }
                Ok(Some(GetProgressItem::Progress(received))) => self.done(before + received),
            }
        }
    }

    /// Gives the zeros of a span back to the disk.
    async fn punch(&self, span: &Span) -> Result<(), ImageError> {
        let (path, range) = (self.images.0.content.data_path(self.wanted.digest), span.within.clone());
        let work = move || {
            let file =
                File::options().read(true).write(true).open(&path).map_err(io("open the fetched image"))?;
            let end = range.end.min(file.metadata().map_err(io("look at the fetched image"))?.len());
            sparse::punch(&file, range.start..end)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or(Err(ImageError::Stopped))
    }
}

/// What to ask for next.
struct Span {
    ranges: ChunkRanges,
    /// The bytes between which they lie.
    within: std::ops::Range<u64>,
    /// Bytes in them.
    bytes: u64,
}

/// Chooses the first missing bytes, one span of them. The last span is open at its end: the last chunk
/// of a blob proves its size.
fn next_span(held: &Bitfield, size: u64) -> Span {
    let missing = ChunkRanges::bytes(0..size) - held.ranges.clone();
    let Some(start) = missing.boundaries().first().map(|chunk| chunk.to_bytes()) else {
        return Span { ranges: ChunkRanges::last_chunk(), within: size..size, bytes: 0 };
    };
    let end = (start / SPAN_BYTES + 1) * SPAN_BYTES;
    let ranges = match end >= size {
        true => ChunkRanges::bytes(start..) - held.ranges.clone(),
        false => missing & ChunkRanges::bytes(start..end),
    };
    let end = end.min(size);
    Span { ranges, within: start..end, bytes: end - start }
}

async fn connect(endpoint: &Endpoint, id: EndpointId) -> Result<Connection, GaveUp> {
    match tokio::time::timeout(STALL, endpoint.connect(id, iroh_blobs::ALPN)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(absent(format!("it cannot be reached: {error:#}"))),
        Err(_) => Err(absent("it did not answer for 10 s")),
    }
}

/// Says whose fault an error is.
fn blame(error: GetError) -> TryError {
    if error.local_write().is_some() {
        return TryError::Here(store(error));
    }
    let because = format!("{error:#}");
    let corrupt = matches!(
        &error,
        GetError::Decode {
            source: DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. },
            ..
        }
    );
    let failure = if corrupt { Failure::Corrupt } else { Failure::Absent };
    TryError::Holder(GaveUp { failure, because })
}

fn absent(because: impl Into<String>) -> GaveUp {
    GaveUp { failure: Failure::Absent, because: because.into() }
}

/// Waits for what the choice of a holder waits for: other holders, or the end of a back-off.
async fn wait(
    next: Next,
    holders: &mut watch::Receiver<Vec<Holder>>,
    digest: Digest,
) -> Result<(), ImageError> {
    match next {
        Next::Ask(_) => Ok(()),
        Next::Nobody => holders.changed().await.map_err(|_| ImageError::NoHolder(digest)),
        // Cancel-safe: nothing is lost by either arm.
        Next::Wait(until) => tokio::select! {
            Ok(()) = holders.changed() => Ok(()),
            () = tokio::time::sleep_until(until.into()) => Ok(()),
        },
    }
}

/// What people call the image.
fn label(wanted: &WantedImage) -> String {
    wanted.names.keys().next().cloned().unwrap_or_else(|| wanted.digest.short())
}
