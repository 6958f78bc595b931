//! A bounded table in which one more takes the place of the one that was used longest ago. Pure, without a clock.

use std::{collections::HashMap, hash::Hash};

/// What was used most recently, `MOST` entries at most.
#[derive(Debug)]
pub struct Recent<K, V, const MOST: usize> {
    uses: u64,
    /// Each with the number of its last use.
    entries: HashMap<K, (u64, V)>,
}

impl<K, V, const MOST: usize> Default for Recent<K, V, MOST> {
    fn default() -> Self {
        Recent { uses: 0, entries: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash, V, const MOST: usize> Recent<K, V, MOST> {
    /// Gives an entry. That is no use of it.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Gives an entry, and counts that as its last use.
    pub fn use_of(&mut self, key: &K) -> Option<&V> {
        let (used, value) = self.entries.get_mut(key)?;
        self.uses += 1;
        *used = self.uses;
        Some(value)
    }

    /// Takes an entry in, in place of one of the same key, or else, without room, of the one that was used longest ago.
    pub fn insert(&mut self, key: K, value: V) {
        if !self.entries.contains_key(&key) && self.entries.len() >= MOST {
            let longest_ago = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key);
            longest_ago.and_then(|key| self.entries.remove(&key));
        }
        self.uses += 1;
        self.entries.insert(key, (self.uses, value));
    }

    /// Keeps the entries for which `keep` says so.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        self.entries.retain(|key, (_, value)| keep(key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_takes_the_place_of_the_one_that_was_used_longest_ago() {
        let mut recent = Recent::<_, _, 3>::default();
        for key in 0..3 {
            recent.insert(key, key * 10);
        }
        assert_eq!(recent.use_of(&0), Some(&0));
        assert_eq!(recent.get(&1), Some(&10), "which is no use");
        recent.insert(3, 30);
        assert_eq!([0, 1, 2, 3].map(|key| recent.get(&key).copied()), [Some(0), None, Some(20), Some(30)]);
        recent.insert(2, 21);
        recent.insert(4, 40);
        assert_eq!([0, 2, 3, 4].map(|key| recent.get(&key).copied()), [None, Some(21), Some(30), Some(40)]);
        recent.retain(|key, _| *key != 3);
        recent.insert(5, 50);
        assert_eq!([2, 3, 4, 5].map(|key| recent.get(&key).copied()), [Some(21), None, Some(40), Some(50)]);
    }
}
