//! What is said of routes, and of one request's way by them, for people.

use std::fmt::Write;

use super::request::{Share, Taken, Way};
use super::routes::Routed;
use crate::cluster::output::{Paint, Tone};
use crate::cluster::text::clean;

/// The routes of a Service; empty where it has none.
pub fn routes(routes: &[Routed], paint: Paint) -> String {
    if routes.is_empty() {
        return String::new();
    }
    let mut text = "\nRoutes:\n".to_owned();
    for route in routes {
        let name = clean(&route.route);
        let message = clean(&route.message);
        // Writing to a String cannot fail.
        let _ = if route.in_force {
            let generation = route.generation;
            writeln!(text, "  {name} (generation {generation}): {message}")
        } else {
            let reason = paint.text(Tone::Bad, route.reason);
            writeln!(text, "  {name}: not in force: {reason}: {message}")
        };
        for problem in &route.problems {
            let reason = paint.text(Tone::Bad, problem.reason);
            let _ = writeln!(text, "    {reason}: {}", clean(&problem.message));
        }
    }
    text
}

/// One request's way.
pub fn way(way: &Way, paint: Paint) -> String {
    let mut text = format!("\nRequest: {}\n", clean(&way.asked));
    let goes = clean(&way.goes);
    let goes = paint.text(Tone::Heading, &goes);
    let _ = writeln!(text, "  goes {goes}");
    if let Some(taken) = &way.taken {
        text.push_str(&of_rule(taken));
    }
    if !way.others.is_empty() {
        text.push_str("\nThe other rules:\n");
    }
    for other in &way.others {
        let (route, rule) = (clean(&other.route), clean(&other.rule));
        let why = paint.text(Tone::Quiet, &other.why);
        let _ = writeln!(text, "  {route} rule {rule}: {why}");
    }
    text
}

fn of_rule(taken: &Taken) -> String {
    let mut text = format!(
        "  by {} rule {}, which takes: {}\n",
        clean(&taken.route),
        clean(&taken.rule),
        clean(&taken.matched)
    );
    let mut line = |name: &str, words: &str| {
        let _ = writeln!(text, "  {name:9} {}", clean(words));
    };
    for filter in &taken.filters {
        line("filter", filter);
    }
    for backend in &taken.backends {
        line("backend", &share(backend));
    }
    for (name, words) in [
        ("timeouts", &taken.timeouts),
        ("retries", &taken.retries),
        ("limits", &taken.limits),
    ] {
        line(name, words.as_deref().unwrap_or("as the Service's"));
    }
    if let Some(limits) = &taken.rate_limits {
        line("rates", &limits.join(", "));
    }
    if !taken.policies.is_empty() {
        line("policies", &taken.policies.join(", "));
    }
    text
}

fn share(share: &Share) -> String {
    let mut words = format!(
        "{} weight {} ({} %)",
        share.backend, share.weight, share.percent
    );
    if let Some(why) = &share.cannot {
        let _ = write!(words, ", which cannot be taken: {why}");
    }
    for filter in &share.filters {
        let _ = write!(words, ", {filter}");
    }
    words
}
