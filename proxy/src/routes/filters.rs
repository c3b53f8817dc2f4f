//! What filters do to a request and its answer.

use http::HeaderMap;
use http::request::Parts;

use super::config::{Filter, HeaderChanges, Mirror, RouteMatch};
use super::paths;
use crate::headers;

impl HeaderChanges {
    /// Changes a message's fields.
    pub fn apply(&self, fields: &mut HeaderMap) {
        for (name, value) in &self.set {
            fields.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            fields.append(name, value.clone());
        }
        for name in &self.remove {
            headers::remove(fields, name);
        }
    }
}

/// Changes a request as `filters` say, in their order; tells of each mirror, with
/// the request as it is then.
pub fn change_request<'a>(
    filters: impl Iterator<Item = &'a Filter>,
    matched: Option<&RouteMatch>,
    parts: &mut Parts,
    mut mirror: impl FnMut(&'a Mirror, &Parts),
) {
    for filter in filters {
        match filter {
            Filter::RequestHeaders(changes) => changes.apply(&mut parts.headers),
            Filter::Rewrite(rewrite) => paths::rewrite(rewrite, matched, parts),
            Filter::Mirror(to) => mirror(to, parts),
            Filter::ResponseHeaders(_) | Filter::Redirect(_) | Filter::Cors(_) => {}
        }
    }
}

/// Changes an answer as `filters` say, in their order.
pub fn change_answer<'a>(filters: impl Iterator<Item = &'a Filter>, fields: &mut HeaderMap) {
    for filter in filters {
        if let Filter::ResponseHeaders(changes) = filter {
            changes.apply(fields);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn field(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    }

    #[test]
    fn fields_are_set_added_and_removed_and_the_others_keep_their_order() {
        let mut fields: HeaderMap = [
            field("a", "1"),
            field("b", "2"),
            field("c", "3"),
            field("d", "4"),
        ]
        .into_iter()
        .collect();
        fields.append("c", HeaderValue::from_static("3b"));
        let changes = HeaderChanges {
            set: vec![field("c", "new"), field("e", "5")],
            add: vec![field("d", "4b")],
            remove: vec![HeaderName::from_static("a"), HeaderName::from_static("z")],
        };
        changes.apply(&mut fields);
        let lines: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{name}:{}", value.to_str().unwrap()))
            .collect();
        assert_eq!(lines, ["b:2", "c:new", "d:4", "d:4b", "e:5"]);
    }

    #[test]
    fn a_mirror_gets_the_request_as_the_filters_before_it_have_made_it() {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        let set = |value| {
            Filter::RequestHeaders(HeaderChanges {
                set: vec![field("a", value)],
                ..HeaderChanges::default()
            })
        };
        let mirror = Filter::Mirror(Mirror {
            backend: Default::default(),
            denominator: 1,
            numerator: 1,
        });
        let filters = [set("1"), mirror, set("2")];
        let mut seen = Vec::new();
        change_request(filters.iter(), None, &mut parts, |_, parts| {
            seen.push(parts.headers["a"].clone());
        });
        assert_eq!(
            (seen[0].as_bytes(), parts.headers["a"].as_bytes()),
            (&b"1"[..], &b"2"[..])
        );
    }
}
