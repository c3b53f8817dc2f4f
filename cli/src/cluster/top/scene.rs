//! What is shown, and how keys change it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rows::Row;

/// By which column the rows stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Namespace and name.
    #[default]
    Name,
    /// Most requests first.
    Requests,
    /// Least success first.
    Success,
    /// Slowest first.
    Latency,
    /// Most open breakers first.
    Breakers,
}

impl Order {
    /// The column's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Requests => "req/s",
            Self::Success => "ok",
            Self::Latency => "p99",
            Self::Breakers => "open",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Name => Self::Requests,
            Self::Requests => Self::Success,
            Self::Success => Self::Latency,
            Self::Latency => Self::Breakers,
            Self::Breakers => Self::Name,
        }
    }
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// End.
    Quit,
    /// Go on.
    Stay,
}

/// Everything on the screen.
#[derive(Debug, Default)]
pub struct Scene {
    /// Which namespaces.
    pub title: String,
    /// The pods, in their order.
    pub rows: Vec<Row>,
    /// What may be missing, or why nothing new is known.
    pub doubts: Vec<String>,
    /// By which column.
    pub order: Order,
    /// The first row that is shown.
    pub first: usize,
    /// How many rows the last drawing had room for.
    pub visible: usize,
}

impl Scene {
    /// Without pods yet.
    pub fn new(title: String) -> Self {
        Self {
            title,
            visible: 1,
            ..Self::default()
        }
    }

    /// Takes a new look.
    pub fn take(&mut self, rows: Vec<Row>, doubts: Vec<String>) {
        self.rows = rows;
        self.doubts = doubts;
        self.sort();
    }

    /// Says why there is no new look; what was known stays.
    pub fn trouble(&mut self, message: String) {
        self.doubts = vec![message];
    }

    /// Does what a key asks for.
    pub fn key(&mut self, key: KeyEvent) -> Wish {
        let page = self.visible.max(1);
        let last = self.rows.len().saturating_sub(page);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Wish::Quit;
            }
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.first = 0;
                self.sort();
            }
            KeyCode::Up | KeyCode::Char('k') => self.first = self.first.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.first += 1,
            KeyCode::PageUp => self.first = self.first.saturating_sub(page),
            KeyCode::PageDown => self.first += page,
            KeyCode::Home => self.first = 0,
            KeyCode::End => self.first = last,
            _ => {}
        }
        self.first = self.first.min(last);
        Wish::Stay
    }

    fn sort(&mut self) {
        let order = self.order;
        let most = |a: f64, b: f64| b.total_cmp(&a);
        self.rows.sort_by(|a, b| {
            let by = match order {
                Order::Name => std::cmp::Ordering::Equal,
                Order::Requests => most(a.main().requests_per_second, b.main().requests_per_second),
                Order::Success => {
                    let success = |row: &Row| row.main().success_percent.unwrap_or(101.0);
                    success(a).total_cmp(&success(b))
                }
                Order::Latency => {
                    let slowest = |row: &Row| row.main().p99_ms.unwrap_or(-1.0);
                    most(slowest(a), slowest(b))
                }
                Order::Breakers => b.breakers_open.cmp(&a.breakers_open),
            };
            by.then_with(|| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)))
        });
    }
}
