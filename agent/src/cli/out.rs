//! Stdout as something that can fail: on a full disk, in a closed pipe, or when it was closed before
//! the program began. What was not taken is remembered, so that no command ends well without it.

use std::{
    cell::{Cell, RefCell},
    io::{self, Write},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use proto::wire::api::{Error, Kind};

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

/// Tells whether stdout can be written at all.
pub fn is_open() -> io::Result<()> {
    if CLOSED.load(Ordering::Relaxed) { Err(rustix::io::Errno::BADF.into()) } else { Ok(()) }
}

fn write(pieces: &[&[u8]]) -> io::Result<()> {
    is_open()?;
    let mut out = io::stdout().lock();
    pieces.iter().try_for_each(|piece| out.write_all(piece))?;
    out.flush()
}
