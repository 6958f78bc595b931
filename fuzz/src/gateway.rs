//! The gateway as a whole: a guest, the outside, the agent and people who dial in, in any order, while time passes.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use mesh::link::{Ask, Edge, Effect, Event, Heard, Unconnected, Upstream, allowed};
use proto::{time::Timestamp, topology::Egress};

use super::scenes::{GUEST, edge, host, is_sound, pieces};

/// How much time may pass: it adds up to hours, so that everything expires.
const STEPS_MS: [u64; 4] = [1, 300, 61_000, 8_000_000];

struct Scene {
    edge: Edge,
    now: Instant,
    /// Streams and sockets that the edge believes to be there.
    streams: BTreeSet<u64>,
    sockets: BTreeSet<u64>,
    dials: BTreeSet<u64>,
    asks: Vec<Ask>,
    /// How much the outside may say on any stream yet.
    room: usize,
}

/// See the head of this file.
pub fn gateway(bytes: &[u8]) {
    let now = Instant::now();
    let mut scene = Scene {
        edge: edge(now),
        now,
        streams: BTreeSet::new(),
        sockets: BTreeSet::new(),
        dials: BTreeSet::new(),
        asks: Vec::new(),
        room: 0,
    };
    for piece in pieces(bytes) {
        let Some((&kind, rest)) = piece.split_first() else { continue };
        if let Some(event) = scene.event(kind, rest) {
            scene.on(event);
        }
    }
    // Whatever was begun ends by itself.
    for _ in 0..64 {
        scene.now += Duration::from_secs(3600);
        scene.on(Event::Tick);
    }
    assert_eq!(scene.edge.outside().sockets, 0, "a socket that nobody uses is shut");
}

impl Scene {
    fn event(&mut self, kind: u8, rest: &[u8]) -> Option<Event> {
        let bytes = Bytes::copy_from_slice(rest);
        let number = u64::from(*rest.first().unwrap_or(&0));
        let pick = |of: &BTreeSet<u64>| of.iter().nth(number as usize % of.len().max(1)).copied();
        let stream = pick(&self.streams).unwrap_or(number);
        let dial = pick(&self.dials).unwrap_or(number);
        let count = rest.len();
        let heard = match kind % 20 {
            0..=4 => return Some(Event::Frames(vec![self.frame(rest)])),
            5 => return Some(Event::Packet(bytes)),
            6 => return Some(Event::DnsAnswer { id: number, message: bytes }),
            7 => {
                let id = self.dials.last().map_or(0, |last| last + 1);
                self.dials.insert(id);
                return Some(Event::Dial { id, port: 80 });
            }
            8 => return Some(Event::DialRoom { id: dial, bytes: count }),
            9 => return Some(Event::DialEnd { id: dial }),
            10 => return Some(Event::DialLeft { id: dial }),
            11 => return Some(Event::DialReset { id: dial }),
            12 => return self.asks.pop().map(|ask| Event::Time { ask, now: Timestamp(number << 40) }),
            13 => {
                self.now += Duration::from_millis(STEPS_MS[count % STEPS_MS.len()]);
                return Some(Event::Tick);
            }
            14 => Heard::Connected { id: stream },
            15 => Heard::Data { id: stream, bytes: bytes.slice(..count.min(self.room)) },
            16 => Heard::Sent { id: stream, bytes: count },
            17 => Heard::End { id: stream },
            18 => {
                self.streams.remove(&stream);
                let because = [Unconnected::Refused, Unconnected::Unreachable, Unconnected::Busy];
                match count % 4 {
                    3 => Heard::Gone { id: stream },
                    which => Heard::Failed { id: stream, because: because[which] },
                }
            }
            _ => {
                let from = SocketAddr::from((Ipv4Addr::new(203, 0, 113, number as u8), 53));
                Heard::Datagram { id: pick(&self.sockets).unwrap_or(number), from, bytes }
            }
        };
        Some(Event::Heard(heard))
    }

    /// Makes a frame of the guest: a whole one, but for what the bytes say of it.
    fn frame(&self, rest: &[u8]) -> BytesMut {
        let mut frame = BytesMut::from(&[0x02, 0x6d, 0x65, 0x73, 0x68, 0x01][..]);
        frame.extend_from_slice(&GUEST);
        frame.extend_from_slice(&[8, 0]);
        frame.extend_from_slice(rest);
        // A header's checksum is hardly guessed, and its length is what it is.
        if rest.len() >= 20 {
            let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            frame[26..30].copy_from_slice(&[10, 64, 7, 2]);
        }
        frame
    }

    fn on(&mut self, event: Event) {
        for effect in self.edge.on(event, self.now) {
            assert!(is_sound(&effect), "{effect:?}");
            self.note(effect);
        }
        let held = self.edge.outside();
        assert!(held.streams <= 4096 && held.sockets <= 512 && self.edge.dials() <= 128, "{held:?}");
    }

    fn note(&mut self, effect: Effect) {
        let may = |to: SocketAddr| {
            let dns = to.ip() == Ipv4Addr::new(10, 64, 7, 1) && to.port() == 53;
            dns || allowed(Egress::Internet, Some(&host()), to.ip())
        };
        match effect {
            Effect::Upstream(Upstream::Connect { id, to, room }) => {
                assert!(may(to) && self.streams.insert(id), "{to}");
                self.room = room;
            }
            Effect::Upstream(Upstream::Datagram { id, to, .. }) => {
                assert!(may(to) && self.sockets.contains(&id), "{to}");
            }
            Effect::Upstream(Upstream::Close { id, .. }) => drop(self.streams.remove(&id)),
            Effect::Upstream(Upstream::Open { id, .. }) => drop(self.sockets.insert(id)),
            Effect::Upstream(Upstream::Shut { id }) => drop(self.sockets.remove(&id)),
            Effect::DialFailed { id, .. } | Effect::DialGone { id, .. } => {
                assert!(self.dials.remove(&id), "dial {id} ended twice");
            }
            Effect::Time { ask } => self.asks.push(ask),
            _ => {}
        }
    }
}
