//! The second folder of the control plane's file source: Services with their
//! cluster IPs, Pods, EndpointSlices, and the policy that a scenario changes.
//! The files are JSON, which is YAML without doubts about quoting.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use super::catalogue::Key;
use super::staging::write_atomically;

/// The folder, with what was last written: the same is not written again.
#[derive(Debug)]
pub struct Generated {
    folder: PathBuf,
    written: BTreeMap<String, String>,
}

impl Generated {
    /// Makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            written: BTreeMap::new(),
        })
    }

    /// Writes an object under its kind and key, when it is not there already.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, object: &Value) -> io::Result<()> {
        let file = file_name(object);
        let text = serde_json::to_string_pretty(object)?;
        if self.written.get(&file) != Some(&text) {
            write_atomically(&self.folder.join(&file), &text)?;
            self.written.insert(file, text);
        }
        Ok(())
    }

    /// Removes an object.
    pub fn remove(&mut self, object: &Value) {
        self.remove_file(&file_name(object));
    }

    /// Replaces all objects of a kind.
    ///
    /// # Errors
    /// What the file system says.
    pub fn replace_kind(&mut self, kind: &str, objects: &[Value]) -> io::Result<()> {
        let keep: Vec<_> = objects.iter().map(file_name).collect();
        for object in objects {
            self.write(object)?;
        }
        let prefix = format!("{}_", kind.to_lowercase());
        let gone: Vec<_> = self
            .written
            .keys()
            .filter(|file| file.starts_with(&prefix) && !keep.contains(file))
            .cloned()
            .collect();
        for file in gone {
            self.remove_file(&file);
        }
        Ok(())
    }

    fn remove_file(&mut self, file: &str) {
        self.written.remove(file);
        let _ = fs::remove_file(self.folder.join(file));
    }
}

fn file_name(object: &Value) -> String {
    let (namespace, name) = super::yaml::key(object);
    let kind = super::yaml::kind(object).to_lowercase();
    format!("{kind}_{}_{}.yaml", plain(&namespace), plain(&name))
}

/// Names come from the user's YAML and may hold anything; file names may not.
fn plain(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '.' {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// Gives Services their cluster IPs, each the same for as long as we run.
#[derive(Debug, Default)]
pub struct ClusterIps {
    given: BTreeMap<Key, Ipv4Addr>,
}

impl ClusterIps {
    /// The Service with its cluster IP filled in; one that declares its own,
    /// or `None`, keeps it.
    pub fn fill(&mut self, key: &Key, service: &Service) -> Service {
        let mut service = service.clone();
        service
            .metadata
            .namespace
            .get_or_insert_with(|| key.0.clone());
        let Some(spec) = &mut service.spec else {
            return service;
        };
        let is_external = spec.type_.as_deref() == Some("ExternalName");
        if spec.cluster_ip.as_deref().is_none_or(str::is_empty) && !is_external {
            let number = u16::try_from(self.given.len() + 1)
                .unwrap_or(u16::MAX)
                .to_be_bytes();
            let ip = *self
                .given
                .entry(key.clone())
                .or_insert(Ipv4Addr::new(10, 96, number[0], number[1]));
            spec.cluster_ip = Some(ip.to_string());
            spec.cluster_ips = Some(vec![ip.to_string()]);
        }
        service
    }
}

/// Text for `/etc/hosts`: every Service under the names that a cluster's DNS gives it.
pub fn hosts(services: &[Service]) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
    for service in services {
        let ip = service
            .spec
            .as_ref()
            .and_then(|spec| spec.cluster_ip.as_deref());
        let (Some(name), Some(ip)) = (&service.metadata.name, ip) else {
            continue;
        };
        if ip.parse::<std::net::IpAddr>().is_ok() {
            let namespace = service.metadata.namespace.as_deref().unwrap_or("default");
            text.push_str(&format!("{ip} {name} {name}.{namespace} {name}.{namespace}.svc {name}.{namespace}.svc.cluster.local\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(ip: Option<&str>) -> Service {
        let mut value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {}});
        if let Some(ip) = ip {
            value["spec"]["clusterIP"] = ip.into();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn cluster_ips_are_given_once_and_declared_ones_kept() {
        let mut ips = ClusterIps::default();
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        let ip = |service: Service| service.spec.unwrap().cluster_ip.unwrap();
        assert_eq!(ip(ips.fill(&key("a"), &service(None))), "10.96.0.1");
        assert_eq!(ip(ips.fill(&key("b"), &service(None))), "10.96.0.2");
        assert_eq!(ip(ips.fill(&key("a"), &service(None))), "10.96.0.1");
        assert_eq!(ip(ips.fill(&key("c"), &service(Some("None")))), "None");
    }

    #[test]
    fn hosts_knows_the_names_of_a_cluster() {
        let text = hosts(&[service(Some("10.96.0.9")), service(Some("None"))]);
        assert!(
            text.contains("10.96.0.9 web web.shop web.shop.svc "),
            "{text}"
        );
        assert!(!text.contains("None"));
    }

    #[test]
    fn a_kind_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut generated = Generated::new(folder.path()).unwrap();
        let slice = |name: &str| json!({"kind": "EndpointSlice", "metadata": {"name": name, "namespace": "shop"}});
        generated
            .replace_kind("EndpointSlice", &[slice("a"), slice("../b")])
            .unwrap();
        generated
            .replace_kind("EndpointSlice", &[slice("a")])
            .unwrap();
        let files: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(files, ["endpointslice_shop_a.yaml"]);
    }
}
