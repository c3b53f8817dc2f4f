//! The access log: one JSON object for each request and raw connection.

use crate::eventually;
use crate::mesh::{Mesh, limits};
use crate::sidecar::Options;
use crate::upstream::App;

#[tokio::test]
async fn each_request_is_one_line_with_its_end_and_no_line_is_forged() {
    let options = Options {
        access_log: true,
        ..Options::default()
    };
    let mesh = Mesh::start_with(options).await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(
        limits(|limits| limits.max_requests = Some(10)),
        &[app.address()],
    );
    assert_eq!(mesh.get("/a%0A?b=c").await.status, 200);
    mesh.service("catalog", limits(|limits| limits.max_requests = Some(0)));
    eventually("it is refused", async || mesh.get("/b").await.status == 503).await;
    eventually("both are logged", async || {
        let lines = mesh.sidecar.access_log();
        lines.iter().any(|line| line["reason"] == "overloaded")
    })
    .await;
    let lines = mesh.sidecar.access_log();
    let first = &lines[0];
    assert_eq!(first["path"], "/a%0A?b=c");
    assert_eq!(
        (&first["status"], &first["attempts"]),
        (&200.into(), &1.into())
    );
    assert_eq!(
        (&first["service"], &first["endpoint"]),
        (&"shop/catalog".into(), &"catalog-0".into())
    );
    assert_eq!(
        (&first["direction"], &first["protocol"]),
        (&"outbound".into(), &"http".into())
    );
    assert_eq!(
        (&first["method"], &first["received_bytes"]),
        (&"GET".into(), &5.into())
    );
}
