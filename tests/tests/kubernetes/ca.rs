//! The CA replaced while the shop is called: by a root after the other, and by
//! one that was brought.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Cluster, eventually};
use crate::identity::trusted;
use crate::shop::{DEPLOYMENTS, SHOP, SYSTEM, Shop, manifests, name_of, shop};

/// The shortest lifetime of certificates that there is.
const LIFETIME: &str = "60s";
/// For so long new roots go ahead of the first leaf below them.
const PROPAGATION: Duration = Duration::from_secs(20);
/// For how long at least a former root stays beyond that: a lifetime, and some.
const OVERLAP_SECONDS: u64 = 120;

/// The extensions of a root, and of the CAs below it, as cert-manager has them.
const EXTENSIONS: &str = "[req]\ndistinguished_name=dn\n[dn]\n\
    [root]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyEncipherment,keyCertSign\nsubjectKeyIdentifier=hash\n\
    [below]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyEncipherment,keyCertSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";

/// CAs in a folder, made by `openssl`.
struct Maker(TempDir);

impl Maker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("openssl.cnf"), EXTENSIONS).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn openssl(&self, line: &str) -> String {
        let mut command = Command::new("openssl");
        let done = command.args(line.split(' ')).current_dir(self.path());
        let done = done.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "openssl {line}: {said}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap()
    }

    fn root(&self, name: &str) {
        self.openssl(&format!(
            "ecparam -genkey -noout -name prime256v1 -out {name}.key"
        ));
        self.openssl(&format!(
            "req -x509 -new -key {name}.key -days 30 -subj /CN={name} -config openssl.cnf -extensions root -out {name}.crt"
        ));
    }

    /// A CA below another one; `key`: the words of `openssl genpkey`.
    fn below(&self, issuer: &str, name: &str, key: &str) {
        self.openssl(&format!("genpkey {key} -out {name}.pkcs8"));
        // The older forms, which cert-manager writes where nothing else is asked for.
        self.openssl(&format!(
            "pkey -in {name}.pkcs8 -traditional -out {name}.key"
        ));
        self.openssl(&format!(
            "req -new -key {name}.key -subj /CN={name} -config openssl.cnf -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {issuer}.crt -CAkey {issuer}.key -CAcreateserial -days 20 -extfile openssl.cnf -extensions below -out {name}.crt"
        ));
    }

    /// SHA-256 of a certificate, as sidecars show it.
    fn fingerprint(&self, file: &str) -> String {
        let said = self.openssl(&format!("x509 -in {file} -noout -fingerprint -sha256"));
        let digits = said.trim().rsplit('=').next().unwrap();
        digits.to_lowercase()
    }
}

/// Puts a CA into the Secret, whole.
fn put(cluster: &Cluster, certificate: &str, key: &str, roots: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "remora-ca", "namespace": SYSTEM},
        "stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": roots},
    });
    cluster.apply(&secret.to_string());
}

/// `GET /identity` of every sidecar of the shop.
fn identities(shop: &Shop) -> Result<Vec<(String, Value)>, String> {
    let pods = shop.cluster.pods(SHOP, "app");
    let shown = pods.iter().map(|pod| {
        let name = name_of(pod);
        let shown = shop.sidecar(&name, "/identity")?;
        Ok((name, shown))
    });
    shown.collect()
}

/// Waits until it holds for every sidecar of the shop.
#[track_caller]
fn everywhere(shop: &Shop, seconds: u64, what: &str, holds: impl Fn(&str, &Value) -> bool) {
    eventually(seconds, what, || {
        match identities(shop)?
            .into_iter()
            .find(|(name, shown)| !holds(name, shown))
        {
            None => Ok(()),
            Some((name, shown)) => Err(format!("{name}: {shown}")),
        }
    });
}

fn trusts(shown: &Value, fingerprint: &str) -> bool {
    let roots = shown["roots"].as_array();
    roots.is_some_and(|roots| roots.iter().any(|root| root["sha256"] == fingerprint))
}

