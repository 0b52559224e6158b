//! What Prometheus is told: every line is well-formed, every number stands under its name, and what is not known is
//! not said.

#[path = "metrics/sample.rs"]
mod sample;

use portslice::request::Names;
use portslice::stats::metrics::{Format, HostFigures, Page, render};
use portslice::stats::{Monitored, Statistics};
use sample::{full, values};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

fn page(containers: Vec<Monitored>, format: Format) -> String {
    render(Page { containers: Arc::new(containers), host: HostFigures::default() }, format).unwrap()
}

fn rendered(containers: Vec<Monitored>) -> String {
    page(containers, Format::OpenMetrics)
}

/// What an engine told.
fn names(container: &str, pod: &str, namespace: &str, image: &str) -> Names {
    let [container, pod, namespace, image] = [container, pod, namespace, image].map(|name| Some(name.to_owned()));
    Names { container, pod, namespace, image }
}

/// The labels of a sample, unescaped; panics at anything the format does not allow.
fn labels(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("label without a value: {text}"));
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "label {name:?}");
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().unwrap_or_else(|| panic!("label without an end: {text}")) {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next().map(|(_, c)| c) {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '"')) => c,
                    other => panic!("escape {other:?}: {text}"),
                }),
                (_, c) => value.push(c),
            }
        };
        all.push((name.to_owned(), value));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    all
}

/// Name, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

/// Checks a whole page by the format's rules and returns its samples: name, labels, value.
fn parsed(page: &str) -> Vec<Sample> {
    let body = page.strip_suffix("# EOF\n").expect("the end mark");
    let (mut family, mut kind, mut unit_told) = (String::new(), String::new(), String::new());
    let (mut families, mut samples, mut seen) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a help text").0.to_owned();
            assert!(families.insert(family.clone()), "{family} is described twice");
            continue;
        }
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, its) = typed.split_once(' ').expect("a type");
            assert_eq!(name, family, "the type follows the help");
            assert!(["counter", "gauge", "info"].contains(&its), "{line}");
            kind = its.to_owned();
            unit_told = String::new();
            continue;
        }
        if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, its) = unit.split_once(' ').expect("a unit");
            assert_eq!(name, family, "the unit follows the type");
            assert!(name.ends_with(&format!("_{its}")), "a family ends in its unit: {line}");
            unit_told = its.to_owned();
            continue;
        }
        for unit in ["seconds", "bytes", "bytes_per_second"] {
            let has = family.ends_with(&format!("_{unit}"));
            assert!(!has || !unit_told.is_empty(), "a unit in the name alone: {line}");
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let (name, labelled) = match series.split_once('{') {
            Some((name, labelled)) => (name, labels(labelled.strip_suffix('}').expect("closed labels"))),
            None => (series, Vec::new()),
        };
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert_eq!(name, format!("{family}{suffix}"), "a sample stands below its own family: {line}");
        assert!(seen.insert(series.to_owned()), "twice: {series}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(value.is_finite() && (kind != "counter" || value >= 0.0), "{line}");
        samples.push((name.to_owned(), labelled, value));
    }
    samples
}

#[test]
fn every_number_stands_under_its_name() {
    let samples = parsed(&rendered(vec![full("web-1")]));
    let mut expected = values();
    for (name, labels, value) in &samples {
        let extra: Vec<&str> =
            labels.iter().filter(|(k, _)| k != "id" && k != "name").map(|(_, v)| v.as_str()).collect();
        if name.starts_with("portslice_container") || !labels.iter().any(|(k, v)| k == "id" && v == "web-1") {
            continue;
        }
        let key = [&[name.as_str()], &extra[..]].concat().join(" ");
        assert_eq!(expected.remove(key.as_str()), Some(*value), "{key}");
    }
    assert!(expected.is_empty(), "not said: {expected:?}");
}

#[test]
fn what_is_not_known_is_not_said() {
    let unknown = Monitored { statistics: Statistics::default(), started: None, ..full("gone") };
    let said: Vec<String> = parsed(&rendered(vec![unknown]))
        .into_iter()
        .filter(|(_, labels, _)| labels.iter().any(|(k, _)| k == "id"))
        .map(|(name, ..)| name)
        .collect();
    assert_eq!(said, ["container_last_seen", "portslice_container_info"]);
}

#[test]
fn names_of_people_cannot_break_the_page() {
    let hostile = "a\"} 1\n# EOF\n\\n\\";
    let (executor_name, name) = (hostile.into(), Some(format!("pod/{hostile}")));
    let named =
        Monitored { executor_name, name: name.clone(), slice: "pod".into(), source: "ä☃ x".into(), ..full("web-1") };
    let samples = parsed(&rendered(vec![full("web-0"), named, full("web-2")]));
    let info: Vec<_> = samples.iter().filter(|(name, ..)| name == "portslice_container_info").collect();
    assert_eq!(info.len(), 3);
    let label = |key: &str| info[1].1.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    assert_eq!((label("id"), label("executor_name"), label("source")), (Some("web-1"), Some(hostile), Some("ä☃ x")));
    assert_eq!((label("executor_id"), label("framework_id")), (Some("web-1"), Some("f")));
    assert_eq!((label("name"), label("slice")), (name.as_deref(), Some("pod")));
}

