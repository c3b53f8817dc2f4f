//! A real API server and the definition: what it refuses, what it takes, what
//! it shows. It runs where KUBECONFIG names a cluster, in namespaces of its own.

use std::io::Write;
use std::time::Duration;
use std::{env, process};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Error};
use remora_control_plane::policy::check::FieldError;
use remora_control_plane::policy::parse;
use remora_control_plane::policy::schema::TrafficPolicy;
use remora_control_plane::policy::status::{
    AncestorRef, BreakerCounts, PolicyAncestorStatus, SidecarCounts, StatusCondition,
    TrafficPolicyStatus,
};
use serde_json::{Value, json};

use super::table::{self, Bad, Server, object, spec};
use super::{authorization, chance, fields, files};

const PATIENCE: Duration = Duration::from_secs(30);
const CRD: &str = "trafficpolicies.remora.io";

/// A namespace of this run, with the definition in force.
struct Ground {
    client: Client,
    namespace: String,
}

impl Ground {
    /// `None`, loudly, without a cluster.
    async fn new(story: &str) -> Option<Self> {
        if env::var_os("KUBECONFIG").is_none() {
            // Not by `println!`, whose words libtest keeps to itself.
            let words = b"\nSKIPPED (nothing was tested): no KUBECONFIG\n";
            std::io::stderr().write_all(words).unwrap();
            return None;
        }
        let client = Client::try_default().await.unwrap();
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        let file: Value = serde_saphyr::from_str(&files::crd()).unwrap();
        let apply = PatchParams {
            field_manager: Some("remora-test".into()),
            force: true,
            ..PatchParams::default()
        };
        definitions
            .patch(CRD, &apply, &Patch::Apply(&file))
            .await
            .unwrap();
        let established =
            await_condition(definitions.clone(), CRD, conditions::is_crd_established());
        let definition = tokio::time::timeout(PATIENCE, established)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        let found = definition.status.unwrap().conditions.unwrap_or_default();
        let wrong: Vec<_> = found
            .iter()
            .filter(|c| c.type_ == "NonStructuralSchema" && c.status == "True")
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");

        let namespace = format!("remora-crd-{story}-{}", process::id());
        let new: Namespace =
            serde_json::from_value(json!({"metadata": {"name": namespace}})).unwrap();
        Api::all(client.clone())
            .create(&PostParams::default(), &new)
            .await
            .unwrap();
        let ground = Self { client, namespace };
        ground.served().await;
        Some(ground)
    }

    /// An API server answers 404 for a little while after a kind is established.
    async fn served(&self) {
        let policies: Api<TrafficPolicy> = self.policies();
        let listed = async {
            while policies
                .list(&kube::api::ListParams::default())
                .await
                .is_err()
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listed)
            .await
            .expect("TrafficPolicy is not served");
    }

    fn policies(&self) -> Api<TrafficPolicy> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn path(&self) -> String {
        format!(
            "/apis/remora.io/v1alpha1/namespaces/{}/trafficpolicies",
            self.namespace
        )
    }

    /// As `kubectl create --validate=strict --dry-run=server`: the answer, or why not.
    async fn try_create(&self, name: &str, spec: &Value) -> Result<Value, String> {
        self.post(
            &object(name, &self.namespace, spec),
            "fieldValidation=Strict&dryRun=All",
        )
        .await
    }

    async fn post(&self, object: &Value, query: &str) -> Result<Value, String> {
        let request = http::Request::post(format!("{}?{query}", self.path()))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(object).unwrap())
            .unwrap();
        match self.client.request::<Value>(request).await {
            Ok(made) => Ok(made),
            Err(Error::Api(status)) => Err(status.message),
            Err(other) => panic!("the API server did not answer: {other}"),
        }
    }

    /// What `kubectl get` asks for.
    async fn table(&self) -> Value {
        let request = http::Request::get(self.path())
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .unwrap();
        self.client.request(request).await.unwrap()
    }

    async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.client);
        namespaces
            .delete(&self.namespace, &DeleteParams::default())
            .await
            .unwrap();
    }
}

/// Whether a message is about exactly this field.
fn names(message: &str, field: &str) -> bool {
    message.contains(&format!("{field}: "))
        || message.contains(&format!("unknown field \"{field}\""))
}

#[tokio::test]
async fn every_bad_policy_is_refused_and_the_field_is_named() {
    let Some(ground) = Ground::new("bad").await else {
        return;
    };
    let mut wrong = Vec::new();
    for bad in table::bad().into_iter().chain(fields::bad()) {
        let Bad {
            spec,
            field,
            server,
        } = bad;
        let answer = ground.try_create("bad", &spec).await;
        match (server, answer) {
            (Server::SameField, Err(message)) if names(&message, &field) => {}
            (Server::Names(field), Err(message)) if names(&message, field) => {}
            (Server::Keeps, Ok(made)) if made["spec"] == spec => {}
            (_, Ok(_)) => wrong.push(format!("{field}: taken: {spec}")),
            (_, Err(message)) => wrong.push(format!("{field} is not named: {message}")),
        }
    }
    ground.end().await;
    assert!(wrong.is_empty(), "{} are wrong: {wrong:#?}", wrong.len());
}

