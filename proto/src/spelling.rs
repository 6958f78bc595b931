//! What somebody may have meant who wrote a word that is not known.

/// Known words that are listed at most: more help nobody, and a large file must not make a larger answer.
const LISTED: usize = 40;

/// Names the nearest known word, or the known ones; `None` when nothing is known.
pub fn suggestion<'k>(word: &str, what: &str, known: impl Iterator<Item = &'k str>) -> Option<String> {
    let known: Vec<&str> = known.collect();
    match nearest(word, known.iter().copied()) {
        Some(nearest) => Some(format!("did you mean {nearest}?")),
        None if known.is_empty() => None,
        None => Some(format!("{what}: {}", list(known.into_iter()))),
    }
}

/// Names the known word that was probably meant.
pub fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let (far, nearest) = known.map(|other| (distance(word, other), other)).min()?;
    (far <= 1 + nearest.len() / 3).then_some(nearest)
}

/// Lists words in their order, a long list in part.
pub fn list<'k>(known: impl Iterator<Item = &'k str>) -> String {
    let mut all: Vec<&str> = known.collect();
    all.sort_unstable();
    let more = all.len().saturating_sub(LISTED);
    all.truncate(LISTED);
    let text = all.join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

/// Edit distance (Levenshtein), one row at a time. Words longer than 40 characters match nothing.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 40 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let best = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[row.len() - 1]
}
