//! The gateway's answer to a guest that asks for the time (SNTP, RFC 4330): what the host's clock says.
//! Pure: the question's bytes in, the answer's frame out; the time is handed in.

use bytes::Bytes;
use proto::time::Timestamp;

use super::frame::Towards;

pub(super) const PORT: u16 = 123;
/// Bytes of a message without extensions.
const BYTES: usize = 48;
/// A client, of any version that there is.
const CLIENT: u8 = 3;
const SERVER: u8 = 4;
/// Behind a host that keeps time by servers of the internet.
const STRATUM: u8 = 3;
/// 2^-10 s: the clock counts milliseconds.
const PRECISION: i8 = -10;
/// Seconds from 1900, where the first era of NTP begins, to 1970.
const ERA_0_S: u64 = 2_208_988_800;
/// The offset that a guest sees is right within the wire's own delay: 2^-10 s in 16.16 bits.
const DISPERSION: u32 = 64;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    port: u16,
    version: u8,
    poll: u8,
    sent: u64,
}

impl Ask {
    /// Reads a question; `None` when it is none of a client.
    pub(super) fn of(port: u16, message: &[u8]) -> Option<Ask> {
        let message = message.first_chunk::<BYTES>()?;
        let (mode, version) = (message[0] & 7, message[0] >> 3 & 7);
        let sent = u64::from_be_bytes(*message.last_chunk::<8>()?);
        (mode == CLIENT && (1..=4).contains(&version)).then_some(Ask {
            port,
            version,
            poll: message[2],
            sent,
        })
    }
}

/// Gives the time as NTP writes it: seconds since 1900, of which 32 bits remain, and their 2^-32 parts. The
/// bits begin anew in 2036, and whoever reads them takes the era that is nearest to its own time (RFC 5905, 6).
fn ntp(now: Timestamp) -> u64 {
    let (seconds, millis) = (now.0 / 1000, now.0 % 1000);
    (seconds.wrapping_add(ERA_0_S) << 32) | ((millis << 32) / 1000)
}

/// Answers it with the time.
pub(super) fn answer(towards: Towards, ask: Ask, now: Timestamp) -> Option<Bytes> {
    let ntp = ntp(now);
    let mut message = [0; BYTES];
    message[0] = ask.version << 3 | SERVER;
    message[1] = STRATUM;
    message[2] = ask.poll;
    message[3] = PRECISION.to_be_bytes()[0];
    message[8..12].copy_from_slice(&DISPERSION.to_be_bytes());
    message[12..16].copy_from_slice(&towards.from.octets());
    message[16..24].copy_from_slice(&ntp.to_be_bytes());
    message[24..32].copy_from_slice(&ask.sent.to_be_bytes());
    message[32..40].copy_from_slice(&ntp.to_be_bytes());
    message[40..48].copy_from_slice(&ntp.to_be_bytes());
    towards.udp((PORT, ask.port), &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_of_its_era() {
        // 1970, the last half second of the first era (2036-02-07T06:28:15.500Z), and the first second after it.
        let cases = [
            (0, 0x83aa_7e80_0000_0000),
            (2_085_978_495_500, 0xffff_ffff_8000_0000),
            (2_085_978_496_000, 0x0000_0000_0000_0000),
            (2_085_978_497_250, 0x0000_0001_4000_0000),
        ];
        for (millis, expected) in cases {
            assert_eq!(ntp(Timestamp(millis)), expected, "{millis}");
        }
        let _any_time_is_some_time = ntp(Timestamp(u64::MAX));
    }
}
