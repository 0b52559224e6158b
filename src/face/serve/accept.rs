//! Which of its formats `/metrics` answers in, by the request's `Accept` (RFC 9110, 12.5.1). Pure.
//!
//! Prometheus' format is answered unless OpenMetrics is named and preferred: a wildcard does not ask for it, and neither does
//! a version that is not served. Nobody is refused: whoever accepts nothing of ours gets what everything reads.

use crate::stats::metrics::Format;

/// The media type of OpenMetrics.
const OPEN: &str = "application/openmetrics-text";
/// Its version that is served; 0.0.1 was a draft of it.
const OPEN_VERSION: &str = "1.0.0";
/// The version of Prometheus' text format.
const PLAIN_VERSION: &str = "0.0.4";

/// The format that the values of all `Accept` headers together prefer.
pub fn preferred<'a>(accept: impl IntoIterator<Item = &'a str>) -> Format {
    let ranges: Vec<Range<'_>> = accept.into_iter().flat_map(|value| value.split(',')).map(Range::of).collect();
    let best = |fits: &dyn Fn(&Range<'_>) -> bool| ranges.iter().filter(|range| fits(range)).map(|r| r.quality).max();
    let open = best(&|range| range.is(OPEN) && range.version.is_none_or(|version| version == OPEN_VERSION));
    // The more specific range counts: `text/plain;q=0.5, */*;q=0.9` takes plain text at 0.5.
    let plain = best(&|range| range.is("text/plain") && range.version.is_none_or(|version| version == PLAIN_VERSION))
        .or_else(|| best(&|range| range.is("text/*")))
        .or_else(|| best(&|range| range.is("*/*")));
    match open {
        // Who names both alike gets the richer one, as in Prometheus' own libraries.
        Some(open) if open > 0 && open >= plain.unwrap_or(0) => Format::OpenMetrics,
        _ => Format::Prometheus,
    }
}

/// One element of an `Accept` header.
struct Range<'a> {
    kind: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    fn of(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Range { kind: parts.next().unwrap_or_default(), version: None, quality: 1000 };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => range.quality = quality(value),
                "version" => range.version = Some(value),
                _ => {}
            }
        }
        range
    }

    fn is(&self, kind: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind)
    }
}

/// `0.75` in thousandths. What is no quality is not accepted.
fn quality(text: &str) -> u16 {
    let value = text.parse::<f64>().ok().filter(|value| (0.0..=1.0).contains(value));
    value.map_or(0, |value| (value * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_whoever_prefers_it() {
        for (accept, open) in [
            (&[][..], false),
            (&[""], false),
            (&["*/*"], false),
            (&["text/plain"], false),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], false),
            (&["application/json"], false),
            (&["application/*"], false),
            (&["application/openmetrics-text"], true),
            (&["Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8"], true),
            (&["application/openmetrics-text;version=\"1.0.0\""], true),
            (&["application/openmetrics-text; version=2.0.0"], false),
            (&["application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], false),
            (&["application/openmetrics-text;q=0"], false),
            (&["application/openmetrics-text;q=x"], false),
            (&["application/openmetrics-text;q=0.5,text/plain"], false),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.4"], true),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.5"], true),
            (&["application/openmetrics-text;q=0.5,*/*;q=0.8"], false),
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.2,*/*;q=0.8"], true),
            (&["text/plain;q=0.1", "application/openmetrics-text;q=0.2"], true),
            (&["application/openmetrics-text;q=0.4,text/plain;version=0.0.5,*/*;q=0.1"], true),
            // Prometheus 2.42 and 2.53
            (
                &["application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
                true,
            ),
            (
                &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
                application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
                true,
            ),
        ] {
            let expected = if open { Format::OpenMetrics } else { Format::Prometheus };
            assert_eq!(preferred(accept.iter().copied()), expected, "{accept:?}");
        }
    }
}
