//! The objects of one kind whose statuses are written, at the API server.

use std::collections::HashMap;

use kube::api::{Api, ApiResource, DynamicObject, ListParams};

use crate::answer::{self, RequestError};
use crate::core::objects::Id;

/// Objects in one answer to a list.
const PAGE: u32 = 500;

/// All of a kind.
#[derive(Clone)]
pub struct Objects {
    client: kube::Client,
    /// The kind.
    pub resource: ApiResource,
}

impl Objects {
    /// Those of a cluster.
    pub fn new(client: kube::Client, resource: ApiResource) -> Self {
        Self { client, resource }
    }

    /// As RBAC names the kind.
    pub fn plural(&self) -> &str {
        &self.resource.plural
    }

    /// Those of a namespace.
    pub fn within(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &self.resource)
    }

    /// Of all that there are now what `read` gives.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn all<T>(
        &self,
        read: impl Fn(&DynamicObject) -> T,
    ) -> Result<HashMap<Id, T>, RequestError> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &self.resource);
        let mut all = HashMap::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let listed = answer::of(api.list(&page)).await?;
            for object in listed.items {
                let metadata = &object.metadata;
                let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
                let id = Id::new(namespace.unwrap_or_default(), name.unwrap_or_default());
                all.insert(id, read(&object));
            }
            match listed.metadata.continue_.filter(|next| !next.is_empty()) {
                Some(next) => page = page.continue_token(&next),
                None => return Ok(all),
            }
        }
    }
}
