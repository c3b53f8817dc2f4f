//! After an installation: whether Remora's own parts are well.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use remora_control_plane::policy::definition;
use remora_proto::well_known::{CONTROL_PLANE, INJECTOR};
use serde_json::Value;

use super::certificate;
use super::finding::Finding;
use super::schema;
use super::{AUTHORIZATION_DEFINITION, DEFINITION, INSTALL, VERSION};
use crate::cluster::api::{Api, List};
use crate::cluster::error::Error;
use crate::cluster::resources::{
    DEFINITIONS, DEPLOYMENTS, ENDPOINT_SLICES, LEASES, MUTATING_WEBHOOKS, SECRETS,
};
use crate::cluster::text;
use crate::cluster::version::{OURS, is_supported, tag};

/// The Secret with the webhook's certificate.
pub const CERTIFICATE_SECRET: &str = "remora-injector-certificate";
/// A Lease that was not renewed for so long, beyond its own duration, is not held.
const LEASE_GRACE_SECONDS: i64 = 15;
/// Where the Lease does not say how long it lasts.
const LEASE_SECONDS: i32 = 15;
/// A certificate that ends so soon should have been renewed: the injector
/// does it 30 days before the end.
const SOON_SECONDS: i64 = 20 * 86_400;
/// Fields that are named of many.
const SHOWN: usize = 4;

/// Everything of ours in the cluster.
pub async fn findings(api: &Api, now: i64) -> Vec<Finding> {
    let namespace = api.system_namespace.as_str();
    let system = Some(namespace);
    let control_plane = api.find(&DEPLOYMENTS, system, CONTROL_PLANE).await;
    let injector = api.find(&DEPLOYMENTS, system, INJECTOR).await;
    let webhook = api.find(&MUTATING_WEBHOOKS, None, INJECTOR).await;
    let labels = format!("kubernetes.io/service-name={INJECTOR}");
    let slices = api.list(&ENDPOINT_SLICES, system, &labels).await;
    let secret = api.find(&SECRETS, system, CERTIFICATE_SECRET).await;
    let traffic = api.find(&DEFINITIONS, None, DEFINITION).await;
    let authorization = api.find(&DEFINITIONS, None, AUTHORIZATION_DEFINITION).await;
    vec![
        definition(DEFINITION, &definition::definition(), &traffic),
        definition(
            AUTHORIZATION_DEFINITION,
            &definition::authorization(),
            &authorization,
        ),
        deployment("control plane", CONTROL_PLANE, namespace, &control_plane),
        lease(&api.find(&LEASES, system, CONTROL_PLANE).await, now),
        deployment("injector", INJECTOR, namespace, &injector),
        self::webhook(&webhook, namespace),
        reachable(&slices),
        self::certificate(&secret, &webhook, now),
    ]
}

