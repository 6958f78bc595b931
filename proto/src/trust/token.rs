//! The join token: `mesh1` and base32, short enough to paste. It names the mesh by its root hash,
//! holds a secret key that never travels, and a few ways to reach a member.

use std::{fmt, net::SocketAddr, str::FromStr};

use data_encoding::{BASE32_NOPAD, DecodeError};
use minicbor::{Decode, Encode};

use crate::{
    id::{HostId, MeshId},
    seal::Seed,
    wire::{
        codec::{Form, from_bytes, to_bytes},
        record::RelayOffer,
    },
};

/// Everything a new host needs to find the mesh, to know it, and to be let in.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Token {
    /// The mesh: the hash of its root key.
    #[n(0)]
    pub mesh: MeshId,
    /// Its secret. The mesh knows the public half from a grant.
    #[n(1)]
    pub seed: Seed,
    /// Ways in, best first; [`MAX_BOOTSTRAP`] at most.
    #[n(2)]
    pub bootstrap: Vec<Bootstrap>,
}

/// A member that a joiner can try.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Bootstrap {
    /// The member.
    #[n(0)]
    pub host: HostId,
    /// Direct addresses; [`MAX_ADDRESSES`] at most.
    #[n(1)]
    pub addresses: Vec<SocketAddr>,
    /// A relay through which it can be reached, its own or another member's.
    #[cbor(n(2), with = "crate::wire::fields::option", has_nil)]
    pub relay: Option<RelayOffer>,
}

/// Members in one token: more would not fit a line that people paste.
pub const MAX_BOOTSTRAP: usize = 3;
/// Direct addresses of one member in a token, for the same reason.
pub const MAX_ADDRESSES: usize = 3;
/// Bytes of a relay URL in a token.
const MAX_URL_BYTES: usize = 256;
/// Characters of a token: three members with everything, twice over.
const MAX_TOKEN_CHARS: usize = 4096;
const PREFIX: &str = "mesh1";
/// How every token begins, of whatever version.
const FIRST: &str = "mesh";
const CHECKSUM_BYTES: usize = 4;

/// Why a text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not start like one.
    #[error("this is no token: a token starts with \"mesh1\"")]
    Prefix,
    /// It is of a later version.
    #[error("this token is of version {0}, which this program does not know; update it")]
    Version(char),
    /// A part is missing or a character is wrong.
    #[error("the token is damaged: copy all of it")]
    Damaged,
    /// Too long, or with more entries than a token may have.
    #[error("the token holds more than a token may")]
    TooLarge,
}

impl Token {
    /// Checks the bounds that `Display` relies on.
    pub fn new(mesh: MeshId, seed: Seed, bootstrap: Vec<Bootstrap>) -> Result<Token, TokenError> {
        let token = Token { mesh, seed, bootstrap };
        if token.is_within_bounds() { Ok(token) } else { Err(TokenError::TooLarge) }
    }

    /// Finds the token in what was pasted or piped: the whole command that printed it, wrapped lines, blank
    /// lines and byte order marks around it. Gives the best guess when nothing in it is a token.
    pub fn find(text: &str) -> String {
        let text: String = text.chars().filter(|c| !is_invisible(*c)).collect();
        let words: Vec<&str> = text.split_whitespace().collect();
        let starts =
            |word: &&str| word.get(..FIRST.len()).is_some_and(|start| start.eq_ignore_ascii_case(FIRST));
        let Some(at) = words.iter().position(starts) else { return words.concat() };
        // A wrapped token goes on in the next words; its checksum says where it ends.
        let pieces = words[at + 1..].iter().take_while(|word| word.bytes().all(is_base32));
        let mut found = words[at].to_owned();
        for piece in pieces {
            if found.parse::<Token>().is_ok() {
                break;
            }
            found.push_str(piece);
        }
        found
    }

    fn is_within_bounds(&self) -> bool {
        self.bootstrap.len() <= MAX_BOOTSTRAP
            && self.bootstrap.iter().all(|entry| {
                entry.addresses.len() <= MAX_ADDRESSES
                    && entry.relay.as_ref().is_none_or(|relay| relay.url.len() <= MAX_URL_BYTES)
            })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = to_bytes(self);
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        // Terminals, mail and chat wrap long lines.
        let seen = text.chars().filter(|c| !c.is_whitespace() && !is_invisible(*c));
        let text: String = seen.take(MAX_TOKEN_CHARS + 1).map(|c| c.to_ascii_lowercase()).collect();
        if text.len() > MAX_TOKEN_CHARS {
            return Err(TokenError::TooLarge);
        }
        let rest = text.strip_prefix("mesh").ok_or(TokenError::Prefix)?;
        let body = match rest.chars().next() {
            Some('1') => &rest[1..],
            Some(version) if version.is_ascii_digit() => return Err(TokenError::Version(version)),
            _ => return Err(TokenError::Prefix),
        };
        let damaged = |_: DecodeError| TokenError::Damaged;
        let bytes = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(damaged)?;
        let (bytes, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TokenError::Damaged)?;
        if checksum(bytes) != *sum {
            return Err(TokenError::Damaged);
        }
        let token: Token =
            from_bytes(bytes, MAX_TOKEN_CHARS, Form::Canonical).map_err(|_| TokenError::Damaged)?;
        if token.is_within_bounds() { Ok(token) } else { Err(TokenError::TooLarge) }
    }
}

/// Marks that editors and chat programs put into text and nobody sees.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{ad}')
}

fn is_base32(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || (b'2'..=b'7').contains(&byte)
}

/// Finds typing and pasting mistakes; it is no protection against people.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    sum
}
