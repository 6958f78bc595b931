//! Tokens. Their secret is shown once, to whom made them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::trust::Capability;

/// `agent token list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Grants that live or lived.
    pub tokens: Vec<TokenRow>,
}

/// One grant. The secret is not here: nobody keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The token's public key, shortened.
    pub id: String,
    /// The issuer that signed it.
    pub issuer: Option<String>,
    /// When it ends.
    pub expires: String,
    /// Hosts that may use it.
    pub uses: u64,
    /// Hosts that have used it.
    pub used: u64,
    /// Whether it makes issuers.
    pub admin: bool,
    /// What its hosts may do.
    pub capabilities: Vec<Capability>,
    /// `live`, `expired`, `used-up` or `revoked`.
    pub state: String,
}

/// What `token create` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreate {
    /// How long it lives, in seconds.
    pub expires_s: u64,
    /// How many hosts may use it.
    pub uses: u32,
    /// Whether it makes issuers.
    pub admin: bool,
    /// What its hosts may do; absent = everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can: Option<Vec<Capability>>,
}

/// What `token create` made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The token's public key, shortened.
    pub id: String,
    /// The secret; shown once.
    pub token: String,
    /// When it ends.
    pub expires: String,
    /// How many hosts may use it.
    pub uses: u64,
    /// Which kinds of address it holds: `lan`, `public`, `relay`.
    pub addresses: Vec<String>,
}

impl fmt::Debug for TokenCreated {
    /// Leaves the secret out: values are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCreated")
            .field("id", &self.id)
            .field("expires", &self.expires)
            .field("uses", &self.uses)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Something that was named in a request, such as a revoked token or a removed image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its id or name.
    pub id: String,
}
