//! The Grafana dashboard: it loads, and every query asks for metrics and labels that the server serves.

#[path = "metrics/sample.rs"]
#[allow(dead_code, reason = "the values are the other test's")]
mod sample;

use portslice::stats::metrics::{Format, HostFigures, Page, render};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const TEXT: &str = include_str!("../config/grafana-dashboard.json");

/// The names of metrics, and the labels that each has.
fn served() -> BTreeMap<String, BTreeSet<String>> {
    let page = Page { containers: Arc::new(vec![sample::full("web-1")]), host: HostFigures::default() };
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in render(page, Format::Prometheus).unwrap().lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').unwrap().0;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let keys = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        all.entry(name.to_owned()).or_default().extend(keys);
    }
    all
}

/// Words outside quotation marks and `[5m]`.
fn words(query: &str) -> Vec<String> {
    let mut bare = String::new();
    let (mut quoted, mut range) = (false, false);
    for c in query.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' if !quoted => range = true,
            ']' if !quoted => range = false,
            _ => {}
        }
        bare.push(if quoted || range { ' ' } else { c });
    }
    bare.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned).filter(|w| !w.is_empty()).collect()
}

/// Words of PromQL, and the label that every sample which Prometheus collects has.
const LANGUAGE: [&str; 13] =
    ["instance", "sum", "avg", "max", "min", "by", "rate", "topk", "clamp_min", "or", "on", "group_left", "ignoring"];

/// What a dashboard without would lack.
const SHOWN: [&str; 9] = [
    "container_network_receive_bytes_total",
    "container_network_transmit_bytes_total",
    "portslice_dropped_packets_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_memory_working_set_bytes",
    "portslice_tcp_rtt_seconds",
    "portslice_ephemeral_ports_in_use",
    "portslice_blocks_free",
];

fn panels(dashboard: &Value) -> Vec<&Value> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        all.push(panel);
        all.extend(panel["panels"].as_array().into_iter().flatten());
    }
    all.retain(|panel| panel["type"] != "row");
    all
}

#[test]
fn every_query_asks_for_what_is_served() {
    let dashboard: Value = serde_json::from_str(TEXT).expect("JSON");
    let served = served();
    let everything: BTreeSet<&str> = served.values().flatten().map(String::as_str).collect();
    let mut asked = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().unwrap_or_else(|| panic!("{title}: no queries"));
        assert!(!targets.is_empty(), "{title}: no queries");
        for target in targets {
            let query = target["expr"].as_str().unwrap_or_else(|| panic!("{title}: a target without a query"));
            let words = words(query);
            let metrics: Vec<&String> = words.iter().filter(|word| served.contains_key(*word)).collect();
            assert!(!metrics.is_empty(), "{title}: asks for nothing that is served: {query}");
            for word in words.iter().filter(|word| !metrics.contains(word)) {
                let known = LANGUAGE.contains(&word.as_str()) || everything.contains(word.as_str());
                assert!(known || word.bytes().all(|b| b.is_ascii_digit()), "{title}: what is {word} in {query}?");
            }
            let labels: BTreeSet<&str> = metrics.iter().flat_map(|m| &served[*m]).map(String::as_str).collect();
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            // a number or a table has no legend; several lines are told apart by what people call the containers
            let of_containers = labels.contains("id") && !query.starts_with("sum by (reason)");
            if panel["type"] == "timeseries" && of_containers {
                assert!(
                    legend.starts_with("{{instance}} {{name}}"),
                    "{title}: the legend {legend:?} names no container"
                );
            }
            for label in legend.split("{{").skip(1).map(|part| part.split("}}").next().unwrap().trim()) {
                // Prometheus itself says which host it asked
                assert!(
                    labels.contains(label) || label == "instance",
                    "{title}: the legend's {label} is no label of {query}"
                );
            }
            asked.extend(metrics.into_iter().cloned());
        }
    }
    for must in SHOWN {
        assert!(asked.contains(must), "no panel shows {must}");
    }
}

/// A rate has a unit by second, a share none, and a number of bytes is in bytes.
#[test]
fn units_are_those_of_the_queries() {
    let dashboard: Value = serde_json::from_str(TEXT).expect("JSON");
    for panel in panels(&dashboard).into_iter().filter(|panel| panel["type"] != "table") {
        let (title, unit) = (&panel["title"], panel["fieldConfig"]["defaults"]["unit"].as_str());
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let rated = query.contains("rate(");
            let expected = match () {
                () if query.contains(") / ") || query.contains("} / ") || query.contains("cfs_throttled") => {
                    "percentunit"
                }
                () if rated && query.contains("cpu_usage_seconds_total") => "short",
                () if rated && query.contains("_bytes_total") => "Bps",
                () if rated && (query.contains("packets") || query.contains("network")) => "pps",
                () if rated => "cps",
                () if query.contains("_bytes") || query.contains("container_memory") => "bytes",
                () if query.contains("_seconds") => "s",
                () => "short",
            };
            assert_eq!(unit, Some(expected), "{title}: {query}");
        }
    }
}

#[test]
fn grafana_can_load_it() {
    let dashboard: Value = serde_json::from_str(TEXT).expect("JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 38), "Grafana 10");
    assert!(dashboard["id"].is_null(), "an id belongs to one installation");
    assert!(dashboard["uid"].as_str().is_some_and(|uid| !uid.is_empty() && uid.len() <= 40));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let source = variables.iter().find(|v| v["type"] == "datasource").expect("a variable for the datasource");
    assert_eq!(source["query"], "prometheus");
    let reference = format!("${{{}}}", source["name"].as_str().unwrap());
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is another panel's, too");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title}: no gridPos.{key}"));
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}: outside the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(places.insert(cell), "{title}: lies on another panel");
        }
    }
    for panel in panels(&dashboard) {
        assert_eq!(panel["datasource"]["uid"], reference, "{}: names a datasource of its own", panel["title"]);
    }
    for variable in variables.iter().filter(|v| v["type"] == "query") {
        assert_eq!(variable["datasource"]["uid"], reference);
        let query = variable["query"]["query"].as_str().expect("a query");
        let metric = query.strip_prefix("label_values(").and_then(|q| q.split([',', '{', ')']).next()).expect(query);
        assert!(served().contains_key(metric), "variable {}: {metric} is not served", variable["name"]);
    }
}