/// Waits until every sidecar has another certificate than now.
fn renewed(shop: &Shop, seconds: u64) {
    let serial = |shown: &Value| shown["chain"][0]["serial"].clone();
    let before: Vec<Value> = identities(shop)
        .unwrap()
        .iter()
        .map(|(_, shown)| serial(shown))
        .collect();
    everywhere(
        shop,
        seconds,
        "every sidecar has another certificate",
        |_, shown| {
            let now = serial(shown);
            now.is_string() && !before.contains(&now)
        },
    );
}

fn restart(cluster: &Cluster, names: &[&str]) {
    for name in names {
        let what = format!("deployment/{name}");
        cluster.kubectl(&["rollout", "restart", "-n", SHOP, &what]);
    }
    for name in names {
        cluster.rolled_out(SHOP, &format!("deployment/{name}"));
    }
}

/// More pods, which are called on new connections with new certificates.
fn grow(cluster: &Cluster, replicas: u32) {
    let replicas = format!("--replicas={replicas}");
    cluster.kubectl(&["scale", "-n", SHOP, "deployment/catalog", &replicas]);
    cluster.rolled_out(SHOP, "deployment/catalog");
}

/// The control plane as it is installed, but for the lifetime of certificates.
fn lifetime(cluster: &Cluster, lifetime: Option<&str>) {
    let plane = "deployment/remora-control-plane";
    match lifetime {
        Some(lifetime) => {
            let patch = json!([{
                "op": "add", "path": "/spec/template/spec/containers/0/command/-",
                "value": format!("--identity-lifetime={lifetime}"),
            }]);
            let patch = patch.to_string();
            cluster.kubectl(&["patch", "-n", SYSTEM, plane, "--type=json", "-p", &patch]);
        }
        None => {
            let install = manifests("install").display().to_string();
            cluster.kubectl(&["apply", "-k", &install]);
        }
    }
    cluster.rolled_out(SYSTEM, plane);
}

/// The root that issues now.
fn current_root(shop: &Shop, maker: &Maker) -> (String, String) {
    let template = "go-template={{index .data \"ca.crt\" | base64decode}}";
    let text = shop
        .cluster
        .kubectl(&["get", "secret", "-n", SYSTEM, "remora-ca", "-o", template]);
    std::fs::write(maker.path().join("current.crt"), &text).unwrap();
    (text, maker.fingerprint("current.crt"))
}

#[test]
fn the_root_is_replaced_twice_under_load_and_no_request_fails() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let maker = Maker::new();
    maker.root("second");
    maker.root("third");
    let (first, first_sha) = current_root(&shop, &maker);
    let (second_sha, third_sha) = (
        maker.fingerprint("second.crt"),
        maker.fingerprint("third.crt"),
    );
    lifetime(cluster, Some(LIFETIME));
    // Who has a certificate for a day renews it at noon.
    restart(cluster, &DEPLOYMENTS);
    let shop = {
        drop(shop);
        crate::shop::shop().unwrap()
    };
    let cluster = &shop.cluster;
    everywhere(&shop, 30, "certificates are short", |_, shown| {
        is_short(shown)
    });
    let begin = std::time::Instant::now();
    let (served, errors) = shop.served_during(10, |cluster| {
        // The operator's way: the new root beside the old one, then alone.
        let (certificate, key) = (maker.read("second.crt"), maker.read("second.key"));
        let both = format!("{certificate}{first}");
        put(cluster, &certificate, &key, &both);
        everywhere(&shop, 30, "both roots are trusted", |_, shown| {
            trusts(shown, &first_sha) && trusts(shown, &second_sha)
        });
        eprintln!("{:?}: both roots are trusted", begin.elapsed());
        std::thread::sleep(PROPAGATION);
        grow(cluster, 4);
        renewed(&shop, 60);
        put(cluster, &certificate, &key, &certificate);
        eprintln!("{:?}: the second root issued everything", begin.elapsed());
        grow(cluster, 5);
        // The hasty one's: another in its place, at once.
        let (certificate, key) = (maker.read("third.crt"), maker.read("third.key"));
        put(cluster, &certificate, &key, &certificate);
        everywhere(&shop, 30, "the third root is trusted", |_, shown| {
            trusts(shown, &third_sha) && trusts(shown, &second_sha)
        });
        std::thread::sleep(PROPAGATION);
        grow(cluster, 6);
        renewed(&shop, 60);
        eprintln!("{:?}: the third root issued everything", begin.elapsed());
        grow(cluster, 7);
        everywhere(
            &shop,
            OVERLAP_SECONDS + 60,
            "former roots are gone",
            |_, shown| {
                trusts(shown, &third_sha)
                    && !trusts(shown, &second_sha)
                    && !trusts(shown, &first_sha)
            },
        );
        eprintln!("{:?}: former roots are gone", begin.elapsed());
        grow(cluster, 8);
    });
    cluster.kubectl(&["scale", "-n", SHOP, "deployment/catalog", "--replicas=3"]);
    eprintln!("rotated twice: {served:?}");
    assert_eq!(served.failed(), 0, "{served:?} {errors}");
    assert!(served.requests > 50_000, "{served:?}");
    let text = trusted(cluster, SHOP).unwrap();
    assert!(text.contains(&maker.read("third.crt")), "{text}");
    lifetime(cluster, None);
    everywhere(&shop, 90, "certificates are for a day again", |_, shown| {
        let ends = shown["chain"][0]["not_after_ms"].as_i64();
        ends > Some(crate::cluster::unix_ms() + 3_600_000)
    });
}

