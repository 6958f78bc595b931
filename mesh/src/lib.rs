//! mesh
pub mod quorum;
