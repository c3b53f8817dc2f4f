use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::scene::{BreakerRow, EventRow, LoadRow, PodRow, PolicyRow, RouteRow, Scene, Tone};
use super::theme::Theme;
use super::{Focus, Wish, draw};

fn pod(name: &str, requests: f64, tone: Tone, state: &str) -> PodRow {
    PodRow {
        name: name.to_owned(),
        state: state.to_owned(),
        tone: Some(tone),
        requests,
        p50_ms: (requests > 0.0).then_some(1.24),
        p99_ms: (requests > 0.0).then_some(12.6),
        ..PodRow::default()
    }
}

fn scene() -> Scene {
    let mut pods = vec![
        pod("cart-1", 316.4, Tone::Good, "ready"),
        pod("catalog-1", 474.0, Tone::Good, "ready"),
        pod("catalog-2", 0.0, Tone::Bad, "killed 4 s"),
        pod("inventory-1", 8.5, Tone::Good, "ready"),
        pod("web-1", 1000.0, Tone::Good, "ready"),
    ];
    pods[4].retries = 3.0;
    pods[4].limited = 25.1;
    Scene {
        title: "demo · netns".to_owned(),
        elapsed_seconds: 75,
        length_seconds: Some(120),
        load: LoadRow {
            rate: 999.6,
            p50_ms: 1.5,
            p99_ms: 7.25,
            requests: 75_012,
            failed: 0,
            history: [9, 8, 9].into(),
        },
        pods,
        breakers: vec![BreakerRow {
            caller: "web-1".to_owned(),
            endpoint: "catalog-2".to_owned(),
            state: "open".to_owned(),
            for_ms: 1230,
            cause: "3 consecutive failures: connect_failed".to_owned(),
        }],
        breakers_known: 9,
        events: vec![EventRow {
            at_ms: 71_200,
            what: "catalog-2 is killed".to_owned(),
            tone: Tone::Notice,
        }],
        problems: vec!["policies.yaml:12: spec.retries.attempts: 99 is over 10".to_owned()],
        folder: "manifests/demo".to_owned(),
        ..Scene::default()
    }
}

fn screen(width: u16, height: u16, scene: &Scene, is_help_open: bool) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, scene, 2, is_help_open, Theme::new(true)))
        .unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows = buffer.content.chunks(usize::from(width));
    rows.map(|row| {
        row.iter()
            .map(ratatui::buffer::Cell::symbol)
            .collect::<String>()
            .trim_end()
            .to_owned()
    })
    .collect()
}

#[test]
fn everything_is_on_a_small_screen() {
    let screen = screen(80, 24, &scene(), false);
    let expected = [
        " remora playground · demo · netns                                 01:15 / 02:00",
        " load 1000/s   p50 1.5 ms   p99 7.2 ms   requests 75012   failed 0",
        "",
        "   pod           state             req/s  p50 ms  p99 ms   err/s retry/s limit/s",
        "   cart-1        ● ready             316     1.2      13       ·       ·       ·",
        "   catalog-1     ● ready             474     1.2      13       ·       ·       ·",
        " ▸ catalog-2     ✖ killed 4 s          ·       ·       ·       ·       ·       ·",
        "   inventory-1   ● ready             8.5     1.2      13       ·       ·       ·",
        "   web-1         ● ready            1000     1.2      13       ·     3.0      25",
        "",
        " breakers   events ",
        " web-1 → catalog-2  open  1.2 s             71.2 s  catalog-2 is killed",
        "   3 consecutive failures:",
        " connect_failed",
    ];
    let without_rules: Vec<_> = screen.iter().map(|row| row.replace('─', "")).collect();
    assert_eq!(
        without_rules[..expected.len()],
        expected,
        "\n{}",
        screen.join("\n")
    );
    assert!(
        screen[22].starts_with(" yaml policies.yaml:12: spec.retries.attempts"),
        "{}",
        screen[22]
    );
    assert!(screen[23].contains("k kill   r revive"), "{}", screen[23]);
}

