//! The serial console of one machine: what it printed last in memory, all of it in a bounded log, and
//! any number of people who watch and type. Lives in the shim. A watcher that is too slow is cut off,
//! a guest that reads nothing holds up nobody but those who type.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use bytes::Bytes;
use proto::{limits::CONSOLE_BYTES, session::reconcile::Setup};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};

use super::{hangup::hung_up, setup::Scan};

/// Pieces of output that wait for one watcher: with the pieces' size 256 KiB.
const MAX_BEHIND: usize = 64;
const PIECE_BYTES: usize = 4096;
/// Pieces of input that wait for the guest.
const MAX_TYPED: usize = 16;
/// People who watch at once.
const MAX_WATCHERS: usize = 16;
/// Bytes of the log before it becomes `console.log.1` and a new one begins.
const MAX_LOG_BYTES: u64 = 8 * 1024 * 1024;

/// The last bytes that were printed.
#[derive(Default)]
struct Ring(VecDeque<u8>);

impl Ring {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(CONSOLE_BYTES)..];
        let over = (self.0.len() + bytes.len()).saturating_sub(CONSOLE_BYTES);
        self.0.drain(..over);
        self.0.extend(bytes);
    }

    fn replay(&self) -> Bytes {
        let (first, second) = self.0.as_slices();
        [first, second].concat().into()
    }
}

/// The log on disk, at most twice [`MAX_LOG_BYTES`]. A full disk must not take the machine down: what
/// finds no room is missing, what comes later is there.
struct Log {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl Log {
    fn new(path: PathBuf) -> Log {
        Log { path, open: None }
    }

    fn push(&mut self, bytes: &[u8]) {
        let open = self.open.take().map_or_else(|| self.reopen(), Ok);
        // After a failure it is opened again for the next piece.
        self.open = open.and_then(|open| self.write(open, bytes)).ok();
    }

    fn reopen(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
    }

    fn write(&self, open: (File, u64), bytes: &[u8]) -> io::Result<(File, u64)> {
        let (mut file, mut length) = open;
        if length >= MAX_LOG_BYTES {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            (file, length) = self.reopen()?;
        }
        file.write_all(bytes)?;
        Ok((file, length + bytes.len() as u64))
    }
}

/// Carries the console until QEMU closes `serial`. New watchers come in through `watchers`; what the
/// guest tells of its setup goes to `told`.
pub async fn carry(
    serial: UnixStream,
    log: PathBuf,
    mut watchers: mpsc::Receiver<UnixStream>,
    (mut scan, told): (Scan, watch::Sender<Setup>),
) {
    let (mut read, write) = serial.into_split();
    let (typed, typing) = mpsc::channel(MAX_TYPED);
    tokio::spawn(type_in(write, typing));
    let mut log = Log::new(log);
    let mut ring = Ring::default();
    let mut outputs: Vec<mpsc::Sender<Bytes>> = Vec::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        // Reading from a socket and receiving from a channel are both cancel-safe.
        tokio::select! {
            count = read.read(&mut piece) => {
                let Ok(count @ 1..) = count else { return };
                ring.push(&piece[..count]);
                if let Some(setup) = scan.push(&piece[..count]) {
                    told.send_replace(setup);
                }
                log.push(&piece[..count]);
                let bytes = Bytes::copy_from_slice(&piece[..count]);
                outputs.retain(|output| output.try_send(bytes.clone()).is_ok());
            }
            Some(stream) = watchers.recv() => {
                outputs.retain(|output| !output.is_closed());
                if outputs.len() < MAX_WATCHERS {
                    let (output, live) = mpsc::channel(MAX_BEHIND);
                    outputs.push(output);
                    tokio::spawn(attend(stream, ring.replay(), live, typed.clone()));
                }
            }
        }
    }
}

/// Serves one watcher until it has gone or was cut off. One that types no more may watch on.
async fn attend(stream: UnixStream, replay: Bytes, live: mpsc::Receiver<Bytes>, typed: mpsc::Sender<Bytes>) {
    let (keys, screen) = stream.into_split();
    // Both may be dropped half-way: the watcher is gone.
    tokio::select! {
        () = show(screen, replay, live) => {}
        () = async {
            let keys = hear(keys, typed).await;
            hung_up(keys.as_ref()).await;
        } => {}
    }
}

