//! How a stranger becomes a member: four messages on `mesh/join/1`, an encrypted stream on which
//! each side already knows the other's host key.
//!
//! ```text
//! joiner -> JoinHello   a nonce, nothing else
//! member -> JoinOffer   a nonce and the chain that proves it a member of the mesh of the token
//! joiner -> JoinProof   a name, and the transcript signed by the token and by the host key
//! member -> JoinAnswer  admitted, pending or refused
//! ```
//!
//! The token's secret never travels, and the joiner says nothing about it before the chain holds.
//! The transcript has both keys, both nonces and the channel's exported keying material, so a
//! proof is good on one connection only.
//!
//! Who has the root key, by the recovery phrase, needs no token and no issuer: the key takes the token's place, and the
//! proof brings the certificate that it signed for the joiner ([`restore`]).

use minicbor::{Decode, Encode};

use crate::{
    id::{HostId, MeshId, Name},
    reasons::Coded,
    seal::{Domain, PublicKey, Seed, Sig, verify},
    time::Timestamp,
    trust::{
        members::{CERTIFICATE_MS, GrantState, Member, MemberSet},
        statement::{Capabilities, Certificate, OutBecause, Sealed, Statement},
    },
    wire::{Kind, Message, words::Refuses},
};

/// The version of the join protocol.
pub const JOIN_VERSION: u16 = 1;
/// The label under which both sides export keying material from the connection's TLS.
pub const EXPORT_LABEL: &[u8] = b"mesh/join/1";

/// What is said of a token that is not valid yet.
pub const EARLY: &str = "the token was made while a clock was more than a day ahead; make another one";

/// The joiner's first word.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JoinHello {
    /// [`JOIN_VERSION`].
    #[n(0)]
    pub version: u16,
    /// Random.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
}

/// The member's proof of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JoinOffer {
    /// [`JOIN_VERSION`].
    #[n(0)]
    pub version: u16,
    /// Random.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
    /// [`MemberSet::chain`] of the member.
    #[n(2)]
    pub chain: Vec<Sealed>,
    /// The member's clock.
    #[n(3)]
    pub time: Timestamp,
}

