//! mesh

pub mod link;
