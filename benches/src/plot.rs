//! The figures as small panels of bars, in SVG.

use std::fmt::Write as _;

use crate::compare::{RATE, Report};
use crate::figures::Figures;
use crate::scenario::Scenario;
use crate::systems::remora;

const COLUMNS: usize = 3;
const PANEL_WIDTH: f64 = 340.0;
/// Left of the bars, for their labels.
const LABELS: f64 = 132.0;
/// Right of the bars, for their values.
const VALUES: f64 = 52.0;
const BAR: f64 = 16.0;
const BAR_STEP: f64 = 22.0;
const HEAD: f64 = 46.0;
const FOOT: f64 = 18.0;
const MARGIN: f64 = 16.0;
const CAPTION: f64 = 30.0;

/// Bars with one axis, which begins at zero.
struct Panel {
    title: String,
    unit: String,
    bars: Vec<Bar>,
}

struct Bar {
    label: &'static str,
    value: f64,
    range: Option<(f64, f64)>,
}

/// The plot of a comparison.
pub fn compare(report: &Report, caption: &str) -> String {
    let mut panels: Vec<Panel> = Scenario::ALL
        .into_iter()
        .map(|scenario| cpu(report, scenario))
        .collect();
    panels.push(connections(report));
    for scenario in [Scenario::Http1, Scenario::Http1Features, Scenario::Http2] {
        panels.push(latency(report, scenario));
    }
    panels.retain(|panel| !panel.bars.is_empty());
    draw(&panels, caption)
}

fn of(report: &Report, scenario: Scenario) -> impl Iterator<Item = &Figures> {
    let all = report.figures.iter();
    all.filter(move |figures| figures.scenario == scenario)
}

fn cpu(report: &Report, scenario: Scenario) -> Panel {
    let (time, per) = scenario.unit().time();
    let bar = |figures: &Figures| {
        Some(Bar {
            label: figures.system,
            value: figures.cpu_us? / per,
            range: figures
                .cpu_us_range
                .map(|(low, high)| (low / per, high / per)),
        })
    };
    Panel {
        title: short(scenario).to_owned(),
        unit: format!("CPU {time}/{}", scenario.unit().word()),
        bars: of(report, scenario).filter_map(bar).collect(),
    }
}

fn latency(report: &Report, scenario: Scenario) -> Panel {
    let bar = |figures: &Figures| {
        Some(Bar {
            label: figures.system,
            value: figures.at_rate?.p99_us,
            range: None,
        })
    };
    Panel {
        title: short(scenario).to_owned(),
        unit: format!("p99 at {RATE}/s, us"),
        bars: of(report, scenario).filter_map(bar).collect(),
    }
}

fn connections(report: &Report) -> Panel {
    let bars = report.memory.iter().map(|memory| Bar {
        label: memory.system,
        value: memory.kib_per_connection(),
        range: None,
    });
    Panel {
        title: "Idle HTTP/1.1 connection".to_owned(),
        unit: "RSS KiB each".to_owned(),
        bars: bars.collect(),
    }
}

const fn short(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Http1Features => "HTTP/1.1, features on",
        Scenario::Http1 => "HTTP/1.1",
        Scenario::Http2 => "HTTP/2 to HTTP/2",
        Scenario::MtlsOut => "mutual TLS, outbound",
        Scenario::MtlsIn => "mutual TLS, inbound",
        Scenario::MtlsPair => "a pair, mutual TLS between",
        Scenario::MtlsBulk => "the pair, a large answer",
        Scenario::MtlsBulkOut => "mTLS out, a large answer",
        Scenario::MtlsBulkIn => "mTLS in, a large answer",
        Scenario::Http1AsTcp | Scenario::TcpBulk => scenario.title(),
    }
}

fn draw(panels: &[Panel], caption: &str) -> String {
    let rows: Vec<&[Panel]> = panels.chunks(COLUMNS).collect();
    let height = |row: &[Panel]| {
        let bars = row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
        HEAD + bars as f64 * BAR_STEP + FOOT
    };
    let width = PANEL_WIDTH * COLUMNS as f64 + 2.0 * MARGIN;
    let total = rows.iter().map(|row| height(row)).sum::<f64>() + CAPTION + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{total:.0}\" \
         viewBox=\"0 0 {width:.0} {total:.0}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, MARGIN, 22.0, "start", "#555555", caption);
    let mut top = CAPTION;
    for row in rows {
        for (column, panel) in row.iter().enumerate() {
            panel.draw(&mut svg, MARGIN + column as f64 * PANEL_WIDTH, top);
        }
        top += height(row);
    }
    svg.push_str("</svg>\n");
    svg
}

impl Panel {
    fn draw(&self, svg: &mut String, left: f64, top: f64) {
        let room = PANEL_WIDTH - LABELS - VALUES - MARGIN;
        let high = |bar: &Bar| bar.range.map_or(bar.value, |(_, high)| high.max(bar.value));
        let most = self.bars.iter().map(high).fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(
            svg,
            "<text x=\"{left:.0}\" y=\"{:.0}\" font-size=\"13\" font-weight=\"bold\" fill=\"#222222\">{}</text>",
            top + 20.0,
            escape(&self.title)
        );
        text(svg, left, top + 36.0, "start", "#555555", &self.unit);
        let begin = left + LABELS;
        for (index, bar) in self.bars.iter().enumerate() {
            let y = top + HEAD + index as f64 * BAR_STEP;
            let middle = y + BAR / 2.0;
            let own = bar.label == remora::NAME;
            let (fill, ink) = match own {
                true => ("#0b7285", "#0b7285"),
                false => ("#b8c0c8", "#333333"),
            };
            let scale = |value: f64| room * value / most;
            text(svg, begin - 6.0, middle + 4.0, "end", ink, bar.label);
            let _ = writeln!(
                svg,
                "<rect x=\"{begin:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{fill}\"/>",
                scale(bar.value).max(1.0)
            );
            if let Some((low, high)) = bar.range {
                let (low, high) = (begin + scale(low), begin + scale(high));
                let _ = writeln!(
                    svg,
                    "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v6M{high:.1} {:.1}v6\" stroke=\"#333333\" fill=\"none\"/>",
                    middle - 3.0,
                    middle - 3.0
                );
            }
            let end = begin + scale(high(bar)).max(1.0) + 6.0;
            text(svg, end, middle + 4.0, "start", ink, &number(bar.value));
        }
    }
}

/// Three digits, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, fill: &str, words: &str) {
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\">{}</text>",
        escape(words)
    );
}

fn escape(words: &str) -> String {
    words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_room_and_the_others_keep_their_proportion() {
        let bar = |label, value| Bar {
            label,
            value,
            range: None,
        };
        let panel = Panel {
            title: "a < b".to_owned(),
            unit: "us".to_owned(),
            bars: vec![bar("x", 10.0), bar("y", 2.5)],
        };
        let svg = draw(&[panel], "where");
        let room = PANEL_WIDTH - LABELS - VALUES - MARGIN;
        assert!(
            svg.contains(&format!("width=\"{room:.1}\" height=\"16\"")),
            "{svg}"
        );
        assert!(svg.contains(&format!("width=\"{:.1}\" height=\"16\"", room / 4.0)));
        assert!(svg.contains("a &lt; b"));
    }
}
