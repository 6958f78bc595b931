//! How a machine is stopped: asked, then told, then killed. Pure: a function of the time that has
//! passed. The power button is pressed again and again, because a guest that is still booting misses it.

use std::time::Duration;

/// Between two presses of the power button. A guest that heard the first ignores the others.
const PRESS_AGAIN: Duration = Duration::from_secs(3);
/// How long QEMU has for `quit`, which flushes its disks.
const QUIT: Duration = Duration::from_secs(5);

/// What to do now, and when to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Press the guest's power button.
    PowerDown,
    /// Tell QEMU to end.
    Quit,
    /// Kill QEMU.
    Kill,
}

/// Gives the step that is due `elapsed` after the wish, and when the next one is. The guest has
/// `within` for itself.
pub fn step(elapsed: Duration, within: Duration) -> (Step, Duration) {
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

    #[test]
    fn a_guest_is_asked_until_its_time_is_over_then_quit_then_killed() {
        let s = Duration::from_secs;
        let within = s(10);
        let mut at = s(0);
        let mut steps = Vec::new();
        while steps.last().is_none_or(|(_, step)| *step != Step::Kill) {
            let (step, wait) = step(at, within);
            steps.push((at, step));
            at += wait;
        }
        use Step::*;
        let wanted = [
            (s(0), PowerDown),
            (s(3), PowerDown),
            (s(6), PowerDown),
            (s(9), PowerDown),
            (s(10), Quit),
            (s(15), Kill),
        ];
        assert_eq!(steps, wanted);
    }

    #[test]
    fn no_time_for_the_guest_means_quit_at_once() {
        assert_eq!(step(Duration::ZERO, Duration::ZERO).0, Step::Quit);
    }
}
