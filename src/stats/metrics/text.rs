//! The two text formats that Prometheus and its relatives read, and the way from one to the other.

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format 0.0.4, which everything reads.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The `Content-Type` of the text.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Rewrites an OpenMetrics text as Prometheus text. Samples are the same in both. What describes a family differs: Prometheus
/// names a family as its samples are named (`_total`, `_info`), and knows neither the type `info` nor units nor an end mark.
///
/// A line that begins with `#` is always a description: line ends within labels and help texts are escaped.
pub(super) fn to_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // The name of the family is told before its type, and is written once the type is known.
    let mut help = "";
    while let Some(line) = rest.strip_prefix("# ") {
        let (line, after) = line.split_once('\n').unwrap_or((line, ""));
        let (word, line) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "HELP" => help = line,
            "TYPE" => describe(&mut out, line, help),
            _ => {}
        }
        // Samples, up to the next description.
        let end = if after.starts_with('#') { 0 } else { after.find("\n#").map_or(after.len(), |at| at + 1) };
        out.push_str(&after[..end]);
        rest = &after[end..];
    }
    out
}

/// Both lines of a family: `typed` is its name and type, `help` its name and help text.
fn describe(out: &mut String, typed: &str, help: &str) {
    let Some((name, kind)) = typed.split_once(' ') else { return };
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        other => ("", other),
    };
    let help = help.split_once(' ').map_or("", |(_, help)| help);
    for part in ["# HELP ", name, suffix, " ", help, "\n# TYPE ", name, suffix, " ", kind, "\n"] {
        out.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_change_and_samples_do_not() {
        let open = "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\n\
            a_seconds_total{id=\"x\\n# y\"} 1.5\na_seconds_total{id=\"y\"} 2\n\
            # HELP none Never.\n# TYPE none gauge\n\
            # HELP b Names.\n# TYPE b info\nb_info{id=\"#\"} 1\n\
            # HELP g Now.\n# TYPE g gauge\ng -1\n# EOF\n";
        let classic = "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\n\
            a_seconds_total{id=\"x\\n# y\"} 1.5\na_seconds_total{id=\"y\"} 2\n\
            # HELP none Never.\n# TYPE none gauge\n\
            # HELP b_info Names.\n# TYPE b_info gauge\nb_info{id=\"#\"} 1\n\
            # HELP g Now.\n# TYPE g gauge\ng -1\n";
        assert_eq!(to_prometheus(open), classic);
        assert_eq!(to_prometheus("# EOF\n"), "");
    }
}
