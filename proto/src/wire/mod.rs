//! What travels and what is stored. `codec` is the one encoding, `envelope` what stands around each message, `fields` helps their types;
//! `rpc` and `record` are frames between hosts, `api` is JSON for people. No other file encodes; how large a
//! message may be is in `limits`.

pub mod api;
pub mod codec;
pub mod envelope;
pub mod fields;
pub mod record;
pub mod rpc;

pub use codec::{WireError, len};
pub use envelope::{Kind, Message, decode, decode_signed, encode, version};
