//! An image from a URL: streamed to a file, resumed where the server lets us, taken only if its checksum is
//! the one that was asked for. Bounded in size, redirects and tries; https never becomes http.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER;
use futures::StreamExt;
use reqwest::{Client, Response, StatusCode, header, redirect};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::{
    Images,
    catalogue::Giving,
    error::{ImageError, io},
    import::{self, Imported, Origin},
    name,
    progress::{Progress, Step, blocking},
    qcow2::{Format, MAX_VIRTUAL_BYTES},
    sparse::{self, Scratch},
};

/// More than any vendor uses; a loop ends here.
const MAX_REDIRECTS: usize = 8;
/// Tries in a row without a single byte.
const MAX_TRIES: u32 = 5;
/// First pause between tries; doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// A server from which nothing comes for this long is tried again.
const STALL: Duration = Duration::from_secs(30);
/// Free space is asked for again after this many bytes.
const LOOK_BYTES: u64 = 16 * 1024 * 1024;
/// A download that nobody resumed for this long is given up.
const KEEP_PART: Duration = Duration::from_secs(7 * 24 * 3600);

/// What to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// `https://` or `http://`.
    pub url: String,
    /// SHA-256 of the file at the URL.
    pub sha256: [u8; 32],
    /// Architecture of the image.
    pub arch: String,
}

/// A file that is being downloaded, with the hash of what it has. It stays on the disk when the download
/// fails, to be resumed; [`Part::remove`] ends it.
struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    length: u64,
}

/// How one try ended badly.
enum TryError {
    /// Worth another try.
    Again(String),
    /// It will fail again.
    Never(ImageError),
}

impl Images {
    /// Downloads a raw or qcow2 file, checks its SHA-256, and gives it a name. A file with this checksum
    /// that was pulled before is not downloaded again.
    pub async fn pull(
        &self,
        download: &Download,
        giving: Giving,
        progress: &watch::Sender<Progress>,
    ) -> Result<Imported, ImageError> {
        name::check(&giving.name)?;
        let want = HEXLOWER.encode(&download.sha256);
        if let Some(known) = self.pulled(&want, &giving).await? {
            return Ok(known);
        }
        let client = client().map_err(|error| failed(&download.url, cause(&error)))?;
        let path = self.0.dir.join("pulls").join(format!("{want}.part"));
        let mut part = Part::open(path, progress).await?;
        let resumed = part.length > 0;
        let mut got = self.download(&client, download, &mut part, progress).await?;
        if got != want && resumed {
            // The file at the URL may have changed between the two halves.
            part.restart().map_err(io("write the download"))?;
            got = self.download(&client, download, &mut part, progress).await?;
        }
        if got != want {
            part.remove();
            return Err(ImageError::Checksum { want, got });
        }
        self.unpack(part, download, giving, progress).await
    }

    /// Gives a name to an image that came from a file with this checksum, if there is one.
    async fn pulled(&self, sha256: &str, giving: &Giving) -> Result<Option<Imported>, ImageError> {
        self.change(|catalogue| {
            let same =
                |entry: &crate::catalogue::Entry| entry.complete && entry.sha256.as_deref() == Some(sha256);
            let Some((digest, entry)) = catalogue.images.iter().find(|(_, entry)| same(entry)) else {
                return Ok(None);
            };
            let known = Imported { digest: *digest, size: entry.size, allocated: entry.allocated };
            catalogue.give(known.digest, giving)?;
            Ok(Some(known))
        })
        .await
    }

