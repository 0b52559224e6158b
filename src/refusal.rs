//! The words of a refusal: how a value that was not accepted is shown, and which known name was probably meant.
//!
//! Values come from annotations, arguments and files, so they are hostile until shown otherwise: nothing here lets
//! a control character or a megabyte through to a terminal or a log. What does not live here: the rules themselves,
//! which stand with the type they belong to, and the error type, which is in `error`.

use serde::de::{Deserializer, Error, Visitor};
use std::fmt;
use std::str::FromStr;

/// `value` in double quotes, everything unprintable escaped, cut after 80 characters.
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", cut(value.chars().flat_map(char::escape_debug), 80))
}

/// `text` on one line without quotes: line breaks become spaces, other control characters are escaped, cut after
/// 300 characters. For names, places and the messages of other libraries.
pub fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect();
    cut(parts.join(" ").chars().flat_map(legible), 300)
}

/// Why the unknown `name` is refused: which of `known` may have been meant, else all of them. `noun` says what the names
/// are: `key`.
pub fn unknown(noun: &str, name: &str, known: &[&str]) -> String {
    unknown_of_many(noun, name, known, &format!("known are {}", known.join(", ")))
}

/// The same where the known names are too many for one line: `explained` says where they stand.
pub fn unknown_of_many(noun: &str, name: &str, known: &[&str], explained: &str) -> String {
    let begun = begun(name, known);
    let meant = if begun.is_empty() { Vec::from_iter(nearest(name, known)) } else { begun };
    match meant.is_empty() {
        true => format!("unknown {noun}; {explained}"),
        false => format!("unknown {noun}; did you mean {}?", meant.join(" or ")),
    }
}

/// The known names whose first words are `name`, if they are so few that it says something.
fn begun<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let begins = |known: &&str| known.strip_prefix(name).is_some_and(|rest| rest.starts_with(['-', '_']));
    let begun: Vec<&str> = known.iter().copied().filter(begins).collect();
    if begun.len() <= 4 { begun } else { Vec::new() }
}

/// The known name that `name` is most likely a misspelling of: at most a third of its letters differ, and two in a
/// short name because swapped neighbours count twice. Upper and lower case are the same.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|&candidate| (distance(name, candidate), candidate)).min_by_key(|&(far, _)| far)?;
    (near.0 <= (near.1.len() / 3).max(2)).then_some(near.1)
}

/// Deserialises a string through `FromStr`. Anything but a string is refused with `expecting`, which gives an
/// example, so that a bare number in a file is answered with what should stand there.
pub fn from_text<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = deserializer.deserialize_str(Text(expecting))?;
    text.parse().map_err(D::Error::custom)
}

/// One for all types: a visitor of its own for each would cost a hook a kilobyte or two.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.into())
    }
}

/// Escapes what a terminal would act on and leaves everything else, quotes included, as it is.
fn legible(c: char) -> impl Iterator<Item = char> {
    let escape = !matches!(c, '"' | '\'' | '\\');
    let escaped = escape.then(|| c.escape_debug());
    let plain = (!escape).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

/// Stops at `limit` characters, so the cost does not grow with the length of what was sent.
fn cut(mut chars: impl Iterator<Item = char>, limit: usize) -> String {
    let mut out: String = chars.by_ref().take(limit).collect();
    if chars.next().is_some() {
        out.push_str("...");
    }
    out
}

/// Levenshtein's distance. Names longer than any known one could be are simply far.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > b.len() {
        return usize::MAX;
    }
    let b = b.as_bytes();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_escaped_and_cut() {
        assert_eq!(quoted("a\u{1b}[2J\n\u{202e}\"b"), r#""a\u{1b}[2J\n\u{202e}\"b""#);
        assert_eq!(quoted(&"x".repeat(81)), format!("\"{}...\"", "x".repeat(80)));
        assert_eq!(quoted(&"x".repeat(80)), format!("\"{}\"", "x".repeat(80)));
        assert_eq!(one_line("first \"a\"\r\n  second\u{7}\n"), "first \"a\" second\\u{7}");
    }

    #[test]
    fn the_nearest_name_is_one_that_could_have_been_meant() {
        let known = ["ports", "ephemeral-ports", "egress-rate", "ingress-rate"];
        assert_eq!(nearest("prots", &known), Some("ports"));
        assert_eq!(nearest("port", &known), Some("ports"));
        assert_eq!(nearest("ephemeral_ports", &known), Some("ephemeral-ports"));
        assert_eq!(nearest("EGRES-RATE", &known), Some("egress-rate"));
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest(&"é".repeat(100_000), &known), None);
        assert_eq!(nearest("ports", &[]), None);
        assert_eq!(unknown("key", "zzz", &["a", "b"]), "unknown key; known are a, b");
        let rates = ["egress-rate-limit", "egress-rate-floor", "ports"];
        let meant = "unknown key; did you mean egress-rate-limit or egress-rate-floor?";
        assert_eq!(unknown_of_many("key", "egress-rate", &rates, "see there"), meant);
        assert_eq!(unknown_of_many("key", "po", &rates, "see there"), "unknown key; see there");
        assert_eq!(unknown_of_many("key", "abc", &["abc-defgh"; 5], "see there"), "unknown key; see there");
    }
}
