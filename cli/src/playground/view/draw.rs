//! The live view, drawn: a pure function of the scene.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Block, BorderType, Borders, Cell, Clear, Padding, Paragraph, Row, Sparkline, Table, Wrap,
};

use super::scene::{BreakerRow, EventRow, PodRow, Scene, Tone};
use super::theme::Theme;
use super::{LEAST_COLUMNS, LEAST_ROWS};
use super::{policies, routes};

/// The least height of the lower panels, frame included.
const LEAST_LOWER_ROWS: u16 = 6;
/// Problems of the YAML that have a line of their own.
const MOST_PROBLEM_ROWS: usize = 3;
/// The name column of pods is at least so wide.
const LEAST_NAME_COLUMNS: u16 = 13;
/// And at most.
const MOST_NAME_COLUMNS: u16 = 32;
/// From this width on the sparkline has its place.
const SPARKLINE_COLUMNS: u16 = 100;

/// Draws everything.
pub fn draw(
    frame: &mut Frame<'_>,
    scene: &Scene,
    selected: usize,
    is_help_open: bool,
    theme: Theme,
) {
    let area = frame.area();
    if area.width < LEAST_COLUMNS || area.height < LEAST_ROWS {
        let text = format!(
            "The live view needs {LEAST_COLUMNS}x{LEAST_ROWS}; this terminal has {}x{}.",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let problem_rows = problem_rows(scene, area.width);
    let pod_rows = u16::try_from(scene.pods.len())
        .unwrap_or(u16::MAX)
        .saturating_add(1);
    let most_pod_rows = area
        .height
        .saturating_sub(2 + 1 + 1 + LEAST_LOWER_ROWS + problem_rows + 1);
    let [top, _, pods, _, lower, problems, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Length(pod_rows.min(most_pod_rows)),
        Constraint::Length(1),
        Constraint::Min(LEAST_LOWER_ROWS - 1),
        Constraint::Length(problem_rows),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_top(frame, top, scene, theme);
    draw_pods(frame, pods, scene, selected, theme);
    let [breakers, events] =
        Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)])
            .spacing(1)
            .areas(lower);
    let [ways, working, breakers] = Layout::vertical([
        Constraint::Length(routes::rows(&scene.routes)),
        Constraint::Length(policies::rows(&scene.policies)),
        Constraint::Min(LEAST_LOWER_ROWS - 3),
    ])
    .areas(breakers);
    if ways.height > 0 {
        routes::draw(frame, ways, &scene.routes, theme);
    }
    if working.height > 0 {
        policies::draw(frame, working, &scene.policies, theme);
    }
    draw_breakers(frame, breakers, scene, theme);
    draw_events(frame, events, scene, theme);
    draw_problems(frame, problems, scene, theme);
    draw_keys(frame, keys, theme);
    if is_help_open {
        draw_help(frame, area, theme);
    }
}

fn draw_top(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    let [first, second] =
        Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let title = Line::from(vec![
        Span::styled(" remora ", theme.title()),
        Span::styled(format!("playground · {}", scene.title), theme.quiet()),
    ]);
    frame.render_widget(title, first);
    frame.render_widget(
        Paragraph::new(time(scene, theme)).alignment(Alignment::Right),
        first,
    );
    let [numbers, spark] = if second.width >= SPARKLINE_COLUMNS {
        Layout::horizontal([Constraint::Min(70), Constraint::Length(31)]).areas(second)
    } else {
        [second, Rect::ZERO]
    };
    frame.render_widget(load(scene, theme), numbers);
    if spark.width > 0 {
        let width = usize::from(spark.width) - 1;
        let history: Vec<u64> = scene
            .load
            .history
            .iter()
            .rev()
            .take(width)
            .rev()
            .copied()
            .collect();
        let sparkline = Sparkline::default().data(history).style(theme.heading());
        frame.render_widget(
            sparkline,
            Rect {
                width: spark.width - 1,
                ..spark
            },
        );
    }
}

fn time(scene: &Scene, theme: Theme) -> Line<'static> {
    let clock = |seconds: u64| format!("{:02}:{:02}", seconds / 60, seconds % 60);
    let mut words = Vec::new();
    if scene.waiting_for.is_some() {
        words.push(Span::styled("starting ", theme.tone(Tone::Notice)));
    } else {
        words.push(Span::styled(clock(scene.elapsed_seconds), theme.plain()));
        if let Some(length) = scene.length_seconds {
            words.push(Span::styled(format!(" / {}", clock(length)), theme.quiet()));
        }
        words.push(Span::raw(" "));
    }
    Line::from(words)
}

