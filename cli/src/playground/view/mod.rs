//! The live view: what the stage does, in a terminal of 80x24 or more.
//!
//! - [`scene`]: what is shown, as plain data.
//! - [`mod@draw`]: how it is drawn; [`routes`]: its panel of routes.
//! - [`theme`]: in which colours.

pub mod draw;
pub mod policies;
pub mod routes;
pub mod scene;
pub mod theme;

use std::io::{Stdout, Write, stdout};

use anyhow::Context;
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use scene::Scene;
use theme::Theme;

/// The narrowest terminal.
pub const LEAST_COLUMNS: u16 = 80;
/// The lowest terminal.
pub const LEAST_ROWS: u16 = 24;

/// What a key asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// End.
    Quit,
    /// Only the view changed.
    Redraw,
    /// Kill this pod.
    Kill(String),
    /// Revive it.
    Revive(String),
    /// Make it slow, or as before.
    Slow(String),
    /// Break it, or mend it.
    Break(String),
}

/// What the user has selected and opened.
#[derive(Debug, Default)]
pub struct Focus {
    pods: Vec<String>,
    selected: usize,
    is_help_open: bool,
}

impl Focus {
    /// What a key asks for.
    pub fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        let is_control_c =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if is_control_c {
            return Some(Wish::Quit);
        }
        if std::mem::take(&mut self.is_help_open) {
            return Some(Wish::Redraw);
        }
        let last = self.pods.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Char('?' | 'h') => self.is_help_open = true,
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = (self.selected + 1).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            KeyCode::Char(letter) => return self.deed(letter),
            _ => return None,
        }
        Some(Wish::Redraw)
    }

    fn deed(&self, letter: char) -> Option<Wish> {
        let pod = self.pods.get(self.selected)?.clone();
        match letter {
            'k' => Some(Wish::Kill(pod)),
            'r' => Some(Wish::Revive(pod)),
            's' => Some(Wish::Slow(pod)),
            'b' => Some(Wish::Break(pod)),
            _ => None,
        }
    }

    /// Keeps the selection on its pod when pods come and go.
    fn follow(&mut self, scene: &Scene) {
        let selected = self.pods.get(self.selected).cloned();
        self.pods = scene.pods.iter().map(|pod| pod.name.clone()).collect();
        let found = selected.and_then(|name| self.pods.iter().position(|pod| *pod == name));
        self.selected = found
            .unwrap_or(self.selected)
            .min(self.pods.len().saturating_sub(1));
    }
}

/// The terminal, taken over.
pub struct View {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    theme: Theme,
    focus: Focus,
}

impl View {
    /// Takes the terminal over; [`Self::close`], a panic or an error gives it back.
    ///
    /// # Errors
    /// When the terminal does not obey.
    pub fn open() -> anyhow::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enable_raw_mode().context("the terminal cannot be taken over")?;
        execute!(stdout(), EnterAlternateScreen, cursor::Hide)?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(Self {
            terminal,
            theme: Theme::from_environment(),
            focus: Focus::default(),
        })
    }

    /// What a key asks for.
    pub fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        self.focus.key(key)
    }

    /// Draws; a terminal that is gone is noticed elsewhere.
    pub fn draw(&mut self, scene: &Scene) {
        self.focus.follow(scene);
        let (selected, is_help_open, theme) =
            (self.focus.selected, self.focus.is_help_open, self.theme);
        let _ = self
            .terminal
            .draw(|frame| draw::draw(frame, scene, selected, is_help_open, theme));
    }

    /// Gives the terminal back.
    pub fn close(self) {}
}

impl Drop for View {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
}

/// From outside, after the process that had the terminal was killed: it could
/// not give it back, and its settings died with it.
pub fn restore_after_sudden_end() {
    let _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = stdout().flush();
    let _ = std::process::Command::new("stty").arg("sane").status();
}

#[cfg(test)]
mod tests;
