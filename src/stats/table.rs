//! Columns and lines for a terminal: 80 characters wide, whatever stdout is.

use std::fmt::Write;

/// Characters in a line. What is longer wraps, and columns are none any more.
const WIDTH: usize = 80;

/// Which end of a cell is left out where it is too long for its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Its beginning: the names of containers in pods differ at the end.
    Front,
    /// Its end; of a list, whole elements.
    Back,
}

/// As [`columns`], in lines that fit: the widest of the columns in `flexible` is made narrower as long as lines are too long.
pub fn fitted(heading: &[&str], rows: &[Vec<String>], right: &[usize], flexible: &[(usize, Cut)]) -> String {
    /// Less than this says nothing.
    const NARROWEST: usize = 8;
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let width =
        |(column, head): (usize, &&str)| rows.iter().map(|row| cell(row, column)).max().unwrap_or(0).max(head.len());
    let mut widths: Vec<usize> = heading.iter().enumerate().map(width).collect();
    let gaps = 2 * heading.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > WIDTH {
        let widest = flexible.iter().map(|(column, _)| *column).max_by_key(|column| widths[*column]);
        match widest.filter(|column| widths[*column] > NARROWEST.max(heading[*column].len())) {
            Some(column) => widths[column] -= 1,
            None => break,
        }
    }
    let mut rows = rows.to_vec();
    for row in &mut rows {
        for (column, from) in flexible {
            if let Some(cell) = row.get_mut(*column) {
                *cell = cut(cell, widths[*column], *from);
            }
        }
    }
    columns(heading, &rows, right)
}

/// At most `width` characters of a text; three dots stand for what is left out.
fn cut(text: &str, width: usize, from: Cut) -> String {
    let length = text.chars().count();
    let kept = width.saturating_sub(3);
    match from {
        _ if length <= width => text.to_owned(),
        Cut::Front => format!("...{}", text.chars().skip(length - kept).collect::<String>()),
        Cut::Back => {
            let begin: String = text.chars().take(kept).collect();
            let whole = begin.rfind(',').map_or(begin.as_str(), |at| &begin[..=at]);
            format!("{whole}...")
        }
    }
}

/// Names and what they stand for, one a line. What is longer than a line goes on below: broken behind a semicolon, and where
/// that is not enough between words.
pub fn described(lines: &[(&str, String)]) -> String {
    const NAMES: usize = 14;
    let room = WIDTH - NAMES - 1;
    let mut text = String::new();
    for (name, value) in lines {
        let parts = packed(value.split_inclusive("; "), room).into_iter();
        let parts = parts.flat_map(|part| packed(part.split_inclusive(' '), room));
        for (n, part) in parts.enumerate() {
            let _ = writeln!(text, "{:<NAMES$} {}", if n == 0 { name } else { "" }, part.trim_end());
        }
    }
    text
}

/// Joins neighbours as long as they fit into `room`; what alone does not fit stands alone.
fn packed<'a>(parts: impl Iterator<Item = &'a str>, room: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        let length = part.trim_end().chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + length <= room => line.push_str(part),
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}

/// Lays out rows under a heading; every column is as wide as its widest cell. Columns named in `right` are numbers.
pub fn columns(heading: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        let start = text.len();
        for (i, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let gap = if i == 0 { "" } else { "  " };
            let _ = if right.contains(&i) {
                write!(text, "{gap}{cell:>width$}")
            } else {
                write!(text, "{gap}{cell:<width$}")
            };
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    };
    line(heading);
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text
}

/// What a container is called where there is no room for both its id and its name: by the name, else by the id.
pub fn label<'a>(id: &'a str, name: Option<&'a str>) -> &'a str {
    name.unwrap_or(short(id))
}

/// Engines call their containers by 64 digits, and show 12.
pub fn short(id: &str) -> &str {
    let digits = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { &id[..12] } else { id }
}

/// A number of things, at most seven characters: exact below ten million.
pub fn count(n: u64) -> String {
    const UNITS: [&str; 6] = ["", "M", "G", "T", "P", "E"];
    if n < 10_000_000 {
        return n.to_string();
    }
    let mut value = n as f64 / 1e6;
    let mut unit = 1;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1}{}", UNITS[unit])
}

/// A byte count with a binary unit, at most eight characters.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n as f64;
    let mut unit = 0;
    // not 1023.9KiB, nor 1024.0KiB by rounding
    while value >= if unit == 0 { 1024.0 } else { 999.95 } && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n}B") } else { format!("{value:.1}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["a".into(), "5".into()], vec!["long".into(), "12345".into()]];
        assert_eq!(columns(&["ID", "N"], &rows, &[1]), "ID        N\na         5\nlong  12345\n");
    }

    #[test]
    fn labels_are_short() {
        let id = "ccb36ba720b9b650691d031e307a66227b4c27026dec620affc65f91d51e9020";
        assert_eq!((label(id, None), label(id, Some("web"))), ("ccb36ba720b9", "web"));
        assert_eq!(label("prod.x", None), "prod.x");
    }

    #[test]
    fn counts_are_short() {
        for (n, text) in [
            (0, "0"),
            (9_999_999, "9999999"),
            (10_000_000, "10.0M"),
            (999_949_999, "999.9M"),
            (999_950_000, "1.0G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn bytes_are_short() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!([bytes(999 << 10), bytes((1 << 20) - 1)], ["999.0KiB", "1.0MiB"]);
        assert_eq!(bytes(u64::MAX), "16.0EiB");
    }
}
