//! Joins two byte streams until both directions have ended, or until one side has gone entirely: then
//! nobody is left to hear the other, whatever it still says and however long it stays open.
//!
//! An end of one direction is passed on and the other goes on, for as long as somebody hears it. Nothing is
//! asked while bytes can move; a kernel is asked now and then once a direction has ended or is stuck.

use std::{
    future::poll_fn,
    io,
    os::fd::AsFd,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt;
use iroh::endpoint::{RecvStream, SendStream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Join, ReadBuf},
    net::{TcpStream, UnixStream},
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};
use tokio_util::either::Either;

/// Between two looks whether somebody has gone. Only descriptors and memory wait for it.
const LOOK: Duration = Duration::from_secs(1);
/// What one that has gone said last waits this long for a reader that takes nothing.
const LINGER: Duration = Duration::from_secs(60);

/// One side of a [`splice`].
pub trait End: AsyncRead + AsyncWrite + Send + Unpin {
    /// Says whether the other end has gone entirely: it neither speaks nor hears any more. Without means to
    /// know it says no.
    fn is_gone(&self) -> bool {
        false
    }
}

impl End for UnixStream {
    fn is_gone(&self) -> bool {
        hung_up(self)
    }
}

impl End for TcpStream {
    fn is_gone(&self) -> bool {
        hung_up(self)
    }
}

impl End for Join<RecvStream, SendStream> {
    fn is_gone(&self) -> bool {
        // Stopped by the other host, or its connection was lost; `None` only says that it has everything.
        self.writer().stopped().now_or_never().is_some_and(|told| !matches!(told, Ok(None)))
    }
}

impl End for DuplexStream {}

impl<L: End, R: End> End for Either<L, R> {
    fn is_gone(&self) -> bool {
        match self {
            Either::Left(end) => end.is_gone(),
            Either::Right(end) => end.is_gone(),
        }
    }
}

impl<T: End + ?Sized> End for Box<T> {
    fn is_gone(&self) -> bool {
        (**self).is_gone()
    }
}

