//! How the lines of a file end (`\n` or `\r\n`), and the mark with which some editors begin a file. Formats are read without
//! either, and written with them again: a line that stays keeps its own end, a new one gets that of the file's first line.

use std::borrow::Cow;

use similar::{ChangeTag, TextDiff};

/// The byte order mark.
const MARK: char = '\u{feff}';

/// What is to be restored.
pub struct Lines {
    /// Does the file begin with the mark?
    marked: bool,
    /// The text as it was, without the mark; `None` where all lines end with `\n` alone.
    original: Option<String>,
}

impl Lines {
    /// Takes both off a text.
    pub fn of(text: &str) -> (Self, Cow<'_, str>) {
        let rest = text.strip_prefix(MARK).unwrap_or(text);
        let original = rest.contains("\r\n").then(|| rest.to_owned());
        let plain = if original.is_some() { plain(rest).into() } else { rest.into() };
        (Lines { marked: rest.len() < text.len(), original }, plain)
    }

    /// Puts both on an edited text again.
    pub fn restore(&self, text: String) -> String {
        let text = self.original.as_ref().map_or(text.clone(), |original| with_ends(&text, original));
        if self.marked { format!("{MARK}{text}") } else { text }
    }
}

fn plain(text: &str) -> String {
    text.replace("\r\n", "\n")
}

fn with_ends(text: &str, original: &str) -> String {
    let before: Vec<&str> = original.split_inclusive('\n').collect();
    let usual = end_of(before.first().copied().unwrap_or_default());
    let mut all = String::with_capacity(text.len() + before.len());
    for change in TextDiff::from_lines(plain(original).as_str(), text).iter_all_changes() {
        let old = change.old_index().and_then(|index| before.get(index));
        let end = match (change.tag(), old) {
            (ChangeTag::Delete, _) => continue,
            (ChangeTag::Equal, Some(old)) => end_of(old),
            _ => usual,
        };
        let line = change.value();
        match line.strip_suffix('\n') {
            Some(line) => all.extend([line, end]),
            None => all.push_str(line),
        }
    }
    all
}

fn end_of(line: &str) -> &'static str {
    if line.ends_with("\r\n") { "\r\n" } else { "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_end_and_a_new_one_gets_the_first_lines() {
        let (lines, text) = Lines::of("\u{feff}a\r\nb\nc\r\nd");
        assert_eq!(text, "a\nb\nc\nd");
        assert_eq!(lines.restore("a\nb\nnew\nd".into()), "\u{feff}a\r\nb\nnew\r\nd");
        assert_eq!(lines.restore(text.into_owned()), "\u{feff}a\r\nb\nc\r\nd");
        let (lines, text) = Lines::of("a\nb");
        assert!(matches!(text, Cow::Borrowed("a\nb")));
        assert_eq!(lines.restore("b\nc\n".into()), "b\nc\n");
    }
}
