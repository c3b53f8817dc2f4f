//! The two text forms of metrics: OpenMetrics 1.0, and Prometheus' own 0.0.4.
//!
//! They differ in little that matters much: in OpenMetrics a counter's family has
//! its name without `_total`, units are told, bounds of buckets are written as
//! floats, and the end is marked. Knows nothing of what is counted.

use std::fmt::{self, Display, Write};

/// Names and values that tell one sample of a family from the others.
pub type Labels = Vec<(&'static str, String)>;
/// The samples of a family.
pub type Samples<T> = Vec<(Labels, T)>;

/// How metrics are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// What an `Accept` asks for (RFC 9110, section 12.5.1): OpenMetrics where it
    /// is named and plain text is not wanted more.
    pub fn asked<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let quality = parts
                .filter_map(|part| part.strip_prefix("q="))
                .find_map(|quality| quality.parse::<f64>().ok())
                .unwrap_or(1.0);
            let held = if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                &mut open
            } else if kind.eq_ignore_ascii_case("text/plain") {
                &mut plain
            } else {
                continue;
            };
            *held = quality.max(*held);
        }
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The `Content-Type` of it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Of a histogram with its labels: how many fell into each bucket, the last of
/// which takes what is above all bounds, and all of them added up.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// What tells it from others.
    pub labels: Labels,
    /// One more than there are bounds.
    pub counts: Vec<u64>,
    /// In the family's unit.
    pub sum: f64,
}

/// Metrics as text. A family without samples is left out.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    /// Nothing yet.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
        }
    }

    /// A family of counters; `name` is without `_total`.
    pub fn counter<T: Display>(&mut self, name: &str, help: &str, samples: &Samples<T>) {
        if samples.is_empty() {
            return;
        }
        let total = format!("{name}_total");
        let family = match self.format {
            Format::OpenMetrics => name,
            Format::Prometheus => &total,
        };
        self.describe(family, "counter", help);
        for (labels, value) in samples {
            self.sample(&total, labels, None, value);
        }
    }

    /// A family of gauges.
    pub fn gauge<T: Display>(&mut self, name: &str, help: &str, samples: &Samples<T>) {
        if samples.is_empty() {
            return;
        }
        self.describe(name, "gauge", help);
        for (labels, value) in samples {
            self.sample(name, labels, None, value);
        }
    }

    /// A family of histograms over `bounds`, which rise.
    pub fn histogram(&mut self, name: &str, help: &str, bounds: &[f64], samples: &[Distribution]) {
        if samples.is_empty() {
            return;
        }
        self.describe(name, "histogram", help);
        let [bucket, sum, count] =
            ["bucket", "sum", "count"].map(|suffix| format!("{name}_{suffix}"));
        for one in samples {
            let mut below = 0;
            for (at, inside) in one.counts.iter().enumerate() {
                below += inside;
                let bound = self.bound(bounds.get(at));
                self.sample(&bucket, &one.labels, Some(&bound), &below);
            }
            self.sample(&sum, &one.labels, None, &one.sum);
            self.sample(&count, &one.labels, None, &below);
        }
    }

    /// All of it.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    /// In OpenMetrics a float, so that it is the same text wherever it comes from.
    fn bound(&self, bound: Option<&f64>) -> String {
        match (bound, self.format) {
            (None, _) => "+Inf".to_owned(),
            (Some(bound), Format::OpenMetrics) => format!("{bound:?}"),
            (Some(bound), Format::Prometheus) => bound.to_string(),
        }
    }

    fn describe(&mut self, family: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let help = match self.format {
            Format::OpenMetrics => help.replace('"', "\\\""),
            Format::Prometheus => help,
        };
        self.line(format_args!("# HELP {family} {help}"));
        self.line(format_args!("# TYPE {family} {kind}"));
        let unit = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| family.ends_with(&format!("_{unit}")));
        if let (Some(unit), Format::OpenMetrics) = (unit, self.format) {
            self.line(format_args!("# UNIT {family} {unit}"));
        }
    }

    fn sample(&mut self, name: &str, labels: &Labels, bound: Option<&str>, value: &impl Display) {
        self.text.push_str(name);
        let all = labels.iter().map(|(name, value)| (*name, value.as_str()));
        let mut separator = '{';
        for (name, value) in all.chain(bound.map(|bound| ("le", bound))) {
            self.text.push(separator);
            separator = ',';
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(&mut self.text, value);
            self.text.push('"');
        }
        if separator == ',' {
            self.text.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // Writing into a string never fails.
        let _ = writeln!(self.text, "{line}");
    }
}

