//! What stands around every message: which kind it is, in which form, and its bytes. A reader that does not
//! know the kind or the form says so by a typed error instead of guessing. Fields are added without a new
//! form; a form is raised only when an old reader must not read the message at all.

use minicbor::{Decode, Encode};

use super::codec::{Form, WireError, from_bytes, to_bytes};

/// Every kind of message. Numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// A question to another member.
    Request = 1,
    /// Its answer.
    Answer = 2,
    /// One host's part of a plan, sent and stored.
    Share = 3,
    /// Whose word on a session counts, as stored.
    Voices = 4,
    /// A stranger's first word.
    JoinHello = 5,
    /// A member's proof of itself.
    JoinOffer = 6,
    /// A stranger's proof of itself.
    JoinProof = 7,
    /// How a join ends.
    JoinAnswer = 8,
    /// What a new member needs to live.
    JoinWelcome = 9,
    /// A gossip record, as it is signed.
    Record = 10,
    /// The statements that a host stores.
    Statements = 11,
    /// Where members are, as a host stores it.
    Places = 12,
    /// A voter's word to another.
    RaftCall = 13,
    /// Its answer.
    RaftAnswer = 14,
    /// One row of a voter's log.
    RaftEntry = 15,
    /// A voter's vote, as stored.
    RaftVote = 16,
    /// A place in a voter's log, as stored.
    RaftPlace = 17,
    /// A snapshot with what it is of, as stored.
    RaftSnapshot = 18,
    /// What a snapshot holds.
    RaftContent = 19,
    /// Who a voter's store belongs to.
    RaftOwner = 20,
    /// What one host tells another before a connection into a machine.
    Connect = 21,
    /// A new member's word that it can be welcomed.
    JoinReady = 22,
    /// What a machine's shim is launched with.
    Launch = 23,
    /// What a machine's process is doing.
    ShimStatus = 24,
    /// What an agent wants of a shim.
    ShimWish = 25,
    /// Whether it is granted.
    ShimAnswer = 26,
    /// What a shim holds.
    ShimCounts = 27,
    /// What one host tells another before a connection to what that publishes.
    ConnectHost = 28,
    /// What a host publishes, as stored.
    Published = 29,
    /// What one host tells another before a flow of datagrams into a machine.
    ConnectDatagrams = 30,
    /// A datagram by which hosts know that they are there.
    Beat = 36,
    /// A signed word about who is there.
    Testimony = 37,
    /// What a host holds of gossip.
    GossipSummary = 38,
    /// The keys of a machine, as its host stores them.
    MachineKeys = 39,
}

impl Kind {
    /// Every kind, in the order of the numbers.
    #[cfg(test)]
    const ALL: [Kind; 34] = [
        Kind::Request,
        Kind::Answer,
        Kind::Share,
        Kind::Voices,
        Kind::JoinHello,
        Kind::JoinOffer,
        Kind::JoinProof,
        Kind::JoinAnswer,
        Kind::JoinWelcome,
        Kind::Record,
        Kind::Statements,
        Kind::Places,
        Kind::RaftCall,
        Kind::RaftAnswer,
        Kind::RaftEntry,
        Kind::RaftVote,
        Kind::RaftPlace,
        Kind::RaftSnapshot,
        Kind::RaftContent,
        Kind::RaftOwner,
        Kind::Connect,
        Kind::JoinReady,
        Kind::Launch,
        Kind::ShimStatus,
        Kind::ShimWish,
        Kind::ShimAnswer,
        Kind::ShimCounts,
        Kind::ConnectHost,
        Kind::Published,
        Kind::ConnectDatagrams,
        Kind::Beat,
        Kind::Testimony,
        Kind::GossipSummary,
        Kind::MachineKeys,
    ];
}

/// A type that is sent or stored as a whole.
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> {
    /// Which kind it is.
    const KIND: Kind;
    /// The form that this program writes and reads.
    const VERSION: u16 = 1;
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Envelope<'a> {
    #[n(0)]
    kind: u16,
    #[n(1)]
    version: u16,
    #[cbor(n(2), with = "minicbor::bytes")]
    bytes: &'a [u8],
}

/// Encodes a message with its envelope.
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    let bytes = to_bytes(message);
    to_bytes(&Envelope { kind: M::KIND as u16, version: M::VERSION, bytes: &bytes })
}

/// Decodes a message of at most `limit` bytes.
pub fn decode<M: Message>(bytes: &[u8], limit: usize) -> Result<M, WireError> {
    open(bytes, limit, Form::Sound)
}

/// Decodes a message that somebody signed: only the one way of writing it is taken.
pub fn decode_signed<M: Message>(bytes: &[u8], limit: usize) -> Result<M, WireError> {
    open(bytes, limit, Form::Canonical)
}

/// Decodes a part of a signed message: the fields of `T`, whatever the others say.
pub(crate) fn signed_content<'b, T: Decode<'b, ()>>(
    bytes: &'b [u8],
    kind: Kind,
    version: u16,
    limit: usize,
) -> Result<T, WireError> {
    content(bytes, kind, version, limit, Form::Canonical)
}

/// Reads which form a message is in, whatever the rest of it says.
pub fn version(bytes: &[u8]) -> Option<u16> {
    from_bytes::<Envelope>(bytes, bytes.len(), Form::Sound).ok().map(|envelope| envelope.version)
}

fn open<M: Message>(bytes: &[u8], limit: usize, form: Form) -> Result<M, WireError> {
    content(bytes, M::KIND, M::VERSION, limit, form)
}

fn content<'b, T: Decode<'b, ()>>(
    bytes: &'b [u8],
    kind: Kind,
    version: u16,
    limit: usize,
    form: Form,
) -> Result<T, WireError> {
    let envelope: Envelope = from_bytes(bytes, limit, form)?;
    if envelope.kind != kind as u16 {
        return Err(WireError::Kind { found: envelope.kind, wanted: kind as u16 });
    }
    if envelope.version != version {
        return Err(WireError::Version { found: envelope.version, known: version });
    }
    from_bytes(envelope.bytes, limit, form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    #[cbor(map)]
    struct Word {
        #[n(0)]
        text: String,
    }

    impl Message for Word {
        const KIND: Kind = Kind::Voices;
    }

    #[test]
    fn an_envelope_of_another_kind_or_form_is_said_and_not_guessed_at() {
        let word = Word { text: "hello".into() };
        let bytes = encode(&word);
        assert_eq!(decode::<Word>(&bytes, 100), Ok(word));
        let inner = to_bytes(&Word { text: "hello".into() });
        let with = |kind, version| to_bytes(&Envelope { kind, version, bytes: &inner });
        assert_eq!(decode::<Word>(&with(9, 1), 100), Err(WireError::Kind { found: 9, wanted: 4 }));
        assert_eq!(decode::<Word>(&with(4, 2), 100), Err(WireError::Version { found: 2, known: 1 }));
        assert_eq!(decode::<Word>(&bytes, 5), Err(WireError::TooLarge { have: bytes.len(), limit: 5 }));
        assert!(matches!(decode::<Word>(b"text", 100), Err(WireError::Malformed(_))));
        assert_eq!(version(&with(4, 7)), Some(7));
    }

    #[test]
    fn every_kind_has_a_number_of_its_own() {
        let numbers: Vec<u16> = Kind::ALL.iter().map(|kind| *kind as u16).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }
}
