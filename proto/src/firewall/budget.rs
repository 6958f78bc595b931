//! What one member's gossip may cost, as buckets that fill with time. Nothing here knows what a frame says.

/// Frames of one member: an exchange has two for each side, and twenty begin in a second at most on each.
const FRAMES: Rate = Rate { burst: 400, per_s: 100 };
/// Bytes of one member's frames, packed: what a mesh of the largest size has to tell a newcomer, and then its changes.
const BYTES: Rate = Rate { burst: 8 << 20, per_s: 512 << 10 };
/// Signatures that are checked of what one member brings, 60 µs each: a newcomer's first minute, and then the changes
/// of a mesh in which every host changes something each second.
const SIGNATURES: Rate = Rate { burst: 8_000, per_s: 500 };
/// Bytes of news of one host, whoever brings them: all that it may say twice over, and then three full records a
/// second. In the time that chitchat remembers a dead start, this is what it remembers of one host at most.
const NEWS: Rate = Rate { burst: 2 << 20, per_s: 12 << 10 };

struct Rate {
    burst: u64,
    per_s: u64,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    spent: u64,
    at_ms: u64,
}

impl Bucket {
    fn take(&mut self, much: u64, rate: &Rate, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.at_ms).saturating_mul(rate.per_s) / 1000;
        if gained > 0 {
            self.spent = self.spent.saturating_sub(gained);
            self.at_ms = now_ms;
        }
        let fits = self.spent.saturating_add(much) <= rate.burst;
        if fits {
            self.spent += much;
        }
        fits
    }
}

/// What one member may still send, and what may still be said of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Purse {
    frames: Bucket,
    bytes: Bucket,
    signatures: Bucket,
    news: Bucket,
    pub(super) used_ms: u64,
}

impl Purse {
    /// Pays for reading a frame of it.
    pub(super) fn frame(&mut self, bytes: usize, now_ms: u64) -> bool {
        self.used_ms = now_ms;
        self.frames.take(1, &FRAMES, now_ms) && self.bytes.take(bytes as u64, &BYTES, now_ms)
    }

    /// Pays for checking a signature in a frame of it.
    pub(super) fn signature(&mut self, now_ms: u64) -> bool {
        self.used_ms = now_ms;
        self.signatures.take(1, &SIGNATURES, now_ms)
    }

    /// Pays for remembering what it says of itself.
    pub(super) fn news(&mut self, bytes: usize, now_ms: u64) -> bool {
        self.used_ms = now_ms;
        self.news.take(bytes as u64, &NEWS, now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_was_emptied_fills_with_time_and_not_beyond_its_burst() {
        let mut purse = Purse::default();
        let taken =
            |purse: &mut Purse, now_ms| (0..10_000).take_while(|_| purse.frame(1, now_ms)).count() as u64;
        assert_eq!(taken(&mut purse, 1000), FRAMES.burst);
        assert_eq!(taken(&mut purse, 1001), 0);
        assert_eq!(taken(&mut purse, 2001), FRAMES.per_s);
        assert_eq!(taken(&mut purse, 1_000_000), FRAMES.burst);
        assert!(!purse.news(usize::MAX, 1_000_000));
    }

    #[test]
    fn looking_often_takes_no_time_away() {
        let mut bucket = Bucket::default();
        let rate = Rate { burst: 1, per_s: 1 };
        assert!(bucket.take(1, &rate, 5000));
        let taken = (5001..=7000).filter(|now| bucket.take(1, &rate, *now)).count();
        assert_eq!(taken, 2);
    }
}
