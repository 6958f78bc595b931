//! Pure: text of others as a terminal may have it. Names, reasons and versions come from other hosts
//! and from guests; one that drives the terminal, or that begins a line as if we said it, is none.

use std::borrow::Cow;

/// Stands where something was that no text needs.
const TAKEN: char = '\u{fffd}';

/// Takes from running text all that moves a cursor, changes colours or turns the reading direction;
/// lines and tabs stay.
pub fn plain(text: &str) -> Cow<'_, str> {
    let text = if text.contains("\r\n") { Cow::Owned(text.replace("\r\n", "\n")) } else { text.into() };
    if text.chars().all(|letter| stays(letter) == letter) {
        return text;
    }
    text.chars().map(stays).collect::<String>().into()
}

/// The same for text that has one line.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.trim_end().chars() {
        match letter {
            '\n' | '\r' | '\t' if line.ends_with(' ') => {}
            '\n' | '\r' | '\t' => line.push(' '),
            letter => line.push(stays(letter)),
        }
    }
    line
}

/// The same for what follows the first word of a line: further lines of it are set in, so that none of
/// them looks like one of ours.
pub fn set_in(text: &str) -> String {
    let mut lines = text.trim_end().lines();
    let mut all = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        all.push_str(if line.starts_with("  ") { "\n" } else { "\n  " });
        all.push_str(line);
    }
    all
}

fn stays(letter: char) -> char {
    let turns = matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    let keeps = matches!(letter, '\n' | '\t') || !(letter.is_control() || turns);
    if keeps { letter } else { TAKEN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_a_terminal_and_ordinary_text_stays() {
        for text in ["", "two\nlines\tand a tab", "日本語 — é…"] {
            assert!(matches!(plain(text), Cow::Borrowed(same) if same == text));
        }
        assert_eq!(plain("a\r\nb"), "a\nb");
        for hostile in ["\x1b[2J", "\x07", "a\rb", "\u{9b}31m", "\u{202e}", "\x7f", "\0"] {
            let text = plain(hostile);
            assert!(text.contains(TAKEN), "{hostile:?}");
            assert!(!text.chars().any(|letter| letter.is_control() || letter == '\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn no_line_of_others_looks_like_ours() {
        assert_eq!(one_line("a\r\n\nerror: b\x1b[0m\r\n"), "a error: b\u{fffd}[0m");
        assert_eq!(set_in("a\nerror: b\n  c\n"), "a\n  error: b\n  c");
    }
}