/// A CustomResourceDefinition of ours: there, established, and the one we know.
pub fn definition(name: &str, ours: &Value, found: &Result<Option<Value>, Error>) -> Finding {
    const SUBJECT: &str = "crd";
    let served = match found {
        Ok(Some(served)) => served,
        Ok(None) => {
            return Finding::error(SUBJECT, format!("{name} is not there"), INSTALL);
        }
        Err(error) => return Finding::unread(SUBJECT, error),
    };
    let conditions = served["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let established = conditions.find(|one| one["type"] == "Established");
    if established.is_none_or(|one| one["status"] != "True") {
        let why = established.and_then(|one| one["message"].as_str());
        return Finding::error(
            SUBJECT,
            format!(
                "{name} is not established: {}",
                why.unwrap_or("not judged yet")
            ),
            &format!("kubectl describe crd {name}"),
        );
    }
    let schemas = schema::of_version(ours, VERSION).zip(schema::of_version(served, VERSION));
    let Some((ours, served)) = schemas else {
        return Finding::error(SUBJECT, format!("{name} does not serve {VERSION}"), INSTALL);
    };
    let difference = schema::difference(ours, served);
    let few = |fields: &[String]| text::some_of(fields, SHOWN);
    if !difference.missing.is_empty() {
        return Finding::warning(
            SUBJECT,
            format!(
                "{name} is older than this program, it lacks: {}",
                few(&difference.missing)
            ),
            "kubectl apply -k manifests/crds",
        );
    }
    if !difference.unknown.is_empty() {
        return Finding::warning(
            SUBJECT,
            format!(
                "{name} is newer than this program ({OURS}): {}",
                few(&difference.unknown)
            ),
            "use the `remora` of the cluster's version",
        );
    }
    if !difference.changed.is_empty() {
        return Finding::warning(
            SUBJECT,
            format!(
                "{name} has other bounds than this program's: {}",
                few(&difference.changed)
            ),
            "kubectl apply -k manifests/crds, with the manifests of this version",
        );
    }
    Finding::ok(SUBJECT, format!("{name} {VERSION} is established"))
}

/// A Deployment of ours, ready and of a version that works with this program.
pub fn deployment(
    subject: &'static str,
    name: &str,
    namespace: &str,
    found: &Result<Option<Deployment>, Error>,
) -> Finding {
    let deployment = match found {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            let message = format!("Deployment {namespace}/{name} is not there");
            return Finding::error(subject, message, INSTALL);
        }
        Err(error) => return Finding::unread(subject, error),
    };
    let spec = deployment.spec.as_ref();
    let wanted = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let containers = spec.and_then(|spec| Some(&spec.template.spec.as_ref()?.containers));
    let image = containers.and_then(|containers| containers.first()?.image.as_deref());
    let version = tag(image.unwrap_or_default());
    let shown = format!("{ready} of {wanted} ready, version {version}");
    let logs = format!(
        "kubectl -n {namespace} describe deployment/{name}; kubectl -n {namespace} logs deployment/{name}"
    );
    if wanted == 0 {
        let scale = format!("kubectl -n {namespace} scale deployment/{name} --replicas=2");
        return Finding::error(subject, "scaled to 0", &scale);
    }
    if ready == 0 {
        return Finding::error(subject, shown, &logs);
    }
    if ready < wanted {
        return Finding::warning(subject, shown, &logs);
    }
    if !is_supported(&version, OURS) {
        let message = format!("{shown}; this program is {OURS}");
        return Finding::warning(
            subject,
            message,
            "use the `remora` of the cluster's version",
        );
    }
    Finding::ok(subject, shown)
}

/// The Lease: held, and renewed lately.
pub fn lease(found: &Result<Option<Lease>, Error>, now: i64) -> Finding {
    const SUBJECT: &str = "leader";
    const LOGS: &str = "see the control plane's log: may it create and update the Lease?";
    let spec = match found {
        Ok(lease) => lease.as_ref().and_then(|lease| lease.spec.as_ref()),
        Err(error) => return Finding::unread(SUBJECT, error),
    };
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
    let (Some(spec), Some(holder)) = (spec, holder.filter(|holder| !holder.is_empty())) else {
        return Finding::error(
            SUBJECT,
            "no replica holds the Lease: nobody writes status or takes reports",
            LOGS,
        );
    };
    let renewed = spec.renew_time.as_ref().map(|time| time.0.as_second());
    let age = renewed.map(|renewed| now.saturating_sub(renewed));
    let lasts = i64::from(spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS));
    match age {
        Some(age) if age <= lasts + LEASE_GRACE_SECONDS => {
            Finding::ok(SUBJECT, format!("{holder} holds the Lease"))
        }
        Some(age) => {
            let age = text::age(u64::try_from(age).unwrap_or(0));
            let message = format!("{holder} has not renewed the Lease for {age}");
            Finding::error(SUBJECT, message, LOGS)
        }
        None => Finding::error(SUBJECT, format!("{holder} never renewed the Lease"), LOGS),
    }
}

/// The webhook configuration: there, with a certificate that is trusted.
pub fn webhook(
    found: &Result<Option<MutatingWebhookConfiguration>, Error>,
    system_namespace: &str,
) -> Finding {
    const SUBJECT: &str = "webhook";
    let configuration = match found {
        Ok(Some(configuration)) => configuration,
        Ok(None) => {
            let message = format!(
                "MutatingWebhookConfiguration {INJECTOR} is not there: no pod gets a sidecar"
            );
            return Finding::error(SUBJECT, message, INSTALL);
        }
        Err(error) => return Finding::unread(SUBJECT, error),
    };
    let hooks = configuration.webhooks.as_deref().unwrap_or_default();
    if hooks.is_empty() {
        return Finding::error(SUBJECT, format!("{INJECTOR} has no webhook in it"), INSTALL);
    }
    for hook in hooks {
        let config = &hook.client_config;
        if config
            .ca_bundle
            .as_ref()
            .is_none_or(|bundle| bundle.0.is_empty())
        {
            return Finding::error(
                SUBJECT,
                format!(
                    "{} has no caBundle: the API server cannot trust the injector",
                    hook.name
                ),
                "the injector fills it in: see its log, and whether it may patch the configuration",
            );
        }
        let elsewhere = config.service.as_ref();
        if let Some(service) = elsewhere.filter(|one| one.namespace != system_namespace) {
            let message = format!(
                "{} calls a Service of namespace {}",
                hook.name, service.namespace
            );
            return Finding::warning(SUBJECT, message, "is --system-namespace right?");
        }
    }
    let policies = hooks
        .iter()
        .filter_map(|hook| hook.failure_policy.as_deref());
    let policies: BTreeSet<&str> = policies.collect();
    let policies = policies.into_iter().collect::<Vec<_>>().join(", ");
    Finding::ok(SUBJECT, format!("configured, failurePolicy {policies}"))
}

