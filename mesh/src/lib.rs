//! mesh

pub mod link;
pub mod net;
