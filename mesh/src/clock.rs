//! The one place of mesh and agent that reads the wall clock and the boot clock. Whoever decides takes a [`Moment`]; a
//! [`Timestamp`] is for people and for what is signed.

use std::{
    io,
    time::{Duration, SystemTime},
};

use proto::time::{Moment, Timestamp};
use rustix::{
    fs::Timespec,
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime, timerfd_create,
        timerfd_settime,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// The clocks of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Reads the clock that decides: it counts through sleep, and nobody can set it.
    pub fn moment(self) -> Moment {
        let now = clock_gettime(ClockId::Boottime);
        let millis = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
        Moment(u64::try_from(millis).unwrap_or(0))
    }

    /// Reads the wall clock.
    pub fn timestamp(self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Waits until a moment, through any sleep of the host: tokio's timers stand still meanwhile.
    /// Cancel-safe: dropped, it has waited and nothing else.
    pub async fn sleep_until(self, until: Moment) {
        let wait = until.since(self.moment());
        if wait.is_zero() {
            return;
        }
        if let Err(error) = wait_on_timer(wait).await {
            // Without a descriptor to spare the wait is one that a sleep of the host makes longer.
            tracing::debug!(%error, "no timer of the system; waiting without");
            tokio::time::sleep(wait).await;
        }
    }
}

async fn wait_on_timer(wait: Duration) -> io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let at = Timespec {
        tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(wait.subsec_nanos()),
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: once, it_value: at })?;
    // Owned here until it is dropped, which is all that the newer, `unsafe` form asks for.
    #[allow(deprecated)]
    let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
    timer.readable().await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_at_its_moment_and_not_before() {
        let begun = Clock.moment();
        Clock.sleep_until(begun.plus_ms(30)).await;
        assert!(Clock.moment() >= begun.plus_ms(30));
        Clock.sleep_until(begun).await;
    }
}
