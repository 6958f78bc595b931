//! A wire between two TAP devices in two namespaces: delay, jitter, loss and rate, drawn from a seed.
//! The kernel here has no netem; a thread that moves frames does its work. `Lane` decides, `run` moves.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
};

use crate::lab::Link;

/// What a wire does now in each direction, from the first end to the second and back. Others change it while it runs.
pub type Links = Arc<Mutex<[Link; 2]>>;

/// A frame that waits longer than this for its turn is dropped: the queue of a home router.
const QUEUE_MAX: Duration = Duration::from_millis(200);
/// Frames on their way in one direction: 50 ms of a gigabit. More are dropped, as a full ring would.
const FRAMES_MAX: usize = 16_384;
/// What a frame has before its packet.
const ETHERNET: usize = 14;
/// Larger than any frame of a device with the usual MTU.
const FRAME_MAX: usize = 65_536;
/// Frames taken from one side before the other side gets its turn.
const BURST: usize = 64;

/// One direction of a wire: when each frame comes out, if it does.
#[derive(Debug)]
pub struct Lane {
    link: Link,
    random: u64,
    /// When the last frame has left the sender, at the link's rate.
    free_at: Duration,
    /// When the last frame comes out: frames do not overtake each other.
    last_out: Duration,
}

impl Lane {
    /// A lane that draws from `seed`.
    pub fn new(link: Link, seed: u64) -> Self {
        // Zero would make the generator stand still.
        Lane {
            link,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            free_at: Duration::ZERO,
            last_out: Duration::ZERO,
        }
    }

    /// From now on it is this link. What is under way stays so.
    pub fn become_link(&mut self, link: Link) {
        self.link = link;
    }

    /// When a frame of `length` bytes that goes in `now` comes out; `None` = lost.
    pub fn send(&mut self, length: usize, now: Duration) -> Option<Duration> {
        // Both are drawn for each frame, so that a change of one setting leaves the draws of the other.
        let (loss, jitter) = (self.draw(), self.draw());
        let too_long = self.link.longest > 0 && length > ETHERNET + usize::from(self.link.longest);
        if loss < self.link.loss || too_long {
            return None;
        }
        let mut sent = now;
        if self.link.rate_bps > 0 {
            let start = self.free_at.max(now);
            if start - now > QUEUE_MAX {
                return None;
            }
            sent = start + Duration::from_secs_f64(length as f64 * 8.0 / self.link.rate_bps as f64);
            self.free_at = sent;
        }
        let wobble = (jitter * 2.0 - 1.0) * self.link.jitter_us as f64;
        let delay = Duration::from_micros((self.link.delay_us as f64 + wobble).max(0.0) as u64);
        self.last_out = self.last_out.max(sent + delay);
        Some(self.last_out)
    }

