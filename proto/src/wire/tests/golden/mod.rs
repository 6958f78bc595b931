//! What is kept of every message for ever: its bytes, which fields it may lack, and where something unknown may
//! stand. A crate with messages gives its samples and two files; what is asked of a message is the same everywhere:
//!
//! - `written`: every line that was ever recorded is read as what it was, and today's bytes are recorded;
//! - `tomorrow`: fields and variants that only a later version has are skipped or said;
//! - `yesterday`: a message without a field that may be absent is read, and means what it meant;
//! - `fields`: what may be absent or unknown is as recorded; what may be absent may always be;
//! - `complete`: every variant that a reader knows stands in a sample;
//! - `damaged`: bytes of which one is wrong or that end early end nobody.
//!
//! `UPDATE_GOLDEN=1` records what is new; a recorded line of bytes is never changed.

#![allow(dead_code, reason = "a crate asks for what its messages are")]

mod cbor;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::wire::{self, Message, WireError};
use cbor::{Item, Place, Step};

/// A number that no variant and no kind has.
const UNKNOWN: u64 = 4711;
/// Variants are looked for below.
const MOST_VARIANTS: u64 = 64;
/// A message is damaged in about so many places.
const DAMAGED: usize = 256;

/// What a reader makes of bytes: whether it is the sample's value, and how it writes that.
type Reading = Result<(bool, Vec<u8>), WireError>;
type Reader = dyn Fn(&[u8]) -> Reading;

/// One message as it is written today.
pub struct Sample {
    /// What it is a message of, and which one.
    name: String,
    /// Its form; `None` = it has no envelope.
    form: Option<u16>,
    /// Whether it is fields all through, and not signed or spelled as a whole.
    open: bool,
    /// Whether what its numbers say must belong together.
    ruled: bool,
    bytes: Vec<u8>,
    read: Box<Reader>,
}