/// The joiner's proof of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct JoinProof {
    /// The label it wishes.
    #[n(0)]
    pub name: Name,
    /// The token's public key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub token: PublicKey,
    /// The transcript signed by the token.
    #[n(2)]
    pub token_sig: Sig,
    /// The transcript signed by the joiner's host key.
    #[n(3)]
    pub host_sig: Sig,
    /// Where the root key is the token: the joiner's certificate.
    #[cbor(n(4), with = "crate::wire::fields::option", has_nil)]
    pub certificate: Option<Sealed>,
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub enum JoinAnswer {
    /// The joiner is a member: its chain. The rest of the statements comes by RPC.
    #[n(0)]
    Admitted(#[n(0)] Vec<Sealed>),
    /// No issuer can be reached now; the joiner asks again later.
    #[n(1)]
    Pending {
        /// The issuers' labels.
        #[n(0)]
        issuers: Vec<Name>,
    },
    /// No.
    #[n(2)]
    Refused(#[cbor(n(0), with = "crate::wire::words")] JoinRefusal),
}

impl Message for JoinHello {
    const KIND: Kind = Kind::JoinHello;
}

impl Message for JoinOffer {
    const KIND: Kind = Kind::JoinOffer;
}

impl Message for JoinProof {
    const KIND: Kind = Kind::JoinProof;
}

impl Message for JoinAnswer {
    const KIND: Kind = Kind::JoinAnswer;
}

/// Everything that both sides of one join know. An issuer that is asked by another member gets it
/// whole and trusts that member for the nonces and the channel.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Transcript {
    /// The mesh.
    #[n(0)]
    pub mesh: MeshId,
    /// The joiner, as the connection proved.
    #[n(1)]
    pub joiner: HostId,
    /// The member, as the connection proved.
    #[n(2)]
    pub member: HostId,
    /// From [`JoinHello`].
    #[cbor(n(3), with = "minicbor::bytes")]
    pub hello: [u8; 32],
    /// From [`JoinOffer`].
    #[cbor(n(4), with = "minicbor::bytes")]
    pub offer: [u8; 32],
    /// Exported from the connection under [`EXPORT_LABEL`].
    #[cbor(n(5), with = "minicbor::bytes")]
    pub channel: [u8; 32],
}

/// Why a join failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[cbor(map)]
pub enum JoinRefusal {
    /// The other side speaks another version.
    #[error("the other side speaks version {0} of the join protocol, this one speaks {JOIN_VERSION}")]
    #[n(0)]
    Version(#[n(0)] u16),
    /// Seen by the joiner: this is not the mesh of the token.
    #[error("the host that answered is no member of the token's mesh")]
    #[n(1)]
    NotMember,
    /// The proof does not fit the connection.
    #[error("the proof of the token does not hold")]
    #[n(2)]
    Proof,
    /// No issuer has made this token.
    #[error("the mesh does not know this token")]
    #[n(3)]
    UnknownToken,
    /// The token's time is over.
    #[error("the token has expired")]
    #[n(4)]
    Expired,
    /// An issuer ended the token.
    #[error("the token was revoked")]
    #[n(5)]
    Revoked,
    /// The token let in as many hosts as it may.
    #[error("the token has no uses left")]
    #[n(6)]
    UsedUp,
    /// Another member has this label.
    #[error("another host is called {0}")]
    #[n(7)]
    NameTaken(#[n(0)] Name),
    /// Too many strangers at once.
    #[error("the member is busy; try again in a moment")]
    #[n(8)]
    Busy,
    /// The member could not do its part.
    #[error("{0}")]
    #[n(9)]
    Failed(#[n(0)] String),
    /// Something that only a later version says; its words.
    #[error("{0}")]
    #[n(10)]
    Other(#[n(0)] String),
    /// This host was a member and is none for good, under the key that it still has.
    #[error("this host is out of the mesh: it {}", .0.in_words())]
    #[n(11)]
    Out(#[n(0)] OutBecause),
}

impl Refuses for JoinRefusal {
    fn in_words(words: String) -> JoinRefusal {
        JoinRefusal::Other(words)
    }
}

impl Coded for JoinRefusal {
    fn code(&self) -> &'static str {
        match self {
            JoinRefusal::Version(_) => "version",
            JoinRefusal::NotMember => "not-member",
            JoinRefusal::Proof => "proof",
            JoinRefusal::UnknownToken => "unknown-token",
            JoinRefusal::Expired => "expired",
            JoinRefusal::Revoked => "revoked",
            JoinRefusal::UsedUp => "used-up",
            JoinRefusal::NameTaken(_) => "name-taken",
            JoinRefusal::Busy => "busy",
            JoinRefusal::Failed(_) => "failed",
            JoinRefusal::Other(_) => "other",
            JoinRefusal::Out(_) => "out",
        }
    }
}

/// What an issuer does about a valid proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Signs this with its host key.
    ByHost(Certificate),
    /// Signs this with the root key: it makes an issuer.
    ByRoot(Certificate),
    /// Nothing: the joiner is an issuer already, and only the root may change that.
    Known,
}

impl JoinOffer {
    /// For the joiner, before it reveals anything: checks that `member`, which the connection
    /// proved, belongs to the mesh of the token. Gives what the chain says.
    pub fn check(&self, mesh: MeshId, member: HostId, now: Timestamp) -> Result<MemberSet, JoinRefusal> {
        if self.version != JOIN_VERSION {
            return Err(JoinRefusal::Version(self.version));
        }
        let mut set = MemberSet::new(mesh);
        set.apply_all(self.chain.clone(), now);
        if set.contains(member) { Ok(set) } else { Err(JoinRefusal::NotMember) }
    }
}

impl Transcript {
    /// For the joiner: signs.
    pub fn prove(&self, name: Name, token: &Seed, host: &Seed) -> JoinProof {
        let token_key = token.public();
        let parts = self.parts(&name, &token_key);
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let token_sig = token.sign(Domain::JoinToken, &parts);
        let host_sig = host.sign(Domain::JoinHost, &parts);
        JoinProof { name, token: token_key, token_sig, host_sig, certificate: None }
    }

    /// For the member and the issuer: checks both signatures.
    pub fn check(&self, proof: &JoinProof) -> Result<(), JoinRefusal> {
        let parts = self.parts(&proof.name, &proof.token);
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let token = verify(&proof.token, Domain::JoinToken, &parts, &proof.token_sig);
        let host = verify(&self.joiner.0, Domain::JoinHost, &parts, &proof.host_sig);
        if token && host { Ok(()) } else { Err(JoinRefusal::Proof) }
    }

    fn parts(&self, name: &Name, token: &PublicKey) -> [Vec<u8>; 8] {
        [
            self.mesh.0.to_vec(),
            self.joiner.0.to_vec(),
            self.member.0.to_vec(),
            self.hello.to_vec(),
            self.offer.to_vec(),
            self.channel.to_vec(),
            name.as_str().as_bytes().to_vec(),
            token.to_vec(),
        ]
    }
}

/// For an issuer, after [`Transcript::check`]: decides whether the joiner becomes a member. A host
/// that joins again keeps its place and uses nothing up.
pub fn admit(
    set: &MemberSet,
    joiner: HostId,
    proof: &JoinProof,
    holds_root: bool,
    now: Timestamp,
) -> Result<Admission, JoinRefusal> {
    refuse_outcast(set, joiner)?;
    let current = set.certificate(joiner);
    match set.grant_state(&proof.token, now) {
        GrantState::Unknown => return Err(JoinRefusal::UnknownToken),
        GrantState::NotYet => return Err(JoinRefusal::Failed(EARLY.to_owned())),
        GrantState::Expired => return Err(JoinRefusal::Expired),
        GrantState::Revoked => return Err(JoinRefusal::Revoked),
        GrantState::UsedUp if current.is_none() => return Err(JoinRefusal::UsedUp),
        GrantState::UsedUp | GrantState::Live { .. } => {}
    }
    let grant = set.grant(&proof.token).ok_or(JoinRefusal::UnknownToken)?;
    refuse_taken(set, joiner, &proof.name)?;
    if set.is_issuer(joiner) && !holds_root {
        return Ok(Admission::Known);
    }
    let issues = (grant.capabilities.may_issue() && holds_root) || set.is_issuer(joiner);
    let certificate = Certificate {
        host: joiner,
        name: proof.name.clone(),
        tags: grant.tags.clone(),
        capabilities: if issues { Capabilities::ISSUE } else { Capabilities::NONE },
        serial: current.map_or(1, |current| current.serial.saturating_add(1)),
        grant: current.map_or(Some(proof.token), |current| current.grant),
        since: current.map_or(now, |current| current.since),
        not_before: now,
        not_after: (!issues).then(|| now.plus_ms(CERTIFICATE_MS)),
        // Also of one that joins again: this is how limits change.
        may: grant.may,
    };
    Ok(if issues { Admission::ByRoot(certificate) } else { Admission::ByHost(certificate) })
}

/// For any member, after [`Transcript::check`], where the root key is the token: gives the certificate that makes the
/// joiner an issuer.
pub fn restore(set: &MemberSet, joiner: HostId, proof: &JoinProof) -> Result<Sealed, JoinRefusal> {
    refuse_outcast(set, joiner)?;
    refuse_taken(set, joiner, &proof.name)?;
    let brought = proof.certificate.as_ref().filter(|sealed| set.is_root(&sealed.signer));
    let sealed = brought.ok_or(JoinRefusal::Proof)?;
    match sealed.open(set.mesh()) {
        Ok(Statement::Certificate(said)) if said.host == joiner && said.name == proof.name => {
            Ok(sealed.clone())
        }
        _ => Err(JoinRefusal::Proof),
    }
}

/// Refuses who is out for good.
fn refuse_outcast(set: &MemberSet, joiner: HostId) -> Result<(), JoinRefusal> {
    set.departed(&joiner).map_or(Ok(()), |out| Err(JoinRefusal::Out(out.because)))
}

/// Refuses a label that another member has.
fn refuse_taken(set: &MemberSet, joiner: HostId, name: &Name) -> Result<(), JoinRefusal> {
    let taken = |member: &Member| member.host != joiner && member.name == *name;
    match set.members().values().any(taken) {
        true => Err(JoinRefusal::NameTaken(name.clone())),
        false => Ok(()),
    }
}
