//! What can be said about a mesh, and the sealed form in which it travels. A sealed statement is
//! valid in one mesh only; kinds that this version does not know are kept and handed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::BitAnd,
};

use minicbor::{Decode, Encode};

use crate::{
    id::{Digest, HostId, MeshId, Name, SessionId},
    limits::MAX_STATEMENT_BYTES,
    seal::{Domain, PublicKey, SealError, Seed, Sig, verify},
    session::SignedMandate,
    time::Timestamp,
    trust::may::May,
    wire::{
        Kind, Message,
        codec::{Form, from_bytes, to_bytes},
    },
};

/// A signed fact about membership or sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// By the root: what the mesh is called.
    Charter(Charter),
    /// By the root or an issuer: this host is a member.
    Certificate(Certificate),
    /// By the root or an issuer: whoever proves this token may become a member.
    Grant(Grant),
    /// By the root or an issuer: this token is dead.
    Revocation(Revocation),
    /// By a member: this session exists.
    Genesis(Genesis),
    /// By a member: this session has ended.
    Tombstone(Tombstone),
    /// By the root, an issuer or the host itself: this host is out of the mesh.
    Eviction(Eviction),
    /// By the root, an issuer or the host itself: this host is called so from now on.
    Rename(Rename),
    /// By a member, of itself: the sessions of which it has anything.
    Possession(Possession),
    /// Of a later version.
    Unknown {
        /// Its kind.
        kind: u16,
        /// Its content.
        bytes: Vec<u8>,
    },
}

/// The mesh's own label.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Charter {
    /// The label.
    #[n(0)]
    pub name: Name,
    /// When it was given; the newest counts.
    #[n(1)]
    pub made: Timestamp,
}

/// A host's membership.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Certificate {
    /// The member.
    #[n(0)]
    pub host: HostId,
    /// Its label.
    #[n(1)]
    pub name: Name,
    /// Its tags.
    #[n(2)]
    pub tags: BTreeMap<String, String>,
    /// Whether it may admit others.
    #[n(3)]
    pub capabilities: Capabilities,
    /// Counts this host's certificates: the highest counts.
    #[n(4)]
    pub serial: u64,
    /// The token it joined by.
    #[cbor(n(5), with = "crate::wire::fields::maybe_bytes", has_nil)]
    pub grant: Option<PublicKey>,
    /// When it became a member. Renewals keep it: the earlier of two hosts keeps a label.
    #[n(6)]
    pub since: Timestamp,
    /// Valid from here.
    #[n(7)]
    pub not_before: Timestamp,
    /// Stale from here; `None` = never, for issuers.
    #[n(8)]
    pub not_after: Option<Timestamp>,
    /// What it may do beside being a member; absent = everything.
    #[cbor(n(9), with = "crate::wire::fields::usual", has_nil)]
    pub may: May,
}

/// What a member may do for others' membership: a set of bits. Bits of later versions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Capabilities(#[n(0)] pub u32);

/// A token that may be used.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Grant {
    /// The token's public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub token: PublicKey,
    /// When it was made.
    #[n(1)]
    pub made: Timestamp,
    /// Nobody is let in by it afterwards.
    #[n(2)]
    pub expires: Timestamp,
    /// Distinct hosts that may use it.
    #[n(3)]
    pub max_uses: u32,
    /// Whether its hosts may admit others.
    #[n(4)]
    pub capabilities: Capabilities,
    /// Tags that its hosts get.
    #[n(5)]
    pub tags: BTreeMap<String, String>,
    /// What its hosts may do beside being members; absent = everything.
    #[cbor(n(6), with = "crate::wire::fields::usual", has_nil)]
    pub may: May,
}

/// The end of a token.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Revocation {
    /// The token's public key.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub token: PublicKey,
    /// When.
    #[n(1)]
    pub made: Timestamp,
}

