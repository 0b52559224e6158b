//! Columns for a terminal.

use std::fmt::Write;

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
pub fn label(id: &str, name: Option<&str>) -> String {
    fitting(name.unwrap_or(short(id)))
}

/// At most 32 characters of a name, which leaves room for the other columns: the last ones, in which the containers of
/// pods differ.
pub fn fitting(name: &str) -> String {
    const LONGEST: usize = 32;
    let length = name.chars().count();
    if length <= LONGEST {
        return name.to_owned();
    }
    format!("...{}", name.chars().skip(length - (LONGEST - 3)).collect::<String>())
}

/// Engines call their containers by 64 digits, and show 12.
pub fn short(id: &str) -> &str {
    let digits = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { &id[..12] } else { id }
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
        assert_eq!((label(id, None).as_str(), label(id, Some("web")).as_str()), ("ccb36ba720b9", "web"));
        assert_eq!(label("prod.x", None), "prod.x");
        assert_eq!(label(id, Some("production/shop-7d4b9c6f5-x2x9k/frontend")), "...shop-7d4b9c6f5-x2x9k/frontend");
    }

    #[test]
    fn bytes_are_short() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!([bytes(999 << 10), bytes((1 << 20) - 1)], ["999.0KiB", "1.0MiB"]);
        assert_eq!(bytes(u64::MAX), "16.0EiB");
    }
}
