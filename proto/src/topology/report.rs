//! The mistakes of a topology, collected while it is read or checked, each with its line where there is a text.

use std::ops::Range;

use super::Diagnostic;

/// Collects mistakes, with lines looked up in the text.
pub(super) struct Report {
    /// Where lines end: a large file may have as many mistakes as lines.
    ends: Vec<usize>,
    pub(super) found: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn new(text: &str) -> Report {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at);
        Report { ends: ends.collect(), found: Vec::new() }
    }

    /// Gives the line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|end| *end < offset)
    }

    pub(super) fn add(
        &mut self,
        at: Option<&Range<usize>>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let line = at.map(|at| self.line(at.start));
        self.found.push(Diagnostic { line, what: what.into(), hint: hint.into() });
    }
}
