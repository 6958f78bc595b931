//! Bytes as the tree of values that they are, to change one thing in it: a field more, a field less, another
//! variant. Only what our encoding has is read, by its structure alone: nothing here knows a type.

use std::fmt;

/// Field numbers are below; a number of a map's key above it counts something.
const MOST_FIELDS: u64 = 256;
/// The field of a variant in which a refusal's words stand; they are made anew from its data.
const WORDS: u64 = 23;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    Number(u64),
    /// A number below zero, as it is written.
    Below(u64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Item>),
    Map(Vec<(Item, Item)>),
    /// False, true or nothing.
    Simple(u8),
}

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into a field.
    Field(u64),
    /// Into the fields of a variant.
    Variant(u64),
    /// Into an element of a list.
    Element(usize),
    /// Into what a map has under a name.
    Under(Item),
}

/// A place in a value, from the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub Vec<Step>);

/// The places of all elements are written as one.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| match step {
            Step::Field(number) => write!(f, ".{number}"),
            Step::Variant(number) => write!(f, "={number}"),
            Step::Element(_) | Step::Under(_) => f.write_str("*"),
        })
    }
}

impl Place {
    fn then(&self, step: Step) -> Place {
        Place([&self.0[..], &[step]].concat())
    }

    /// Tells whether the words of a refusal stand there.
    pub fn is_words(&self) -> bool {
        matches!(self.0[..], [.., Step::Variant(_), Step::Field(number)] if number == WORDS)
    }

    /// Tells whether the other one lies in this one, or is it.
    pub fn holds(&self, other: &Place) -> bool {
        other.0.starts_with(&self.0)
    }
}

impl Item {
    /// Reads bytes that are sound.
    pub fn read(bytes: &[u8]) -> Item {
        let mut rest = bytes;
        let item = Item::take(&mut rest);
        assert!(rest.is_empty(), "something is left over");
        item
    }

    fn take(rest: &mut &[u8]) -> Item {
        let first = part(rest, 1)[0];
        let more = match first & 31 {
            0..=23 => 0,
            info => 1 << (info - 24),
        };
        let long = part(rest, more).iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let value = if more == 0 { u64::from(first & 31) } else { long };
        match first >> 5 {
            0 => Item::Number(value),
            1 => Item::Below(value),
            2 => Item::Bytes(part(rest, value as usize).to_vec()),
            3 => Item::Text(String::from_utf8(part(rest, value as usize).to_vec()).unwrap()),
            4 => Item::List((0..value).map(|_| Item::take(rest)).collect()),
            5 => Item::Map((0..value).map(|_| (Item::take(rest), Item::take(rest))).collect()),
            _ => Item::Simple(first),
        }
    }

