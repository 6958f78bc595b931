//! Reading a TOML table key by key, so that every mistake is reported with its line. Knows tables,
//! sizes and durations; knows nothing of what a topology's keys mean.

use std::{
    collections::BTreeSet,
    ops::{Range, RangeInclusive},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{report::Report, rules};
use crate::{size, spelling};

/// A value with its place and the dotted name that messages use.
pub(super) struct Value<'v, 'i> {
    pub(super) at: Range<usize>,
    pub(super) path: String,
    value: &'v DeValue<'i>,
}

/// A table whose keys are taken one by one; [`Table::finish`] reports what nobody took.
pub(super) struct Table<'v, 'i> {
    path: String,
    entries: &'v DeTable<'i>,
    taken: BTreeSet<String>,
    later: Vec<(&'static str, &'static str)>,
    never: Vec<(&'static str, &'static str)>,
}

impl<'v, 'i> Value<'v, 'i> {
    fn wrong<T>(&self, report: &mut Report, expected: &str) -> Option<T> {
        let kind = self.value.type_str();
        let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
        report.add(
            Some(&self.at),
            format!("{} is {article} {kind}, not {expected}", self.path),
            format!("write {expected}"),
        );
        None
    }

    pub(super) fn text(&self, report: &mut Report) -> Option<String> {
        match self.value.as_str() {
            Some(text) => match rules::text(&self.path, text) {
                Ok(()) => Some(text.to_owned()),
                Err((what, hint)) => {
                    report.add(Some(&self.at), what, hint);
                    None
                }
            },
            None => self.wrong(report, "a text in quotes"),
        }
    }

    pub(super) fn flag(&self, report: &mut Report) -> Option<bool> {
        self.value.as_bool().or_else(|| self.wrong(report, "true or false"))
    }

    /// Reads a whole number within `range`.
    pub(super) fn number(&self, range: RangeInclusive<u64>, report: &mut Report) -> Option<u64> {
        let Some(integer) = self.value.as_integer() else { return self.wrong(report, "a whole number") };
        let number =
            u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|n| range.contains(n));
        if number.is_none() {
            let (what, hint) = rules::out_of_range(&self.path, integer.as_str(), &range);
            report.add(Some(&self.at), what, hint);
        }
        number
    }

    /// Reads a text through its `FromStr`.
    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        report: &mut Report,
    ) -> Option<T> {
        let text = self.text(report)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                report.add(Some(&self.at), format!("{}: {error}", self.path), "choose another name");
                None
            }
        }
    }

    /// Reads one word of a closed list.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)], report: &mut Report) -> Option<T> {
        let text = self.text(report)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            let hint = format!("write {}", known.join(" or "));
            report.add(Some(&self.at), format!("{} = {text:?} is not known", self.path), hint);
        }
        found
    }

    /// Reads a size such as `"512M"` in MiB.
    pub(super) fn mib(&self, range: RangeInclusive<u64>, report: &mut Report) -> Option<u64> {
        if self.value.is_integer() || self.value.is_float() {
            return self.wrong(report, "a size in quotes with its unit, such as \"512M\"");
        }
        let text = self.text(report)?;
        let mib = match size::mib(&text) {
            Ok(mib) => mib,
            Err(error) => {
                let what = format!("{} = {:?} is no size", self.path, shortened(&text));
                report.add(Some(&self.at), what, error.to_string());
                return None;
            }
        };
        if !range.contains(&mib) {
            let (low, high) = (size::text(*range.start()), size::text(*range.end()));
            let (what, hint) = if mib < *range.start() {
                (
                    "too small",
                    format!("no guest that is made for virtual machines boots with less than {low}"),
                )
            } else {
                ("too large", format!("at most {high} are possible"))
            };
            report.add(Some(&self.at), format!("{} = {text:?} is {what}", self.path), hint);
            return None;
        }
        Some(mib)
    }

    /// Reads a duration such as `"2s"` in milliseconds.
    pub(super) fn millis(&self, report: &mut Report) -> Option<u64> {
        let text = self.text(report)?;
        let millis = number_and_unit(&text).and_then(|(number, unit)| match unit {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            _ => None,
        });
        match millis {
            Some(millis) if rules::MILLIS.contains(&millis) => Some(millis),
            _ => {
                let hint = "write a duration from \"100ms\" to \"60m\", such as \"2s\"";
                report.add(Some(&self.at), format!("{} = {text:?} is no duration", self.path), hint);
                None
            }
        }
    }

    pub(super) fn table(&self, report: &mut Report) -> Option<Table<'v, 'i>> {
        match self.value.as_table() {
            Some(entries) => Some(Table::new(self.path.clone(), entries)),
            None => self.wrong(report, "a table"),
        }
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// Reads a list; each entry keeps the list's name.
    pub(super) fn list(&self, report: &mut Report) -> Option<Vec<Value<'v, 'i>>> {
        let Some(entries) = self.value.as_array() else { return self.wrong(report, "a list in brackets") };
        let entry = |entry: &'v Spanned<DeValue<'i>>| Value {
            at: entry.span(),
            path: self.path.clone(),
            value: entry.get_ref(),
        };
        Some(entries.iter().map(entry).collect())
    }

    /// Reads a list of texts.
    pub(super) fn texts(&self, report: &mut Report) -> Option<Vec<String>> {
        Some(self.list(report)?.iter().filter_map(|entry| entry.text(report)).collect())
    }

    /// Reads a table of texts.
    pub(super) fn text_map(&self, report: &mut Report) -> Option<std::collections::BTreeMap<String, String>> {
        let entries = self.table(report)?.all();
        Some(entries.into_iter().filter_map(|(key, value)| Some((key, value.text(report)?))).collect())
    }
}