    /// The next number in 0..1 (xorshift64*).
    fn draw(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Makes a TAP device in the namespace of the calling thread; it lives as long as the file.
pub fn tap(name: &str) -> io::Result<File> {
    let file = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    request::set_interface(&file, name)?;
    Ok(File::from(file))
}

/// Moves frames between two TAP devices until `stop` is closed at its other end.
pub fn run(mut ends: [File; 2], links: &Links, seed: u64, stop: &impl AsFd) -> io::Result<()> {
    let begin = Instant::now();
    let now = || *links.lock().unwrap_or_else(PoisonError::into_inner);
    let [out, back] = now();
    let mut lanes = [Lane::new(out, seed), Lane::new(back, seed.wrapping_add(1))];
    let mut flying: [VecDeque<(Duration, Vec<u8>)>; 2] = [VecDeque::new(), VecDeque::new()];
    let mut buffer = vec![0u8; FRAME_MAX];
    loop {
        let mut next: Option<Duration> = None;
        for (lane, queue) in flying.iter_mut().enumerate() {
            while let Some((due, frame)) = queue.front() {
                if *due > begin.elapsed() {
                    next = Some(next.map_or(*due, |other| other.min(*due)));
                    break;
                }
                // A device that is down or full takes no frame: a real wire would lose it, too.
                let _lost = ends[1 - lane].write(frame);
                queue.pop_front();
            }
        }
        let [a, b, ended] = wait(&ends, stop, next.map(|due| due.saturating_sub(begin.elapsed())))?;
        if ended {
            return Ok(());
        }
        for (lane, link) in lanes.iter_mut().zip(now()) {
            lane.become_link(link);
        }
        for (lane, readable) in [a, b].into_iter().enumerate() {
            for _ in 0..if readable { BURST } else { 0 } {
                // WouldBlock: all read. EIO: the device is down.
                let Ok(length) = ends[lane].read(&mut buffer) else { break };
                if flying[lane].len() < FRAMES_MAX
                    && let Some(due) = lanes[lane].send(length, begin.elapsed())
                {
                    flying[lane].push_back((due, buffer[..length].to_vec()));
                }
            }
        }
    }
}

/// Waits for a frame at either end, the stop, or the time; says which of the three descriptors has something.
fn wait(ends: &[File; 2], stop: &impl AsFd, within: Option<Duration>) -> io::Result<[bool; 3]> {
    let mut polled = [
        PollFd::new(&ends[0], PollFlags::IN),
        PollFd::new(&ends[1], PollFlags::IN),
        PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
    ];
    let timeout = within.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => Ok(polled.map(|one| !one.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok([false; 3]),
        Err(error) => Err(error.into()),
    }
}

/// The one ioctl that makes a file of /dev/net/tun a device.
// Unsafe is needed because no safe wrapper of TUNSETIFF exists; all of it is in this module.
#[allow(unsafe_code)]
mod request {
    use std::{io, os::fd::AsFd};

    use rustix::ioctl::{Opcode, Setter, ioctl};

    const TUNSETIFF: Opcode = 0x4004_54ca;
    const IFF_TAP: i16 = 0x0002;
    /// Frames without a header of the driver's.
    const IFF_NO_PI: i16 = 0x1000;

    /// `struct ifreq` of linux/if.h: a name, then a union of which only the flags are used.
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: i16,
        rest_of_union: [u8; 22],
    }

    pub fn set_interface(file: impl AsFd, name: &str) -> io::Result<()> {
        let mut request =
            InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI, rest_of_union: [0; 22] };
        if name.len() >= request.name.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{name}` is too long for an interface"),
            ));
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: TUNSETIFF reads a `struct ifreq` through the pointer. `InterfaceRequest` has its layout and size
        // (40 bytes on 64-bit Linux) and lives until the call returns.
        let setter = unsafe { Setter::<TUNSETIFF, InterfaceRequest>::new(request) };
        // SAFETY: the opcode fits the setter, and the kernel keeps no pointer.
        unsafe { ioctl(file, setter) }.map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn arrivals(link: Link, seed: u64, frames: usize) -> Vec<Option<Duration>> {
        let mut lane = Lane::new(link, seed);
        (0..frames).map(|index| lane.send(1000, MS * index as u32)).collect()
    }

    #[test]
    fn delay_and_jitter_stay_within_bounds_and_frames_keep_their_order() {
        let link = Link { delay_us: 20_000, jitter_us: 5_000, ..Link::default() };
        let out: Vec<Duration> = arrivals(link, 3, 1000).into_iter().flatten().collect();
        assert_eq!(out.len(), 1000);
        assert!(out.is_sorted());
        for (index, due) in out.iter().enumerate() {
            let took = *due - MS * index as u32;
            assert!((MS * 15..=MS * 25).contains(&took), "frame {index} took {took:?}");
        }
    }

    #[test]
    fn loss_is_near_its_share_and_the_same_for_the_same_seed() {
        let link = Link { loss: 0.1, ..Link::default() };
        let lost = |seed| arrivals(link, seed, 10_000).iter().filter(|out| out.is_none()).count();
        assert!((900..1100).contains(&lost(1)), "{} of 10000", lost(1));
        assert_eq!(arrivals(link, 5, 100), arrivals(link, 5, 100));
        assert_ne!(arrivals(link, 5, 100), arrivals(link, 6, 100));
    }

    #[test]
    fn a_link_that_becomes_narrow_loses_what_is_too_long_and_nothing_else() {
        let mut lane = Lane::new(Link::default(), 1);
        assert!(lane.send(1514, MS).is_some());
        lane.become_link(Link { longest: 1280, ..Link::default() });
        assert!(lane.send(ETHERNET + 1280, MS).is_some() && lane.send(ETHERNET + 1281, MS).is_none());
        lane.become_link(Link { delay_us: 5_000, ..Link::default() });
        assert_eq!(lane.send(1514, MS * 2), Some(MS * 7));
    }

    #[test]
    fn a_rate_spaces_frames_and_a_full_queue_drops() {
        // 1000 bytes at 1 Mbit/s take 8 ms; one comes each ms, so 7 of 8 wait, and the queue fills after about 230.
        let link = Link { rate_bps: 1_000_000, ..Link::default() };
        let out = arrivals(link, 1, 1000);
        assert_eq!(out[0], Some(MS * 8));
        assert_eq!(out[1], Some(MS * 16));
        let through = out.iter().flatten().count();
        assert!(
            (140..=160).contains(&through),
            "{through} of 1000 in a second at 125 a second and a queue of 25"
        );
    }
}
