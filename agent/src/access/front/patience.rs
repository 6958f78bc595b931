//! How long the front door waits for one who neither takes nor gives: a place among its connections is not held by
//! somebody who does nothing with it. Who waits for the other side's words may wait for ever, as pages do that are told
//! news.
//!
//! Owns a timer for each direction in which bytes are stuck. What the bytes are is nobody's business here.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// What moves nothing in this time is given up: a browser asks again, and other front doors wait as long.
pub const STALLED: Duration = Duration::from_secs(60);

/// Runs while something is stuck.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Says what became of `moved`; one that is pending for too long is over.
    fn watch<T>(&mut self, context: &mut Context<'_>, moved: Poll<T>) -> Poll<Result<T, io::Error>> {
        match moved {
            Poll::Ready(done) => {
                self.0 = None;
                Poll::Ready(Ok(done))
            }
            Poll::Pending => {
                let timer = self.0.get_or_insert_with(|| Box::pin(sleep(STALLED)));
                ready!(timer.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// A stream that gives up on a reader who takes nothing for [`STALLED`].
pub struct Patient<S> {
    stream: S,
    stuck: Timer,
}

impl<S> Patient<S> {
    /// Watches what is written to `stream`.
    pub fn new(stream: S) -> Patient<S> {
        Patient { stream, stuck: Timer::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.stuck.watch(context, written).map(|done| done?)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, pieces);
        this.stuck.watch(context, written).map(|done| done?)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.stuck.watch(context, flushed).map(|done| done?)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a request, of which more is to come within [`STALLED`].
pub struct Arriving {
    body: Incoming,
    stuck: Timer,
}

impl Arriving {
    /// Watches what comes of `body`.
    pub fn new(body: Incoming) -> Arriving {
        Arriving { body, stuck: Timer::default() }
    }
}

impl Body for Arriving {
    type Data = bytes::Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let come = Pin::new(&mut this.body).poll_frame(context);
        let come = ready!(this.stuck.watch(context, come));
        Poll::Ready(
            come.map_or_else(|late| Some(Err(late)), |frame| frame.map(|f| f.map_err(io::Error::other))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
