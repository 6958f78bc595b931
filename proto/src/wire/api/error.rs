//! Why something was not done, in the shape that the CLI maps to exit codes.

use serde::{Deserialize, Serialize};

use crate::reasons::{Code, Coded};

/// Why a request was not carried out: one line each for what failed, the observed reason, and the
/// next thing to type. Shown with `--json` as `{"error": ..}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    /// Which sort of failure, and so the exit code.
    pub kind: Kind,
    /// What was not done.
    pub what: String,
    /// The observed reason, in words.
    pub because: Option<String>,
    /// The same as a value, where a member or a rule refused.
    #[serde(default)]
    pub why: Option<Box<Code>>,
    /// The next command or step.
    pub next: Option<String>,
}

/// Which sort of failure. The CLI maps each to one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It was tried and failed.
    Failed,
    /// The command line is wrong.
    Usage,
    /// A file the user wrote is wrong.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// A plan, a policy or the current state forbids it.
    Refused,
    /// A name fits more than one thing.
    Ambiguous,
    /// The wait is over, the work goes on.
    TimedOut,
    /// Some of it is done, some is not.
    Partly,
    /// The daemon or the mesh does not answer.
    Unreachable,
    /// A direct path was required, and there is none.
    NotDirect,
}

impl Error {
    /// Makes an error that names only what failed.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), because: None, why: None, next: None }
    }

    /// Adds the observed reason.
    pub fn because(mut self, because: impl ToString) -> Error {
        self.because = Some(because.to_string());
        self
    }

    /// Adds a refusal as the observed reason.
    pub fn refused(mut self, refusal: &impl Coded) -> Error {
        let code = Code::of(refusal);
        self.because = Some(code.text.clone());
        self.why = Some(Box::new(code));
        self
    }

    /// Adds the next thing to type.
    pub fn next(mut self, next: impl Into<String>) -> Error {
        self.next = Some(next.into());
        self
    }
}

/// An [`Error`] as `--json` and the API's body show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: Error,
}
