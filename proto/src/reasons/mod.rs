//! Why something is or is not so: each reason is a value with its data, and is put into words here and
//! nowhere else. Whoever decides names a reason; whoever shows it asks for its words.
//! Where reasons travel, their words go with them: what only a later version knows is shown as it was said.
//! The codes stand in `docs/REASONS.md`. Nothing here decides.

mod gossip;
mod host;
mod machine;
mod path;
mod place;
mod plan;
mod resized;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use gossip::GossipRefusal;
pub use host::{NoKvm, Plight};
pub use machine::Because;
pub use path::Turned;
pub use place::{Chosen, Unchosen};
pub use plan::{Cause, Hindrance, Loss, NotChosen, Stranger};
pub use resized::Resized;

/// What is said of a reason whose words did not come with it.
const OTHER: &str = "a reason that this version does not know";

/// A reason as JSON shows it: its code with its data, and its words. Of one that this version does not know the
/// words are all there is, and its code is `other`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why<R> {
    /// The reason; `code` is a field of it.
    #[serde(flatten)]
    pub reason: R,
    /// Its words.
    pub text: String,
}

impl<R: fmt::Display + Default + Clone> Why<R> {
    /// Puts a reason into words.
    pub fn new(reason: R) -> Why<R> {
        let text = reason.to_string();
        Why { reason, text }
    }

    /// Takes what another host said: its words stand for what is not known here.
    pub fn told(reason: Option<&R>, words: &str) -> Why<R> {
        match reason {
            Some(reason) => Why::new(reason.clone()),
            None => Why { reason: R::default(), text: words.to_owned() },
        }
    }
}

/// A refusal that has a code.
pub trait Coded: fmt::Display {
    /// Gives the word that stays, also when its text changes.
    fn code(&self) -> &'static str;
}

/// A refusal as JSON shows it: its code and its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// The code.
    pub code: String,
    /// The words.
    pub text: String,
}

impl Code {
    /// Puts a refusal into words.
    pub fn of(refusal: &impl Coded) -> Code {
        Code { code: refusal.code().to_owned(), text: refusal.to_string() }
    }
}

/// Joins what is listed as people read it.
fn list<T: fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests;
