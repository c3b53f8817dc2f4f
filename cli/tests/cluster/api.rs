//! An API server with canned answers: enough for shapes, errors and rights.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What is answered, by method and path without its query.
type Answers = Arc<Mutex<HashMap<String, Vec<(u16, Value)>>>>;

/// A running server, and the kubeconfig that leads to it.
pub struct Api {
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

impl Api {
    pub fn start() -> Self {
        let answers = Answers::default();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(listener, answers.clone(), asked.clone());
        // Ends with the process.
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(serving);
        });
        let folder = tempfile::tempdir().unwrap();
        write_kubeconfig(folder.path().join("config"), address);
        let api = Self {
            answers,
            asked,
            folder,
        };
        api.get("/version", json!({"gitVersion": "v1.34.4"}));
        api
    }

    pub fn get(&self, path: &str, answer: Value) {
        self.answer("GET", path, 200, answer);
    }

    pub fn list(&self, path: &str, items: Value) {
        self.get(path, json!({"metadata": {}, "items": items}));
    }

    pub fn forbid(&self, path: &str) {
        let status = json!({"kind": "Status", "message": "User \"u\" cannot do that", "code": 403});
        self.answer("GET", path, 403, status);
    }

    /// Several answers to one question come one after the other; the last stays.
    pub fn answer(&self, method: &str, path: &str, status: u16, answer: Value) {
        let key = format!("{method} {path}");
        let mut answers = self.answers.lock().unwrap();
        answers.entry(key).or_default().push((status, answer));
    }

    pub fn forget(&self, path: &str) {
        self.answers.lock().unwrap().remove(&format!("GET {path}"));
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    /// What was asked, each as `METHOD /path?query`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Runs `remora` against it.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = remora(arguments);
        command.env("KUBECONFIG", self.kubeconfig());
        Ran::of(command)
    }
}

/// What a run left.
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub error: String,
}

impl Ran {
    pub fn of(mut command: Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        let (out, error) = (
            String::from_utf8(stdout).unwrap(),
            String::from_utf8(stderr).unwrap(),
        );
        assert!(
            !out.contains('\u{1b}'),
            "colours where there is no terminal: {out:?}"
        );
        Self {
            status: status.code().unwrap(),
            out,
            error,
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// The binary, with an environment that leads nowhere else.
pub fn remora(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command
        .args(arguments)
        .env("HOME", "/nowhere")
        .env_remove("KUBECONFIG");
    for variable in [
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
        "HTTP_PROXY",
        "http_proxy",
    ] {
        command.env_remove(variable);
    }
    command
}

pub fn write_kubeconfig(path: PathBuf, address: SocketAddr) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "test", "user": {"token": "t"}}],
        "contexts": [
            {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "shop"}},
            {"name": "bank", "context": {"cluster": "test", "user": "test", "namespace": "bank"}},
        ],
    });
    std::fs::write(path, config.to_string()).unwrap();
}

async fn serve(listener: std::net::TcpListener, answers: Answers, asked: Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let (answers, asked) = (answers.clone(), asked.clone());
        tokio::spawn(async move {
            let service =
                service_fn(move |request| answer(request, answers.clone(), asked.clone()));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    asked
        .lock()
        .unwrap()
        .push(format!("{method} {}", request.uri()));
    let _ = request.into_body().collect().await;
    let found = {
        let mut answers = answers.lock().unwrap();
        answers.get_mut(&format!("{method} {path}")).map(|left| {
            if left.len() > 1 {
                left.remove(0)
            } else {
                left[0].clone()
            }
        })
    };
    // `"hang"` never answers.
    if matches!(&found, Some((_, answer)) if answer == "hang") {
        std::future::pending::<()>().await;
    }
    let (status, body) = found.unwrap_or_else(|| {
        let message = format!("{path} not found");
        (
            404,
            json!({"kind": "Status", "message": message, "code": 404}),
        )
    });
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let date = http::HeaderValue::from_static("Sat, 21 Nov 2026 17:32:20 GMT");
    response.headers_mut().insert(http::header::DATE, date);
    Ok(response)
}