    /// Downloads until all is here, and gives the checksum of it.
    async fn download(
        &self,
        client: &Client,
        download: &Download,
        part: &mut Part,
        progress: &watch::Sender<Progress>,
    ) -> Result<String, ImageError> {
        let (mut tries, mut pause) = (0, FIRST_PAUSE);
        loop {
            let before = part.length;
            match self.try_once(client, &download.url, part, progress).await {
                Ok(()) => return Ok(HEXLOWER.encode(&part.hasher.clone().finalize())),
                Err(TryError::Never(error)) if error.is_full() => {
                    part.remove();
                    return Err(error);
                }
                Err(TryError::Never(error)) => return Err(error),
                Err(TryError::Again(because)) => {
                    if part.length > before {
                        (tries, pause) = (0, FIRST_PAUSE);
                    }
                    tries += 1;
                    if tries >= MAX_TRIES {
                        return Err(failed(&download.url, because));
                    }
                    tracing::info!("download of {} is tried again: {because}", download.url);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }

    /// One request: from where the last one ended, if the server can do that.
    async fn try_once(
        &self,
        client: &Client,
        url: &str,
        part: &mut Part,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), TryError> {
        let mut request = client.get(url);
        if part.length > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", part.length));
        }
        let response = request.send().await.map_err(|error| judge_error(url, &error))?;
        let total = admit(url, &response, part)?;
        let full = |error: ImageError| TryError::Never(error);
        sparse::room(&self.0.dir, total.map_or(0, |total| total - part.length)).map_err(full)?;
        let mut body = response.bytes_stream();
        let mut looked = part.length;
        while let Some(bytes) = body.next().await {
            let bytes = bytes.map_err(|error| TryError::Again(cause(&error)))?;
            part.append(&bytes).map_err(|error| TryError::Never(io("write the download")(error)))?;
            if part.length > MAX_VIRTUAL_BYTES {
                return Err(TryError::Never(failed(url, format!("more than {MAX_VIRTUAL_BYTES} bytes"))));
            }
            if part.length - looked >= LOOK_BYTES {
                looked = part.length;
                sparse::room(&self.0.dir, 0).map_err(full)?;
            }
            progress.send_replace(Progress { step: Step::Downloading, done: part.length, total });
        }
        match total {
            Some(total) if part.length < total => {
                Err(TryError::Again("the connection ended early".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Makes an image of a checked download.
    async fn unpack(
        &self,
        part: Part,
        download: &Download,
        giving: Giving,
        progress: &watch::Sender<Progress>,
    ) -> Result<Imported, ImageError> {
        let origin = Origin {
            arch: download.arch.clone(),
            source: download.url.clone(),
            sha256: Some(HEXLOWER.encode(&download.sha256)),
        };
        // From here on the download is never resumed: whatever happens, its file goes.
        let downloaded = Scratch::new(part.path.clone());
        let (file, format) = import::open(downloaded.path())?;
        let whole = match format {
            Format::Raw => self.settle(downloaded, progress).await?,
            Format::Qcow2 { virtual_size } => {
                let whole = self.convert(file, virtual_size, progress).await?;
                drop(downloaded);
                whole
            }
        };
        self.adopt(whole, giving, origin, progress).await
    }
}

impl Part {
    /// Opens what an earlier try left, and hashes it. One command at a time has it.
    async fn open(path: PathBuf, progress: &watch::Sender<Progress>) -> Result<Part, ImageError> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let mut file = options.open(&path).map_err(io(format!("open {}", path.display())))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| ImageError::Busy)?;
        let total = file.metadata().map_err(io("look at the download"))?.len();
        blocking(Step::Checking, Some(total), progress, move |tick| {
            let (mut hasher, mut length) = (Sha256::new(), 0);
            let mut buffer = vec![0; 1 << 20];
            loop {
                let read = file.read(&mut buffer).map_err(io("read the download"))?;
                if read == 0 {
                    return Ok(Part { path, file, hasher, length });
                }
                hasher.update(&buffer[..read]);
                length += read as u64;
                tick.at(length)?;
            }
        })
        .await
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.hasher = Sha256::new();
        self.length = 0;
        Ok(())
    }

    fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Judges the answer's head, and gives the size of the whole file, when the server tells it. A server that
/// cannot resume sends all of it again.
fn admit(url: &str, response: &Response, part: &mut Part) -> Result<Option<u64>, TryError> {
    let status = response.status();
    let never = |because: String| TryError::Never(failed(url, because));
    match status {
        StatusCode::OK => {
            if part.length > 0 {
                part.restart().map_err(|error| TryError::Never(io("write the download")(error)))?;
            }
        }
        StatusCode::PARTIAL_CONTENT if starts_at(response, part.length) => {}
        StatusCode::PARTIAL_CONTENT => {
            return Err(never("it answered with other bytes than asked for".to_owned()));
        }
        // Nothing comes after what is here; the checksum says whether that is all.
        StatusCode::RANGE_NOT_SATISFIABLE if part.length > 0 => return Ok(None),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            return Err(TryError::Again(format!("it answered {status}")));
        }
        status => return Err(never(format!("it answered {status}"))),
    }
    let total = response.content_length().map(|rest| part.length.saturating_add(rest));
    match total {
        Some(total) if total > MAX_VIRTUAL_BYTES => {
            Err(never(format!("it has {total} bytes, more than is accepted")))
        }
        total => Ok(total),
    }
}

/// Says whether a partial answer begins at byte `at`.
fn starts_at(response: &Response, at: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()) == Some(at)
}

/// A client with our bounds. rustls takes the provider of the whole program; whoever comes first sets it,
/// and it is always the same one.
fn client() -> Result<Client, reqwest::Error> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let follow = redirect::Policy::custom(|attempt| {
        let secure = attempt.previous().iter().all(|url| url.scheme() != "https");
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("too many redirects")
        } else if attempt.url().scheme() == "https" || secure {
            attempt.follow()
        } else {
            attempt.error("it redirects from https to http")
        }
    });
    Client::builder().redirect(follow).connect_timeout(CONNECT_WITHIN).read_timeout(STALL).build()
}

fn judge_error(url: &str, error: &reqwest::Error) -> TryError {
    match error.is_redirect() || error.is_builder() {
        true => TryError::Never(failed(url, cause(error))),
        false => TryError::Again(cause(error)),
    }
}

fn failed(url: &str, because: impl Into<String>) -> ImageError {
    ImageError::Download { url: url.to_owned(), because: because.into() }
}

/// The innermost reason, which is the one that people can act on.
fn cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Removes downloads that nobody resumed.
pub(crate) fn remove_old(dir: &Path) {
    for file in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = file.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > KEEP_PART) {
            drop(Scratch::new(file.path()));
        }
    }
}
