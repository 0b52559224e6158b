//! Merging keys into a configuration file, and taking them out again. What is not ours keeps its place, its comments and
//! its spelling.

mod json;
mod lines;
mod toml;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::lines::Lines;
use crate::error::{Error, Result};
use crate::refusal::one_line;

/// What a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Without comments, as engines read it.
    Json,
    /// TOML.
    Toml,
}

/// A key that is to have a value: text, a truth, a number, or a list of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// The tables and the key.
    pub path: Vec<String>,
    /// The value.
    pub value: Value,
}

impl Edit {
    /// The key below the tables `above`.
    pub fn new(above: &[&str], key: &str, value: impl Into<Value>) -> Self {
        let path = above.iter().chain([&key]).map(|part| (*part).to_owned()).collect();
        Edit { path, value: value.into() }
    }
}

/// A file that was understood.
pub struct Document {
    place: String,
    tree: Box<dyn Tree>,
    lines: Lines,
}

/// What is done with a document, whatever it is written in.
trait Tree {
    /// The value at a path; a table is an object.
    fn get(&self, path: &[String]) -> Option<Value>;
    /// Sets it, and makes the tables above. The error is the part of the path that is no table.
    fn set(&mut self, path: &[String], value: &Value) -> Result<(), String>;
    /// Removes the key.
    fn remove(&mut self, path: &[String]);
    /// The whole text.
    fn text(&self) -> String;
}

/// Where a text breaks the rules of its format: line and column from 1, and why.
struct Broken {
    line: usize,
    column: usize,
    why: String,
}

impl Document {
    /// Understands a text. `place` is the file's name in messages.
    pub fn parse(format: Format, text: &str, place: impl Into<String>) -> Result<Self> {
        let place = place.into();
        let (lines, text) = Lines::of(text);
        let tree = match format {
            Format::Json => json::parse(&text),
            Format::Toml => toml::parse(&text),
        };
        match tree {
            Ok(tree) => Ok(Document { place, tree, lines }),
            Err(Broken { line, column, why }) => {
                let why = format!("{}; nothing was changed: mend it first", one_line(&why));
                Err(Error::invalid(format!("{place} line {line} column {column}"), why))
            }
        }
    }

    /// The value at a path, tables as objects.
    pub fn get<S: AsRef<str>>(&self, path: &[S]) -> Option<Value> {
        self.tree.get(&path.iter().map(|part| part.as_ref().to_owned()).collect::<Vec<_>>())
    }

    /// Merges: each key gets its value, and everything else stays.
    pub fn apply(&mut self, edits: &[Edit]) -> Result<()> {
        for edit in edits.iter().filter(|edit| !self.has(edit)).cloned().collect::<Vec<_>>() {
            self.set(&edit.path, &edit.value)?;
        }
        Ok(())
    }

    /// Takes the edits back where the key still has our value: it gets what it had in `before`, or goes, and with it every
    /// table that it leaves empty and that was not there before.
    pub fn revert(&mut self, edits: &[Edit], before: &Document) -> Result<()> {
        for edit in edits.iter().filter(|edit| self.has(edit)).cloned().collect::<Vec<_>>() {
            match before.tree.get(&edit.path) {
                Some(value) => self.set(&edit.path, &value)?,
                None => self.remove(&edit.path, before),
            }
        }
        Ok(())
    }

    /// The whole text.
    pub fn text(&self) -> String {
        self.lines.restore(self.tree.text())
    }

    /// Has the key this value already?
    fn has(&self, edit: &Edit) -> bool {
        self.tree.get(&edit.path).as_ref() == Some(&edit.value)
    }

    fn set(&mut self, path: &[String], value: &Value) -> Result<()> {
        self.tree.set(path, value).map_err(|key| {
            Error::invalid(format!("{}, key {key}", self.place), "is no table, and one is needed there: mend it first")
        })
    }

