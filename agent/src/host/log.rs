//! What the program says of itself on stderr. Nothing waits for it and nothing ends because of it:
//! words go through a bounded queue to one thread, and what cannot be written (a full disk, a closed
//! pipe, a reader that stands still) is lost and counted.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Lines that wait for a slow reader; further ones are counted only.
const MAX_WAITING: usize = 1024;
/// How long the end of the program waits for its last words.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// What the daemon says unless `AGENT_LOG` asks for more: our own words. Libraries complain at every
/// closed laptop and every lost relay; what matters of it is told by us.
const DAEMON: &str = "off,agent=info,mesh=info,images=info";

static VOICE: OnceLock<SyncSender<Words>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

enum Words {
    Line(Vec<u8>),
    /// Answered once everything before it is written.
    Until(mpsc::SyncSender<()>),
}

/// Sends the program's log to stderr: the daemon's always, a command's when `AGENT_LOG` asks.
pub fn start(daemon: bool) {
    let default = if daemon { DAEMON } else { "off" };
    let wanted = std::env::var("AGENT_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&wanted).unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would complain on stderr, and panic when that fails.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal());
    if daemon {
        speak_apart();
    }
    // A second subscriber is refused; the first one does the work.
    drop(subscriber.with_writer(Voice).try_init());
}

/// Says one line to whoever reads stderr.
pub fn say(line: &str) {
    put(format!("{line}\n").into_bytes());
}

/// Waits a moment for what was said to be written. Call it before the program ends.
pub fn flush() {
    let Some(voice) = VOICE.get() else { return };
    let (done, written) = mpsc::sync_channel(1);
    let deadline = Instant::now() + LAST_WORDS;
    let mut words = Words::Until(done);
    // The queue may be full of what nobody reads.
    while let Err(TrySendError::Full(again)) = voice.try_send(words) {
        if Instant::now() >= deadline {
            return;
        }
        words = again;
        std::thread::sleep(Duration::from_millis(5));
    }
    match written.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
    }
}

/// Starts the thread that writes. Without it words are written where they are said.
fn speak_apart() {
    let (voice, words) = mpsc::sync_channel(MAX_WAITING);
    let write = move || {
        for words in words {
            match words {
                Words::Line(line) => write(&mut io::stderr(), &line),
                Words::Until(done) => drop(done.try_send(())),
            }
        }
    };
    let started = std::thread::Builder::new().name("log".to_owned()).spawn(write);
    if started.is_ok() {
        // Set once: a process starts one log.
        VOICE.set(voice).ok();
    }
}

fn put(line: Vec<u8>) {
    match VOICE.get() {
        Some(voice) => {
            if voice.try_send(Words::Line(line)).is_err() {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => write(&mut io::stderr(), &line),
    }
}

/// Writes a line, and before it how many were lost. Nobody is left to tell that it failed.
fn write(to: &mut impl Write, line: &[u8]) {
    let lost = LOST.swap(0, Ordering::Relaxed);
    let told = if lost == 0 { Ok(()) } else { writeln!(to, "({lost} lines could not be written)") };
    if told.and_then(|()| to.write_all(line)).is_err() {
        LOST.fetch_add(lost + 1, Ordering::Relaxed);
    }
}

/// The writer of the log's events.
struct Voice;

/// One event on its way: given on whole.
struct Line(Vec<u8>);

impl MakeWriter<'_> for Voice {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::new())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        put(std::mem::take(&mut self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_later() {
        write(&mut Full, b"one\n");
        write(&mut Full, b"two\n");
        let mut text = Vec::new();
        write(&mut text, b"three\n");
        write(&mut text, b"four\n");
        assert_eq!(String::from_utf8(text).unwrap(), "(2 lines could not be written)\nthree\nfour\n");
    }
}