impl<'v, 'i> Table<'v, 'i> {
    pub(super) fn new(path: String, entries: &'v DeTable<'i>) -> Table<'v, 'i> {
        Table { path, entries, taken: BTreeSet::new(), later: Vec::new(), never: Vec::new() }
    }

    fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Takes a key. It is known from now on, present or not.
    pub(super) fn take(&mut self, key: &str) -> Option<Value<'v, 'i>> {
        self.taken.insert(key.to_owned());
        let (_, value) = self.entries.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Value { at: value.span(), path: self.dotted(key), value: value.get_ref() })
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.keys().any(|name| name.get_ref() == key)
    }

    /// Names keys that a later version will know, each with a hint for now.
    pub(super) fn not_yet(&mut self, keys: &[(&'static str, &'static str)]) {
        self.later.extend_from_slice(keys);
    }

    /// Names keys that will never be known, each with the reason.
    pub(super) fn never(&mut self, keys: &[(&'static str, &'static str)]) {
        self.never.extend_from_slice(keys);
    }

    /// Gives every entry of a table whose keys are the user's own, sorted by key.
    pub(super) fn all(&self) -> Vec<(String, Value<'v, 'i>)> {
        let entry = |(key, value): (&Spanned<std::borrow::Cow<'i, str>>, &'v Spanned<DeValue<'i>>)| {
            let key = key.get_ref().to_string();
            let value = Value { at: value.span(), path: self.dotted(&key), value: value.get_ref() };
            (key, value)
        };
        self.entries.iter().map(entry).collect()
    }

    /// Reports every key that nobody took.
    pub(super) fn finish(self, report: &mut Report) {
        for key in self.entries.keys() {
            let (name, at) = (key.get_ref().as_ref(), key.span());
            if self.taken.contains(name) {
                continue;
            }
            let full = self.dotted(name);
            if let Some((_, hint)) = self.later.iter().find(|(later, _)| *later == name) {
                report.add(Some(&at), format!("{full} is not supported yet"), *hint);
            } else if let Some((_, reason)) = self.never.iter().find(|(never, _)| *never == name) {
                report.add(Some(&at), format!("{full} is not supported: {reason}"), "remove it");
            } else {
                let known =
                    self.taken.iter().map(String::as_str).chain(self.later.iter().map(|(key, _)| *key));
                report.add(Some(&at), format!("unknown key {full}"), suggestion(name, known));
            }
        }
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, text[digits..].trim_start()))
}

/// Names the nearest known key, or all of them.
fn suggestion<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> String {
    spelling::suggestion(key, "known keys here", known).unwrap_or_else(|| "remove it".to_owned())
}

/// Cuts a text that is quoted in a message.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
