//! Who is in the mesh: the statements and what follows from them, tokens, and the loop that keeps this
//! host connected and known.
//!
//! ```text
//! roster    statements -> member list     cache    that, on disk
//! exchange  one comparison of statements   view      what this host says of each member
//! keeper    the loop                      tokens   make, list, end
//! presence  who is there, by probes
//! rights    who goes, is called what, may admit others
//! ```

pub(crate) mod cache;
pub(crate) mod exchange;
pub(crate) mod keeper;
pub(crate) mod presence;
pub(crate) mod rights;
pub(crate) mod roster;
pub(crate) mod tokens;
pub(crate) mod view;
