//! qcow2 to raw, by `qemu-img` in a process with limits: the file may come from a stranger. It gets the file
//! as its standard input, so it opens what was judged, with the format named and backing files switched off.

use std::{
    ffi::OsStr,
    fs::File,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    sync::watch,
    time::Instant,
};

use crate::{
    error::{ImageError, io},
    progress::{Progress, Step},
    sparse,
};

/// CPU seconds: a compressed image of 100 GiB on a small board takes less.
const CPU_S: u64 = 3600;
/// Address space in KiB; a first-level table of the largest size and all caches need a third of it.
const MEMORY_KIB: u64 = 1024 * 1024;
/// Stack of a thread in KiB. `qemu-img` starts up to 64, and stacks of the usual 8 MiB would fill the address
/// space; its coroutines bring their own of 1 MiB.
const STACK_KIB: u64 = 1024;
/// Pools of the allocator, each of which reserves 64 MiB of address space: else eight for each core.
const ARENAS: &str = "2";
/// Wall time: a slow disk, but not for ever.
const WITHIN: Duration = Duration::from_secs(4 * 3600);
/// How often progress and free space are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Of what `qemu-img` says, enough for its first words.
const MAX_SAID: u64 = 4096;
/// What `qemu-img check` says of clusters that nothing refers to, which do no harm.
const CHECK_LEAKS: i32 = 3;
/// What a shell says of a program that is not there.
const NOT_FOUND: i32 = 127;

/// Limits, then the program: `ulimit` in a shell that replaces itself, because limits must be set in the
/// child before it runs, and doing that without a shell takes unsafe code. Blocks of `-f` are 512 bytes.
const SCRIPT: &str = r#"ulimit -c 0 && ulimit -t "$1" && ulimit -s "$2" && ulimit -v "$3" && ulimit -f "$4" && shift 4 && exec "$@""#;

const SOURCE: &str = r#"json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"/proc/self/fd/0","locking":"off"}}"#;

/// Converts `file` to the new raw file `to`. What is written on failure is the caller's to remove.
pub(crate) async fn convert(
    file: File,
    to: &Path,
    virtual_size: u64,
    progress: &watch::Sender<Progress>,
) -> Result<(), ImageError> {
    let again = file.try_clone().map_err(io("open the image twice"))?;
    // Without this, clusters that a truncated file lacks would silently become zeros.
    let checked = run(again, 0, &["check".as_ref(), SOURCE.as_ref()], to, progress).await?;
    if !matches!(checked.code, Some(0 | CHECK_LEAKS)) {
        return Err(ImageError::Convert(checked.because("the qcow2 image is damaged or cut short")));
    }
    let args: [&OsStr; 5] = ["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), SOURCE.as_ref(), to.as_ref()];
    let converted = run(file, virtual_size, &args, to, progress).await?;
    if converted.code != Some(0) {
        sparse::room(to.parent().unwrap_or(to), 0)?;
        return Err(ImageError::Convert(converted.because("qemu-img was stopped by its limits")));
    }
    match std::fs::metadata(to).map_err(io("look at the converted image"))?.len() {
        size if size == virtual_size => Ok(()),
        size => Err(ImageError::Convert(format!("{size} bytes came out instead of {virtual_size}"))),
    }
}

/// How `qemu-img` ended.
struct Ended {
    /// `None` = by a signal, such as that of a limit.
    code: Option<i32>,
    said: String,
}

impl Ended {
    /// The reason for people: the tool's first line, or `otherwise`.
    fn because(&self, otherwise: &str) -> String {
        match self.said.lines().next() {
            _ if self.code == Some(NOT_FOUND) => "qemu-img is not installed; it comes with QEMU".to_owned(),
            Some(line) => format!("{otherwise}: {line}"),
            None => otherwise.to_owned(),
        }
    }
}

/// Runs `qemu-img` on `file`, allowed to write files of `writable` bytes.
async fn run(
    file: File,
    writable: u64,
    args: &[&OsStr],
    to: &Path,
    progress: &watch::Sender<Progress>,
) -> Result<Ended, ImageError> {
    let blocks = writable.div_ceil(512) + 1;
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "sh"])
        .args([CPU_S, STACK_KIB, MEMORY_KIB, blocks].map(|limit| limit.to_string()))
        .arg("qemu-img")
        .args(args)
        .env("MALLOC_ARENA_MAX", ARENAS)
        .stdin(Stdio::from(file))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(io("start qemu-img"))?;
    let stderr = child.stderr.take();
    let said = tokio::spawn(async move {
        let Some(mut stderr) = stderr else { return String::new() };
        let mut said = Vec::new();
        // A pipe that breaks loses only words. What is too much is read too, or the tool would stop.
        (&mut stderr).take(MAX_SAID).read_to_end(&mut said).await.ok();
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.ok();
        String::from_utf8_lossy(&said).trim().to_owned()
    });
    let ended = supervise(&mut child, to, progress).await;
    if ended.is_err() {
        // Waited for, so that it writes nothing after the file is removed.
        child.kill().await.map_err(io("end qemu-img"))?;
    }
    let said = said.await.unwrap_or_default();
    Ok(Ended { code: ended?.code(), said })
}

/// Waits for the end. Fails early when the disk fills: an image of a few kilobytes may unpack to a terabyte.
async fn supervise(
    child: &mut Child,
    to: &Path,
    progress: &watch::Sender<Progress>,
) -> Result<ExitStatus, ImageError> {
    let deadline = Instant::now() + WITHIN;
    loop {
        // Cancel-safe: `wait` may be called again.
        match tokio::time::timeout(LOOK, child.wait()).await {
            Ok(status) => return status.map_err(io("wait for qemu-img")),
            Err(_) if Instant::now() > deadline => {
                return Err(ImageError::Convert("qemu-img took longer than four hours".to_owned()));
            }
            Err(_) => {}
        }
        sparse::room(to.parent().unwrap_or(to), 0)?;
        let done = std::fs::metadata(to).map(|meta| meta.blocks() * 512).unwrap_or(0);
        progress.send_replace(Progress { step: Step::Converting, done, total: None });
    }
}
