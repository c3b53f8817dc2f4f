//! `remora inject`: the injector, run over YAML, without a cluster.

use std::fmt::Write as _;
use std::io::Read;
use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use remora_control_plane::source::yaml;
use remora_injector::{Decision, NamespaceFacts, Settings};
use remora_proto::spiffe::parse_trust_domain;
use remora_proto::well_known::{
    CONTROL_PLANE, CONTROL_PLANE_PORT, INJECT, INJECT_ENABLED, SYSTEM_NAMESPACE, TRUST_DOMAIN,
};
use serde_json::Value;

use super::error::Error;
use super::options::parse_name;
use super::output;

/// The most that is read.
const MAX_BYTES: u64 = 64 << 20;

/// Options of `remora inject`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Every pod template of the stream (Pod, Deployment, StatefulSet, DaemonSet, \
    ReplicaSet, ReplicationController, Job, CronJob, List) is taken to be asked for, unless it opts out \
    (remora.io/inject: disabled) or lies in a namespace in which nothing is ever injected. \
    All else is written as it was read. Warnings go to standard error.\n\n\
    Exit status: 0 written; 1 some pod could not be had, and is written without a sidecar; \
    2 wrong usage, or what was read is no YAML of Kubernetes. Needs no cluster."
)]
pub struct Options {
    /// The YAML file; `-` is standard input.
    #[arg(short, long = "filename", value_name = "FILE")]
    pub file: String,
    /// The image of the sidecar.
    #[arg(long)]
    pub image: Option<String>,
    /// The namespace of Remora's own daemons, where sidecars find the control plane.
    #[arg(long, value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE, value_parser = parse_name)]
    pub system_namespace: String,
    /// The trust domain of the mesh, which is the control plane's and the injector's.
    #[arg(long, value_name = "NAME", default_value = TRUST_DOMAIN, value_parser = parse_trust_domain)]
    pub trust_domain: String,
    /// For a mesh without identities, whose control plane has no CA.
    #[arg(long, conflicts_with = "trust_domain")]
    pub without_identity: bool,
}

/// What came of a stream.
#[derive(Debug, Default)]
pub struct Injected {
    /// The stream, with sidecars.
    pub text: String,
    /// What its author should know.
    pub warnings: Vec<String>,
    /// Pods that were asked for and could not be had.
    pub declined: usize,
}

/// Runs the command.
///
/// # Errors
/// When the file cannot be read, or is no YAML of Kubernetes.
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    let text = read(&options.file)?;
    let injected = inject(&text, &settings(options))
        .map_err(|error| Error::Input(format!("{}: {error}", options.file)))?;
    for warning in &injected.warnings {
        output::warn(warning);
    }
    output::print(&injected.text)?;
    Ok(if injected.declined == 0 {
        ExitCode::SUCCESS
    } else {
        super::FOUND
    })
}

fn settings(options: &Options) -> Settings {
    let trust_domain = (!options.without_identity).then(|| options.trust_domain.clone());
    // Tokens are told to nobody in plaintext.
    let scheme = trust_domain.as_ref().map_or("http", |_| "https");
    let mut settings = Settings {
        control_plane: format!(
            "{scheme}://{CONTROL_PLANE}.{}.svc:{CONTROL_PLANE_PORT}",
            options.system_namespace
        ),
        trust_domain,
        system_namespace: options.system_namespace.clone(),
        ..Settings::default()
    };
    if let Some(image) = &options.image {
        settings.image.clone_from(image);
    }
    settings
}

fn read(file: &str) -> Result<String, Error> {
    let failed = |error: std::io::Error| Error::Input(format!("cannot read {file}: {error}"));
    let mut bytes = Vec::new();
    if file == "-" {
        let read = std::io::stdin().lock().take(MAX_BYTES + 1);
        read_all(read, &mut bytes).map_err(failed)?;
    } else {
        let read = std::fs::File::open(file)
            .map_err(failed)?
            .take(MAX_BYTES + 1);
        read_all(read, &mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::Input(format!("{file} is larger than 64 MiB")));
    }
    String::from_utf8(bytes).map_err(|_| Error::Input(format!("{file} is not UTF-8")))
}

fn read_all(mut from: impl Read, into: &mut Vec<u8>) -> std::io::Result<()> {
    from.read_to_end(into).map(|_| ())
}

