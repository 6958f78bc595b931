//! The lines of an answer that takes long.

use serde::{Deserialize, Serialize};

use super::Error;

/// A line of the answer to a long request: how far it is, or how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step<T> {
    /// It goes on.
    Progress(Progress),
    /// It is done; the last line.
    Done(T),
    /// It failed; the last line.
    Error(Error),
}

/// How far a long request is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, such as `copying`.
    pub stage: String,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, when known.
    pub total: Option<u64>,
}