impl Sample {
    /// A message.
    pub fn message<M: Message + PartialEq + 'static>(name: impl Into<String>, value: M) -> Sample {
        Sample::of(name, value, |bytes| wire::decode(bytes, usize::MAX))
    }

    /// A message whose bytes are signed.
    pub fn signed<M: Message + PartialEq + 'static>(name: impl Into<String>, value: M) -> Sample {
        Sample::of(name, value, |bytes| wire::decode_signed(bytes, usize::MAX))
    }

    fn of<M: Message + PartialEq + 'static>(
        name: impl Into<String>,
        value: M,
        decode: fn(&[u8]) -> Result<M, WireError>,
    ) -> Sample {
        let bytes = wire::encode(&value);
        let read = move |bytes: &[u8]| decode(bytes).map(|read| (read == value, wire::encode(&read)));
        Sample {
            name: name.into(),
            form: Some(M::VERSION),
            open: true,
            ruled: false,
            bytes,
            read: Box::new(read),
        }
    }

    /// A message that a form of its own stands for: `again` reads it and writes it.
    pub fn written(
        name: impl Into<String>,
        bytes: Vec<u8>,
        again: impl Fn(&[u8]) -> Result<Vec<u8>, WireError> + 'static,
    ) -> Sample {
        let form = wire::version(&bytes);
        Sample { form, ruled: true, ..Sample::bare(name, bytes, again) }
    }

    /// A value without an envelope: `again` reads it and writes it.
    pub fn bare(
        name: impl Into<String>,
        bytes: Vec<u8>,
        again: impl Fn(&[u8]) -> Result<Vec<u8>, WireError> + 'static,
    ) -> Sample {
        let today = bytes.clone();
        let read = move |bytes: &[u8]| again(bytes).map(|again| (again == today, again));
        Sample { name: name.into(), form: None, open: true, ruled: false, bytes, read: Box::new(read) }
    }

    /// Bytes in which nothing can be changed: signed or spelled as a whole.
    pub fn closed(
        name: impl Into<String>,
        bytes: Vec<u8>,
        again: impl Fn(&[u8]) -> Result<Vec<u8>, WireError> + 'static,
    ) -> Sample {
        Sample { open: false, ..Sample::bare(name, bytes, again) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same under another name.
    pub fn named(self, name: String) -> Sample {
        Sample { name, ..self }
    }

    fn group(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// The number of its kind, if it has an envelope.
    pub fn kind(&self) -> Option<u64> {
        self.form?;
        match Item::read(&self.bytes).at(&field(0)) {
            Some(Item::Number(kind)) => Some(*kind),
            _ => None,
        }
    }

    /// The message itself, without its envelope.
    fn inner(&self, bytes: &[u8]) -> Item {
        let mut item = Item::read(bytes);
        match (self.form, item.at(&field(2))) {
            (Some(_), Some(Item::Bytes(inner))) => Item::read(inner),
            _ => item,
        }
    }

    /// The bytes of the sample with another message in its envelope.
    fn around(&self, inner: &Item) -> Vec<u8> {
        match self.form {
            Some(_) => Item::read(&self.bytes).with(&field(2), Item::Bytes(inner.write())).write(),
            None => inner.write(),
        }
    }

    /// Reads another message in the sample's envelope: whether it is the same value, and how it is written.
    fn reads(&self, inner: &Item) -> Result<(bool, Item), WireError> {
        (self.read)(&self.around(inner)).map(|(same, bytes)| (same, self.inner(&bytes)))
    }
}

fn field(number: u64) -> Place {
    Place(vec![Step::Field(number)])
}

fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

fn updates() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

/// The files of a crate.
pub struct Files(pub &'static str);

impl Files {
    fn path(&self, ending: &str) -> PathBuf {
        Path::new(self.0).with_extension(ending)
    }

    fn lines(&self, ending: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(ending)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn write(&self, ending: &str, lines: &[String]) {
        fs::write(self.path(ending), lines.join("\n") + "\n").unwrap();
    }
}

/// Every recorded line is read as what it was, and the bytes of today are recorded.
pub fn written(files: &Files, samples: &[Sample]) {
    let mut lines = files.lines("txt");
    let mut complaints = Vec::new();
    let names: BTreeSet<&str> = samples.iter().map(|sample| &*sample.name).collect();
    assert_eq!(names.len(), samples.len(), "a name stands for two samples");
    for line in &lines {
        let name = line.split(' ').next().unwrap_or_default();
        if !names.contains(name) {
            complaints.push(format!("{name} is recorded and has no sample"));
        }
    }
    for sample in samples {
        let (name, today) = (&sample.name, hex(&sample.bytes));
        let recorded: Vec<(u16, String)> = lines.iter().filter_map(|line| recorded(line, name)).collect();
        for (form, bytes) in &recorded {
            let read = (sample.read)(&unhex(bytes));
            let well = match &read {
                Ok((same, _)) => *same,
                // A form is raised so that nobody reads the earlier one by mistake.
                Err(WireError::Version { .. }) => Some(*form) != sample.form && *form != 0,
                Err(_) => false,
            };
            if !well {
                complaints.push(format!("{name} was written as {bytes} and is read as {read:?}"));
            }
        }
        if recorded.last().map(|(_, bytes)| bytes) != Some(&today) {
            match updates() {
                true => lines.push(format!("{name} {} {today}", sample.form.unwrap_or(0))),
                false => complaints.push(format!("{name} is written as {today}, which is not recorded")),
            }
        }
    }
    none(complaints);
    if updates() {
        files.write("txt", &lines);
    }
}

/// Reads a line of a name: its form and its bytes.
fn recorded(line: &str, name: &str) -> Option<(u16, String)> {
    let rest = line.strip_prefix(name)?.strip_prefix(' ')?;
    let (form, bytes) = rest.split_once(' ')?;
    Some((form.parse().unwrap(), bytes.to_owned()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// What only a later version has is skipped or said, and no other value is made of it.
pub fn tomorrow(samples: &[Sample]) {
    let mut complaints = Vec::new();
    // What the unknown was taken for without a difference: only the one variant that stands for it.
    let mut taken: BTreeMap<(String, String), BTreeSet<Option<u64>>> = BTreeMap::new();
    for sample in samples {
        more_fields(sample, &mut complaints);
        let inner = sample.inner_if_open();
        for place in unknown_variants(sample, &mut complaints) {
            let stands = inner.clone().at(&place).and_then(|item| number(item));
            let (group, label) = (sample.group().to_owned(), place.to_string());
            if sample.reads(&inner.with(&place, unknown(&inner, &place))).is_ok_and(|(same, _)| same) {
                taken.entry((group, label)).or_default().insert(stands);
            }
        }
        envelope_of_tomorrow(sample, &mut complaints);
    }
    let several = taken.iter().filter(|(_, variants)| variants.len() > 1);
    complaints
        .extend(several.map(|(place, variants)| format!("{place:?}: the unknown is taken for {variants:?}")));
    none(complaints);
}

fn more_fields(sample: &Sample, complaints: &mut Vec<String>) {
    let inner = sample.inner_if_open();
    let mut all = inner.clone();
    for place in inner.structs().iter().rev() {
        all = all.with_more(place);
        for more in [&inner.with_more(place), &all] {
            match sample.reads(more) {
                Ok((true, again)) if again == inner => {}
                read => complaints.push(format!("{} with more at {place}: {read:?}", sample.name)),
            }
        }
    }
}

/// Puts an unknown variant wherever one stands; gives the places that may be unknown.
fn unknown_variants(sample: &Sample, complaints: &mut Vec<String>) -> Vec<Place> {
    let inner = sample.inner_if_open();
    let mut lenient = Vec::new();
    for (place, item) in inner.places() {
        let Some(unknown) = numbered(&item, UNKNOWN) else { continue };
        let changed = inner.with(&place, unknown);
        match sample.reads(&changed) {
            Err(WireError::Unknown) => {}
            // A number that is too large for its field, or that does not fit the rest.
            Err(WireError::Malformed(_)) if sample.counts_at(&inner, &place, &item) => {}
            Ok((_, again)) if is_written_so(&again, &changed, &place) && item.variant().is_none() => {}
            Ok((true, again)) if again == inner && item.variant().is_some() => lenient.push(place),
            Ok((false, again)) if differs_around(&inner, &again, &place) => lenient.push(place),
            read => complaints.push(format!("{} with something unknown at {place}: {read:?}", sample.name)),
        }
    }
    lenient
}

impl Sample {
    /// Tells whether a number stands at a place and no variant: others than any variant has are read there.
    fn counts_at(&self, inner: &Item, place: &Place, item: &Item) -> bool {
        let is_read = |number: u64| self.reads(&inner.with(place, Item::Number(number))).is_ok();
        item.variant().is_none() && (self.ruled || (MOST_VARIANTS..=u64::from(u8::MAX)).any(is_read))
    }
}

/// What a place holds, with a number that nothing has.
fn unknown(inner: &Item, place: &Place) -> Item {
    inner.clone().at(place).and_then(|item| numbered(item, UNKNOWN)).unwrap()
}

/// The same variant, or the same number, with another number.
fn numbered(item: &Item, number: u64) -> Option<Item> {
    match item {
        Item::Number(_) => Some(Item::Number(number)),
        Item::List(items) if item.variant().is_some() => {
            Some(Item::List(vec![Item::Number(number), items[1].clone()]))
        }
        _ => None,
    }
}

/// Tells whether what was read is what was written. Words are made anew, and numbers of a set are put in order.
fn is_written_so(again: &Item, changed: &Item, place: &Place) -> bool {
    let number = matches!(changed.clone().at(place), Some(Item::Number(_)));
    let in_a_set = number && matches!(place.0.last(), Some(Step::Element(_)));
    again.wordless() == changed.wordless() || in_a_set
}

/// Tells whether two messages differ only in what stands around a place: the rest of the message was kept.
fn differs_around(inner: &Item, again: &Item, place: &Place) -> bool {
    let differences = inner.wordless().differences(&again.wordless());
    !differences.is_empty()
        && differences.iter().all(|difference| difference.holds(place) && !difference.0.is_empty())
}

fn envelope_of_tomorrow(sample: &Sample, complaints: &mut Vec<String>) {
    let Some(form) = sample.form else { return };
    let envelope = Item::read(&sample.bytes);
    let mut expect = |what: &str, changed: Item, well: &dyn Fn(&Reading) -> bool| {
        let read = (sample.read)(&changed.write());
        if !well(&read) {
            complaints.push(format!("{} with {what}: {read:?}", sample.name));
        }
    };
    let kind = Item::Number(UNKNOWN);
    expect("another kind", envelope.with(&field(0), kind), &|read| {
        matches!(read, Err(WireError::Kind { found: 4711, .. }))
    });
    let later = Item::Number(u64::from(form) + 1);
    expect(
        "a higher form",
        envelope.with(&field(1), later),
        &|read| matches!(read, Err(WireError::Version { found, .. }) if *found == form + 1),
    );
    expect("more in its envelope", envelope.with_more(&Place::default()), &|read| {
        matches!(read, Ok((true, _)))
    });
    for number in 0..3 {
        expect("less in its envelope", envelope.without(&field(number)), &|read| {
            matches!(read, Err(WireError::Malformed(_)))
        });
    }
}

/// A message without a field that may be absent is read, the rest of it as it was.
pub fn yesterday(samples: &[Sample]) {
    let mut complaints = Vec::new();
    for sample in samples {
        absent_fields(sample, &mut complaints);
    }
    none(complaints);
}

/// What a message is without a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Without {
    /// It is read; what the absent field is written as then, if it is written.
    Read(Option<Vec<u8>>),
    /// It is refused.
    Refused,
}

/// Takes each field away, and all that may be absent at once.
fn absent_fields(sample: &Sample, complaints: &mut Vec<String>) -> BTreeMap<Place, Without> {
    let inner = sample.inner_if_open();
    let mut found = BTreeMap::new();
    let mut least = inner.clone();
    let is_field = |place: &Place| matches!(place.0.last(), Some(Step::Field(_)));
    for (place, _) in inner.places().into_iter().rev().filter(|(place, _)| is_field(place)) {
        let changed = inner.without(&place);
        match sample.reads(&changed) {
            Ok((_, mut again)) if again.without(&place).wordless() == changed.wordless() => {
                found.insert(place.clone(), Without::Read(again.at(&place).map(|item| item.write())));
                least = least.without(&place);
            }
            Err(WireError::Malformed(_)) => drop(found.insert(place, Without::Refused)),
            read => complaints.push(format!("{} without {place}: {read:?}", sample.name)),
        }
    }
    match sample.reads(&least) {
        Ok((_, again)) => {
            let absent = found.iter().filter(|(_, without)| **without != Without::Refused);
            let again = absent.fold(again, |again, (place, _)| again.without(place));
            if again.wordless() != least.wordless() {
                complaints.push(format!("{} with the least it can have: {again:?}", sample.name));
            }
        }
        // What two fields say can belong together.
        Err(WireError::Malformed(_)) => {}
        Err(error) => complaints.push(format!("{} with the least it can have: {error}", sample.name)),
    }
    found
}

impl Sample {
    /// The message, or nothing of one that is closed.
    fn inner_if_open(&self) -> Item {
        if self.open { self.inner(&self.bytes) } else { Item::List(Vec::new()) }
    }
}

/// What may be absent or unknown is as recorded, a line for the fields of each place: `!` after the number of one
/// that must be there, `?` after one that may be absent, with what it then is; `~` after one in which something
/// unknown is as good as absent.
pub fn fields(files: &Files, samples: &[Sample]) {
    let mut rows: BTreeMap<(String, Option<u64>), String> = BTreeMap::new();
    let row = |sample: &Sample, place: &Place| match place.0.split_last() {
        Some((Step::Field(number), outer)) => {
            (format!("{} {}", sample.group(), Place(outer.to_vec())), Some(*number))
        }
        _ => (format!("{} {place}", sample.group()), None),
    };
    for sample in samples {
        for (place, without) in absent_fields(sample, &mut Vec::new()) {
            let mark = match without {
                Without::Refused => "!".to_owned(),
                // Words are made anew.
                Without::Read(Some(bytes)) if !place.is_words() => format!("?{}", hex(&bytes)),
                Without::Read(_) => "?".to_owned(),
            };
            let entry = rows.entry(row(sample, &place)).or_insert_with(|| mark.clone());
            if mark == "!" {
                *entry = mark;
            }
        }
    }
    for sample in samples {
        for place in unknown_variants(sample, &mut Vec::new()) {
            let entry = rows.entry(row(sample, &place)).or_default();
            if !entry.ends_with('~') {
                entry.push('~');
            }
        }
    }
    let mut table: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((place, number), mark) in rows {
        let number = number.map_or(String::new(), |number| number.to_string());
        table.entry(place).or_default().push(number + &mark);
    }
    let lines: Vec<String> =
        table.iter().map(|(place, fields)| format!("{place}: {}", fields.join(" "))).collect();
    compare_fields(files, &lines);
}

fn compare_fields(files: &Files, lines: &[String]) {
    let recorded = files.lines("fields");
    let (old, new) = (marks(&recorded), marks(lines));
    let now_required = |(field, mark): &(&String, &String)| {
        mark.starts_with('?') && new.get(*field).is_some_and(|mark| mark.starts_with('!'))
    };
    let required = old.iter().filter(now_required);
    none(required.map(|(field, _)| format!("{field} could be absent and cannot any more")).collect());
    if updates() {
        return files.write("fields", lines);
    }
    let differ = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>, what: &str| {
        let lacks = one.iter().filter(|(field, mark)| other.get(*field) != Some(mark));
        lacks.map(|(field, mark)| format!("{what} {field} {mark}")).collect::<Vec<_>>()
    };
    none([differ(&old, &new, "recorded:"), differ(&new, &old, "is:")].concat());
}

/// The mark of each field of a table.
fn marks(lines: &[String]) -> BTreeMap<String, String> {
    let mut marks = BTreeMap::new();
    for line in lines {
        let Some((place, fields)) = line.split_once(": ") else { continue };
        for field in fields.split(' ') {
            let end = field.find(|c: char| !c.is_ascii_digit()).unwrap_or(field.len());
            let (number, mark) = field.split_at(end);
            marks.insert(format!("{place}.{number}"), mark.to_owned());
        }
    }
    marks
}

/// Every variant that a reader knows, at every place where one stands, is in a sample of the same kind.
pub fn complete(samples: &[Sample]) {
    let mut known: BTreeMap<(String, String), BTreeSet<u64>> = BTreeMap::new();
    let mut seen = known.clone();
    for sample in samples {
        let inner = sample.inner_if_open();
        for (place, item) in inner.places() {
            let Some(number) = number(&item) else { continue };
            let reads = |number: u64| {
                let bare = match item {
                    Item::Number(_) => Item::Number(number),
                    _ => Item::List(vec![Item::Number(number), Item::Map(Vec::new())]),
                };
                let changed = inner.with(&place, bare);
                match sample.reads(&changed) {
                    Ok((_, again)) => is_written_so(&again, &changed, &place),
                    Err(error) => error != WireError::Unknown,
                }
            };
            // What takes any number is no variant.
            if reads(UNKNOWN) {
                continue;
            }
            let key = (sample.group().to_owned(), place.to_string());
            seen.entry(key.clone()).or_default().insert(number);
            known.entry(key).or_insert_with(|| (0..MOST_VARIANTS).filter(|number| reads(*number)).collect());
        }
    }
    let lacking = known.iter().filter_map(|(key, known)| {
        let lacks: Vec<u64> = known.difference(&seen[key]).copied().collect();
        let (group, place) = key;
        (!lacks.is_empty()).then(|| format!("{group} has no sample of variants {lacks:?} at {place:?}"))
    });
    none(lacking.collect());
}

fn number(item: &Item) -> Option<u64> {
    match item {
        Item::Number(number) => Some(*number),
        item => item.variant(),
    }
}

/// Bytes that end early are said to, and bytes of which one is another end nobody.
pub fn damaged(samples: &[Sample]) {
    let mut complaints = Vec::new();
    for sample in samples {
        for at in (0..sample.bytes.len()).step_by(1 + sample.bytes.len() / DAMAGED) {
            if let Ok((_, again)) = (sample.read)(&sample.bytes[..at]) {
                complaints.push(format!(
                    "{} is read from its first {at} bytes as {}",
                    sample.name,
                    hex(&again)
                ));
            }
            for other in [0x01, 0x20, 0x40, 0x80, 0xff] {
                let mut bytes = sample.bytes.clone();
                bytes[at] ^= other;
                drop((sample.read)(&bytes));
            }
        }
    }
    none(complaints);
}
