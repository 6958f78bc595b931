//! Rows under a heading, as wide as they are or made to fit a terminal. Pure: text in, text out.
//! Where room is short, columns that tell least go first; then the last column is bent between words,
//! and what is still too long ends with `…`. No word is broken over two lines.

use unicode_width::UnicodeWidthStr;

use super::plain::one_line;

/// Columns that go where a terminal is narrow, the first of them first. Names, states, hosts and reasons
/// are not among them.
const SPARE: [&str; 20] = [
    "EPOCH", "ARCH", "VERSION", "GUARD", "TAGS", "ACCEL", "STORED", "BLAKE3", "ISSUER", "MAKES", "ROLE",
    "CPU", "DISK", "RTT", "ID", "FROM", "ADDRESS", "PATH", "PORT", "SERVICE",
];
/// Between two columns.
const GAP: usize = 2;
/// The last column is bent only if it keeps this much; below, a line would hold one word.
const BENT_AT_LEAST: usize = 28;
/// Lines that one bent cell takes.
const BENT_LINES: usize = 4;
/// Letters without a width of their own that are looked at for each one that has some.
const MARKS: usize = 4;
/// What a shortened cell keeps.
const SHORT_AT_LEAST: usize = 8;

/// Lays rows out under a heading, within `width` columns of a terminal if it is one.
pub fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let heading = heading.iter().map(|name| (*name).to_owned()).collect();
    let cells = |row: Vec<String>| row.iter().map(|cell| one_line(cell)).collect();
    let mut rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows.into_iter().map(cells)).collect();
    let mut columns = measure(&rows);
    if let Some(width) = width.map(usize::from) {
        drop_spare(&mut rows, &mut columns, width);
        shorten(&mut columns, width);
    }
    let lines = rows.iter().flat_map(|row| lay(row, &columns));
    lines.collect::<Vec<_>>().join("\n")
}

/// Breaks text between words so that no line is wider than a terminal. A wider word has its own line.
pub fn bend(text: &str, width: Option<u16>) -> String {
    spread(&text.split(' ').collect::<Vec<_>>(), " ", width)
}

/// Puts parts behind each other, on as many lines as a terminal needs.
pub fn spread(parts: &[&str], between: &str, width: Option<u16>) -> String {
    match width {
        Some(width) => fill(parts.iter().copied(), between, width.into()).join("\n"),
        None => parts.join(between),
    }
}

/// Joins parts by `between`, on as many lines as they need; no part is broken.
fn fill<'a>(parts: impl Iterator<Item = &'a str>, between: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.width() + between.len() + part.width() <= width => {
                line.push_str(between);
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}

fn measure(rows: &[Vec<String>]) -> Vec<usize> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let wide = |at: usize| rows.iter().filter_map(|row| Some(row.get(at)?.width())).max().unwrap_or(0);
    (0..count).map(wide).collect()
}

fn total(columns: &[usize]) -> usize {
    columns.iter().sum::<usize>() + GAP * columns.len().saturating_sub(1)
}

/// What a table takes at least when its last column is bent.
fn bent(columns: &[usize]) -> usize {
    let over = columns.last().map_or(0, |last| last.saturating_sub(BENT_AT_LEAST));
    total(columns) - over
}

/// Takes columns away until the rest fits, or none is left that may go.
fn drop_spare(rows: &mut [Vec<String>], columns: &mut Vec<usize>, width: usize) {
    for spare in SPARE {
        if bent(columns) <= width {
            return;
        }
        if let Some(at) = rows[0].iter().position(|name| name == spare) {
            rows.iter_mut().filter(|row| at < row.len()).for_each(|row| drop(row.remove(at)));
            columns.remove(at);
        }
    }
}

/// Makes columns narrower until all fit, the widest first, and the first one, which names the row, only
/// after the others. The last one gets what they leave.
fn shorten(columns: &mut [usize], width: usize) {
    let Some(last) = columns.len().checked_sub(1) else { return };
    for may in [1.min(last)..last, 0..last] {
        while bent(columns) > width {
            let widest = columns[may.clone()].iter_mut().max_by_key(|column| **column);
            let Some(column) = widest.filter(|column| **column > SHORT_AT_LEAST) else { break };
            *column -= 1;
        }
    }
    let others = total(columns) - columns[last];
    columns[last] = columns[last].min(width.saturating_sub(others).max(SHORT_AT_LEAST));
}

