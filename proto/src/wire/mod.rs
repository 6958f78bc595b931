//! What travels: frames between hosts (`rpc`, `record`), JSON for people (`api`). Wire types are
//! versioned by the protocol name they travel under and limited by `limits`.

pub mod api;
pub mod record;
pub mod rpc;
