//! What a check found.

use serde::Serialize;

use crate::cluster::error::Error;
use crate::cluster::output::{Paint, Tone};
use crate::cluster::text;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// To be known.
    Info,
    /// Works, but not as it should.
    Warning,
    /// Does not work.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What was found.
    pub message: String,
    /// What to do; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub action: String,
}

impl Finding {
    fn new(level: Level, subject: &'static str, message: impl Into<String>, action: &str) -> Self {
        Self {
            level,
            subject,
            message: message.into(),
            action: action.to_owned(),
        }
    }

    /// As it should be.
    pub fn ok(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, subject, message, "")
    }

    /// To be known.
    pub fn info(subject: &'static str, message: impl Into<String>) -> Self {
        Self::new(Level::Info, subject, message, "")
    }

    /// Works, but not as it should.
    pub fn warning(subject: &'static str, message: impl Into<String>, action: &str) -> Self {
        Self::new(Level::Warning, subject, message, action)
    }

    /// Does not work.
    pub fn error(subject: &'static str, message: impl Into<String>, action: &str) -> Self {
        Self::new(Level::Error, subject, message, action)
    }

    /// What could not be looked at: a missing right is no fault of what it hides.
    pub fn unread(subject: &'static str, error: &Error) -> Self {
        match error {
            Error::Forbidden { need, .. } => Self::new(
                Level::Info,
                subject,
                format!("not looked at: you may not {need}"),
                "ask for that right to have this looked at",
            ),
            error => Self::new(
                Level::Warning,
                subject,
                format!("not looked at: {error}"),
                "",
            ),
        }
    }
}

/// The findings for people: marks, and a line that sums them up.
pub fn table(findings: &[Finding], paint: Paint) -> String {
    let widest = findings.iter().map(|finding| finding.subject.len());
    let width = widest.max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (mark, tone) = match finding.level {
            Level::Ok => ("✓", Tone::Good),
            Level::Info => ("·", Tone::Quiet),
            Level::Warning => ("!", Tone::Notice),
            Level::Error => ("✗", Tone::Bad),
        };
        let mark = paint.text(tone, mark);
        let subject = format!("{:width$}", finding.subject);
        let subject = paint.text(Tone::Heading, &subject);
        let message = text::clean(&finding.message);
        text.push_str(&format!("{mark} {subject}  {message}\n"));
        if !finding.action.is_empty() {
            let indent = " ".repeat(width + 4);
            let action = text::clean(&finding.action);
            text.push_str(&format!("{indent}→ {action}\n"));
        }
    }
    text.push_str(&format!("\n{}\n", summary(findings)));
    text
}

fn summary(findings: &[Finding]) -> String {
    let count = |level: Level| findings.iter().filter(|one| one.level == level).count();
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    let fine = count(Level::Ok);
    let rest = format!(
        "{} checked, {fine} fine",
        text::counted(findings.len(), "thing")
    );
    match (errors, warnings) {
        (0, 0) => format!("No problems: {rest}."),
        (errors, warnings) => format!(
            "{}, {}: {rest}.",
            text::counted(errors, "error"),
            text::counted(warnings, "warning")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::error::Need;

    #[test]
    fn each_finding_has_its_mark_and_what_to_do() {
        let need = Need {
            verb: "list",
            resource: "secrets".to_owned(),
            namespace: None,
        };
        let forbidden = Error::Forbidden {
            need,
            message: String::new(),
        };
        let findings = [
            Finding::ok("api server", "v1.34.4"),
            Finding::unread("certificate", &forbidden),
            Finding::warning("pods", "web\u{1b}[2J has none", "restart it"),
            Finding::error("injector", "not ready: 0 of 2", "kubectl logs"),
        ];
        let wanted = "\
✓ api server   v1.34.4
· certificate  not looked at: you may not list secrets in the whole cluster
               → ask for that right to have this looked at
! pods         web\u{fffd}[2J has none
               → restart it
✗ injector     not ready: 0 of 2
               → kubectl logs

1 error, 1 warning: 4 things checked, 1 fine.
";
        assert_eq!(table(&findings, Paint::plain()), wanted);
        assert!(summary(&findings[..1]).starts_with("No problems"));
    }
}