/// Lays one row out: one line, more when its last cell is bent.
fn lay(row: &[String], columns: &[usize]) -> Vec<String> {
    let Some((last, others)) = row.split_last() else { return vec![String::new()] };
    let mut first = String::new();
    for (cell, width) in others.iter().zip(columns) {
        let cell = short(cell, *width);
        first.push_str(&cell);
        first.push_str(&" ".repeat(width.saturating_sub(cell.width()) + GAP));
    }
    let width = columns[others.len()];
    let indent = " ".repeat(first.width());
    let mut pieces = fill(last.split(' '), " ", width);
    if pieces.len() > BENT_LINES {
        pieces.truncate(BENT_LINES);
        pieces[BENT_LINES - 1].push_str(" …");
    }
    let lines = pieces.iter().enumerate().map(|(at, piece)| {
        let before = if at == 0 { &first } else { &indent };
        format!("{before}{}", short(piece, width)).trim_end().to_owned()
    });
    lines.collect()
}

/// Shortens text to `width` columns.
fn short(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let (mut kept, room) = (String::new(), width.saturating_sub(1));
    // Letters are measured together: some change the width of those before them.
    for letter in text.chars().take(width * MARKS) {
        kept.push(letter);
        if kept.width() > room {
            kept.pop();
            break;
        }
    }
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    const MACHINES: [&str; 7] = ["MACHINE", "HOST", "STATE", "GUARD", "EPOCH", "ADDRESS", "REASON"];

    fn machines() -> Vec<Vec<String>> {
        rows(&[
            &["shop/db-1", "nas", "ready", "hold", "1", "10.64.7.11", ""],
            &[
                "shop/web-1",
                "cellar",
                "failed",
                "hold",
                "3",
                "10.64.7.12",
                "setup failed: command 2 of 3 ended with exit code 127: apt-get install -y postgresql",
            ],
            &["shop/web-2", "a-host-with-a-long-name", "waiting", "hold", "1", "10.64.7.13", "needs db"],
        ])
    }

    /// Lays rows out and asserts what holds at every width.
    fn check(heading: &[&str], rows: Vec<Vec<String>>, width: u16, expect: Expect) {
        let text = table(heading, rows, Some(width));
        for line in text.lines() {
            assert!(line.width() <= usize::from(width), "too wide: {line:?}");
        }
        expect.assert_eq(&text);
    }

    #[test]
    fn machines_on_80_columns() {
        check(
            &MACHINES,
            machines(),
            80,
            expect![[r#"
            MACHINE     HOST                     STATE    REASON
            shop/db-1   nas                      ready
            shop/web-1  cellar                   failed   setup failed: command 2 of 3 ended
                                                          with exit code 127: apt-get
                                                          install -y postgresql
            shop/web-2  a-host-with-a-long-name  waiting  needs db"#]],
        );
    }

    #[test]
    fn machines_on_60_columns() {
        check(
            &MACHINES,
            machines(),
            60,
            expect![[r#"
            MACHINE     HOST       STATE    REASON
            shop/db-1   nas        ready
            shop/web-1  cellar     failed   setup failed: command 2 of 3
                                            ended with exit code 127:
                                            apt-get install -y
                                            postgresql
            shop/web-2  a-host-w…  waiting  needs db"#]],
        );
    }

    #[test]
    fn hosts_on_80_and_60_columns() {
        let heading = [
            "HOST", "STATE", "PATH", "RTT", "VERSION", "ARCH", "ACCEL", "CPU", "MEMORY", "DISK", "ROLE",
            "TAGS",
        ];
        let hosts = || {
            rows(&[
                &[
                    "nas",
                    "up",
                    "self",
                    "-",
                    "0.1.0",
                    "x86_64",
                    "kvm",
                    "4",
                    "12 GiB of 16 GiB free",
                    "100 GiB",
                    "issuer, relay",
                    "room=attic",
                ],
                &[
                    "attic",
                    "up",
                    "relayed via vps",
                    "48.2 ms",
                    "0.1.0",
                    "x86_64",
                    "tcg",
                    "2",
                    "1.5 GiB of 2.0 GiB free",
                    "20 GiB",
                    "-",
                    "-",
                ],
            ])
        };
        check(
            &heading,
            hosts(),
            80,
            expect![[r#"
            HOST   STATE  PATH             RTT      CPU  MEMORY                   DISK
            nas    up     self             -        4    12 GiB of 16 GiB free    100 GiB
            attic  up     relayed via vps  48.2 ms  2    1.5 GiB of 2.0 GiB free  20 GiB"#]],
        );
        check(
            &heading,
            hosts(),
            60,
            expect![[r#"
            HOST   STATE  PATH             MEMORY
            nas    up     self             12 GiB of 16 GiB free
            attic  up     relayed via vps  1.5 GiB of 2.0 GiB free"#]],
        );
    }

    #[test]
    fn services_and_images_on_60_columns() {
        let services = rows(&[
            &["postgres-primary.shop.mesh.internal", "postgres", "5432", "on demand"],
            &["web.shop.mesh.internal", "http", "80", "127.64.3.9:8080"],
        ]);
        check(
            &["NAME", "SERVICE", "PORT", "HERE"],
            services,
            60,
            expect![[r#"
                NAME                                 HERE
                postgres-primary.shop.mesh.internal  on demand
                web.shop.mesh.internal               127.64.3.9:8080"#]],
        );
        let images = rows(&[&[
            "debian:12",
            "ababababab",
            "3.0 GiB",
            "1.1 GiB",
            "x86_64",
            "yes",
            "attic, cellar, nas, vps",
        ]]);
        check(
            &["IMAGE", "BLAKE3", "SIZE", "STORED", "ARCH", "HERE", "HOSTS"],
            images,
            60,
            expect![[r#"
            IMAGE      SIZE     HERE  HOSTS
            debian:12  3.0 GiB  yes   attic, cellar, nas, vps"#]],
        );
    }

    #[test]
    fn without_a_terminal_nothing_is_lost() {
        let text = table(&MACHINES, machines(), None);
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("apt-get install -y postgresql") && text.contains("a-host-with-a-long-name"));
    }

    #[test]
    fn every_width_is_kept_and_no_word_is_broken() {
        let words: Vec<String> = machines()
            .concat()
            .iter()
            .flat_map(|cell| cell.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for width in 40..160 {
            let text = table(&MACHINES, machines(), Some(width));
            for line in text.lines() {
                assert!(line.width() <= usize::from(width), "{width}: {line:?}");
                for word in line.split_whitespace().filter(|word| !word.ends_with('…')) {
                    assert!(
                        MACHINES.contains(&word) || words.iter().any(|known| known == word),
                        "{width}: {word:?}"
                    );
                }
            }
        }
    }

    /// Letters that others may put into a name: those that a terminal obeys, that have no width, and that
    /// have another one together than alone.
    const STRANGE: [&str; 10] =
        ["\u{1b}[2J", "\x07", "\n", "\r", "\0", "\u{9b}1m", "\u{301}", "👩\u{200d}👧", "日", "\u{202e}"];

    #[test]
    fn whatever_others_call_a_thing_it_takes_one_line_and_its_width() {
        for strange in STRANGE {
            for count in [1, 7, 40, 400] {
                let name = format!("a{}b", strange.repeat(count));
                let rows = rows(&[&[&name, &name, &name], &["x", "y", "z"]]);
                for width in [Some(40), Some(80), None] {
                    let text = table(&["IMAGE", "SIZE", "HOSTS"], rows.clone(), width);
                    assert_eq!(text.lines().count(), 3, "{text:?}");
                    assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{text:?}");
                    let most = width.map_or(usize::MAX, usize::from);
                    assert!(text.lines().all(|line| line.width() <= most), "{width:?}: {text:?}");
                }
            }
        }
    }

    #[test]
    fn wide_letters_count_twice() {
        let text = table(&["A", "B"], rows(&[&["日本", "x"], &["ab", "y"]]), None);
        assert_eq!(text, "A     B\n日本  x\nab    y");
        assert_eq!(short("日本語", 5), "日本…");
    }

    #[test]
    fn text_is_bent_between_words() {
        assert_eq!(bend("one two three", Some(7)), "one two\nthree");
        assert_eq!(bend("one two three", None), "one two three");
        assert_eq!(fill(["a b", "c d"].into_iter(), "   ", 9), ["a b   c d"]);
        assert_eq!(fill(["a b", "c d"].into_iter(), "   ", 8), ["a b", "c d"]);
    }
}
