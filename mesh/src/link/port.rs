//! What a shim and its agent tell each other about one machine's network: session packets and DNS.
//! Everything else of the network stays in the shim. A shim outlives agents, so the two may be of
//! different versions: kinds that are not known are skipped.
//!
//! ```text
//! length: u32 big-endian, of what follows | kind: u8 | 0: IP packet
//!                                                    | 1: id: u64 big-endian, DNS message
//! ```

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

/// One message, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMessage {
    /// An IP packet from the guest, or for it.
    Packet(Bytes),
    /// A DNS question of the guest, or the answer to the one with that id.
    Dns {
        /// Chosen by the shim: from [`BY_TCP`] on for a question by TCP.
        id: u64,
        /// The DNS message.
        message: Bytes,
    },
}

/// Bytes of one read or write of a port, or of QEMU's wire: system calls cost more than what they carry.
pub const WIRE_BYTES: usize = 64 * 1024;
/// Ids of questions that the guest asked by TCP begin here.
pub const BY_TCP: u64 = 1 << 63;

/// How a question came, and the answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In one datagram, with little room.
    Datagram,
    /// In a stream, where everything fits.
    Stream,
}

impl Carrier {
    /// Tells it of the question with this id.
    pub fn of(id: u64) -> Carrier {
        if id >= BY_TCP { Carrier::Stream } else { Carrier::Datagram }
    }
}

/// The framing of [`PortMessage`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PortCodec;

/// The largest IP packet or DNS message, with kind and id.
const MAX_BYTES: usize = 65_535 + 9;
const PACKET: u8 = 0;
const DNS: u8 = 1;

impl Decoder for PortCodec {
    type Item = PortMessage;
    type Error = io::Error;

    fn decode(&mut self, from: &mut BytesMut) -> Result<Option<PortMessage>, io::Error> {
        while let Some(length) = from.first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > MAX_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a port message is too long"));
            }
            if from.len() < 4 + length {
                from.reserve(4 + length - from.len());
                return Ok(None);
            }
            from.advance(4);
            let mut body = from.split_to(length).freeze();
            match body.try_get_u8() {
                Ok(PACKET) => return Ok(Some(PortMessage::Packet(body))),
                Ok(DNS) => {
                    if let Ok(id) = body.try_get_u64() {
                        return Ok(Some(PortMessage::Dns { id, message: body }));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
}

impl Encoder<PortMessage> for PortCodec {
    type Error = io::Error;

    fn encode(&mut self, message: PortMessage, to: &mut BytesMut) -> Result<(), io::Error> {
        let (kind, id, body) = match message {
            PortMessage::Packet(packet) => (PACKET, None, packet),
            PortMessage::Dns { id, message } => (DNS, Some(id), message),
        };
        let length = 1 + id.map_or(0, |_| 8) + body.len();
        if length > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a port message is too long"));
        }
        to.reserve(4 + length);
        to.put_u32(length as u32);
        to.put_u8(kind);
        if let Some(id) = id {
            to.put_u64(id);
        }
        to.put(body);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let sent = [
            PortMessage::Packet(Bytes::from_static(b"packet")),
            PortMessage::Dns { id: 7, message: Bytes::from_static(b"question") },
            PortMessage::Packet(Bytes::new()),
        ];
        let mut stream = BytesMut::new();
        for message in sent.clone() {
            PortCodec.encode(message, &mut stream).unwrap();
        }
        for cut in 0..stream.len() {
            let mut buffer = BytesMut::from(&stream[..cut]);
            let mut got = Vec::new();
            while let Some(message) = PortCodec.decode(&mut buffer).unwrap() {
                got.push(message);
            }
            buffer.extend_from_slice(&stream[cut..]);
            while let Some(message) = PortCodec.decode(&mut buffer).unwrap() {
                got.push(message);
            }
            assert_eq!(got, sent, "cut at {cut}");
        }
    }

    #[test]
    fn what_a_newer_version_says_is_skipped() {
        let mut stream = BytesMut::from(&[0, 0, 0, 2, 99, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 42][..]);
        let message = PortCodec.decode(&mut stream).unwrap();
        assert_eq!(message, Some(PortMessage::Packet(Bytes::from_static(&[42]))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut stream = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = PortCodec.decode(&mut stream) {}
        }
    }
}
