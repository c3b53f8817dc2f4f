//! Colours: few, calm, and none where `NO_COLOR` is set (no-color.org).

use ratatui::style::{Color, Modifier, Style};

use super::scene::Tone;

/// The colours of the view.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    has_colour: bool,
}

impl Theme {
    /// As the environment asks.
    pub fn from_environment() -> Self {
        let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            has_colour: !is_off,
        }
    }

    /// With colours or without.
    pub fn new(has_colour: bool) -> Self {
        Self { has_colour }
    }

    fn colour(self, index: u8) -> Style {
        if self.has_colour {
            Style::new().fg(Color::Indexed(index))
        } else {
            Style::new()
        }
    }

    /// The name at the top.
    pub fn title(self) -> Style {
        self.colour(80).add_modifier(Modifier::BOLD)
    }

    /// Headings and what keys do.
    pub fn heading(self) -> Style {
        self.colour(73)
    }

    /// What may be overlooked.
    pub fn quiet(self) -> Style {
        if self.has_colour {
            self.colour(242)
        } else {
            Style::new().add_modifier(Modifier::DIM)
        }
    }

    /// Numbers and names.
    pub fn plain(self) -> Style {
        self.colour(252)
    }

    /// The selected row.
    pub fn selected(self) -> Style {
        if self.has_colour {
            Style::new()
                .bg(Color::Indexed(236))
                .add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// By weight.
    pub fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Good => self.colour(114),
            Tone::Notice => self.colour(179),
            Tone::Bad => self.colour(174).add_modifier(Modifier::BOLD),
            Tone::Quiet => self.quiet(),
        }
    }
}
