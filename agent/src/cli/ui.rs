//! The only file that prints. stdout is data, stderr is talk; progress is shown on a terminal only;
//! meaning never hangs on colour alone.

use std::{
    cell::Cell,
    io::{self, IsTerminal, Write},
    rc::Rc,
};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use proto::wire::api::{Error, ErrorBody, Kind};
use serde::Serialize;

use super::error::{self, Exit};

/// What the program says, and to whom.
#[derive(Clone, Debug)]
pub struct Ui {
    json: bool,
    /// Whether stdout has its one object.
    shown: Rc<Cell<bool>>,
}

/// A line on stderr that moves, on a terminal only.
#[derive(Debug)]
pub struct Moving(Option<ProgressBar>);

impl Ui {
    /// Speaks JSON or to people.
    pub fn new(json: bool) -> Ui {
        Ui { json, shown: Rc::default() }
    }

    /// Tells whether stdout holds JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Prints a command's data: the object itself, or `text` of it. `text` gets the width of the
    /// terminal, if stdout is one.
    pub fn show<T: Serialize>(&self, data: &T, text: impl FnOnce(&T, Option<u16>) -> String) {
        self.shown.set(true);
        let text = if self.json { json(data) } else { text(data, width()) };
        if !text.is_empty() {
            line(text.trim_end().as_bytes());
        }
    }

    /// Prints one line of a stream.
    pub fn line(&self, text: &[u8]) {
        self.shown.set(true);
        line(text);
    }

    /// Says something to a person. Programs that asked for JSON are not talked to.
    pub fn say(&self, text: &str) {
        if !self.json {
            talk(text);
        }
    }

    /// Tells a failure and gives its exit code. With JSON, a refusal is also the object on stdout
    /// if the command has shown none.
    pub fn fail(&self, error: &Error) -> Exit {
        if self.json {
            let body = json(&ErrorBody { error: error.clone() });
            if matches!(error.kind, Kind::Refused | Kind::Ambiguous) && !self.shown.get() {
                line(body.as_bytes());
            }
            talk(&body);
        } else {
            talk(&in_words(error));
        }
        error.kind.into()
    }

    /// Tells what clap found: help and version are data, the rest is a failure.
    pub fn usage(&self, error: &clap::Error) -> Exit {
        if !error.use_stderr() {
            line(error.to_string().trim_end().as_bytes());
            return Exit::WELL;
        }
        if self.json {
            return self.fail(&error::usage(error));
        }
        talk(error.render().to_string().trim_end());
        Kind::Usage.into()
    }

    /// Starts a line that moves.
    pub fn moving(&self) -> Moving {
        if self.json || !io::stderr().is_terminal() {
            return Moving(None);
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Moving(Some(bar))
    }

    /// Asks before something goes; yes without a terminal, where nobody could answer.
    pub fn agrees(&self, question: &str) -> bool {
        if self.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return true;
        }
        // Who cannot be asked is shown nothing, and says nothing: that is a no.
        drop(write!(io::stderr(), "{question} [y/N] "));
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }
}

impl Moving {
    /// Replaces the line.
    pub fn set(&self, text: String) {
        if let Some(bar) = &self.0 {
            bar.set_message(text);
        }
    }

    /// Leaves a line above the moving one.
    pub fn leave(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.println(text);
        }
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Writes an error in three lines: what, why, what next.
pub fn in_words(error: &Error) -> String {
    let mut text = format!("error: {}", error.what);
    if let Some(because) = &error.because {
        text.push_str(&format!("\nbecause: {because}"));
    }
    if let Some(next) = &error.next {
        text.push_str(&format!("\nhint: {next}"));
    }
    text
}

/// Lays rows out under a heading; `width` bends long cells to a terminal.
pub fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading.iter().copied());
    table.add_rows(rows);
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
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

fn line(text: &[u8]) {
    let mut out = io::stdout().lock();
    let written = out.write_all(text).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    // Whoever reads us, such as `head`, has had enough.
    if written.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        std::process::exit(0);
    }
}

fn talk(text: &str) {
    // Nobody is left to tell that stderr is gone.
    drop(writeln!(io::stderr(), "{text}"));
}