fn load(scene: &Scene, theme: Theme) -> Line<'static> {
    if let Some(what) = &scene.waiting_for {
        return Line::from(Span::styled(
            format!(" waiting for {what}"),
            theme.tone(Tone::Notice),
        ));
    }
    let load = &scene.load;
    let failed_tone = if load.failed == 0 {
        Tone::Good
    } else {
        Tone::Bad
    };
    let mut words = vec![
        Span::styled(" load ", theme.quiet()),
        Span::styled(format!("{:.0}/s", load.rate), theme.plain()),
    ];
    for (name, value) in [
        ("p50", milliseconds(Some(load.p50_ms))),
        ("p99", milliseconds(Some(load.p99_ms))),
        ("requests", load.requests.to_string()),
    ] {
        words.push(Span::styled(format!("   {name} "), theme.quiet()));
        words.push(Span::styled(value, theme.plain()));
    }
    words.push(Span::styled("   failed ", theme.quiet()));
    words.push(Span::styled(
        load.failed.to_string(),
        theme.tone(failed_tone),
    ));
    Line::from(words)
}

fn draw_pods(frame: &mut Frame<'_>, area: Rect, scene: &Scene, selected: usize, theme: Theme) {
    let visible = usize::from(area.height.saturating_sub(1)).max(1);
    let first = (selected + 1).saturating_sub(visible);
    let rows = scene
        .pods
        .iter()
        .enumerate()
        .skip(first)
        .take(visible)
        .map(|(index, pod)| {
            let row = pod_row(pod, index == selected, theme);
            if index == selected {
                row.style(theme.selected())
            } else {
                row
            }
        });
    let heading = [
        "", "pod", "state", "req/s", "p50 ms", "p99 ms", "err/s", "retry/s", "limit/s",
    ];
    let heading = heading.iter().enumerate().map(|(index, word)| {
        let line = Line::from(*word);
        Cell::from(if index > 2 {
            line.right_aligned()
        } else {
            line
        })
    });
    let names = scene.pods.iter().map(|pod| pod.name.len());
    let longest = u16::try_from(names.max().unwrap_or(0)).unwrap_or(u16::MAX);
    let longest = longest.clamp(LEAST_NAME_COLUMNS, MOST_NAME_COLUMNS);
    let table = Table::new(
        rows,
        [
            Constraint::Length(2),
            Constraint::Length(longest),
            Constraint::Length(15),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Fill(1),
            Constraint::Fill(1),
        ],
    )
    .header(Row::new(heading).style(theme.heading()));
    frame.render_widget(table, area);
}

fn pod_row(pod: &PodRow, is_selected: bool, theme: Theme) -> Row<'static> {
    let tone = pod.tone.unwrap_or(Tone::Quiet);
    let mark = if is_selected { " ▸" } else { "" };
    let sign = match tone {
        Tone::Good => "●",
        Tone::Notice => "◌",
        Tone::Bad => "✖",
        Tone::Quiet => "·",
    };
    let number = |text: String, is_remarkable: bool, remark: Tone| {
        let style = if is_remarkable {
            theme.tone(remark)
        } else {
            theme.plain()
        };
        let style = if text == "·" { theme.quiet() } else { style };
        Cell::from(Line::styled(text, style).right_aligned())
    };
    let is_slow = pod.p99_ms.is_some_and(|ms| ms >= 250.0);
    Row::new(vec![
        Cell::from(Span::styled(mark, theme.heading())),
        Cell::from(Span::styled(pod.name.clone(), theme.plain())),
        Cell::from(Line::from(vec![
            Span::styled(format!("{sign} "), theme.tone(tone)),
            Span::styled(pod.state.clone(), theme.tone(tone)),
        ])),
        number(rate(pod.requests), false, Tone::Good),
        number(milliseconds_alone(pod.p50_ms), false, Tone::Good),
        number(milliseconds_alone(pod.p99_ms), is_slow, Tone::Notice),
        number(rate(pod.failures), pod.failures > 0.0, Tone::Bad),
        number(rate(pod.retries), pod.retries > 0.0, Tone::Notice),
        number(rate(pod.limited), pod.limited > 0.0, Tone::Notice),
    ])
}

/// A panel's frame.
pub(super) fn panel(title: String, theme: Theme) -> Block<'static> {
    Block::new()
        .borders(Borders::TOP)
        .border_type(BorderType::Plain)
        .border_style(theme.quiet())
        .padding(Padding::horizontal(1))
        .title(Span::styled(format!(" {title} "), theme.heading()))
}

fn draw_breakers(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    let block = panel("breakers".to_owned(), theme);
    let lines: Vec<Line<'_>> = if scene.breakers.is_empty() {
        let text = match scene.breakers_known {
            0 => "none yet: no call was made".to_owned(),
            1 => "the only one is closed: traffic flows".to_owned(),
            known => format!("all {known} are closed: traffic flows"),
        };
        vec![Line::styled(text, theme.quiet())]
    } else {
        scene
            .breakers
            .iter()
            .flat_map(|breaker| breaker_lines(breaker, theme))
            .collect()
    };
    frame.render_widget(
        Paragraph::new(lines)
            .wrap(Wrap { trim: false })
            .block(block),
        area,
    );
}

