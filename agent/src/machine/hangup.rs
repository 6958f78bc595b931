//! Whether the other end of a unix socket has gone entirely, or has only ended its half. The runtime wakes
//! for the first of the two and cannot tell them apart, so the kernel is asked now and then.

use std::{os::fd::AsFd, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io,
};
use tokio::time::sleep;

/// Between two looks. Nothing waits for the answer but descriptors.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until the other end has gone.
pub async fn hung_up(stream: &impl AsFd) {
    // A kernel that does not answer says nothing about the other end.
    while !is_hung_up(stream).unwrap_or(false) {
        sleep(LOOK).await;
    }
}

fn is_hung_up(stream: &impl AsFd) -> io::Result<bool> {
    let mut looked = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut looked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(looked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

#[cfg(test)]
mod tests {
    use std::{net::Shutdown, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn an_end_of_one_half_is_no_hang_up() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(!is_hung_up(&ours).unwrap());
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!is_hung_up(&ours).unwrap());
        drop(theirs);
        assert!(is_hung_up(&ours).unwrap());
    }
}
