//! What can be said about a mesh, and the sealed form in which it travels. A sealed statement is
//! valid in one mesh only; kinds that this version does not know are kept and handed on.

use std::{collections::BTreeMap, ops::BitAnd};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Digest, HostId, MeshId, Name, SessionId},
    limits::MAX_STATEMENT_BYTES,
    seal::{Domain, PublicKey, SealError, Seed, Sig, decode, encode, verify},
    time::Timestamp,
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
    /// Of a later version.
    Unknown {
        /// Its kind.
        kind: u16,
        /// Its content.
        bytes: Vec<u8>,
    },
}

/// The mesh's own label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charter {
    /// The label.
    pub name: Name,
    /// When it was given; the newest counts.
    pub made: Timestamp,
}

/// A host's membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The member.
    pub host: HostId,
    /// Its label.
    pub name: Name,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// What it may do.
    pub capabilities: Capabilities,
    /// Counts this host's certificates: the highest counts.
    pub serial: u64,
    /// The token it joined by.
    pub grant: Option<PublicKey>,
    /// When it became a member. Renewals keep it: the earlier of two hosts keeps a label.
    pub since: Timestamp,
    /// Valid from here.
    pub not_before: Timestamp,
    /// Stale from here; `None` = never, for issuers.
    pub not_after: Option<Timestamp>,
}

/// What a member may do: a set of bits. Bits of later versions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(pub u32);

/// A token that may be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The token's public key.
    pub token: PublicKey,
    /// When it was made.
    pub made: Timestamp,
    /// Nobody is let in by it afterwards.
    pub expires: Timestamp,
    /// Distinct hosts that may use it.
    pub max_uses: u32,
    /// What its hosts may do.
    pub capabilities: Capabilities,
    /// Tags that its hosts get.
    pub tags: BTreeMap<String, String>,
}

/// The end of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The token's public key.
    pub token: PublicKey,
    /// When.
    pub made: Timestamp,
}

/// The birth of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Its identity.
    pub session: SessionId,
    /// What its identity was made of, with the signer: see [`SessionId::born`].
    pub salt: [u8; 16],
    /// Its label.
    pub name: Name,
    /// When it was made; of two sessions with one label the lower (stamp, id) keeps it.
    pub stamp: Timestamp,
    /// The hosts that store it first.
    pub voters: Vec<HostId>,
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Its identity.
    pub session: SessionId,
    /// When it ended.
    pub made: Timestamp,
}

/// A statement as it travels and is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// What it is.
    pub kind: u16,
    /// Who says so: the root key or a host's key.
    pub signer: PublicKey,
    /// The statement, encoded.
    pub bytes: Vec<u8>,
    /// The signer's word.
    pub sig: Sig,
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

    /// Gives the number of its kind on the wire. Never reuse one; 6 to 9 are kept for evictions,
    /// recoveries and renames.
    pub fn kind(&self) -> u16 {
        match self {
            Statement::Charter(_) => 0,
            Statement::Certificate(_) => 1,
            Statement::Grant(_) => 2,
            Statement::Revocation(_) => 3,
            Statement::Genesis(_) => 4,
            Statement::Tombstone(_) => 5,
            Statement::Unknown { kind, .. } => *kind,
        }
    }

    fn content(&self) -> Vec<u8> {
        match self {
            Statement::Charter(charter) => encode(charter),
            Statement::Certificate(certificate) => encode(certificate),
            Statement::Grant(grant) => encode(grant),
            Statement::Revocation(revocation) => encode(revocation),
            Statement::Genesis(genesis) => encode(genesis),
            Statement::Tombstone(tombstone) => encode(tombstone),
            Statement::Unknown { bytes, .. } => bytes.clone(),
        }
    }
}

impl Sealed {
    /// Encodes it for the wire and the disk.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads one sealed statement. The signature is not looked at yet.
    pub fn decode(bytes: &[u8]) -> Result<Sealed, SealError> {
        decode(bytes, MAX_STATEMENT_BYTES, "statement")
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
        let (bytes, limit) = (&self.bytes[..], MAX_STATEMENT_BYTES);
        Ok(match self.kind {
            0 => Statement::Charter(decode(bytes, limit, "charter")?),
            1 => Statement::Certificate(decode(bytes, limit, "certificate")?),
            2 => Statement::Grant(decode(bytes, limit, "grant")?),
            3 => Statement::Revocation(decode(bytes, limit, "revocation")?),
            4 => Statement::Genesis(decode(bytes, limit, "genesis")?),
            5 => Statement::Tombstone(decode(bytes, limit, "tombstone")?),
            kind => Statement::Unknown { kind, bytes: self.bytes.clone() },
        })
    }
}