/// The birth of a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Genesis {
    /// Its identity.
    #[n(0)]
    pub session: SessionId,
    /// What its identity was made of, with the signer: see [`SessionId::born`].
    #[cbor(n(1), with = "minicbor::bytes")]
    pub salt: [u8; 16],
    /// Its label.
    #[n(2)]
    pub name: Name,
    /// When it was made; of two sessions with one label the lower (stamp, id) keeps it.
    #[n(3)]
    pub stamp: Timestamp,
    /// The hosts that store it first.
    #[n(4)]
    pub voters: Vec<HostId>,
    /// Whether operators sign what becomes of it; absent = it began among hosts that know no mandates.
    #[cbor(n(5), with = "crate::wire::fields::usual", has_nil)]
    pub bound: bool,
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Tombstone {
    /// Its identity.
    #[n(0)]
    pub session: SessionId,
    /// When it ended.
    #[n(1)]
    pub made: Timestamp,
    /// What the operator signed who ended it; a session that is bound by mandates ends by no other word.
    #[cbor(n(2), with = "crate::wire::fields::option", has_nil)]
    pub mandate: Option<SignedMandate>,
}

impl Tombstone {
    /// Tells whether it has a mandate that ended this session. Who signed that, the caller knows.
    pub fn is_signed(&self) -> bool {
        let mandate = self.mandate.as_ref().and_then(|signed| signed.open().ok());
        mandate.is_some_and(|mandate| mandate.ended && mandate.session == self.session)
    }
}

/// The end of a host's membership. It wins over every certificate of that host and stays.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Eviction {
    /// The host.
    #[n(0)]
    pub host: HostId,
    /// When.
    #[n(1)]
    pub made: Timestamp,
    /// Why.
    #[n(2)]
    pub reason: OutBecause,
}

/// Why a host is out of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum OutBecause {
    /// It was cut off.
    #[n(0)]
    Evicted,
    /// It is gone for good, as somebody said who may.
    #[n(1)]
    Removed,
    /// It left by itself.
    #[n(2)]
    Left,
}

/// A host's new label.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Rename {
    /// The host.
    #[n(0)]
    pub host: HostId,
    /// Its label from now on.
    #[n(1)]
    pub name: Name,
    /// When; the newest counts.
    #[n(2)]
    pub made: Timestamp,
}

/// What a member has of sessions: a share, a log or files. Its newest word counts.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Possession {
    /// When that was so.
    #[n(0)]
    pub made: Timestamp,
    /// The sessions.
    #[n(1)]
    pub sessions: BTreeSet<SessionId>,
}

/// A statement as it travels and is stored: its own envelope. These four fields are all that it ever has;
/// what is new goes into the signed bytes, or is of a new kind.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Sealed {
    /// What it is.
    #[n(0)]
    pub kind: u16,
    /// Who says so: the root key or a host's key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signer: PublicKey,
    /// The statement, encoded.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub bytes: Vec<u8>,
    /// The signer's word.
    #[n(3)]
    pub sig: Sig,
}

/// The statements that a host stores, each as it was signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Statements {
    /// Sealed, encoded.
    #[cbor(n(0), with = "crate::wire::fields::blobs")]
    pub sealed: Vec<Vec<u8>>,
}

impl Message for Statements {
    const KIND: Kind = Kind::Statements;
}

impl Statements {
    /// Takes the statements as they are.
    pub fn of(all: &[Sealed]) -> Statements {
        Statements { sealed: all.iter().map(Sealed::encode).collect() }
    }

    /// Gives all of them, or why one cannot be read.
    pub fn unpack(&self) -> Result<Vec<Sealed>, SealError> {
        self.sealed.iter().map(|bytes| Sealed::decode(bytes)).collect()
    }
}

impl Capabilities {
    /// A plain member.
    pub const NONE: Capabilities = Capabilities(0);
    /// May admit others. Only the root gives it.
    pub const ISSUE: Capabilities = Capabilities(1);

    /// Tells whether the member may admit others.
    pub fn may_issue(self) -> bool {
        self & Capabilities::ISSUE == Capabilities::ISSUE
    }
}

