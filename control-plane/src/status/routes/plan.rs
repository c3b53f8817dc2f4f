//! What `status.parents` of a route should be. Pure.

use remora_proto::well_known;
use serde_json::{Map, Value, json};

use crate::core::routes::ParentRef;
use crate::core::routes::verdict::{ParentVerdict, RouteVerdict};
use crate::gateway::status::is_ours;

/// Entries of the list, as Gateway API bounds them.
const MAX_PARENTS: usize = 32;

/// The list with our entries as they should be; `None` where they are so
/// already. Those of others keep their content and their order. `now` is the
/// present time in RFC 3339.
pub fn merged(present: &[Value], verdict: &RouteVerdict, now: &str) -> Option<Vec<Value>> {
    let others = present.iter().filter(|entry| !is_ours(entry)).count();
    let room = MAX_PARENTS.saturating_sub(others);
    let mut wanted: Vec<Option<&ParentVerdict>> = verdict.parents.iter().map(Some).collect();
    wanted.truncate(room);
    let mut list = Vec::with_capacity(present.len());
    for entry in present {
        if !is_ours(entry) {
            list.push(entry.clone());
            continue;
        }
        let matching = wanted
            .iter_mut()
            .find(|wanted| wanted.is_some_and(|one| names(&entry["parentRef"], &one.parent)));
        // An entry for a parent that the route names no more is dropped.
        if let Some(one) = matching.and_then(Option::take) {
            list.push(entry_of(one, verdict.generation, Some(entry), now));
        }
    }
    let new = wanted.into_iter().flatten();
    list.extend(new.map(|one| entry_of(one, verdict.generation, None, now)));
    (list != present).then_some(list)
}

/// Whether a reference in a status is this one.
fn names(written: &Value, parent: &ParentRef) -> bool {
    let text = |field: &str| written[field].as_str();
    text("group").unwrap_or_default() == &*parent.group
        && text("kind") == Some("Service")
        && text("namespace") == parent.namespace.as_deref()
        && text("name") == Some(&*parent.name)
        && text("sectionName") == parent.section_name.as_deref()
        && written["port"].as_u64() == parent.port.map(u64::from)
}

/// As the route writes it.
fn reference(parent: &ParentRef) -> Value {
    let mut written = Map::new();
    let mut set = |field: &str, value: Value| written.insert(field.to_owned(), value);
    set("group", json!(&*parent.group));
    set("kind", json!("Service"));
    if let Some(namespace) = &parent.namespace {
        set("namespace", json!(&**namespace));
    }
    set("name", json!(&*parent.name));
    if let Some(section_name) = &parent.section_name {
        set("sectionName", json!(&**section_name));
    }
    if let Some(port) = parent.port {
        set("port", json!(port));
    }
    Value::Object(written)
}

fn entry_of(parent: &ParentVerdict, generation: i64, before: Option<&Value>, now: &str) -> Value {
    let had = before.and_then(|before| before["conditions"].as_array());
    let conditions = parent.conditions.iter().map(|condition| {
        let status = if condition.status { "True" } else { "False" };
        // The time of the last change stays as long as the status word does.
        let same = had
            .into_iter()
            .flatten()
            .find(|had| had["type"] == condition.kind && had["status"] == status);
        let since = same.and_then(|had| had["lastTransitionTime"].as_str());
        json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or(now),
        })
    });
    json!({
        "parentRef": reference(&parent.parent),
        "controllerName": well_known::CONTROLLER_NAME,
        "conditions": conditions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
