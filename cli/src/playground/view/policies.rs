//! The live view's panel of policies at work: how full, how fast, what is refused.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::draw::panel;
use super::scene::{PolicyRow, Tone};
use super::theme::Theme;

/// Rows that the panel has at most, its title among them.
const MOST_ROWS: usize = 9;
/// The width of a bar.
const BAR: usize = 10;

/// Rows that the panel needs; none where no policy is at work.
pub fn rows(policies: &[PolicyRow]) -> u16 {
    if policies.is_empty() {
        return 0;
    }
    let rows = policies.iter().map(|row| 1 + usize::from(has_words(row)));
    u16::try_from((rows.sum::<usize>() + 1).min(MOST_ROWS)).unwrap_or(0)
}

/// Draws it.
pub fn draw(frame: &mut Frame<'_>, area: Rect, policies: &[PolicyRow], theme: Theme) {
    let lines: Vec<_> = policies.iter().flat_map(|row| lines(row, theme)).collect();
    let panel = panel("policies".to_owned(), theme);
    frame.render_widget(Paragraph::new(lines).block(panel), area);
}

fn has_words(row: &PolicyRow) -> bool {
    !row.words.is_empty()
}

/// The words have a line of their own: half a terminal has no room for them beside
/// the rest.
fn lines(row: &PolicyRow, theme: Theme) -> impl Iterator<Item = Line<'static>> {
    let style = if row.is_pressed {
        theme.tone(Tone::Notice)
    } else {
        theme.plain()
    };
    let mut words = vec![
        Span::styled(format!(" {} ", row.pod), theme.plain()),
        Span::styled(format!("{} {} ", row.of, row.what), theme.quiet()),
    ];
    if let Some((taken, most)) = row.full {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share from 0 to 1"
        )]
        let full = ((taken / most.max(1.0)).clamp(0.0, 1.0) * BAR as f64).round() as usize;
        words.push(Span::styled("█".repeat(full), style));
        words.push(Span::styled("░".repeat(BAR - full), theme.quiet()));
        words.push(Span::styled(format!(" {taken:.0}/{most:.0} "), style));
    }
    let told = Span::styled(format!("   {}", row.words), style);
    let told = has_words(row).then(|| Line::from(told));
    std::iter::once(Line::from(words)).chain(told)
}