#[test]
fn the_host_is_told_without_containers() {
    let host = HostFigures {
        ready: true,
        leases: 3,
        slots: 4095,
        pool_ports: 24_576,
        pool_ports_leased: 48,
        block_ports: 1024,
        blocks_free: 23,
        took: Duration::from_millis(12),
        passes: 5,
        errors: 2,
    };
    let samples = parsed(&render(Page { containers: Arc::default(), host }, Format::OpenMetrics).unwrap());
    let told: Vec<(&str, f64)> = samples.iter().map(|(name, _, value)| (name.as_str(), *value)).collect();
    assert_eq!(
        told,
        [
            ("portslice_build_info", 1.0),
            ("portslice_host_ready", 1.0),
            ("portslice_leases", 3.0),
            ("portslice_slots", 4095.0),
            ("portslice_pool_ports", 24_576.0),
            ("portslice_pool_ports_leased", 48.0),
            ("portslice_block_ports", 1024.0),
            ("portslice_blocks_free", 23.0),
            ("portslice_scrape_duration_seconds", 0.012),
            ("portslice_scrapes_total", 5.0),
            ("portslice_scrape_errors_total", 2.0),
        ]
    );
}

#[test]
fn the_type_names_the_format() {
    assert_eq!(Format::OpenMetrics.content_type(), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert_eq!(Format::Prometheus.content_type(), "text/plain; version=0.0.4; charset=utf-8");
}

/// Two containers, one of a pod and one of which only the id is known, as they stand in both formats.
#[test]
fn both_formats_are_as_they_were() {
    let id = "ccb36ba720b9b650691d031e307a66227b4c27026dec620affc65f91d51e9020";
    let mut pod = full("4f1d");
    pod.name = Some("prod/shop/web".into());
    pod.names = names("web", "shop", "prod", "docker.io/library/nginx:1.27");
    pod.engine = Some("containerd".into());
    for (format, golden) in [
        (Format::Prometheus, include_str!("metrics/prometheus.txt")),
        (Format::OpenMetrics, include_str!("metrics/openmetrics.txt")),
    ] {
        let text = page(vec![pod.clone(), full(id)], format);
        let differ = text.lines().zip(golden.lines()).find(|(is, was)| is != was);
        assert!(text == golden, "{format:?}: the first line that differs: {differ:?}\n{text}");
    }
}

/// Prometheus' format knows three types of what is served here: none of them is `unknown` or `info`. The samples are
/// those of the other format.
#[test]
fn both_formats_tell_the_same() {
    let containers = || vec![full("a"), Monitored { names: names("c", "p", "n", "i"), ..full("b # c") }];
    let (open, plain) = (page(containers(), Format::OpenMetrics), page(containers(), Format::Prometheus));
    let samples =
        |text: &str| -> Vec<String> { text.lines().filter(|l| !l.starts_with('#')).map(String::from).collect() };
    assert_eq!(samples(&open), samples(&plain));
    let (mut family, mut described) = (String::new(), 0);
    for line in plain.lines() {
        match line.strip_prefix("# ") {
            Some(description) => {
                let (word, rest) = description.split_once(' ').expect("a word and a name");
                let (name, rest) = rest.split_once(' ').expect("a name and more");
                match word {
                    "HELP" => family = name.to_owned(),
                    "TYPE" => {
                        assert_eq!(name, family, "{line}");
                        assert!(["counter", "gauge"].contains(&rest), "{line}");
                        assert_eq!(rest == "counter", name.ends_with("_total"), "{line}");
                        described += 1;
                    }
                    _ => panic!("{line}"),
                }
            }
            None => assert_eq!(line.split(['{', ' ']).next(), Some(family.as_str()), "{line}"),
        }
    }
    assert_eq!(described, open.matches("# TYPE ").count());
}

#[test]
fn names_are_labels_of_every_sample() {
    let id = "ccb36ba720b9b650691d031e307a66227b4c27026dec620affc65f91d51e9020";
    let known = Monitored { name: Some("n/p/c".into()), names: names("c", "p", "n", "i:1"), ..full("x") };
    for (name, labels, _) in parsed(&rendered(vec![known, full(id)])) {
        let label = |key: &str| labels.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let keys = ["name", "container", "pod", "namespace", "image"].map(label);
        match label("id") {
            Some("x") => assert_eq!(keys, ["n/p/c", "c", "p", "n", "i:1"].map(Some), "{name}"),
            Some(_) if name == "portslice_container_info" => {}
            Some(_) => assert_eq!(keys, [Some("ccb36ba720b9"), None, None, None, None], "{name}"),
            None => {}
        }
    }
}

/// What Mesos' documentation shows stands under the same names, as the same kinds of values.
#[test]
fn the_fields_of_mesos_sample_have_its_names_and_kinds() {
    let sample: serde_json::Value = serde_json::from_str(include_str!("metrics/mesos.json")).unwrap();
    let ours = serde_json::to_value([full("c")]).unwrap();
    let (sample, ours) = (&sample[0], &ours[0]);
    for name in ["executor_id", "executor_name", "framework_id", "source", "container_id"] {
        assert!(ours[name].is_string(), "{name}");
    }
    for (name, value) in sample["statistics"].as_object().unwrap() {
        let given = &ours["statistics"][name];
        assert_eq!((given.is_u64(), given.is_f64()), (value.is_u64(), value.is_f64()), "{name}: {given}");
    }
}
