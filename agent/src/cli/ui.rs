//! The only file that prints. stdout is data, stderr is talk; progress is shown on a terminal only;
//! meaning never hangs on colour alone.

use std::{
    io::{self, IsTerminal, Write},
    rc::Rc,
};

use indicatif::{ProgressBar, ProgressStyle};
use proto::wire::api::{Error, ErrorBody, Kind};
use serde::Serialize;

use super::{
    Done,
    error::{self, Exit},
    out::Out,
    plain::plain,
};
pub use super::{
    plain::{one_line, set_in},
    table::{bend, spread, table},
};

/// What the program says, and to whom.
#[derive(Clone, Debug)]
pub struct Ui {
    json: bool,
    out: Rc<Out>,
}

/// What moves on stderr.
#[derive(Debug)]
pub enum Moving {
    /// A line on a terminal.
    Line(ProgressBar),
    /// Lines one after the other, where nothing can be moved.
    Lines,
    /// Nothing: programs that asked for JSON are not talked to.
    Nothing,
}

impl Ui {
    /// Speaks JSON or to people.
    pub fn new(json: bool) -> Ui {
        Ui { json, out: Rc::default() }
    }

    /// Tells whether stdout holds JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Prints a command's data: the object itself, or `text` of it. `text` gets the width of the
    /// terminal, if stdout is one.
    pub fn show<T: Serialize>(&self, data: &T, text: impl FnOnce(&T, Option<u16>) -> String) {
        let text = if self.json { json(data) } else { plain(&text(data, width())).into_owned() };
        if !text.is_empty() {
            self.out.line(text.trim_end().as_bytes());
        }
    }

    /// Prints data that is shown this once: nothing may come of the command when it cannot be shown.
    pub fn show_or_fail<T: Serialize>(
        &self,
        data: &T,
        text: impl FnOnce(&T, Option<u16>) -> String,
    ) -> Result<(), Error> {
        self.show(data, text);
        self.out.taken()
    }

    /// Prints one line for people, and tells whether anybody takes it.
    #[must_use]
    pub fn tell(&self, text: &str) -> bool {
        self.out.line(plain(text).as_bytes())
    }

    /// Prints one line of a stream for programs, and tells whether anybody takes it.
    #[must_use]
    pub fn line(&self, text: &[u8]) -> bool {
        self.out.line(text)
    }

    /// Says something to a person. Programs that asked for JSON are not talked to.
    pub fn say(&self, text: &str) {
        if !self.json {
            talk(text);
        }
    }

    /// Ends a command. Its own failure counts first, then data that stdout did not take.
    pub fn end(&self, done: Done) -> Exit {
        let exit = done.unwrap_or_else(|error| self.fail(&error));
        match self.out.taken_as_far_as_wanted() {
            Err(error) if exit == Exit::WELL => self.fail(&error),
            Err(error) => {
                self.say(&in_words(&error));
                exit
            }
            Ok(()) => exit,
        }
    }

    /// Tells a failure and gives its exit code. With JSON, a refusal is also the object on stdout
    /// if the command has shown none.
    pub fn fail(&self, error: &Error) -> Exit {
        if self.json {
            let body = json(&ErrorBody { error: error.clone() });
            if matches!(error.kind, Kind::Refused | Kind::Ambiguous) && !self.out.shown() {
                self.out.line(body.as_bytes());
            }
            write_talk(&body);
        } else {
            talk(&in_words(error));
        }
        error.kind.into()
    }

    /// Tells what clap found: help and version are data, the rest is a failure.
    pub fn usage(&self, error: &clap::Error) -> Exit {
        if !error.use_stderr() {
            self.out.line(error.to_string().trim_end().as_bytes());
            return self.end(Ok(Exit::WELL));
        }
        if self.json {
            return self.fail(&error::usage(error));
        }
        talk(error.render().to_string().trim_end());
        Kind::Usage.into()
    }

    /// Starts a line that moves.
    pub fn moving(&self) -> Moving {
        if self.json {
            return Moving::Nothing;
        }
        if !io::stderr().is_terminal() {
            return Moving::Lines;
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Moving::Line(bar)
    }

    /// Asks before something goes; yes without a terminal, where nobody could answer.
    pub fn agrees(&self, question: &str) -> bool {
        !self.can_ask() || self.asks(question)
    }

    /// Tells whether somebody is there who could answer.
    pub fn can_ask(&self) -> bool {
        !self.json && io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks; anything but a clear yes is a no.
    pub fn asks(&self, question: &str) -> bool {
        // Who cannot be asked is shown nothing, and says nothing: that is a no.
        drop(write!(io::stderr(), "{} [y/N] ", plain(question)));
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

impl Moving {
    /// Replaces the line.
    pub fn set(&self, text: String) {
        if let Moving::Line(bar) = self {
            bar.set_message(one_line(&text));
        }
    }

    /// Leaves a line above the moving one, or behind those before.
    pub fn leave(&self, text: &str) {
        match self {
            Moving::Line(bar) => bar.println(plain(text)),
            Moving::Lines => talk(text),
            Moving::Nothing => {}
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if let Moving::Line(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Writes an error in three lines: what, why, what next.
pub fn in_words(error: &Error) -> String {
    let mut text = format!("error: {}", set_in(&error.what));
    if let Some(because) = &error.because {
        text.push_str(&format!("\nbecause: {}", set_in(because)));
    }
    if let Some(next) = &error.next {
        text.push_str(&format!("\nhint: {}", set_in(next)));
    }
    text
}

/// Writes what may be unknown.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Writes a number of bytes with three digits that count.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let power = (bytes.max(1).ilog2() / 10).min(4);
    if power == 0 {
        return format!("{bytes} B");
    }
    let value = bytes as f64 / 1024f64.powi(power as i32);
    let unit = UNITS[power as usize];
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Writes a word of one of our enums as JSON spells it.
pub fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn json(data: &impl Serialize) -> String {
    // Our own types with text keys always become JSON.
    serde_json::to_string(data).unwrap_or_default()
}

fn width() -> Option<u16> {
    rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns >= 40)
}

fn talk(text: &str) {
    write_talk(&plain(text));
}

fn write_talk(text: &str) {
    // Nobody is left to tell that stderr is gone.
    drop(writeln!(io::stderr(), "{text}"));
}