#[test]
fn what_a_policy_does_is_told_whole_on_a_small_screen() {
    let row = |of: &str, what: &str, full, words: &str| PolicyRow {
        pod: "reviews-1".to_owned(),
        of: of.to_owned(),
        what: what.to_owned(),
        full,
        words: words.to_owned(),
        is_pressed: true,
    };
    let mut scene = scene();
    scene.policies = vec![
        row(
            "shop/reviews all",
            "rate limit",
            None,
            "15/s admitted, 34/s limited",
        ),
        row(
            "port 8080",
            "admission",
            Some((8.0, 16.0)),
            "refused 16/s sheddable",
        ),
    ];
    let text = screen(100, 30, &scene, false).join("\n");
    for expected in [
        " reviews-1 shop/reviews all rate limit",
        "   15/s admitted, 34/s limited",
        " reviews-1 port 8080 admission █████░░░░░ 8/16",
        "   refused 16/s sheddable",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn routes_are_shown_above_the_breakers_with_the_share_of_each_backend() {
    let row = |backend: &str, share: f64| RouteRow {
        rule: "shop/payment · charge".to_owned(),
        backend: backend.to_owned(),
        share,
        rate: share * 700.0,
    };
    let mut scene = scene();
    scene.routes = vec![row("payment-v1:8080", 0.9), row("payment-v2:8080", 0.1)];
    let screen = screen(100, 30, &scene, false);
    let text = screen.join("\n");
    let expected = [
        " shop/payment · charge",
        "   payment-v1:8080    █████████░  90 %   630/s",
        "   payment-v2:8080    █░░░░░░░░░  10 %    70/s",
    ];
    let at = screen.iter().position(|row| row.contains(" routes "));
    let at = at.unwrap_or_else(|| panic!("no routes in\n{text}"));
    for (row, expected) in screen[at + 1..].iter().zip(expected) {
        assert!(row.starts_with(expected), "{expected:?} in\n{text}");
    }
    assert!(screen[at + 4].contains(" breakers "), "{text}");
    assert!(text.contains("3 consecutive failures"), "{text}");
}

#[test]
fn many_pods_scroll_with_the_selection() {
    let mut scene = scene();
    scene.pods = (0..40)
        .map(|number| pod(&format!("web-{number}"), 1.0, Tone::Good, "ready"))
        .collect();
    let mut terminal = Terminal::new(TestBackend::new(120, 30)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, &scene, 39, false, Theme::new(false)))
        .unwrap();
    let text: String = terminal
        .backend()
        .buffer()
        .content
        .iter()
        .map(ratatui::buffer::Cell::symbol)
        .collect();
    assert!(
        text.contains("web-39") && !text.contains("web-0 "),
        "the selected pod is visible"
    );
    assert!(text.contains("events"), "the lower panels keep their place");
}

#[test]
fn a_screen_that_is_too_small_says_so() {
    assert!(screen(60, 20, &scene(), false)[0].contains("needs 80x24"));
}

#[test]
fn help_names_every_key() {
    let text = screen(80, 24, &scene(), true).join("\n");
    for key in [
        "kill it",
        "revive it",
        "500 ms later",
        "answers 503",
        "leave nothing behind",
    ] {
        assert!(text.contains(key), "{key} in\n{text}");
    }
}

#[test]
fn without_colour_nothing_is_coloured() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, &scene(), 2, true, Theme::new(false)))
        .unwrap();
    let reset = ratatui::style::Color::Reset;
    assert!(
        terminal
            .backend()
            .buffer()
            .content
            .iter()
            .all(|cell| cell.fg == reset && cell.bg == reset)
    );
}

#[test]
fn keys_act_on_the_selected_pod() {
    let mut focus = Focus::default();
    focus.follow(&scene());
    let mut press = |code| focus.key(KeyEvent::new(code, KeyModifiers::NONE));
    assert_eq!(press(KeyCode::Down), Some(Wish::Redraw));
    assert_eq!(
        press(KeyCode::Char('k')),
        Some(Wish::Kill("catalog-1".to_owned()))
    );
    assert_eq!(press(KeyCode::Char('?')), Some(Wish::Redraw));
    assert_eq!(
        press(KeyCode::Char('k')),
        Some(Wish::Redraw),
        "a key closes the help and does nothing else"
    );
    assert_eq!(press(KeyCode::Char('x')), None);
    assert_eq!(press(KeyCode::Char('q')), Some(Wish::Quit));
}
