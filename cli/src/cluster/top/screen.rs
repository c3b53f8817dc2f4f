//! The terminal: taken over, drawn on, given back whatever happens.

use std::io::{Stdout, stdout};

use crossterm::event::{Event, EventStream, KeyEvent};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use futures_util::StreamExt;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::draw;
use super::scene::Scene;
use crate::cluster::error::Error;
use crate::playground::view::theme::Theme;

/// What the terminal says.
#[derive(Debug)]
pub enum Seen {
    /// A key.
    Key(KeyEvent),
    /// It has another size.
    Resized,
    /// It is gone.
    Gone,
}

/// The terminal, taken over; dropping it gives it back.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    events: EventStream,
    theme: Theme,
}

impl Screen {
    /// Takes the terminal over; a panic gives it back too.
    ///
    /// # Errors
    /// When the terminal does not obey.
    pub fn open() -> Result<Self, Error> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        enable_raw_mode()?;
        let opened = execute!(stdout(), EnterAlternateScreen, cursor::Hide)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match opened {
            Ok(terminal) => Ok(Self {
                terminal,
                events: EventStream::new(),
                theme: Theme::from_environment(),
            }),
            Err(error) => {
                give_back();
                Err(error.into())
            }
        }
    }

    /// Draws; that the terminal is gone is noticed by [`Self::next`].
    pub fn draw(&mut self, scene: &mut Scene) {
        let theme = self.theme;
        let _ = self.terminal.draw(|frame| draw::draw(frame, scene, theme));
    }

    /// What happens next.
    pub async fn next(&mut self) -> Seen {
        loop {
            match self.events.next().await {
                Some(Ok(Event::Key(key))) if key.is_press() => return Seen::Key(key),
                Some(Ok(Event::Resize(..))) => return Seen::Resized,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Seen::Gone,
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
}
