//! The computer this agent runs on, as the rest of the agent sees it: its data and runtime
//! directories, its disk and its troubles, descriptors, the log, and what is held.

pub mod data;
pub mod disk;
pub mod internals;
pub mod limits;
pub mod log;
pub mod runtime;