/// A kernel that does not answer says nothing about the other end.
fn hung_up(socket: &impl AsFd) -> bool {
    let mut looked = [PollFd::new(socket, PollFlags::empty())];
    let seen = poll(&mut looked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    seen.is_ok() && looked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}

static SPLICES: AtomicUsize = AtomicUsize::new(0);

/// Counts the splices of this process.
pub fn splices() -> usize {
    SPLICES.load(Relaxed)
}

/// One more splice for as long as it lives.
struct Counted;

impl Counted {
    fn new() -> Counted {
        SPLICES.fetch_add(1, Relaxed);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        SPLICES.fetch_sub(1, Relaxed);
    }
}

/// Joins `a` and `b`; holds at most `bytes` of each direction. An error says that one of them broke or has
/// gone, and that the other is to be told so by dropping or resetting it; `TimedOut` that bytes were lost.
pub async fn splice<A: End + ?Sized, B: End + ?Sized>(a: &mut A, b: &mut B, bytes: usize) -> io::Result<()> {
    join(a, b, bytes, LINGER).await
}

async fn join<A, B>(a: &mut A, b: &mut B, bytes: usize, linger: Duration) -> io::Result<()>
where
    A: End + ?Sized,
    B: End + ?Sized,
{
    let _counted = Counted::new();
    let (mut there, mut back) = (Way::new(bytes), Way::new(bytes));
    let mut patience = Patience::new(linger);
    poll_fn(|context| {
        let mut moved = false;
        let heard = there.poll(context, Pin::new(a), Pin::new(b), &mut moved)?.is_ready();
        let told = back.poll(context, Pin::new(b), Pin::new(a), &mut moved)?.is_ready();
        if heard && told {
            return Poll::Ready(Ok(()));
        }
        if !there.is_stuck() && !back.is_stuck() {
            return Poll::Pending;
        }
        // Whoever has gone hears nothing; what it said is to arrive.
        let over = patience.poll(context, moved, || {
            let (a_gone, b_gone) = (a.is_gone(), b.is_gone());
            Gone { any: a_gone || b_gone, done: a_gone && (heard || b_gone) || b_gone && told }
        });
        over.map(|kind| Err(kind.into()))
    })
    .await
}

struct Gone {
    any: bool,
    done: bool,
}

/// When those who have gone are given up.
struct Patience {
    linger: Duration,
    look: Interval,
    gone: Option<Instant>,
}

impl Patience {
    fn new(linger: Duration) -> Patience {
        let mut look = interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Patience { linger, look, gone: None }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        moved: bool,
        gone: impl Fn() -> Gone,
    ) -> Poll<io::ErrorKind> {
        if moved {
            self.gone = None;
        }
        loop {
            let now = ready!(self.look.poll_tick(context));
            let gone = gone();
            if gone.done {
                return Poll::Ready(io::ErrorKind::BrokenPipe);
            }
            if !gone.any {
                self.gone = None;
            } else if now - *self.gone.get_or_insert(now) >= self.linger {
                return Poll::Ready(io::ErrorKind::TimedOut);
            }
        }
    }
}

/// One direction: what was read and not written yet, and how far its end has come.
struct Way {
    buffer: Box<[u8]>,
    held: std::ops::Range<usize>,
    flushed: bool,
    ended: bool,
    done: bool,
}

impl Way {
    fn new(bytes: usize) -> Way {
        Way { buffer: vec![0; bytes].into(), held: 0..0, flushed: true, ended: false, done: false }
    }

    /// Says whether no news can come from its reader.
    fn is_stuck(&self) -> bool {
        self.ended || !self.held.is_empty()
    }

    /// Moves what can be moved; ready when its end was passed on.
    fn poll<R: AsyncRead + ?Sized, W: AsyncWrite + ?Sized>(
        &mut self,
        context: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            if !self.held.is_empty() {
                let written = ready!(to.as_mut().poll_write(context, &self.buffer[self.held.clone()]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.held.start += written;
                (self.flushed, *moved) = (false, true);
            } else if self.ended {
                ready!(to.as_mut().poll_shutdown(context))?;
                (self.done, *moved) = (true, true);
            } else {
                let mut piece = ReadBuf::new(&mut self.buffer);
                if from.as_mut().poll_read(context, &mut piece)?.is_pending() {
                    if !self.flushed {
                        ready!(to.as_mut().poll_flush(context))?;
                        self.flushed = true;
                    }
                    return Poll::Pending;
                }
                self.held = 0..piece.filled().len();
                self.ended = self.held.is_empty();
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    /// A splice between two pairs, and their outer ends.
    fn joined() -> (UnixStream, UnixStream, JoinHandle<io::Result<()>>) {
        let ((near, mut a), (mut b, far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        (near, far, tokio::spawn(async move { join(&mut a, &mut b, 1000, LOOK * 2).await }))
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_each_end_is_passed_on() {
        let (mut near, mut far, task) = joined();
        let long: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        let (sent, mut got) = (long.clone(), Vec::new());
        let (_, read) = tokio::join!(
            async {
                near.write_all(&sent).await.unwrap();
                near.shutdown().await.unwrap();
            },
            far.read_to_end(&mut got)
        );
        read.unwrap();
        assert!(got == long);
        far.write_all(b"and after its end").await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "and after its end");
        timeout(SOON, task).await.unwrap().unwrap().unwrap();
        assert_eq!(splices(), 0);
    }

    #[tokio::test]
    async fn one_who_only_listens_is_served_for_as_long_as_it_is_there() {
        let (mut near, mut far, task) = joined();
        near.shutdown().await.unwrap();
        tokio::time::sleep(LOOK * 2).await;
        far.write_all(b"late").await.unwrap();
        let mut heard = [0; 4];
        near.read_exact(&mut heard).await.unwrap();
        assert!(!task.is_finished());
        drop(near);
        assert!(timeout(SOON, task).await.unwrap().unwrap().is_err());
        assert_eq!(far.read(&mut heard).await.unwrap(), 0, "the one that never ends is let go");
    }

    #[tokio::test]
    async fn what_one_who_went_said_last_arrives() {
        let (mut near, mut far, task) = joined();
        // More than the splice and the sockets behind it hold, to somebody who reads late.
        let long = vec![7; 200_000];
        tokio::join!(
            async {
                near.write_all(&long).await.unwrap();
                drop(near);
            },
            async {
                tokio::time::sleep(LOOK).await;
                let mut got = Vec::new();
                far.read_to_end(&mut got).await.unwrap();
                assert_eq!(got.len(), 200_000);
            }
        );
        assert!(timeout(SOON, task).await.unwrap().unwrap().is_err());
    }

    #[tokio::test]
    async fn one_who_reads_nothing_does_not_hold_up_those_who_went() {
        let (mut near, _far, task) = joined();
        timeout(LOOK, near.write_all(&vec![0; 4_000_000])).await.unwrap_err();
        drop(near);
        let ended = timeout(SOON, task).await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
