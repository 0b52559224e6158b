//! SECURITY.md: each promise names tests, and these are there.

use std::fs;
use std::path::{Path, PathBuf};

const TEXT: &str = include_str!("../SECURITY.md");
/// The one section that promises nothing.
const NOT_DEFENDED: &str = "What is not defended";

/// The sections with their headings.
fn sections() -> impl Iterator<Item = (&'static str, &'static str)> {
    TEXT.split("\n## ").skip(1).map(|section| section.split_once('\n').expect("a section has a heading and a text"))
}

/// What stands in backticks and is a path of Rust's.
fn tests(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect()
}

/// The file of `a::b` and the name of the test in it.
fn place(test: &str) -> (PathBuf, &str) {
    let (module, name) = test.rsplit_once("::").expect("a path");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration").join(module.replace("::", "/"));
    (file.with_extension("rs"), name)
}

#[test]
fn each_promise_names_its_tests() {
    let promises: Vec<(&str, &str)> = sections()
        .filter(|(heading, _)| *heading != NOT_DEFENDED)
        .flat_map(|(heading, text)| text.split("\n* ").skip(1).map(move |item| (heading, item)))
        .collect();
    assert!(promises.len() > 20, "the promises are items of a list: {promises:?}");
    for (heading, promise) in promises {
        // what follows the list is no part of its last item
        let promise = promise.split("\n\n").next().unwrap_or_default();
        assert!(!tests(promise).is_empty(), "{heading}: no test is named for: {promise}");
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let named = tests(TEXT);
    assert!(named.len() > 30, "{named:?}");
    for test in named {
        let (file, name) = place(test);
        let code = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{test}: {}: {e}", file.display()));
        assert!(code.contains(&format!("#[test]\nfn {name}()")), "{}: there is no test {name}", file.display());
    }
}
