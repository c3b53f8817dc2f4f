//! The live view's panel of routes: who goes where, and how many of a hundred.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::draw::panel;
use super::scene::RouteRow;
use super::theme::Theme;

/// Rows that the panel has at most, its title among them.
const MOST_ROWS: usize = 8;
/// The width of a bar.
const BAR: usize = 10;
/// The width of a backend's name.
const NAME: usize = 18;

/// Rows that the panel needs; none where nothing is routed.
pub fn rows(routes: &[RouteRow]) -> u16 {
    if routes.is_empty() {
        return 0;
    }
    let rows = lines_of(routes).len() + 1;
    u16::try_from(rows.min(MOST_ROWS)).unwrap_or(0)
}

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, area: Rect, routes: &[RouteRow], theme: Theme) {
    let lines: Vec<Line<'_>> = lines_of(routes)
        .into_iter()
        .map(|line| match line {
            Row::Rule(name) => Line::styled(name, theme.plain()),
            Row::Backend(row) => backend(row, theme),
        })
        .collect();
    let panel = panel("routes".to_owned(), theme);
    frame.render_widget(Paragraph::new(lines).block(panel), area);
}

enum Row<'a> {
    Rule(String),
    Backend(&'a RouteRow),
}

/// Each rule, and below it its backends.
fn lines_of(routes: &[RouteRow]) -> Vec<Row<'_>> {
    let mut lines = Vec::new();
    let mut last = None;
    for row in routes {
        if last != Some(&row.rule) {
            lines.push(Row::Rule(row.rule.clone()));
            last = Some(&row.rule);
        }
        lines.push(Row::Backend(row));
    }
    lines
}

fn backend(row: &RouteRow, theme: Theme) -> Line<'static> {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share is from 0 to 1"
    )]
    let full = (row.share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let style = if row.rate > 0.0 {
        theme.plain()
    } else {
        theme.quiet()
    };
    Line::from(vec![
        Span::styled(format!("  {:NAME$.NAME$} ", row.backend), style),
        Span::styled("█".repeat(full), theme.heading()),
        Span::styled("░".repeat(BAR - full), theme.quiet()),
        Span::styled(
            format!("{:4.0} % {:5.0}/s", row.share * 100.0, row.rate),
            style,
        ),
    ])
}