/// Whether the certificate lives for minutes.
fn is_short(shown: &serde_json::Value) -> bool {
    let leaf = &shown["chain"][0];
    let life = leaf["not_after_ms"]
        .as_i64()
        .zip(leaf["not_before_ms"].as_i64());
    life.is_some_and(|(ends, begins)| ends - begins <= 400_000)
}

/// Waits until it is in the log of the last two minutes of every control plane.
#[track_caller]
fn every_replica_says(cluster: &Cluster, what: &str) {
    eventually(60, what, || {
        let planes = cluster.pods(SYSTEM, "app.kubernetes.io/name=remora-control-plane");
        for plane in &planes {
            let plane = name_of(plane);
            let ask = ["logs", "-n", SYSTEM, &plane, "--since=120s"];
            let said = cluster.try_kubectl(&ask, None)?;
            if !said.contains(what) {
                return Err(format!("{plane}: {said}"));
            }
        }
        Ok(())
    });
}

#[test]
fn a_ca_that_was_brought_issues_with_its_whole_chain_and_a_broken_one_never() {
    let Some(shop) = shop() else { return };
    let maker = Maker::new();
    maker.root("root");
    maker.below(
        "root",
        "policy",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    );
    maker.below(
        "policy",
        "issuing",
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
    );
    let root = maker.fingerprint("root.crt");
    let chain = maker.read("issuing.crt") + &maker.read("policy.crt");
    let key = maker.read("issuing.key");
    assert!(
        key.contains("BEGIN RSA PRIVATE KEY"),
        "as cert-manager writes it"
    );
    let issued = |name: &str, shown: &Value| {
        !name.starts_with("cart")
            || shown["chain"]
                .as_array()
                .is_some_and(|chain| chain.len() == 3)
                && shown["chain"][1]["sha256"] == maker.fingerprint("issuing.crt")
                && shown["chain"][2]["sha256"] == maker.fingerprint("policy.crt")
    };
    let (served, errors) = shop.served_during(10, |cluster| {
        put(cluster, &chain, &key, &maker.read("root.crt"));
        everywhere(&shop, 60, "the root is trusted", |_, shown| {
            trusts(shown, &root)
        });
        // By now each replica has it: either may issue for the new pod.
        every_replica_says(cluster, "the CA is another now");
        std::thread::sleep(PROPAGATION);
        // What is made now has it; what was there before calls it, and is called.
        restart(cluster, &["cart"]);
        everywhere(&shop, 60, "the new pod has the chain", issued);

        // A key that is another's: said, and the last good one stays.
        put(
            cluster,
            &chain,
            &maker.read("root.key"),
            &maker.read("root.crt"),
        );
        every_replica_says(cluster, "tls.key is not the key of the first certificate");
        restart(cluster, &["cart"]);
        everywhere(&shop, 60, "the last good one issues", issued);
        put(cluster, &chain, &key, &maker.read("root.crt"));
    });
    assert_eq!(served.failed(), 0, "{served:?} {errors}");
    eprintln!("a CA was brought: {served:?}");
}
