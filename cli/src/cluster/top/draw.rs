//! The live view, drawn: a pure function of the scene.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Padding, Paragraph, Row as TableRow, Table};

use super::rows::{OpenBreaker, Row};
use super::scene::Scene;
use crate::cluster::text;
use crate::playground::view::scene::{PolicyRow, RouteRow, Tone};
use crate::playground::view::theme::Theme;
use crate::playground::view::{LEAST_COLUMNS, LEAST_ROWS};
use crate::playground::view::{policies, routes};

/// The columns of numbers, each as wide as its heading needs.
const NUMBERS: [(&str, u16); 7] = [
    ("req/s", 7),
    ("ok %", 5),
    ("p50 ms", 6),
    ("p99 ms", 6),
    ("retry/s", 7),
    ("limit/s", 7),
    ("open", 4),
];
/// Rows of the panel of breakers, its frame included.
const BREAKER_ROWS: u16 = 6;
/// From here on latency is marked.
const SLOW_MS: f64 = 250.0;

/// Draws everything; tells the scene how many rows there was room for.
pub fn draw(frame: &mut Frame<'_>, scene: &mut Scene, theme: Theme) {
    let area = frame.area();
    if area.width < LEAST_COLUMNS || area.height < LEAST_ROWS {
        let text = format!(
            "The live view needs {LEAST_COLUMNS}x{LEAST_ROWS}; this terminal has {}x{}.",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let routes = routes_scene(scene);
    let working = policies_scene(scene);
    let [top, _, pods, ways, policies, breakers, doubts, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(8),
        Constraint::Length(routes::rows(&routes)),
        Constraint::Length(policies::rows(&working)),
        Constraint::Length(BREAKER_ROWS),
        Constraint::Length(u16::from(!scene.doubts.is_empty())),
        Constraint::Length(1),
    ])
    .areas(area);
    scene.visible = usize::from(pods.height.saturating_sub(1)).max(1);
    scene.first = scene
        .first
        .min(scene.rows.len().saturating_sub(scene.visible));
    draw_top(frame, top, scene, theme);
    draw_pods(frame, pods, scene, theme);
    if ways.height > 0 {
        routes::draw(frame, ways, &routes, theme);
    }
    if policies.height > 0 {
        policies::draw(frame, policies, &working, theme);
    }
    draw_breakers(frame, breakers, scene, theme);
    if let Some(doubt) = scene.doubts.first() {
        let line = format!(" {}", text::clean(doubt));
        frame.render_widget(Line::styled(line, theme.tone(Tone::Notice)), doubts);
    }
    draw_keys(frame, keys, scene, theme);
}

/// What is shown of routes: as in the playground's view.
fn routes_scene(scene: &Scene) -> Vec<RouteRow> {
    let taken = super::routes(&scene.rows).into_iter();
    let rows = taken.map(|taken| RouteRow {
        rule: text::clean(&taken.rule()),
        backend: text::clean(taken.backend()),
        share: taken.share,
        rate: taken.requests_per_second,
    });
    rows.collect()
}

/// What is shown of policies: as in the playground's view.
fn policies_scene(scene: &Scene) -> Vec<PolicyRow> {
    let rows = scene.rows.iter().flat_map(|row| {
        row.policies.iter().map(|one| PolicyRow {
            pod: text::clean(&row.pod),
            of: text::clean(&one.of),
            what: text::clean(&one.what),
            full: one.full,
            words: text::clean(&one.words),
            is_pressed: one.is_pressed,
        })
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by_key(|row| !row.is_pressed);
    rows
}

fn draw_top(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    let [first, second] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let title = Line::from(vec![
        Span::styled(" remora ", theme.title()),
        Span::styled(
            format!("top · {}", text::clean(&scene.title)),
            theme.quiet(),
        ),
    ]);
    frame.render_widget(title, first);
    let silent = scene.rows.iter().filter(|row| row.error.is_some()).count();
    let inbound: f64 = scene
        .rows
        .iter()
        .map(|row| row.inbound.requests_per_second)
        .sum();
    let open: usize = scene.rows.iter().map(|row| row.breakers_open).sum();
    let mark = |count: usize, tone: Tone| {
        if count > 0 {
            theme.tone(tone)
        } else {
            theme.plain()
        }
    };
    let words = [
        (" pods ", scene.rows.len().to_string(), theme.plain()),
        ("   silent ", silent.to_string(), mark(silent, Tone::Bad)),
        ("   inbound ", format!("{inbound:.0}/s"), theme.plain()),
        ("   breakers open ", open.to_string(), mark(open, Tone::Bad)),
    ];
    let spans = words.into_iter().flat_map(|(name, value, style)| {
        [
            Span::styled(name, theme.quiet()),
            Span::styled(value, style),
        ]
    });
    frame.render_widget(Line::from(spans.collect::<Vec<_>>()), second);
}

fn draw_pods(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    if scene.rows.is_empty() {
        let text = " No pods with a sidecar here (-A shows all namespaces).";
        frame.render_widget(Line::styled(text, theme.quiet()), area);
        return;
    }
    // Each column of numbers has one space before it.
    let numbers: u16 = NUMBERS.iter().map(|(_, width)| width + 1).sum();
    let width = area.width.saturating_sub(numbers);
    let many = scene
        .rows
        .iter()
        .any(|row| row.namespace != scene.rows[0].namespace);
    let shown = scene.rows.iter().skip(scene.first).take(scene.visible);
    let rows = shown
        .clone()
        .map(|row| pod_row(row, many, usize::from(width), theme));
    let heading = NUMBERS
        .iter()
        .map(|(word, _)| Cell::from(Line::from(*word).right_aligned()));
    let heading = [Cell::from(" pod")].into_iter().chain(heading);
    let columns = NUMBERS.map(|(_, width)| Constraint::Length(width));
    let columns = [Constraint::Length(width)].into_iter().chain(columns);
    let table = Table::new(rows, columns)
        .column_spacing(1)
        .header(TableRow::new(heading).style(theme.heading()));
    frame.render_widget(table, area);
    // Why nothing is known of a pod stands where its numbers would.
    for (y, row) in (area.y + 1..).zip(shown) {
        if let Some(error) = &row.error {
            let place = Rect::new(area.x + width + 1, y, numbers - 1, 1);
            let error = Line::styled(text::clean(error), theme.tone(Tone::Bad));
            frame.render_widget(error, place);
        }
    }
}

fn pod_row(row: &Row, with_namespace: bool, width: usize, theme: Theme) -> TableRow<'static> {
    let name = if with_namespace {
        format!("{}/{}", row.namespace, row.pod)
    } else {
        row.pod.clone()
    };
    let name = format!(" {}", fitted(&text::clean(&name), width.saturating_sub(1)));
    if row.error.is_some() {
        return TableRow::new([Cell::from(Span::styled(name, theme.plain()))]);
    }
    let main = row.main();
    let marks = [
        None,
        main.success_percent
            .filter(|ok| *ok < 99.95)
            .map(|_| Tone::Bad),
        None,
        main.p99_ms
            .filter(|ms| *ms >= SLOW_MS)
            .map(|_| Tone::Notice),
        (row.retries_per_second > 0.0).then_some(Tone::Notice),
        (row.limited_per_second > 0.0).then_some(Tone::Notice),
        (row.breakers_open > 0).then_some(Tone::Bad),
    ];
    let numbers = numbers(row).into_iter().zip(marks).map(|(text, mark)| {
        let style = match mark {
            Some(tone) => theme.tone(tone),
            None if text == NONE => theme.quiet(),
            None => theme.plain(),
        };
        Cell::from(Line::styled(text, style).right_aligned())
    });
    let name = Cell::from(Span::styled(name, theme.plain()));
    TableRow::new([name].into_iter().chain(numbers))
}

/// Where there is nothing to tell.
const NONE: &str = "·";

/// The numbers of a row as they are shown: requests, success, median and 99th
/// percentile, retries, limited, open breakers.
pub fn numbers(row: &Row) -> [String; 7] {
    let main = row.main();
    if row.is_new {
        return std::array::from_fn(|_| NONE.to_owned());
    }
    [
        rate(main.requests_per_second),
        main.success_percent.map_or(NONE.to_owned(), percent),
        main.p50_ms.map_or(NONE.to_owned(), few_digits),
        main.p99_ms.map_or(NONE.to_owned(), few_digits),
        rate(row.retries_per_second),
        rate(row.limited_per_second),
        match row.breakers_open {
            0 => NONE.to_owned(),
            open => open.to_string(),
        },
    ]
}

fn rate(per_second: f64) -> String {
    if per_second <= 0.0 {
        NONE.to_owned()
    } else {
        few_digits(per_second)
    }
}

fn few_digits(value: f64) -> String {
    if value < 9.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Never rounded up to a hundred.
fn percent(value: f64) -> String {
    if value >= 100.0 {
        "100".to_owned()
    } else {
        format!("{:.1}", (value * 10.0).floor() / 10.0)
    }
}

/// A name that is too long loses its middle: its end tells pods apart.
fn fitted(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width || width < 5 {
        return name.to_owned();
    }
    let head: String = name.chars().take((width - 1) / 2).collect();
    let tail = width - 1 - head.chars().count();
    let tail: String = name.chars().skip(length - tail).collect();
    format!("{head}…{tail}")
}

fn draw_breakers(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    let block = Block::new()
        .borders(Borders::TOP)
        .border_style(theme.quiet())
        .padding(Padding::horizontal(1))
        .title(Span::styled(
            " breakers that are not closed ",
            theme.heading(),
        ));
    let all = scene
        .rows
        .iter()
        .flat_map(|row| row.breakers.iter().map(move |breaker| (row, breaker)));
    let count = all.clone().count();
    let room = usize::from(area.height.saturating_sub(1));
    let mut lines: Vec<Line<'_>> = all
        .take(if count > room { room - 1 } else { room })
        .map(|(row, breaker)| breaker_line(row, breaker, theme))
        .collect();
    if count > room {
        let more = count + 1 - room;
        lines.push(Line::styled(format!("and {more} more"), theme.quiet()));
    }
    if count == 0 {
        lines.push(Line::styled("none: traffic flows", theme.quiet()));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn breaker_line(row: &Row, breaker: &OpenBreaker, theme: Theme) -> Line<'static> {
    let tone = if breaker.state == "open" {
        Tone::Bad
    } else {
        Tone::Notice
    };
    let to = if breaker.endpoint.is_empty() {
        format!("{} (whole service)", breaker.service)
    } else {
        breaker.endpoint.clone()
    };
    let path = text::clean(&format!("{} → {to}  ", row.pod));
    let state = text::clean(&breaker.state.replace('_', " "));
    let cause = text::clean(&format!("  {}", breaker.cause));
    Line::from(vec![
        Span::styled(path, theme.plain()),
        Span::styled(state, theme.tone(tone)),
        Span::styled(cause, theme.quiet()),
    ])
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    let last = (scene.first + scene.visible).min(scene.rows.len());
    let place = format!("   {}-{last} of {}", scene.first + 1, scene.rows.len());
    let place = if scene.rows.is_empty() {
        String::new()
    } else {
        place
    };
    let sorted = format!("sort (by {})", scene.order.word());
    let mut words = vec![Span::styled(" ", Style::new())];
    for (key, what) in [("↑↓", "scroll"), ("s", sorted.as_str()), ("q", "quit")] {
        words.push(Span::styled(key, theme.heading()));
        words.push(Span::styled(format!(" {what}   "), theme.quiet()));
    }
    words.push(Span::styled(place, theme.quiet()));
    frame.render_widget(Line::from(words), area);
}