    fn remove(&mut self, path: &[String], before: &Document) {
        self.tree.remove(path);
        for end in (1..path.len()).rev() {
            let above = &path[..end];
            let is_empty = self.tree.get(above).is_some_and(|table| table.as_object().is_some_and(|t| t.is_empty()));
            if is_empty && before.tree.get(above).is_none() {
                self.tree.remove(above);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn edits() -> Vec<Edit> {
        vec![
            Edit::new(&["a", "x.y", "ours"], "path", "/usr/bin/program"),
            Edit::new(&["a", "x.y", "ours"], "list", json!(["portslice/*"])),
            Edit::new(&["a"], "flag", true),
            Edit::new(&[], "version", 2),
        ]
    }

    fn round(format: Format, text: &str) -> (String, String) {
        let before = Document::parse(format, text, "file").unwrap();
        let mut document = Document::parse(format, text, "file").unwrap();
        document.apply(&edits()).unwrap();
        let applied = document.text();
        for edit in edits() {
            assert_eq!(document.get(&edit.path), Some(edit.value), "{applied}");
        }
        let mut again = Document::parse(format, &applied, "file").unwrap();
        again.apply(&edits()).unwrap();
        assert_eq!(again.text(), applied, "a second time changes nothing");
        again.revert(&edits(), &before).unwrap();
        (applied, again.text())
    }

    #[test]
    fn keys_come_and_go_and_everything_else_stays() {
        let toml = "# mine\nversion = 1 # old\n\n[a]\n  # about b\n  b = [1,2,  3]\n\n  [a.\"x.y\".theirs]\n    k = 'v' # kept\n";
        let (applied, reverted) = round(Format::Toml, toml);
        for kept in ["# mine", "# about b", "b = [1,2,  3]", "k = 'v' # kept"] {
            assert!(applied.contains(kept), "{applied}");
        }
        assert!(applied.contains("\n  [a.\"x.y\".ours]\n    path = "), "indented as its sibling is: {applied}");
        assert_eq!(reverted, toml);
        // As other systems' editors write it: no line has another end than its neighbours.
        let odd = format!("\u{feff}{}", toml.replace('\n', "\r\n"));
        let (applied, reverted) = round(Format::Toml, &odd);
        assert!(applied.starts_with("\u{feff}# mine\r\n"), "{applied:?}");
        assert_eq!(applied.matches('\n').count(), applied.matches("\r\n").count(), "{applied:?}");
        assert_eq!(reverted, odd);
        let json = "{\n\t\"a\": {\"b\": [1, 2.50, 12345678901234567890123]},\n\t\"version\": 1\n}\n";
        let (applied, reverted) = round(Format::Json, json);
        assert!(applied.contains("2.50, 12345678901234567890123"), "{applied}");
        let value = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(value(&reverted), value(json));
    }

    #[test]
    fn what_somebody_changed_since_is_his() {
        let before = Document::parse(Format::Toml, "[a]\nflag = false\n", "file").unwrap();
        let text = "version = 3\n[a]\nflag = true\n[a.\"x.y\".ours]\npath = \"/elsewhere\"\nlist = [\"portslice/*\"]\n";
        let mut document = Document::parse(Format::Toml, text, "file").unwrap();
        document.revert(&edits(), &before).unwrap();
        assert_eq!(document.text(), "version = 3\n[a]\nflag = false\n[a.\"x.y\".ours]\npath = \"/elsewhere\"\n");
    }

    #[test]
    fn what_is_broken_is_told_with_line_and_column() {
        for (format, text, place) in [
            (Format::Toml, "version = 2\nfoo = [\n", "line 2 column"),
            (Format::Toml, "a = 1\n  a = 2\n", "line 2 column 3"),
            (Format::Json, "{\n  \"a\": 1,\n  \"b\" 2\n}", "line 3 column"),
            (Format::Json, "{\n  \"a\": 1, // why\n}", "line 2 column"),
            (Format::Json, "[]", "line 1 column 1"),
        ] {
            let line = Document::parse(format, text, "/etc/file").err().expect("broken").to_string();
            assert!(line.starts_with("/etc/file ") && line.contains(place) && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_key_that_is_no_table_is_refused() {
        for (format, text) in [(Format::Toml, "a = 1\n"), (Format::Json, "{\"a\": []}")] {
            let mut document = Document::parse(format, text, "/etc/file").unwrap();
            let line = document.apply(&edits()).unwrap_err().to_string();
            assert!(line.starts_with("/etc/file, key a: "), "{line}");
        }
    }

    /// Tables of tables with a few values, as configuration files are.
    fn any_tree() -> impl Strategy<Value = Value> {
        let key = "[a-z][a-z.]{0,3}";
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from)
        ];
        let tree = leaf.prop_recursive(3, 24, 4, move |inner| {
            prop::collection::hash_map(key, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
        });
        prop::collection::hash_map(key, tree, 0..5).prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn other_keys_never_change(tree in any_tree()) {
            let json = serde_json::to_string_pretty(&tree).unwrap();
            let toml = toml::tests::text(&tree);
            for (format, text) in [(Format::Json, json), (Format::Toml, toml)] {
                let before = Document::parse(format, &text, "file").unwrap();
                let mut document = Document::parse(format, &text, "file").unwrap();
                if document.apply(&edits()).is_err() {
                    continue;
                }
                let mut expected = tree.clone();
                for edit in edits() {
                    prop_assert_eq!(document.get(&edit.path), Some(edit.value.clone()));
                    let mut at = &mut expected;
                    for part in &edit.path {
                        at = &mut at[part.as_str()];
                    }
                    *at = edit.value;
                }
                let mut read = Document::parse(format, &document.text(), "file").unwrap();
                let root: [&str; 0] = [];
                prop_assert_eq!(read.get(&root), Some(expected), "{}", document.text());
                read.revert(&edits(), &before).unwrap();
                prop_assert_eq!(read.get(&root), Some(tree.clone()), "{}", read.text());
            }
        }
    }
}
