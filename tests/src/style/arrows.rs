//! Who may import whom.

use super::Finding;

/// Of each crate of the workspace (folder, name) what else of it it may use.
pub const ARROWS: &[(&str, &str, &[&str])] = &[
    ("proto", "remora-proto", &[]),
    ("proxy", "remora-proxy", &["remora-proto"]),
    ("control-plane", "remora-control-plane", &["remora-proto"]),
    ("injector", "remora-injector", &["remora-proto"]),
    ("cli", "remora", DAEMONS),
    (
        "benches",
        "remora-benches",
        &[
            "remora-proto",
            "remora-proxy",
            "remora-control-plane",
            "remora-injector",
            "remora",
        ],
    ),
    (
        "tests",
        "remora-tests",
        &[
            "remora-proto",
            "remora-proxy",
            "remora-control-plane",
            "remora-injector",
            "remora",
        ],
    ),
];
const DAEMONS: &[&str] = &[
    "remora-proto",
    "remora-proxy",
    "remora-control-plane",
    "remora-injector",
];

/// Never in the sidecar, nor in what it shares with the control plane.
pub const KUBERNETES: &[&str] = &[
    "kube",
    "kube-client",
    "kube-core",
    "kube-derive",
    "kube-runtime",
    "k8s-openapi",
];
/// The folders that stay free of Kubernetes.
pub const FREE_OF_KUBERNETES: &[&str] = &["proxy", "proto"];

/// Arrows in a crate's manifest (all dependency tables, those of tests and
/// build scripts too) that should not be.
pub fn wrong_arrows(folder: &str, manifest: &str) -> Vec<Finding> {
    let file = format!("{folder}/Cargo.toml");
    let Some((_, _, allowed)) = ARROWS.iter().find(|(known, _, _)| *known == folder) else {
        return vec![Finding::new(
            &file,
            1,
            "a crate without a place in the arrows",
        )];
    };
    let mut findings = Vec::new();
    for (line, name) in dependencies(manifest) {
        let ours = ARROWS.iter().any(|(_, known, _)| *known == name);
        if ours && !allowed.contains(&name) {
            findings.push(Finding::new(&file, line, format!("must not use `{name}`")));
        }
        if FREE_OF_KUBERNETES.contains(&folder) && KUBERNETES.contains(&name) {
            let what = format!("`{name}` never enters {folder}");
            findings.push(Finding::new(&file, line, what));
        }
    }
    findings
}

/// Kubernetes among all that a crate's build resolves to: `closure` is what
/// `cargo tree --prefix none` prints, `name vVERSION` on each line.
pub fn kubernetes_in_closure(folder: &str, closure: &str) -> Vec<Finding> {
    let file = format!("{folder}/Cargo.toml");
    let names = closure
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| KUBERNETES.contains(name))
        .map(|name| {
            Finding::new(
                &file,
                1,
                format!("`{name}` comes in through its dependencies"),
            )
        })
        .collect()
}

/// The names in a manifest's dependency tables, with their lines.
fn dependencies(manifest: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_table = false;
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            in_table = table.ends_with("dependencies");
            // `[dependencies.name]`
            if let Some((_, name)) = table.split_once("dependencies.") {
                found.push((index + 1, name));
            }
        } else if in_table && !line.starts_with('#') {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            let name = name.trim_matches('"');
            if !name.is_empty() {
                found.push((index + 1, renamed(line).unwrap_or(name)));
            }
        }
    }
    found
}

/// What `package = "name"` says.
fn renamed(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("package")?;
    rest.split('"').nth(1)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn an_arrow_against_the_design_is_found_in_every_table() {
        let manifest = "[package]\nname = \"remora-proxy\"\n[dependencies]\nremora-proto.workspace = true\n\
            kube = \"5\"\nplane = { package = \"remora-control-plane\", path = \"..\" }\n\
            [dev-dependencies]\nremora-injector = { path = \"..\" }\n[target.'cfg(unix)'.dependencies.k8s-openapi]\nversion = \"1\"\n";
        let found = wrong_arrows("proxy", manifest);
        let lines: Vec<_> = found.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [5, 6, 8, 9], "{found:?}");
        assert!(
            wrong_arrows(
                "cli",
                "[dependencies]\nremora-proxy.workspace = true\nkube = \"5\"\n"
            )
            .is_empty()
        );
        assert_eq!(
            wrong_arrows("cli", "[dependencies]\nremora-tests.workspace = true\n").len(),
            1
        );
        assert_eq!(wrong_arrows("elsewhere", "").len(), 1);
    }

    #[test]
    fn kubernetes_is_found_however_deep_it_comes_in() {
        let closure = "remora-proxy v0.1.0 (/a/kube)\ntokio v1.54.1\nk8s-openapi v0.29.0 (*)\n";
        let found = kubernetes_in_closure("proxy", closure);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("k8s-openapi"));
    }
}
