//! Stdout as something that can fail: on a full disk, in a closed pipe, or when it was closed before
//! the program began. What was not taken is remembered, so that no command ends well without it.

use std::{
    cell::{Cell, RefCell},
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use proto::wire::api::{Error, Kind};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    time::{self, Instant},
};

/// Whether there was no stdout when the program began. The standard library puts `/dev/null` into
/// its place before `main`, where every write succeeds.
static CLOSED: AtomicBool = AtomicBool::new(false);

// Runs before the standard library looks after stdin, stdout and stderr: a look at one descriptor.
ctor::declarative::ctor! {
    #[ctor(unsafe)]
    fn look_before_main() {
        if rustix::io::fcntl_getfd(io::stdout().as_fd()).is_err() {
            CLOSED.store(true, Ordering::Relaxed);
        }
    }
}

/// What stdout has taken so far.
#[derive(Debug, Default)]
pub struct Out {
    shown: Cell<bool>,
    lost: RefCell<Option<io::Error>>,
}

impl Out {
    /// Writes text and a line end. Tells whether stdout took it.
    pub fn line(&self, text: &[u8]) -> bool {
        self.shown.set(true);
        let written = write(&[text, b"\n"]);
        let taken = written.is_ok();
        if let Err(error) = written {
            self.lost.borrow_mut().get_or_insert(error);
        }
        taken
    }

    /// Tells whether something was to be shown already.
    pub fn shown(&self) -> bool {
        self.shown.get()
    }

    /// Fails when something was not taken, whoever is to blame for it.
    pub fn taken(&self) -> Result<(), Error> {
        self.lost.borrow().as_ref().map_or(Ok(()), |error| Err(unwritten(error)))
    }

    /// Fails when something was not taken. A reader that has had enough, such as `head`, is no failure.
    pub fn taken_as_far_as_wanted(&self) -> Result<(), Error> {
        match &*self.lost.borrow() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritten(error)),
            _ => Ok(()),
        }
    }
}

/// Tells that data found no way out.
pub fn unwritten(error: &io::Error) -> Error {
    Error::new(Kind::Failed, "the answer cannot be written to stdout")
        .because(error)
        .next("look at where stdout leads; what the command did stays done")
}

/// When stdout last had something to take; `None` while it takes.
#[derive(Debug)]
pub struct Pace(Cell<Option<Instant>>);

impl Default for Pace {
    fn default() -> Pace {
        Pace(Cell::new(Some(Instant::now())))
    }
}

impl Pace {
    /// Returns when nothing has come for `quiet`, or a stream that never pauses has gone on for `most`.
    pub async fn is_quiet(&self, quiet: Duration, most: Duration) {
        let (start, mut now) = (Instant::now(), Instant::now());
        loop {
            let until = match self.0.get() {
                Some(last) => (last.max(start) + quiet).min(start + most),
                // A slow reader gets all of what it waits for.
                None => now + quiet,
            };
            if now >= until {
                return;
            }
            time::sleep_until(until).await;
            now = Instant::now();
        }
    }
}

/// Why bytes are no longer carried to stdout.
#[derive(Debug)]
pub enum Stop {
    /// They end.
    End,
    /// They cannot be read.
    Source(io::Error),
    /// Stdout does not take them.
    Stdout(io::Error),
}

/// Carries bytes to stdout as they come.
pub async fn carry(mut from: impl AsyncRead + Unpin, pace: &Pace) -> Stop {
    let mut stdout = tokio::io::stdout();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => return Stop::End,
            Ok(length) => length,
            Err(error) => return Stop::Source(error),
        };
        pace.0.set(None);
        let taken = async {
            is_open()?;
            stdout.write_all(&buffer[..length]).await?;
            stdout.flush().await
        };
        if let Err(error) = taken.await {
            return Stop::Stdout(error);
        }
        pace.0.set(Some(Instant::now()));
    }
}

/// Tells whether stdout can be written at all.
fn is_open() -> io::Result<()> {
    if CLOSED.load(Ordering::Relaxed) { Err(rustix::io::Errno::BADF.into()) } else { Ok(()) }
}

fn write(pieces: &[&[u8]]) -> io::Result<()> {
    is_open()?;
    let mut out = io::stdout().lock();
    pieces.iter().try_for_each(|piece| out.write_all(piece))?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_is_when_nothing_comes_and_chatter_has_an_end() {
        let (second, start) = (Duration::from_secs(1), Instant::now());
        let pace = Pace::default();
        pace.is_quiet(second, 10 * second).await;
        assert_eq!(start.elapsed(), second);

        let chatter = async {
            loop {
                time::sleep(second / 2).await;
                pace.0.set(Some(Instant::now()));
            }
        };
        let start = Instant::now();
        tokio::select! {
            () = pace.is_quiet(second, 10 * second) => {}
            () = chatter => {}
        }
        assert_eq!(start.elapsed(), 10 * second);

        pace.0.set(None);
        let slow = time::timeout(60 * second, pace.is_quiet(second, 10 * second)).await;
        assert!(slow.is_err(), "it waits for stdout");
    }
}