async fn show(mut screen: OwnedWriteHalf, replay: Bytes, mut live: mpsc::Receiver<Bytes>) {
    if screen.write_all(&replay).await.is_err() {
        return;
    }
    while let Some(bytes) = live.recv().await {
        if screen.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Passes on what is typed, and gives the half back once nothing more is.
async fn hear(mut keys: OwnedReadHalf, typed: mpsc::Sender<Bytes>) -> OwnedReadHalf {
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = keys.read(&mut piece).await {
        if typed.send(Bytes::copy_from_slice(&piece[..count])).await.is_err() {
            break;
        }
    }
    keys
}

async fn type_in(mut serial: OwnedWriteHalf, mut typing: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = typing.recv().await {
        if serial.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn the_ring_keeps_the_last_bytes_only() {
        let mut ring = Ring::default();
        ring.push(&vec![1; CONSOLE_BYTES - 2]);
        ring.push(&[2, 3, 4]);
        assert_eq!(ring.replay().len(), CONSOLE_BYTES);
        assert!(ring.replay().ends_with(&[1, 2, 3, 4]));
        ring.push(&vec![5; 3 * CONSOLE_BYTES]);
        assert_eq!(ring.replay(), vec![5; CONSOLE_BYTES]);
    }

    #[tokio::test]
    async fn a_watcher_sees_what_was_before_it_then_what_follows_and_can_type() {
        let dir = tempfile::tempdir().unwrap();
        let (mut guest, serial) = UnixStream::pair().unwrap();
        let (watchers, watching) = mpsc::channel(1);
        let (told, tells) = watch::channel(Setup::Pending);
        let log = dir.path().join("console.log");
        let carrying = tokio::spawn(carry(serial, log.clone(), watching, (Scan::default(), told)));
        let story = async {
            guest.write_all(b"before ").await.unwrap();
            let (mut screen, theirs) = UnixStream::pair().unwrap();
            watchers.send(theirs).await.unwrap();
            let mut seen = [0; 7];
            screen.read_exact(&mut seen).await.unwrap();
            guest.write_all(b"after").await.unwrap();
            let mut more = [0; 5];
            screen.read_exact(&mut more).await.unwrap();
            assert_eq!((&seen, &more), (b"before ", b"after"));
            screen.write_all(b"key").await.unwrap();
            let mut key = [0; 3];
            guest.read_exact(&mut key).await.unwrap();
            assert_eq!(&key, b"key");
        };
        timeout(Duration::from_secs(10), story).await.unwrap();
        guest.write_all(b"\nmesh-setup: done.\n").await.unwrap();
        drop(guest);
        timeout(Duration::from_secs(10), carrying).await.unwrap().unwrap();
        assert_eq!(fs::read(log).unwrap(), b"before after\nmesh-setup: done.\n");
        assert_eq!(*tells.borrow(), Setup::Done);
    }

    #[tokio::test]
    async fn a_watcher_that_has_gone_is_forgotten_although_the_guest_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let (mut guest, serial) = UnixStream::pair().unwrap();
        let (watchers, watching) = mpsc::channel(1);
        let (told, mut tells) = watch::channel(Setup::Pending);
        let carrying =
            tokio::spawn(carry(serial, dir.path().join("console.log"), watching, (Scan::default(), told)));
        guest.write_all(b"\nmesh-setup: done.\n").await.unwrap();
        timeout(Duration::from_secs(10), tells.wait_for(|told| *told == Setup::Done)).await.unwrap().unwrap();
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        // More than may watch at once, one after the other; every second one ends its half first.
        for turn in 0..3 * MAX_WATCHERS {
            let (mut screen, theirs) = UnixStream::pair().unwrap();
            watchers.send(theirs).await.unwrap();
            if turn % 2 == 0 {
                screen.shutdown().await.unwrap();
            }
        }
        let settled = async {
            while open() > before {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(10), settled).await.unwrap();
        assert!(!carrying.is_finished());
    }

    #[test]
    fn the_log_starts_again_when_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = Log::new(path.clone());
        log.push(&vec![1; MAX_LOG_BYTES as usize]);
        log.push(&[2]);
        assert_eq!(fs::read(&path).unwrap(), [2]);
        assert_eq!(fs::metadata(dir.path().join("console.log.1")).unwrap().len(), MAX_LOG_BYTES);
    }
}