/// Puts the sidecar into every pod template of a stream of YAML documents. A
/// document without one is handed on as it stands, comments and all.
///
/// # Errors
/// The first document that is no YAML, or whose pod is none, with its line.
pub fn inject(text: &str, settings: &Settings) -> Result<Injected, String> {
    let mut done = Injected::default();
    for document in yaml::documents(text) {
        let at = |message: String| {
            format!(
                "the document at line {}: {message}",
                document.line_offset + 1
            )
        };
        let mut value = parse(document.text).map_err(at)?;
        let before = value.clone();
        walk(&mut value, settings, &mut done).map_err(at)?;
        let has_marker = document.text.starts_with("---");
        if value == before {
            if !has_marker && !done.text.is_empty() {
                done.text.push_str("---\n");
            }
            done.text.push_str(document.text);
        } else {
            let written = serde_saphyr::to_string(&value);
            let written = written.map_err(|error| at(error.to_string()))?;
            // Writing to a String cannot fail.
            let _ = write!(done.text, "---\n{}", written.trim_start_matches("---\n"));
        }
        if !done.text.ends_with('\n') {
            done.text.push('\n');
        }
    }
    Ok(done)
}

/// Reads numbers as the API server's YAML does: `0644` is octal.
fn parse(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let text = error.without_snippet().to_string();
        text.lines().next().unwrap_or("is not YAML").to_owned()
    })
}

fn walk(value: &mut Value, settings: &Settings, done: &mut Injected) -> Result<(), String> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    let template = match kind.as_str() {
        "List" => {
            let items = value.get_mut("items").and_then(Value::as_array_mut);
            for item in items.into_iter().flatten() {
                walk(item, settings, done)?;
            }
            return Ok(());
        }
        "Pod" => "",
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return Ok(()),
    };
    let metadata = &value["metadata"];
    let namespace = metadata["namespace"]
        .as_str()
        .unwrap_or("default")
        .to_owned();
    let name = metadata["name"]
        .as_str()
        .or(metadata["generateName"].as_str());
    let shown = format!("{kind} {namespace}/{}", name.unwrap_or_default());
    let Some(template) = value.pointer_mut(template) else {
        done.warnings.push(format!("{shown} has no pod template"));
        return Ok(());
    };
    into_pod(template, &namespace, &shown, settings, done)
}