fn escape(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format) -> String {
        let mut text = Exposition::new(format);
        let service = |name: &str| -> Labels { vec![("service", name.to_owned())] };
        let calls = vec![(service("a"), 3_u64), (service("b\"\\\n"), 0)];
        text.counter("x_calls", "Calls of \"it\"\nand more", &calls);
        text.counter::<u64>("x_none", "Nothing", &Vec::new());
        let seconds = vec![(Labels::new(), 0.25)];
        text.counter("x_busy_seconds", "Busy", &seconds);
        text.gauge("x_size_bytes", "Size", &vec![(Labels::new(), 7)]);
        let took = Distribution {
            labels: service("a"),
            counts: vec![1, 2, 4],
            sum: 9.5,
        };
        text.histogram("x_took_seconds", "Took", &[0.0005, 1.0], &[took]);
        text.finish()
    }

    #[test]
    fn prometheus_names_a_counter_with_its_total() {
        let expected = r#"# HELP x_calls_total Calls of "it"\nand more
# TYPE x_calls_total counter
x_calls_total{service="a"} 3
x_calls_total{service="b\"\\\n"} 0
# HELP x_busy_seconds_total Busy
# TYPE x_busy_seconds_total counter
x_busy_seconds_total 0.25
# HELP x_size_bytes Size
# TYPE x_size_bytes gauge
x_size_bytes 7
# HELP x_took_seconds Took
# TYPE x_took_seconds histogram
x_took_seconds_bucket{service="a",le="0.0005"} 1
x_took_seconds_bucket{service="a",le="1"} 3
x_took_seconds_bucket{service="a",le="+Inf"} 7
x_took_seconds_sum{service="a"} 9.5
x_took_seconds_count{service="a"} 7
"#;
        assert_eq!(written(Format::Prometheus), expected);
    }

    #[test]
    fn open_metrics_names_it_without_and_tells_units_and_its_end() {
        let expected = r#"# HELP x_calls Calls of \"it\"\nand more
# TYPE x_calls counter
x_calls_total{service="a"} 3
x_calls_total{service="b\"\\\n"} 0
# HELP x_busy_seconds Busy
# TYPE x_busy_seconds counter
# UNIT x_busy_seconds seconds
x_busy_seconds_total 0.25
# HELP x_size_bytes Size
# TYPE x_size_bytes gauge
# UNIT x_size_bytes bytes
x_size_bytes 7
# HELP x_took_seconds Took
# TYPE x_took_seconds histogram
# UNIT x_took_seconds seconds
x_took_seconds_bucket{service="a",le="0.0005"} 1
x_took_seconds_bucket{service="a",le="1.0"} 3
x_took_seconds_bucket{service="a",le="+Inf"} 7
x_took_seconds_sum{service="a"} 9.5
x_took_seconds_count{service="a"} 7
# EOF
"#;
        assert_eq!(written(Format::OpenMetrics), expected);
    }

    #[test]
    fn who_asks_for_open_metrics_gets_it() {
        use Format::{OpenMetrics, Prometheus};
        let scraper = "application/openmetrics-text;version=1.0.0;q=0.5,\
                       application/openmetrics-text;version=0.0.1;q=0.4,\
                       text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (scraper, OpenMetrics),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; version=1.0.0", OpenMetrics),
            ("application/openmetrics-text;q=0", Prometheus),
            (
                "text/plain;q=0.6, application/openmetrics-text;q=0.5",
                Prometheus,
            ),
            ("text/plain;version=0.0.4", Prometheus),
            ("*/*", Prometheus),
            ("", Prometheus),
            (";;q=,\u{fc}", Prometheus),
        ] {
            assert_eq!(Format::asked([accept]), format, "{accept}");
        }
        assert_eq!(Format::asked([]), Prometheus);
        assert_eq!(
            Format::asked(["text/html", "application/openmetrics-text"]),
            OpenMetrics
        );
    }
}