/// The Service behind the webhook.
pub fn reachable(found: &Result<List<EndpointSlice>, Error>) -> Finding {
    const SUBJECT: &str = "webhook service";
    let slices = match found {
        Ok(slices) => &slices.items,
        Err(error) => return Finding::unread(SUBJECT, error),
    };
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let ready = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    });
    // A pod with addresses of both families is in a slice of each.
    let members = ready.map(|endpoint| {
        let pod = endpoint
            .target_ref
            .as_ref()
            .and_then(|pod| pod.name.clone());
        (pod.is_none().then(|| endpoint.addresses.clone()), pod)
    });
    match members.collect::<BTreeSet<_>>().len() {
        0 => Finding::error(
            SUBJECT,
            format!("Service {INJECTOR} has no ready endpoint: new pods get no sidecar"),
            "see the injector above",
        ),
        count => Finding::ok(SUBJECT, text::counted(count, "ready pod")),
    }
}

/// The webhook's certificate: valid for a while, and of the CA that is trusted.
pub fn certificate(
    secret: &Result<Option<Secret>, Error>,
    webhook: &Result<Option<MutatingWebhookConfiguration>, Error>,
    now: i64,
) -> Finding {
    const SUBJECT: &str = "certificate";
    const RENEW: &str = "the injector renews it: see its log (deleting the Secret makes it anew)";
    let secret = match secret {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            let message = format!("Secret {CERTIFICATE_SECRET} is not there yet");
            return Finding::error(SUBJECT, message, "the injector makes it: see its log");
        }
        Err(error) => return Finding::unread(SUBJECT, error),
    };
    let data = |name: &str| secret.data.as_ref().and_then(|data| data.get(name));
    let ends = data("tls.crt").and_then(|pem| certificate::not_after(&pem.0));
    let Some(ends) = ends else {
        let message = format!("Secret {CERTIFICATE_SECRET} holds no certificate");
        return Finding::error(SUBJECT, message, RENEW);
    };
    let left = ends.saturating_sub(now);
    if left <= 0 {
        return Finding::error(
            SUBJECT,
            "the webhook's certificate is not valid any more",
            RENEW,
        );
    }
    let hooks = webhook.as_ref().ok().and_then(|found| found.as_ref());
    let hooks = hooks.and_then(|configuration| configuration.webhooks.as_deref());
    let ca = data("ca.crt").map(|pem| certificate::all(&pem.0));
    for hook in hooks.unwrap_or_default() {
        let bundle = hook.client_config.ca_bundle.as_ref();
        let bundle = bundle.map(|bundle| certificate::all(&bundle.0));
        // While one authority takes over from another they differ in part.
        if let (Some(bundle), Some(ca)) = (bundle, &ca)
            && !ca.iter().any(|one| bundle.contains(one))
        {
            let message = format!(
                "the caBundle of {} holds no authority of the certificate's",
                hook.name
            );
            return Finding::error(SUBJECT, message, "the injector fills it in: see its log");
        }
    }
    let shown = text::age(u64::try_from(left).unwrap_or(0));
    if left < SOON_SECONDS {
        return Finding::warning(SUBJECT, format!("valid for {shown} only"), RENEW);
    }
    Finding::ok(SUBJECT, format!("valid for {shown}"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use k8s_openapi::ByteString;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    const NOW: i64 = 1_795_282_340;

    fn found<T: DeserializeOwned>(value: Value) -> Result<Option<T>, Error> {
        Ok(Some(serde_json::from_value(value).unwrap()))
    }

    fn served(change: impl Fn(&mut Value)) -> Finding {
        let mut crd = definition::definition();
        crd["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        change(&mut crd);
        definition(DEFINITION, &definition::definition(), &Ok(Some(crd)))
    }

    #[test]
    fn the_definition_is_ours_and_established() {
        const SPEC: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let ok = served(|_| {});
        assert_eq!(ok.level, Level::Ok, "{ok:?}");
        let not_established =
            served(|crd| crd["status"]["conditions"][0]["status"] = json!("False"));
        assert_eq!(not_established.level, Level::Error);
        let older = served(|crd| {
            let fields = crd.pointer_mut(SPEC).unwrap().as_object_mut().unwrap();
            fields.remove("timeouts");
        });
        assert!(
            older.message.contains("older") && older.message.contains("spec.timeouts"),
            "{older:?}"
        );
        let newer =
            served(|crd| crd.pointer_mut(SPEC).unwrap()["hedge"] = json!({"type": "object"}));
        assert!(newer.message.contains("newer"), "{newer:?}");
        let none = served(|crd| crd["spec"]["versions"][0]["name"] = json!("v9"));
        assert_eq!(none.level, Level::Error);
        let absent = definition(DEFINITION, &definition::definition(), &Ok(None));
        assert_eq!(absent.level, Level::Error);
    }

    #[test]
    fn a_deployment_is_ready_and_of_our_version() {
        let of = |ready: i32, image: &str| {
            let found = found(json!({"spec": {"replicas": 2, "selector": {}, "template":
                {"spec": {"containers": [{"name": "c", "image": image}]}}}, "status": {"readyReplicas": ready}}));
            deployment("injector", INJECTOR, "remora-system", &found)
        };
        let ours = format!("remora/injector:{OURS}");
        assert_eq!(of(2, &ours).level, Level::Ok);
        assert_eq!(of(1, &ours).level, Level::Warning);
        assert_eq!(of(0, &ours).level, Level::Error);
        assert_eq!(of(2, "remora/injector:9.9.9").level, Level::Warning);
        assert!(of(1, &ours).message.starts_with("1 of 2 ready"));
    }

    #[test]
    fn a_lease_is_held_by_who_renews_it() {
        let of = |holder: &str, renewed: &str| {
            let spec =
                json!({"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed});
            lease(&found(json!({"spec": spec})), NOW)
        };
        assert_eq!(of("cp-1", "2026-11-21T17:32:15.000000Z").level, Level::Ok);
        let late = of("cp-1", "2026-11-21T17:30:00.000000Z");
        assert!(
            late.level == Level::Error && late.message.contains("140s")
                || late.message.contains("2m"),
            "{late:?}"
        );
        assert_eq!(of("", "2026-11-21T17:32:15.000000Z").level, Level::Error);
        assert_eq!(lease(&Ok(None), NOW).level, Level::Error);
    }

    #[test]
    fn without_a_ready_endpoint_the_webhook_is_not_reachable() {
        let of = |ready: bool| {
            let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]});
            let items = serde_json::from_value(json!([slice])).unwrap();
            reachable(&Ok(List {
                items,
                is_cut: false,
            }))
        };
        assert_eq!(of(true).level, Level::Ok);
        assert_eq!(of(false).level, Level::Error);
    }

    #[test]
    fn a_certificate_that_ends_or_is_not_trusted_is_told() {
        let pem = include_bytes!("testdata/certificate.pem").to_vec();
        let ends = certificate::not_after(&pem).unwrap();
        let mut secret = Secret::default();
        let data = secret.data.get_or_insert_default();
        data.insert("tls.crt".to_owned(), ByteString(pem.clone()));
        data.insert("ca.crt".to_owned(), ByteString(pem.clone()));
        let hook = |bundle: &[u8]| {
            let mut found: MutatingWebhookConfiguration = serde_json::from_value(json!({"webhooks": [
                {"name": "inject.remora.io", "admissionReviewVersions": [], "sideEffects": "None", "clientConfig": {}}]})).unwrap();
            found.webhooks.as_mut().unwrap()[0].client_config.ca_bundle =
                Some(ByteString(bundle.to_vec()));
            Ok(Some(found))
        };
        let secret = Ok(Some(secret));
        let level = |now, bundle: &[u8]| certificate(&secret, &hook(bundle), now).level;
        assert_eq!(level(ends - 30 * 86_400, &pem), Level::Ok);
        assert_eq!(level(ends - 3_600, &pem), Level::Warning);
        assert_eq!(level(ends + 1, &pem), Level::Error);
        assert_eq!(level(ends - 30 * 86_400, b"another"), Level::Error);
        assert_eq!(certificate(&Ok(None), &Ok(None), NOW).level, Level::Error);
    }
}