fn into_pod(
    template: &mut Value,
    namespace: &str,
    shown: &str,
    settings: &Settings,
    done: &mut Injected,
) -> Result<(), String> {
    let read = |value: &Value| serde_json::from_value::<Pod>(value.clone());
    let pod = read(template).map_err(|error| format!("{shown} is no pod: {error}"))?;
    let facts = NamespaceFacts {
        name: namespace.to_owned(),
        labels: [(INJECT.to_owned(), INJECT_ENABLED.to_owned())].into(),
    };
    let decision = remora_injector::patch(&pod, &facts, settings);
    for warning in decision.warnings() {
        // Who speaks is said once, by whoever prints it.
        let warning = warning.strip_prefix("remora: ").unwrap_or(warning);
        done.warnings.push(format!("{shown}: {warning}"));
    }
    match &decision {
        Decision::Skip { reason } => done.warnings.push(format!("{shown}: {reason}")),
        Decision::Decline { .. } => done.declined += 1,
        Decision::Inject { .. } => {}
    }
    if let Some(patch) = decision.patch() {
        // The patch is made for the pod as its type reads it, which always has metadata.
        if let Some(fields) = template.as_object_mut()
            && fields.get("metadata").is_none_or(Value::is_null)
        {
            fields.insert("metadata".to_owned(), Value::Object(serde_json::Map::new()));
        }
        json_patch::patch(template, patch)
            .map_err(|error| format!("{shown}: the patch does not fit: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injected(text: &str) -> Injected {
        inject(text, &Settings::default()).unwrap()
    }

    fn documents(text: &str) -> Vec<Value> {
        let documents = yaml::documents(text);
        documents
            .iter()
            .map(|one| parse(one.text).unwrap())
            .collect()
    }

    const OTHERS: &str = "# a head\napiVersion: v1\nkind: Service   # kept\nmetadata: {name: web}\nspec:\n  ports: [{port: 0x50}]\n---\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: web, namespace: shop}\nspec:\n  template:\n    spec:\n      containers: [{name: app, image: web, env: [{name: A, value: \"no\"}, {name: B, value: \"0644\"}]}]\n      volumes: [{name: v, secret: {secretName: s, defaultMode: 0644}}]\n      unknownField: {x: [1.50, 1e3, ~, 'on']}\n---\n# nothing\n---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\ndata:\n  a: |\n    x\n      y\n";

    #[test]
    fn what_has_no_pod_template_stands_as_it_was() {
        let text = injected(OTHERS).text;
        assert!(
            text.starts_with("# a head\napiVersion: v1\nkind: Service   # kept\n"),
            "{text}"
        );
        assert!(text.contains("ports: [{port: 0x50}]\n"), "{text}");
        assert!(text.ends_with("data:\n  a: |\n    x\n      y\n"), "{text}");
        assert_eq!(documents(&text).len(), 3);
    }

    #[test]
    fn a_sidecar_finds_the_control_plane_as_it_is_installed() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            options: Options,
        }
        let of = |arguments: &[&str]| {
            let line = ["x", "-f", "-"].iter().chain(arguments);
            let line: Line = clap::Parser::try_parse_from(line).unwrap();
            let settings = settings(&line.options);
            (settings.trust_domain, settings.control_plane)
        };
        let (trust_domain, control_plane) = of(&[]);
        assert_eq!(trust_domain.as_deref(), Some(TRUST_DOMAIN));
        assert!(control_plane.starts_with("https://remora-control-plane.remora-system.svc:"));
        assert_eq!(of(&["--trust-domain=a.b"]).0.as_deref(), Some("a.b"));
        let (trust_domain, control_plane) = of(&["--without-identity"]);
        assert!(trust_domain.is_none() && control_plane.starts_with("http://"));
    }

    #[test]
    fn only_the_sidecar_is_new_in_a_template() {
        let before = documents(OTHERS).remove(1);
        let mut after = documents(&injected(OTHERS).text).remove(1);
        let template = after.pointer_mut("/spec/template").unwrap();
        let init = template["spec"]["initContainers"].take();
        let names: Vec<_> = init
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].clone())
            .collect();
        assert_eq!(names, ["remora-intercept", "remora-proxy"]);
        assert_eq!(
            template["metadata"]["annotations"]["remora.io/injected"],
            "true"
        );
        let volumes = template["spec"]["volumes"].as_array().unwrap();
        assert_eq!(volumes[0]["secret"]["defaultMode"], 0o644);
        assert_eq!(template["spec"]["containers"][0]["env"][1]["value"], "0644");
        for added in ["metadata", "spec/initContainers"] {
            let (parent, field) = added.rsplit_once('/').unwrap_or(("", added));
            let parent = if parent.is_empty() { "" } else { "/spec" };
            let object = template
                .pointer_mut(parent)
                .unwrap()
                .as_object_mut()
                .unwrap();
            object.remove(field);
        }
        assert_eq!(after, before);
    }

    #[test]
    fn every_kind_with_a_template_is_known_and_a_second_run_changes_nothing() {
        let pod = "{spec: {containers: [{name: app}]}}";
        let mut text = String::from(
            "kind: Pod\napiVersion: v1\nmetadata: {name: p}\nspec: {containers: [{name: app}]}\n",
        );
        for kind in [
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "ReplicaSet",
            "Job",
        ] {
            text.push_str(&format!(
                "---\nkind: {kind}\nmetadata: {{name: x}}\nspec: {{template: {pod}}}\n"
            ));
        }
        text.push_str(&format!("---\nkind: CronJob\nmetadata: {{name: x}}\nspec: {{jobTemplate: {{spec: {{template: {pod}}}}}}}\n"));
        text.push_str(&format!("---\nkind: List\nitems: [{{kind: Job, metadata: {{name: z}}, spec: {{template: {pod}}}}}, {{kind: Secret}}]\n"));
        let once = injected(&text);
        assert!(once.warnings.is_empty(), "{:?}", once.warnings);
        assert_eq!(
            once.text.matches("name: remora-intercept\n").count(),
            8,
            "{}",
            once.text
        );
        assert_eq!(documents(&injected(&once.text).text), documents(&once.text));
    }

    #[test]
    fn who_opts_out_stays_and_who_cannot_be_had_is_told() {
        let pod = |metadata: &str, spec: &str| {
            format!(
                "kind: Pod\nmetadata: {{name: p, {metadata}}}\nspec: {{{spec} containers: [{{name: a}}]}}\n"
            )
        };
        let text = pod("labels: {remora.io/inject: disabled}", "");
        let out = injected(&text);
        assert_eq!((out.text.as_str(), out.declined), (text.as_str(), 0));
        assert_eq!(out.warnings.len(), 1);
        let out = injected(&pod("namespace: shop", "hostNetwork: true,"));
        assert_eq!(out.declined, 1);
        assert!(out.warnings[0].starts_with("Pod shop/p: no sidecar for this pod: hostNetwork"));
        for name in ["remora-proxy", "remora-intercept"] {
            let init = format!("initContainers: [{{name: {name}, image: mine}}],");
            let out = injected(&pod("namespace: shop", &init));
            assert_eq!(out.declined, 1);
            let wanted = format!("an init container of its own is named {name}");
            assert!(out.warnings[0].ends_with(&wanted), "{:?}", out.warnings);
        }
        let out = injected(&pod("namespace: kube-system", ""));
        assert!(
            out.warnings[0].contains("nothing is ever injected"),
            "{:?}",
            out.warnings
        );
    }

    #[test]
    fn what_is_no_yaml_is_named_by_its_line() {
        let settings = Settings::default();
        let error = inject("kind: A\n---\nkind: [\n", &settings).unwrap_err();
        assert!(error.contains("line 2"), "{error}");
        let error = inject("kind: Pod\nspec: {containers: 5}\n", &settings).unwrap_err();
        assert!(error.contains("is no pod"), "{error}");
    }
}
