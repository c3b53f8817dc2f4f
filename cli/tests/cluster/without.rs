//! Without a cluster: what needs none, and what is said where there is none.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::api::{Api, Ran, remora, write_kubeconfig};

const GIVEN: &str = include_str!("golden/given.yaml");
const WANTED: &str = include_str!("golden/injected.yaml");

/// Our two containers are the injector's own matter: of them only the names stay.
fn without_contents(text: &str) -> String {
    let mut kept = String::new();
    for document in text.split_inclusive("---\n") {
        let (body, end) = match document.strip_suffix("---\n") {
            Some(body) => (body, "---\n"),
            None => (document, ""),
        };
        match serde_saphyr::from_str::<Value>(body) {
            Ok(mut value) if body.contains("remora-intercept") => {
                strip(&mut value);
                kept.push_str(&serde_saphyr::to_string(&value).unwrap());
            }
            _ => kept.push_str(body),
        }
        kept.push_str(end);
    }
    kept
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(fields) => {
            let ours = fields.get("name").and_then(Value::as_str);
            if ours.is_some_and(|name| name.starts_with("remora-")) {
                fields.retain(|name, _| name == "name");
            }
            fields.values_mut().for_each(strip);
        }
        _ => {}
    }
}

#[test]
fn inject_gives_the_golden_stream() {
    let mut child = remora(&["inject", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(GIVEN.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, error) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(
        output.status.code(),
        Some(1),
        "one pod could not be had: {error}"
    );
    assert!(
        error.contains("DaemonSet shop/agent") && error.contains("hostNetwork"),
        "{error}"
    );
    assert_eq!(without_contents(&out), WANTED, "\n{out}");
}

#[test]
fn inject_takes_an_image_and_says_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pod.yaml");
    std::fs::write(
        &file,
        "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: a}]}\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let ran = Ran::of(remora(&[
        "inject",
        "-f",
        file,
        "--image",
        "example.com/proxy:7",
        "--system-namespace",
        "mesh",
    ]));
    assert_eq!(ran.status, 0, "{}", ran.error);
    assert_eq!(
        ran.out.matches("example.com/proxy:7").count(),
        2,
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("remora-control-plane.mesh.svc"),
        "{}",
        ran.out
    );
    let ran = Ran::of(remora(&["inject", "-f", "/nowhere.yaml"]));
    assert_eq!(ran.status, 2);
    assert!(ran.error.contains("/nowhere.yaml"), "{}", ran.error);
}

#[test]
fn explain_reads_the_demo_from_its_folder() {
    let demo = concat!("files:", env!("CARGO_MANIFEST_DIR"), "/../manifests/demo");
    let ran = Ran::of(remora(&[
        "explain", "catalog", "-n", "shop", "--source", demo,
    ]));
    assert_eq!((ran.status, ran.error.as_str()), (0, ""), "{}", ran.out);
    assert!(
        ran.out.contains("circuitBreaker.consecutiveFailures")
            && ran.out.contains("catalog (by Service"),
        "{}",
        ran.out
    );
    let ran = Ran::of(remora(&[
        "explain", "absent", "-n", "shop", "--source", demo,
    ]));
    assert_eq!(ran.status, 2);
}

#[test]
fn without_a_kubeconfig_it_is_said_where_one_may_be() {
    for command in ["check", "status", "top"] {
        let arguments: &[&str] = if command == "top" {
            &["top", "--once"]
        } else {
            &[command]
        };
        let ran = Ran::of(remora(arguments));
        assert_eq!(ran.status, 2, "{command}");
        assert!(
            ran.error.contains("--kubeconfig"),
            "{command}: {}",
            ran.error
        );
    }
    let api = Api::start();
    let ran = api.run(&["check", "--context", "none"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.error.contains("none") && ran.error.contains("--context"),
        "{}",
        ran.error
    );
}

#[test]
fn a_kubeconfig_that_is_no_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    std::fs::write(&file, b"\x7fELF\x02\x01\x01\0\0\0\xff\xfe\x90").unwrap();
    let mut by_variable = remora(&["check"]);
    by_variable.env("KUBECONFIG", &file);
    let file = file.to_str().unwrap();
    for command in [by_variable, remora(&["check", "--kubeconfig", file])] {
        let ran = Ran::of(command);
        assert_eq!(ran.status, 2);
        let wanted = format!("{file} is not a text file");
        assert!(ran.error.contains(&wanted), "{}", ran.error);
        assert!(!ran.error.contains('\u{fffd}'), "{}", ran.error);
    }
}

#[test]
fn inject_declines_who_takes_our_names_and_says_who_speaks_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pod.yaml");
    for name in ["remora-proxy", "remora-intercept"] {
        let pod = format!(
            "kind: Pod\nmetadata: {{name: x, annotations: {{remora.io/injected: \"true\"}}}}\n\
             spec: {{initContainers: [{{name: {name}, image: mine}}], containers: [{{name: a}}]}}\n"
        );
        std::fs::write(&file, pod).unwrap();
        let ran = Ran::of(remora(&["inject", "-f", file.to_str().unwrap()]));
        assert_eq!(ran.status, 1, "{}", ran.error);
        let wanted = format!(
            "remora: Pod default/x: no sidecar for this pod: an init container of its own is named {name}\n"
        );
        assert_eq!(ran.error, wanted);
        assert_eq!(ran.out.matches("image: mine").count(), 1, "{}", ran.out);
        assert_eq!(ran.out.matches("image:").count(), 1, "{}", ran.out);
    }
}

#[test]
fn a_cluster_that_does_not_answer_is_given_up_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    write_kubeconfig(config.clone(), listener.local_addr().unwrap());
    drop(listener);
    let config = config.to_str().unwrap();
    let ran = Ran::of(remora(&["check", "--kubeconfig", config]));
    assert_eq!(ran.status, 2);
    assert!(
        ran.error.contains("cannot be reached") && ran.error.contains("127.0.0.1"),
        "{}",
        ran.error
    );

    let api = Api::start();
    api.forget("/version");
    api.get("/version", "hang".into());
    let ran = api.run(&["check", "--request-timeout", "300ms"]);
    assert_eq!(ran.status, 2);
    assert!(
        ran.error.contains("no answer within 300ms") && ran.error.contains("--request-timeout"),
        "{}",
        ran.error
    );
}

#[test]
fn versions_and_completions_need_no_cluster() {
    let ran = Ran::of(remora(&["version", "--client"]));
    assert_eq!((ran.status, ran.error.as_str()), (0, ""));
    assert!(ran.out.contains(env!("CARGO_PKG_VERSION")), "{}", ran.out);
    let ran = Ran::of(remora(&["version"]));
    assert_eq!(ran.status, 0, "a cluster that is not there is only said");
    assert!(ran.error.contains("no cluster to ask"), "{}", ran.error);
    for shell in ["bash", "zsh", "fish"] {
        let ran = Ran::of(remora(&["completions", shell]));
        assert!(ran.status == 0 && ran.out.contains("remora"), "{shell}");
    }
    assert_eq!(Ran::of(remora(&["completions", "tcsh"])).status, 2);
}

#[test]
fn every_command_documents_its_exit_status_and_rights() {
    for command in [
        "check",
        "status",
        "top",
        "explain",
        "identity",
        "authorize",
        "inject",
        "version",
    ] {
        let ran = Ran::of(remora(&[command, "--help"]));
        assert!(ran.out.contains("Exit status:"), "{command}: {}", ran.out);
        assert!(ran.out.contains("Needs"), "{command}: {}", ran.out);
    }
}
