//! Session persistence: who was served by an endpoint is served by it again.

use remora_proto::v1::{RouteRule, SessionCookie, SessionPersistence, session_persistence::Kind};

use super::stage::{backend, rule, to};
use crate::mesh::{Mesh, policy};
use crate::upstream::{App, status};

async fn named(mesh: &Mesh, service: &str, number: usize, host: u8) -> App {
    let name: &'static str = Box::leak(format!("{service}-{number}").into_boxed_str());
    let app = App::start(mesh.net.at(host), move |_| {
        status(200).header("x-pod", name)
    })
    .await;
    mesh.endpoint(service, number, app.address(), |_| ());
    app
}

fn with_cookie(mut rule: RouteRule, permanent: bool, absolute_timeout_ms: u64) -> RouteRule {
    rule.session_persistence = Some(SessionPersistence {
        absolute_timeout_ms,
        kind: Some(Kind::Cookie(SessionCookie {
            name: "session".into(),
            path: "/".into(),
            permanent,
        })),
    });
    rule
}

#[tokio::test]
async fn a_cookie_leads_back_to_its_endpoint_while_that_is_there() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for number in 0..4 {
        apps.push(named(&mesh, "v1", number, 10 + number as u8).await);
    }
    mesh.service("v1", policy());
    mesh.routes(vec![with_cookie(to("v1"), false, 0)]);
    let mut client = mesh.client().await;
    let first = client.get("catalog:8080", "/").await;
    let (pod, cookie) = (first.header("x-pod").to_owned(), first.header("set-cookie"));
    let pair = cookie.split(';').next().unwrap();
    assert!(
        cookie.contains("Path=/") && !cookie.contains("Max-Age"),
        "{cookie}"
    );
    for app in &apps {
        assert!(!cookie.contains(&app.address().ip().to_string()));
    }
    let headers = format!("cookie: a=b; {pair}\r\n");
    for _ in 0..50 {
        let answer = client
            .request("GET", "catalog:8080", "/", &headers, "")
            .await;
        assert_eq!(answer.header("x-pod"), pod);
        assert_eq!(answer.header("set-cookie"), "", "the caller has it");
    }
    let number: usize = pod.rsplit('-').next().unwrap().parse().unwrap();
    mesh.remove_endpoint("v1", number);
    let mut new = String::new();
    crate::eventually("another is chosen", async || {
        let answer = client
            .request("GET", "catalog:8080", "/", &headers, "")
            .await;
        new = answer.header("set-cookie").to_owned();
        answer.header("x-pod") != pod && !new.is_empty()
    })
    .await;
    assert_ne!(new.split(';').next().unwrap(), pair);
    // What nobody gave is none: any endpoint, and a session of its own.
    let forged = "cookie: session=00000000\r\n";
    let answer = client.request("GET", "catalog:8080", "/", forged, "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("set-cookie").starts_with("session="));
}

#[tokio::test]
async fn weights_choose_the_backend_and_within_each_the_session_holds() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for (at, service) in ["v1", "v2"].into_iter().enumerate() {
        for number in 0..3 {
            let host = 10 + (at * 3 + number) as u8;
            apps.push(named(&mesh, service, number, host).await);
        }
        mesh.service(service, policy());
    }
    let mut split = with_cookie(rule("split"), false, 0);
    split.backends = vec![backend("v1", 50), backend("v2", 50)];
    mesh.routes(vec![split]);
    let mut client = mesh.client().await;
    let mut cookie = String::new();
    let mut pods = std::collections::BTreeMap::new();
    for _ in 0..200 {
        let headers = match cookie.as_str() {
            "" => String::new(),
            cookie => format!("cookie: {cookie}\r\n"),
        };
        let answer = client
            .request("GET", "catalog:8080", "/", &headers, "")
            .await;
        if let Some(pair) = answer.header("set-cookie").split(';').next()
            && !pair.is_empty()
        {
            cookie = pair.to_owned();
        }
        *pods.entry(answer.header("x-pod").to_owned()).or_insert(0) += 1;
    }
    assert_eq!(pods.len(), 2, "one endpoint of each: {pods:?}");
    assert!(pods.values().all(|count| *count > 50), "{pods:?}");
}

#[tokio::test]
async fn a_header_carries_a_session_and_a_permanent_cookie_says_for_how_long() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for number in 0..3 {
        apps.push(named(&mesh, "v1", number, 10 + number as u8).await);
    }
    mesh.service("v1", policy());
    let mut by_header = to("v1");
    by_header.session_persistence = Some(SessionPersistence {
        absolute_timeout_ms: 0,
        kind: Some(Kind::Header("x-session".into())),
    });
    mesh.routes(vec![by_header]);
    let mut client = mesh.client().await;
    let first = client.get("catalog:8080", "/").await;
    let headers = format!("x-session: {}\r\n", first.header("x-session"));
    for _ in 0..30 {
        let answer = client
            .request("GET", "catalog:8080", "/", &headers, "")
            .await;
        assert_eq!(answer.header("x-pod"), first.header("x-pod"));
        assert_eq!(answer.header("x-session"), first.header("x-session"));
    }
    mesh.change_routes(vec![with_cookie(to("v1"), true, 300_000)])
        .await;
    let cookie = client.get("catalog:8080", "/").await;
    let cookie = cookie.header("set-cookie");
    assert!(cookie.contains("Max-Age=300"), "{cookie}");
    mesh.change_routes(vec![with_cookie(to("v1"), false, 1_000)])
        .await;
    let first = client.get("catalog:8080", "/").await;
    let pair = first
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let headers = format!("cookie: {pair}\r\n");
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let answer = client
        .request("GET", "catalog:8080", "/", &headers, "")
        .await;
    assert_ne!(
        answer.header("set-cookie"),
        "",
        "it is over, and given anew"
    );
}
