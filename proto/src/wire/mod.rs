//! What travels and what is stored. `codec` is the one encoding, `envelope` what stands around each message, `fields` helps their types;
//! `words` puts what a refusal says beside it; `rpc`, `record` and `summary` are frames between hosts, `api` is JSON for people. What is signed or hashed without an
//! envelope is encoded by `trust::statement`, `trust::token` and `session::disk`, nothing else by other files;
//! how large a message may be is in `limits`.

pub mod api;
pub mod codec;
pub mod envelope;
pub mod fields;
pub mod record;
pub mod rpc;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod words;

pub use codec::{WireError, len};
pub(crate) use envelope::signed_content;
pub use envelope::{Kind, Message, decode, decode_signed, encode, version};
pub use summary::Summary;
