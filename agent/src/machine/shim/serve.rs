//! The shim's own socket: hears one wish for each connection and hands the connection to whom it
//! concerns. Decides nothing.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    super::{
        record::{Launch, ShimStatus},
        wire::{ShimAnswer, Wish, is_unknown, read, write},
    },
    happening::Happening,
};

/// How long a caller may take to say what it wants.
const HEAR: Duration = Duration::from_secs(5);
/// Between two looks whether our socket is still where callers look for it.
const LOOK: Duration = Duration::from_secs(1);
/// Connections that wait for their wish, or follow the status. Dials and consoles have their own bounds.
const MAX_CALLERS: usize = 64;

/// Whom wishes go to.
#[derive(Clone)]
pub struct Desk {
    /// What the machine was launched with.
    pub launch: Arc<Launch>,
    /// What is going on.
    pub status: watch::Sender<ShimStatus>,
    /// Wishes to stop.
    pub stop: mpsc::Sender<Duration>,
    /// People who watch the console.
    pub watcher: mpsc::Sender<UnixStream>,
    /// Everything about the network.
    pub happen: mpsc::Sender<Happening>,
    /// Connections that are to hear the last word.
    pub callers: TaskTracker,
}

/// Serves until it is aborted. A socket that vanishes, with the directory it is in or without, is made
/// again: who cannot be reached is taken for dead sooner or later.
pub async fn stand(mut listener: UnixListener, path: PathBuf, desk: Desk) {
    let room = Arc::new(Semaphore::new(MAX_CALLERS));
    loop {
        let ours = inode(&path);
        // Accepting is cancel-safe; of the other arm only the end matters.
        tokio::select! {
            () = serve(&listener, &desk, &room) => return,
            () = vanished(&path, ours) => {}
        }
        listener = loop {
            match again(&path) {
                Ok(listener) => break listener,
                Err(_) => sleep(LOOK).await,
            }
        };
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Waits until nobody reaches us by our path any more. What somebody else serves there is left to them.
async fn vanished(path: &Path, ours: Option<(u64, u64)>) {
    loop {
        sleep(LOOK).await;
        if inode(path) != ours && UnixStream::connect(path).await.is_err() {
            return;
        }
    }
}

fn again(path: &Path) -> io::Result<UnixListener> {
    crate::host::private::own(path.parent().unwrap_or(Path::new("/")))?;
    // What is there answers nobody.
    std::fs::remove_file(path).ok();
    UnixListener::bind(path)
}

async fn serve(listener: &UnixListener, desk: &Desk, room: &Arc<Semaphore>) {
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let task = {
                    let desk = desk.clone();
                    async move {
                        // A caller that goes away or talks nonsense is its own problem.
                        attend(stream, desk).await.ok();
                        drop(place);
                    }
                };
                desk.callers.spawn(task);
            }
            // Out of file descriptors, most likely: callers try again, so do we.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn attend(mut stream: UnixStream, desk: Desk) -> io::Result<()> {
    let wish = timeout(HEAR, read(&mut stream)).await?;
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    match wish {
        Ok(Wish::Status) => {
            write(&mut stream, &ShimAnswer::Granted).await?;
            tell(stream, desk.status.subscribe()).await
        }
        Ok(Wish::Launched) => {
            write(&mut stream, &ShimAnswer::Granted).await?;
            write(&mut stream, &*desk.launch).await
        }
        Ok(Wish::Stop { within_ms }) => {
            desk.stop.send(Duration::from_millis(within_ms)).await.map_err(|_| gone())?;
            write(&mut stream, &ShimAnswer::Granted).await
        }
        Ok(Wish::Console) => {
            write(&mut stream, &ShimAnswer::Granted).await?;
            desk.watcher.send(stream).await.map_err(|_| gone())
        }
        Ok(Wish::Dial { port }) => {
            desk.happen.send(Happening::Dial { port, stream }).await.map_err(|_| gone())
        }
        Ok(Wish::Counts) => {
            let (asker, counts) = oneshot::channel();
            desk.happen.send(Happening::Count(asker)).await.map_err(|_| gone())?;
            // Without a carrier there is no answer: QEMU has not started, or has ended.
            let counts = counts.await.map_err(|_| gone())?;
            write(&mut stream, &ShimAnswer::Granted).await?;
            write(&mut stream, &counts).await
        }
        Ok(Wish::Network) => {
            write(&mut stream, &ShimAnswer::Granted).await?;
            desk.happen.send(Happening::Agent(stream)).await.map_err(|_| gone())
        }
        Err(error) if is_unknown(&error) => write(&mut stream, &ShimAnswer::Unknown).await,
        Err(error) => write(&mut stream, &ShimAnswer::Failed(format!("not understood: {error}"))).await,
    }
}

/// Writes every status until the last one, or until the caller has gone.
async fn tell(mut stream: UnixStream, mut status: watch::Receiver<ShimStatus>) -> io::Result<()> {
    loop {
        let now = status.borrow_and_update().clone();
        write(&mut stream, &now).await?;
        if now.ended.is_some() {
            return Ok(());
        }
        // Waiting for a change is cancel-safe; of the read only the end matters.
        tokio::select! {
            changed = status.changed() => changed.map_err(io::Error::other)?,
            _ = stream.read_u8() => return Ok(()),
        }
    }
}