    /// Writes it in the shortest form.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        bytes
    }

    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Item::Number(value) => head(0, *value, to),
            Item::Below(value) => head(1, *value, to),
            Item::Bytes(bytes) => {
                head(2, bytes.len() as u64, to);
                to.extend_from_slice(bytes);
            }
            Item::Text(text) => {
                head(3, text.len() as u64, to);
                to.extend_from_slice(text.as_bytes());
            }
            Item::List(items) => {
                head(4, items.len() as u64, to);
                items.iter().for_each(|item| item.put(to));
            }
            Item::Map(pairs) => {
                head(5, pairs.len() as u64, to);
                pairs.iter().for_each(|(key, value)| [key, value].iter().for_each(|item| item.put(to)));
            }
            Item::Simple(byte) => to.push(*byte),
        }
    }

    /// Gives the number of a variant that is written with its fields.
    pub fn variant(&self) -> Option<u64> {
        match self {
            Item::List(items) => match &items[..] {
                [Item::Number(number), fields] if fields.has_fields() => Some(*number),
                _ => None,
            },
            _ => None,
        }
    }

    /// Tells whether it can be fields under their numbers. An empty map is that only where fields must be.
    fn has_fields(&self) -> bool {
        let numbered = |(key, _): &(Item, Item)| matches!(key, Item::Number(n) if *n < MOST_FIELDS);
        matches!(self, Item::Map(pairs) if pairs.iter().all(numbered))
    }

    /// Lists every place in it, itself first, with what stands there.
    pub fn places(&self) -> Vec<(Place, Item)> {
        let mut found = Vec::new();
        self.walk(&Place::default(), true, &mut found);
        found
    }

    fn walk(&self, at: &Place, fields: bool, found: &mut Vec<(Place, Item)>) {
        found.push((at.clone(), self.clone()));
        match self {
            Item::List(items) if self.variant().is_some() => {
                let number = self.variant().unwrap();
                items[1].walk(&at.then(Step::Variant(number)), true, found);
            }
            Item::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.walk(&at.then(Step::Element(index)), false, found);
                }
            }
            Item::Map(pairs) => {
                let fields = self.has_fields() && (fields || !pairs.is_empty());
                for (key, value) in pairs {
                    let step = match key {
                        Item::Number(number) if fields => Step::Field(*number),
                        key => Step::Under(key.clone()),
                    };
                    value.walk(&at.then(step), false, found);
                }
            }
            _ => {}
        }
    }

    /// Lists the places whose values are fields under their numbers.
    pub fn structs(&self) -> Vec<Place> {
        let is = |place: &Place, item: &Item| {
            let must = place.0.last().is_none_or(|step| matches!(step, Step::Variant(_)));
            item.has_fields() && (must || *item != Item::Map(Vec::new()))
        };
        self.places().into_iter().filter(|(place, item)| is(place, item)).map(|(place, _)| place).collect()
    }

    /// Gives what stands at a place.
    pub fn at(&mut self, place: &Place) -> Option<&mut Item> {
        place.0.iter().try_fold(self, |item, step| match (item, step) {
            (Item::List(items), Step::Element(index)) => items.get_mut(*index),
            (Item::List(items), Step::Variant(_)) => items.get_mut(1),
            (Item::Map(pairs), Step::Field(number)) => find(pairs, &Item::Number(*number)),
            (Item::Map(pairs), Step::Under(key)) => find(pairs, key),
            _ => None,
        })
    }

    /// The same with another value at a place.
    pub fn with(&self, place: &Place, value: Item) -> Item {
        let mut changed = self.clone();
        *changed.at(place).unwrap() = value;
        changed
    }

    /// The same without a field, whether it is there or not.
    pub fn without(&self, field: &Place) -> Item {
        let mut changed = self.clone();
        let (last, outer) = field.0.split_last().unwrap();
        if let (Some(Item::Map(pairs)), Step::Field(number)) = (changed.at(&Place(outer.to_vec())), last) {
            pairs.retain(|(key, _)| *key != Item::Number(*number));
        }
        changed
    }

    /// The same with a field of a number that nothing has, last among those of a place.
    pub fn with_more(&self, place: &Place) -> Item {
        let mut changed = self.clone();
        if let Some(Item::Map(pairs)) = changed.at(place) {
            let inner = Item::Map(vec![(Item::Number(0), Item::Text("later".into()))]);
            let value = Item::List(vec![Item::Number(4711), inner, Item::Bytes(vec![0xff; 3])]);
            pairs.push((Item::Number(MOST_FIELDS - 1), value));
        }
        changed
    }

    /// The same without the words of refusals.
    pub fn wordless(&self) -> Item {
        let is_words = |place: &Place| matches!(place.0[..], [.., Step::Variant(_), Step::Field(number)] if number == WORDS);
        let words = self.places().into_iter().filter(|(place, _)| is_words(place));
        words.fold(self.clone(), |item, (place, _)| item.without(&place))
    }

    /// Lists the smallest places in which two values differ.
    pub fn differences(&self, other: &Item) -> Vec<Place> {
        let mut found = Vec::new();
        self.compare(other, &Place::default(), &mut found);
        found
    }

    fn compare(&self, other: &Item, at: &Place, found: &mut Vec<Place>) {
        match (self, other) {
            (a, b) if a == b => {}
            (Item::List(a), Item::List(b)) if self.variant().is_some() && a.first() == b.first() => {
                a[1].compare(&b[1], &at.then(Step::Variant(self.variant().unwrap())), found);
            }
            (Item::List(a), Item::List(b)) if a.len() == b.len() && self.variant().is_none() => {
                for (index, (a, b)) in a.iter().zip(b).enumerate() {
                    a.compare(b, &at.then(Step::Element(index)), found);
                }
            }
            (Item::Map(a), Item::Map(b)) => {
                let step = |key: &Item| match key {
                    Item::Number(number) if self.has_fields() => Step::Field(*number),
                    key => Step::Under(key.clone()),
                };
                for (key, value) in a {
                    match b.iter().find(|(other, _)| other == key) {
                        Some((_, other)) => value.compare(other, &at.then(step(key)), found),
                        None => found.push(at.then(step(key))),
                    }
                }
                let new = b.iter().filter(|(key, _)| !a.iter().any(|(other, _)| other == key));
                found.extend(new.map(|(key, _)| at.then(step(key))));
            }
            _ => found.push(at.clone()),
        }
    }
}

fn find<'a>(pairs: &'a mut [(Item, Item)], wanted: &Item) -> Option<&'a mut Item> {
    pairs.iter_mut().find(|(key, _)| key == wanted).map(|(_, value)| value)
}

fn part<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken
}

fn head(major: u8, value: u64, to: &mut Vec<u8>) {
    let bytes = value.to_be_bytes();
    let (info, count) = match value {
        0..=23 => (value as u8, 0),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    to.push(major << 5 | info);
    to.extend_from_slice(&bytes[8 - count..]);
}
