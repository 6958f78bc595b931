//! Lays the layers over each other and remembers which one each value came from.
//! Pure: nothing here knows what a key means; which keys exist is read off `default.toml`.

use std::fmt;

use toml_edit::{Document, Item, Table, Value};

use super::Mistake;

/// The defaults, and the manual of every key.
pub const DEFAULT: &str = include_str!("default.toml");

/// The texts that settings come from.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// DATA/config.toml: its path for messages, and its text.
    pub file: Option<(String, String)>,
    /// Environment variables that begin with `AGENT_`.
    pub environment: Vec<(String, String)>,
    /// `KEY=VALUE` of each `--set`.
    pub flags: Vec<String>,
}

/// One value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Dotted, such as `policy.cpus`.
    pub key: String,
    /// As text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in.
    Default,
    /// A line of the settings file.
    File {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
    },
    /// An environment variable, by name.
    Environment(String),
    /// `--set`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{path}:{line}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag => f.write_str("--set"),
        }
    }
}

/// Lays the layers over each other.
pub fn merge(layers: &Layers) -> Result<Vec<Setting>, Vec<Mistake>> {
    let mut merged = Merged { settings: Vec::new(), mistakes: Vec::new() };
    merged.defaults();
    if let Some((path, text)) = &layers.file {
        merged.file(path, text);
    }
    for (name, value) in &layers.environment {
        merged.environment(name, value);
    }
    for flag in &layers.flags {
        merged.flag(flag);
    }
    if merged.mistakes.is_empty() { Ok(merged.settings) } else { Err(merged.mistakes) }
}

struct Merged {
    settings: Vec<Setting>,
    mistakes: Vec<Mistake>,
}

impl Merged {
    fn defaults(&mut self) {
        let document = Document::parse(DEFAULT).expect("a test reads default.toml");
        for (key, value, _) in leaves(document.as_table(), "") {
            self.settings.push(Setting { key, value, origin: Origin::Default });
        }
    }

    fn file(&mut self, path: &str, text: &str) {
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                return self.mistake(format!("{path}:{line}"), error.message().to_owned());
            }
        };
        for (key, value, at) in leaves(document.as_table(), "") {
            let origin = Origin::File { path: path.to_owned(), line: line_of(text, at) };
            self.set(&key, value, origin);
        }
    }

    fn environment(&mut self, name: &str, value: &str) {
        let origin = Origin::Environment(name.to_owned());
        if name == "AGENT_TAGS" {
            for tag in value.split(',').filter(|tag| !tag.is_empty()) {
                match tag.split_once('=') {
                    Some((key, value)) => self.set(&format!("tags.{key}"), value.into(), origin.clone()),
                    None => self.mistake(origin.to_string(), format!("{tag:?} is not KEY=VALUE")),
                }
            }
            return;
        }
        // Other variables that begin with AGENT_ are not settings, such as AGENT_DATA_DIR.
        let known = self.settings.iter().find(|setting| variable(&setting.key) == name);
        if let Some(key) = known.map(|setting| setting.key.clone()) {
            self.set(&key, value.to_owned(), origin);
        }
    }

    fn flag(&mut self, flag: &str) {
        match flag.split_once('=') {
            Some((key, value)) => self.set(key.trim(), value.trim().to_owned(), Origin::Flag),
            None => self.mistake("--set".to_owned(), format!("{flag:?} is not KEY=VALUE")),
        }
    }

    fn set(&mut self, key: &str, value: String, origin: Origin) {
        if let Some(setting) = self.settings.iter_mut().find(|setting| setting.key == key) {
            setting.value = value;
            setting.origin = origin;
        } else if key.strip_prefix("tags.").is_some_and(is_tag) {
            self.settings.push(Setting { key: key.to_owned(), value, origin });
        } else {
            let near = nearest(key, self.settings.iter().map(|setting| setting.key.as_str()));
            let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            self.mistake(origin.to_string(), format!("there is no setting {key}{hint}"));
        }
    }

    fn mistake(&mut self, origin: String, what: String) {
        self.mistakes.push(Mistake { origin, what });
    }
}

fn variable(key: &str) -> String {
    format!("AGENT_{}", key.replace('.', "_").to_ascii_uppercase())
}

fn is_tag(key: &str) -> bool {
    (1..=31).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
}

/// Gives every value with its dotted key and the place in the text.
fn leaves(table: &Table, prefix: &str) -> Vec<(String, String, usize)> {
    let mut found = Vec::new();
    for (key, item) in table.iter() {
        let at =
            table.key(key).and_then(|key| key.span()).or_else(|| item.span()).map_or(0, |span| span.start);
        let key = format!("{prefix}{key}");
        match item {
            Item::Table(inner) => found.extend(leaves(inner, &format!("{key}."))),
            Item::Value(Value::InlineTable(inner)) => {
                found.extend(
                    leaves(&inner.clone().into_table(), &format!("{key}."))
                        .into_iter()
                        .map(|(key, value, _)| (key, value, at)),
                );
            }
            Item::Value(Value::String(text)) => found.push((key, text.value().clone(), at)),
            other => found.push((key, other.to_string().trim().to_owned(), at)),
        }
    }
    found
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|b| *b == b'\n').count()
}

/// Gives the known key with the fewest edits, if they are few.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
    let scored = known.map(|candidate| {
        let score = if last(candidate) == key { 1 } else { edits(key, candidate) };
        (score, candidate)
    });
    scored.min().filter(|(edits, _)| *edits <= 3).map(|(_, key)| key)
}

/// Counts the edits between two short texts (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
