//! How a machine is stopped: asked, then told, then killed. Pure: the time is handed in. The power button is pressed again and again, because a guest that is still booting misses it.

use std::time::{Duration, Instant};

/// Between two presses of the power button. A guest that heard the first ignores the others.
const PRESS_AGAIN: Duration = Duration::from_secs(3);
/// How long QEMU has for `quit`, which flushes its disks.
const QUIT: Duration = Duration::from_secs(5);

/// The longest that a guest can be given; nobody waits longer for anything.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Press the guest's power button.
    PowerDown,
    /// Tell QEMU to end.
    Quit,
    /// Kill QEMU.
    Kill,
}

/// A machine that is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    began: Instant,
    /// What the guest has for itself.
    pub within: Duration,
    /// When the next step is due.
    pub due: Instant,
}

impl Stopping {
    /// Begins to stop; the guest has `within` for itself. A later wish may shorten that, never lengthen it.
    pub fn ask(before: Option<Stopping>, within: Duration, now: Instant) -> Stopping {
        let within = within.min(LONGEST);
        match before {
            Some(before) if before.began + before.within <= now + within => before,
            _ => Stopping { began: now, within, due: now },
        }
    }

    /// Gives the step that is due `now`, and sets when the next one is.
    pub fn step(&mut self, now: Instant) -> Step {
        let (step, wait) = step(now.saturating_duration_since(self.began), self.within);
        self.due = now + wait;
        step
    }
}

fn step(elapsed: Duration, within: Duration) -> (Step, Duration) {
    if elapsed < within {
        (Step::PowerDown, PRESS_AGAIN.min(within - elapsed))
    } else if elapsed < within + QUIT {
        (Step::Quit, within + QUIT - elapsed)
    } else {
        (Step::Kill, QUIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_guest_is_asked_until_its_time_is_over_then_quit_then_killed() {
        let start = Instant::now();
        let mut stopping = Stopping::ask(None, 10 * S, start);
        let mut steps = Vec::new();
        while !matches!(steps.last(), Some((_, Step::Kill))) {
            let now = stopping.due;
            steps.push(((now - start).as_secs(), stopping.step(now)));
        }
        use Step::{Kill, PowerDown, Quit};
        let pressed = [0, 3, 6, 9].map(|at| (at, PowerDown));
        assert_eq!(steps, [&pressed[..], &[(10, Quit), (15, Kill)]].concat());
    }

    #[test]
    fn a_second_wish_shortens_the_time_but_never_lengthens_it() {
        let start = Instant::now();
        let mut first = Stopping::ask(None, 10 * S, start);
        assert_eq!(first.step(start), Step::PowerDown);
        assert_eq!(Stopping::ask(Some(first), 60 * S, start + S), first);
        let mut sooner = Stopping::ask(Some(first), Duration::ZERO, start + S);
        assert_eq!(sooner.step(start + S), Step::Quit);
        // However long, it is a moment that a clock can hold.
        Stopping::ask(None, Duration::MAX, start);
    }
}