#[tokio::test]
async fn every_good_policy_is_taken() {
    let Some(ground) = Ground::new("good").await else {
        return;
    };
    let named = table::good()
        .into_iter()
        .map(|spec| (spec.to_string(), spec));
    let mut wrong = Vec::new();
    let largest = ("the largest policy".to_owned(), table::largest());
    for (what, spec) in named.chain(fields::good()).chain([largest]) {
        if let Err(message) = ground.try_create("good", &spec).await {
            wrong.push(format!("{what}: {message}"));
        }
    }
    for mut policy in files::demo() {
        policy["metadata"]["namespace"] = json!(ground.namespace);
        if let Err(message) = ground.post(&policy, "fieldValidation=Strict").await {
            wrong.push(message);
        }
    }
    ground.end().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn control_plane_and_api_server_agree_about_authorization_policies() {
    const CRD: &str = "authorizationpolicies.remora.io";
    let Some(ground) = Ground::new("authorization").await else {
        return;
    };
    let client = &ground.client;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let file: Value = serde_saphyr::from_str(&files::authorization_crd()).unwrap();
    let apply = PatchParams::apply("remora-test").force();
    let applied = definitions.patch(CRD, &apply, &Patch::Apply(&file)).await;
    applied.unwrap();
    let established = await_condition(definitions, CRD, conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established)
        .await
        .unwrap()
        .unwrap();
    let path = format!(
        "/apis/remora.io/v1alpha1/namespaces/{}/authorizationpolicies",
        ground.namespace
    );
    let create = async |spec: &Value| {
        let object = authorization::object(&ground.namespace, spec);
        let request = http::Request::post(format!("{path}?fieldValidation=Strict&dryRun=All"))
            .header("content-type", "application/json")
            .body(serde_json::to_vec(&object).unwrap())
            .unwrap();
        client.request::<Value>(request).await
    };
    // An API server answers 404 for a little while after a kind is established.
    let good = authorization::good();
    let served = async {
        while matches!(create(&good[0]).await, Err(Error::Api(status)) if status.code == 404) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
    let mut wrong = Vec::new();
    for spec in good {
        if let Err(error) = create(&spec).await {
            wrong.push(format!("refused: {spec}: {error}"));
        }
    }
    for (field, spec) in authorization::bad() {
        // An entry of a map stands in brackets there.
        let field = field.replace("matchLabels.a", "matchLabels[a]");
        match create(&spec).await {
            Err(Error::Api(status)) if names(&status.message, &field) => {}
            Err(error) => wrong.push(format!("{field} is not named: {error}")),
            Ok(_) => wrong.push(format!("taken: {spec}")),
        }
    }
    ground.end().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What the control plane alone can see: the namespace, and a block without a
/// value.
fn out_of_sight(fault: &FieldError) -> bool {
    fault.message.contains("its own namespace") || fault.message.starts_with("is empty: write {}")
}

#[tokio::test]
async fn control_plane_and_api_server_agree_about_policies_by_chance() {
    let Some(ground) = Ground::new("chance").await else {
        return;
    };
    let (mut taken, mut refused, mut wrong) = (0, 0, Vec::new());
    for spec in chance::policies(1500) {
        let parsed = parse::spec(&ground.namespace, "chance", &spec);
        let faults = parsed.err().unwrap_or_default();
        let answer = ground.try_create("chance", &spec).await;
        match (faults.iter().all(out_of_sight), answer) {
            (true, Ok(_)) => taken += 1,
            (false, Err(_)) => refused += 1,
            (true, Err(message)) => wrong.push(format!("only the server: {message}")),
            (false, Ok(_)) => wrong.push(format!("only the control plane: {faults:?}")),
        }
    }
    ground.end().await;
    assert!(wrong.is_empty(), "{} differ: {wrong:#?}", wrong.len());
    assert!(
        taken > 100 && refused > 500,
        "{taken} taken, {refused} refused"
    );
}

/// What is stored is what was written: no default stands in it that would
/// look as if the user had set it.
#[tokio::test]
async fn nothing_is_written_into_a_policy() {
    let Some(ground) = Ground::new("defaults").await else {
        return;
    };
    for text in [
        &table::full(),
        "{circuitBreaker: {}, outbound: {}, retries: {backoff: {}, budget: {}}, timeouts: {}}",
    ] {
        let made = ground.try_create("kept", &spec(text)).await.unwrap();
        assert_eq!(made["spec"], spec(text));
    }
    let silent = ground
        .try_create("kept", &spec("circuitBreaker: {maxRequests: , failures: }"))
        .await
        .unwrap();
    assert_eq!(silent["spec"]["circuitBreaker"], json!({}));
    // Without strict validation unknown fields are taken out; kubectl asks for it.
    let lax = object("lax", &ground.namespace, &spec("hedge: {}"));
    let made = ground
        .post(&lax, "fieldValidation=Warn&dryRun=All")
        .await
        .unwrap();
    assert_eq!(made["spec"]["hedge"], Value::Null);
    ground.end().await;
}

fn status(generation: i64) -> TrafficPolicyStatus {
    let accepted = StatusCondition {
        r#type: "Accepted".into(),
        status: "True".into(),
        reason: "Accepted".into(),
        message: "in force".into(),
        last_transition_time: "2026-11-20T12:00:00Z".into(),
        observed_generation: Some(generation),
    };
    TrafficPolicyStatus {
        observed_generation: Some(generation),
        ancestors: vec![PolicyAncestorStatus {
            ancestor_ref: AncestorRef {
                kind: "Service".into(),
                name: "catalog".into(),
                ..AncestorRef::default()
            },
            effective: Vec::new(),
            controller_name: "remora.io/control-plane".into(),
            conditions: vec![accepted.clone()],
        }],
        conditions: vec![accepted],
        sidecars: Some(SidecarCounts {
            total: 7,
            applied: 5,
            refused: 2,
        }),
        breakers: Some(BreakerCounts {
            open: 3,
            half_open: 1,
        }),
    }
}

impl Ground {
    /// Makes a policy, with a status in it that has no business there.
    async fn make(&self, name: &str) {
        let mut written = object(name, &self.namespace, &spec("timeouts: {request: 5s}"));
        written["status"] = serde_json::to_value(status(1)).unwrap();
        self.post(&written, "fieldValidation=Strict").await.unwrap();
    }

    /// Writes a status as the control plane does.
    async fn write_status(&self, name: &str, status: &Value) -> Result<TrafficPolicy, Error> {
        let patch = Patch::Apply(json!({
            "apiVersion": "remora.io/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": name},
            "status": status,
        }));
        let apply = PatchParams::apply("remora-control-plane");
        let policies = self.policies();
        policies.patch_status(name, &apply, &patch).await
    }
}

#[tokio::test]
async fn status_is_a_resource_of_its_own() {
    let Some(ground) = Ground::new("status").await else {
        return;
    };
    ground.make("catalog").await;
    let made = ground.policies().get("catalog").await.unwrap();
    assert_eq!(made.status, None, "a status was written with the spec");
    let wanted = serde_json::to_value(status(1)).unwrap();
    ground.write_status("catalog", &wanted).await.unwrap();
    let made = ground.policies().get("catalog").await.unwrap();
    assert_eq!(made.status, Some(status(1)));
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.spec.timeouts.unwrap().request.as_deref(), Some("5s"));

    for (field, value) in [
        ("/sidecars/total", json!(-1)),
        ("/conditions/0/status", json!("Maybe")),
        ("/conditions/0/lastTransitionTime", json!("today")),
        ("/conditions/0/reason", json!("two words")),
        (
            "/ancestors",
            json!(vec![wanted["ancestors"][0].clone(); 17]),
        ),
    ] {
        let mut wrong = wanted.clone();
        *wrong.pointer_mut(field).unwrap() = value;
        let refused = ground.write_status("catalog", &wrong).await;
        assert!(
            matches!(refused, Err(Error::Api(_))),
            "{field}: {refused:?}"
        );
    }
    ground.end().await;
}

#[tokio::test]
async fn the_columns_of_kubectl_get_come_from_the_status() {
    let Some(ground) = Ground::new("columns").await else {
        return;
    };
    ground.make("catalog").await;
    let cells = |table: &Value| table["rows"][0]["cells"].as_array().unwrap().clone();
    let shown = ground.table().await;
    let columns = shown["columnDefinitions"].as_array().unwrap();
    let wide = |column: &&Value| column["priority"] != 0;
    let names: Vec<&str> = columns
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    let expected = [
        "Name", "Accepted", "Reason", "Sidecars", "Applied", "Refused", "Open", "HalfOpen", "Age",
    ];
    assert_eq!(names, expected);
    let wide: Vec<&Value> = columns
        .iter()
        .filter(wide)
        .map(|column| &column["name"])
        .collect();
    assert_eq!(wide, ["HalfOpen"]);
    assert_eq!(cells(&shown)[1..8], vec![Value::Null; 7]);

    let status = serde_json::to_value(status(1)).unwrap();
    ground.write_status("catalog", &status).await.unwrap();
    let cells = cells(&ground.table().await);
    let expected = json!(["catalog", "True", "Accepted", 7, 5, 2, 3, 1]);
    assert_eq!(cells[..8], expected.as_array().unwrap()[..]);
    assert!(cells[8].is_string());
    ground.end().await;
}