impl OutBecause {
    /// Says it in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            OutBecause::Left => "left",
            OutBecause::Removed => "removed",
            OutBecause::Evicted => "evicted",
        }
    }

    /// Says what became of the host.
    pub fn in_words(self) -> &'static str {
        match self {
            OutBecause::Left => "has left",
            OutBecause::Removed => "was removed",
            OutBecause::Evicted => "was evicted",
        }
    }
}

impl BitAnd for Capabilities {
    type Output = Capabilities;
    fn bitand(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 & other.0)
    }
}

impl Statement {
    /// Signs the statement for `mesh`.
    pub fn seal(&self, mesh: MeshId, signer: &Seed) -> Sealed {
        let (kind, bytes) = (self.kind(), self.content());
        let sig = signer.sign(Domain::Statement, &[&mesh.0, &kind.to_le_bytes(), &bytes]);
        Sealed { kind, signer: signer.public(), bytes, sig }
    }

    /// Gives the number of its kind on the wire. Never reuse one; 7 is kept for
    /// recoveries.
    pub fn kind(&self) -> u16 {
        match self {
            Statement::Charter(_) => 0,
            Statement::Certificate(_) => 1,
            Statement::Grant(_) => 2,
            Statement::Revocation(_) => 3,
            Statement::Genesis(_) => 4,
            Statement::Tombstone(_) => 5,
            Statement::Eviction(_) => 6,
            Statement::Rename(_) => 8,
            Statement::Possession(_) => 9,
            Statement::Unknown { kind, .. } => *kind,
        }
    }

    fn content(&self) -> Vec<u8> {
        match self {
            Statement::Charter(charter) => to_bytes(charter),
            Statement::Certificate(certificate) => to_bytes(certificate),
            Statement::Grant(grant) => to_bytes(grant),
            Statement::Revocation(revocation) => to_bytes(revocation),
            Statement::Genesis(genesis) => to_bytes(genesis),
            Statement::Tombstone(tombstone) => to_bytes(tombstone),
            Statement::Eviction(eviction) => to_bytes(eviction),
            Statement::Rename(rename) => to_bytes(rename),
            Statement::Possession(possession) => to_bytes(possession),
            Statement::Unknown { bytes, .. } => bytes.clone(),
        }
    }
}

impl Sealed {
    /// Encodes it for the wire and the disk.
    pub fn encode(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Reads one sealed statement. The signature is not looked at yet.
    pub fn decode(bytes: &[u8]) -> Result<Sealed, SealError> {
        let sealed: Sealed = read(bytes, "statement")?;
        if sealed.encode() == bytes { Ok(sealed) } else { Err(SealError::Encoding("statement")) }
    }

    /// Gives the hash that names it in a set.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Checks the signature for `mesh` and reads the statement.
    pub fn open(&self, mesh: MeshId) -> Result<Statement, SealError> {
        let parts: [&[u8]; 3] = [&mesh.0, &self.kind.to_le_bytes(), &self.bytes];
        if !verify(&self.signer, Domain::Statement, &parts, &self.sig) {
            return Err(SealError::Signature);
        }
        let bytes = &self.bytes[..];
        Ok(match self.kind {
            0 => Statement::Charter(read(bytes, "charter")?),
            1 => Statement::Certificate(read(bytes, "certificate")?),
            2 => Statement::Grant(read(bytes, "grant")?),
            3 => Statement::Revocation(read(bytes, "revocation")?),
            4 => Statement::Genesis(read(bytes, "genesis")?),
            5 => Statement::Tombstone(read(bytes, "tombstone")?),
            6 => Statement::Eviction(read(bytes, "eviction")?),
            8 => Statement::Rename(read(bytes, "rename")?),
            9 => Statement::Possession(read(bytes, "possession")?),
            kind => Statement::Unknown { kind, bytes: self.bytes.clone() },
        })
    }
}

fn read<'b, T: Decode<'b, ()>>(bytes: &'b [u8], what: &'static str) -> Result<T, SealError> {
    from_bytes(bytes, MAX_STATEMENT_BYTES, Form::Canonical).map_err(|error| SealError::of(error, what))
}