fn breaker_lines(breaker: &BreakerRow, theme: Theme) -> [Line<'static>; 2] {
    let tone = if breaker.state == "open" {
        Tone::Bad
    } else {
        Tone::Notice
    };
    let path = format!("{} → {}  ", breaker.caller, breaker.endpoint);
    [
        Line::from(vec![
            Span::styled(path, theme.plain()),
            Span::styled(breaker.state.clone(), theme.tone(tone)),
            Span::styled(format!("  {}", seconds(breaker.for_ms)), theme.plain()),
        ]),
        Line::styled(format!("  {}", breaker.cause), theme.quiet()),
    ]
}

fn draw_events(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    let lines: Vec<Line<'_>> = scene
        .events
        .iter()
        .map(|event| event_line(event, theme))
        .collect();
    frame.render_widget(
        Paragraph::new(lines)
            .wrap(Wrap { trim: false })
            .block(panel("events".to_owned(), theme)),
        area,
    );
}

fn event_line(event: &EventRow, theme: Theme) -> Line<'static> {
    #[allow(clippy::cast_precision_loss, reason = "a time to be read")]
    let at = event.at_ms as f64 / 1000.0;
    Line::from(vec![
        Span::styled(format!("{at:6.1} s  "), theme.quiet()),
        Span::styled(
            event.what.clone(),
            if event.tone == Tone::Quiet {
                theme.plain()
            } else {
                theme.tone(event.tone)
            },
        ),
    ])
}

fn draw_problems(frame: &mut Frame<'_>, area: Rect, scene: &Scene, theme: Theme) {
    let lines: Vec<Line<'_>> = if scene.problems.is_empty() {
        vec![Line::from(vec![
            Span::styled(" yaml ", theme.heading()),
            Span::styled(
                format!(
                    "{}: no problems; edit and save, and it is in force",
                    scene.folder
                ),
                theme.quiet(),
            ),
        ])]
    } else {
        let more = scene.problems.len().saturating_sub(MOST_PROBLEM_ROWS);
        let shown = scene.problems.iter().take(MOST_PROBLEM_ROWS).enumerate();
        shown
            .map(|(index, problem)| {
                let rest = if more > 0 && index + 1 == MOST_PROBLEM_ROWS {
                    format!(" (and {more} more)")
                } else {
                    String::new()
                };
                let head = if index == 0 { " yaml " } else { "      " };
                Line::from(vec![
                    Span::styled(head, theme.heading()),
                    Span::styled(format!("{problem}{rest}"), theme.tone(Tone::Bad)),
                ])
            })
            .collect()
    };
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}

/// The rows that the YAML's problems need, wrapped, within bounds.
fn problem_rows(scene: &Scene, width: u16) -> u16 {
    let width = usize::from(width).max(1);
    let rows = scene
        .problems
        .iter()
        .map(|problem| (problem.chars().count() + 7).div_ceil(width));
    let rows = rows.sum::<usize>().clamp(1, MOST_PROBLEM_ROWS);
    u16::try_from(rows).unwrap_or(1)
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    let keys = [
        ("↑↓", "select"),
        ("k", "kill"),
        ("r", "revive"),
        ("s", "slow"),
        ("b", "break"),
        ("?", "help"),
        ("q", "quit"),
    ];
    let mut words = vec![Span::raw(" ")];
    for (key, what) in keys {
        words.push(Span::styled(key, theme.heading()));
        words.push(Span::styled(format!(" {what}   "), theme.quiet()));
    }
    frame.render_widget(Line::from(words), area);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect, theme: Theme) {
    const TEXT: [&str; 15] = [
        "↑ ↓  j     select a pod",
        "k          kill it: SIGKILL to application and sidecar; its",
        "           endpoint stays listed, so breakers have to open",
        "r          revive it",
        "s          its application answers 500 ms later; again: as before",
        "b          its application answers 503; again: mended",
        "q  Ctrl-C  end, and leave nothing behind",
        "",
        "req/s      to the pod (visitor: from it), seen by its sidecar",
        "retry/s    attempts of the pod's sidecar beyond the first",
        "limit/s    requests refused by a rate limit or another limit",
        "open       traffic is refused; half open: a probe decides",
        "",
        "From another terminal: remora playground kill catalog-1",
        "",
    ];
    let width = 72.min(area.width - 4);
    let height = 18.min(area.height - 2);
    let place = Rect {
        x: (area.width - width) / 2,
        y: (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(theme.heading())
        .padding(Padding::uniform(1))
        .title(Span::styled(" help · any key closes ", theme.title()));
    let lines: Vec<Line<'_>> = TEXT
        .iter()
        .map(|line| Line::styled(*line, theme.plain()))
        .collect();
    frame.render_widget(Clear, place);
    frame.render_widget(
        Paragraph::new(lines).block(block).style(Style::new()),
        place,
    );
}

fn rate(per_second: f64) -> String {
    match per_second {
        none if none <= 0.0 => "·".to_owned(),
        few if few < 9.95 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    }
}

fn milliseconds(ms: Option<f64>) -> String {
    format!("{} ms", milliseconds_alone(ms))
}

fn milliseconds_alone(ms: Option<f64>) -> String {
    match ms {
        None => "·".to_owned(),
        Some(few) if few < 9.95 => format!("{few:.1}"),
        Some(many) => format!("{many:.0}"),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}
