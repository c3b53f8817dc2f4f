//! The live view as a picture: drawn on a screen that a test can read.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::draw;
use super::rows::{Flow, OpenBreaker, Row};
use super::scene::{Order, Scene, Wish};
use crate::playground::measure::routes::{Taken, Way};
use crate::playground::view::theme::Theme;

fn pod(name: &str, requests: f64, ok: f64) -> Row {
    Row {
        namespace: "shop".to_owned(),
        pod: name.to_owned(),
        inbound: Flow {
            requests_per_second: requests,
            success_percent: (requests > 0.0).then_some(ok),
            p50_ms: (requests > 0.0).then_some(1.24),
            p99_ms: (requests > 0.0).then_some(312.6),
        },
        ..Row::default()
    }
}

fn scene() -> Scene {
    let mut rows = vec![
        pod("catalog-7d9f8b6c5d-x2x4z", 474.0, 100.0),
        pod("web-6b7c9d8f4-q8wzt", 1000.4, 99.96),
        pod("inventory-0", 0.0, 100.0),
        pod(
            "cart-5c6d7e8f9-a-name-that-is-much-too-long-to-be-shown-whole",
            8.46,
            87.25,
        ),
        pod("silent-1", 0.0, 0.0),
    ];
    rows[1].retries_per_second = 3.0;
    rows[1].limited_per_second = 25.1;
    rows[1].breakers_open = 1;
    rows[1].breakers = vec![OpenBreaker {
        service: "shop/catalog".to_owned(),
        endpoint: "catalog-2".to_owned(),
        state: "half_open".to_owned(),
        cause: "3 consecutive\u{1b}[2J failures".to_owned(),
    }];
    rows[4].error = Some("does not answer".to_owned());
    let mut scene = Scene::new("namespace shop".to_owned());
    scene.take(rows, vec!["only 500 sidecars are asked".to_owned()]);
    scene
}

fn screen(width: u16, height: u16, scene: &mut Scene, theme: Theme) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, scene, theme))
        .unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows = buffer.content.chunks(usize::from(width));
    rows.map(|row| {
        let text: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.trim_end().to_owned()
    })
    .collect()
}

#[test]
fn everything_is_on_a_small_screen() {
    let drawn = screen(80, 24, &mut scene(), Theme::new(true));
    let wanted = [
        " remora top · namespace shop",
        " pods 5   silent 1   inbound 1483/s   breakers open 1",
        "",
        " pod                              req/s  ok % p50 ms p99 ms retry/s limit/s open",
        " cart-5c6d7e8f9…-be-shown-whole     8.5  87.2    1.2    313       ·       ·    ·",
        " catalog-7d9f8b6c5d-x2x4z           474   100    1.2    313       ·       ·    ·",
        " inventory-0                          ·     ·      ·      ·       ·       ·    ·",
        " silent-1                       does not answer",
        " web-6b7c9d8f4-q8wzt               1000  99.9    1.2    313     3.0      25    1",
    ];
    assert_eq!(drawn[..wanted.len()], wanted, "\n{}", drawn.join("\n"));
    assert!(
        drawn[16].contains("breakers that are not closed"),
        "\n{}",
        drawn.join("\n")
    );
    assert_eq!(
        drawn[17],
        " web-6b7c9d8f4-q8wzt → catalog-2  half open  3 consecutive\u{fffd}[2J failures"
    );
    assert_eq!(drawn[22], " only 500 sidecars are asked");
    assert_eq!(
        drawn[23],
        " ↑↓ scroll   s sort (by name)   q quit      1-5 of 5"
    );
}

#[test]
fn many_pods_scroll_and_stay_in_bounds_when_the_terminal_changes() {
    let mut scene = scene();
    let rows = (0..100).map(|number| pod(&format!("web-{number:03}"), 1.0, 100.0));
    scene.take(rows.collect(), Vec::new());
    let press = |scene: &mut Scene, code| scene.key(KeyEvent::new(code, KeyModifiers::NONE));
    let top = screen(80, 24, &mut scene, Theme::new(false)).join("\n");
    assert!(top.contains("web-000") && !top.contains("web-099"), "{top}");
    press(&mut scene, KeyCode::End);
    let end = screen(80, 24, &mut scene, Theme::new(false)).join("\n");
    assert!(end.contains("web-099") && end.contains("of 100"), "{end}");
    press(&mut scene, KeyCode::PageDown);
    let tall = screen(120, 120, &mut scene, Theme::new(false)).join("\n");
    assert!(
        tall.contains("web-000") && tall.contains("web-099"),
        "all fit now"
    );
    press(&mut scene, KeyCode::Up);
    assert_eq!(press(&mut scene, KeyCode::Char('q')), Wish::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(scene.key(control_c), Wish::Quit);
}

#[test]
fn rows_are_sorted_by_what_is_asked_for() {
    let mut scene = scene();
    let mut first_by = Vec::new();
    for _ in 0..5 {
        first_by.push((
            scene.order,
            scene.rows[0].pod.chars().take(4).collect::<String>(),
        ));
        scene.key(KeyEvent::new(KeyCode::Char('s'), KeyModifiers::NONE));
    }
    let wanted = [
        (Order::Name, "cart"),
        (Order::Requests, "web-"),
        (Order::Success, "cart"),
        (Order::Latency, "cart"),
        (Order::Breakers, "web-"),
    ];
    let wanted = wanted.map(|(order, pod)| (order, pod.to_owned()));
    assert_eq!(first_by, wanted);
    assert_eq!(scene.order, Order::Name);
}

#[test]
fn a_screen_that_is_too_small_says_so_and_an_empty_one_what_to_try() {
    assert!(screen(60, 20, &mut scene(), Theme::new(true))[0].contains("needs 80x24"));
    let mut empty = Scene::new("namespace shop".to_owned());
    let drawn = screen(80, 24, &mut empty, Theme::new(true)).join("\n");
    assert!(drawn.contains("No pods with a sidecar") && drawn.contains("none: traffic flows"));
}

#[test]
fn without_colour_nothing_is_coloured() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal
        .draw(|frame| draw::draw(frame, &mut scene(), Theme::new(false)))
        .unwrap();
    let reset = ratatui::style::Color::Reset;
    let cells = &terminal.backend().buffer().content;
    assert!(
        cells
            .iter()
            .all(|cell| cell.fg == reset && cell.bg == reset)
    );
}

#[test]
fn where_requests_go_by_routes_is_shown_for_all_pods_together() {
    let way = |backend: &str, rate: f64| Taken {
        way: Way {
            service: "shop/payment".to_owned(),
            route: "shop/canary".to_owned(),
            rule: "charge".to_owned(),
            backend: backend.to_owned(),
        },
        requests_per_second: rate,
        share: 1.0,
    };
    let mut scene = scene();
    scene.rows[0].routes = vec![way("shop/payment-v1:8080", 60.0)];
    scene.rows[1].routes = vec![
        way("shop/payment-v1:8080", 30.0),
        way("shop/payment-v2:8080", 10.0),
    ];
    let drawn = screen(100, 30, &mut scene, Theme::new(true)).join("\n");
    for wanted in [
        "routes ",
        "shop/payment · shop/canary · charge",
        "payment-v1:8080    █████████░  90 %    90/s",
        "payment-v2:8080    █░░░░░░░░░  10 %    10/s",
        "breakers that are not closed",
    ] {
        assert!(drawn.contains(wanted), "{wanted} in\n{drawn}");
    }
    let once = super::table(&scene.rows, crate::cluster::output::Paint::plain());
    assert!(once.contains("payment-v2:8080   10.0 %"), "{once}");
}
