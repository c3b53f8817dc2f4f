//! Routes of `shop/catalog` as a test writes them.

use remora_proto::v1::{
    self, BackendReference, PathChange, RouteBackend, RouteFilter, RouteMatch, RouteReference,
    RouteRule, ValueMatch, path_change, route_filter, route_match, value_match,
};

use crate::mesh::{Mesh, PORT, policy};
use crate::upstream::App;

/// A rule of `shop/canary` without anything.
pub fn rule(name: &str) -> RouteRule {
    RouteRule {
        route: Some(RouteReference {
            kind: "HTTPRoute".into(),
            namespace: "shop".into(),
            name: "canary".into(),
            generation: 1,
            rule: 0,
            rule_name: name.into(),
        }),
        ..RouteRule::default()
    }
}

/// The port of `shop/<service>`.
pub fn reference(service: &str) -> BackendReference {
    BackendReference {
        namespace: "shop".into(),
        service: service.into(),
        port: PORT.into(),
        cannot: String::new(),
    }
}

/// A backend with this weight.
pub fn backend(service: &str, weight: u32) -> RouteBackend {
    RouteBackend {
        backend: Some(reference(service)),
        weight,
        filters: Vec::new(),
    }
}

/// A rule that leads to one service.
pub fn to(service: &str) -> RouteRule {
    RouteRule {
        backends: vec![backend(service, 1)],
        ..rule(service)
    }
}

/// Chained changes of a rule.
pub trait Change: Sized {
    /// With one more match.
    fn when(self, one: RouteMatch) -> Self;
    /// With one more filter.
    fn filter(self, filter: route_filter::Filter) -> Self;
}

impl Change for RouteRule {
    fn when(mut self, one: RouteMatch) -> Self {
        self.matches.push(one);
        self
    }

    fn filter(mut self, filter: route_filter::Filter) -> Self {
        self.filters.push(RouteFilter {
            filter: Some(filter),
        });
        self
    }
}

/// A match by path.
pub fn path(path: route_match::Path) -> RouteMatch {
    RouteMatch {
        path: Some(path),
        ..RouteMatch::default()
    }
}

/// A match by prefix.
pub fn prefix(prefix: &str) -> RouteMatch {
    path(route_match::Path::PathPrefix(prefix.into()))
}

/// A named value that must be this.
pub fn exactly(name: &str, value: &str) -> ValueMatch {
    ValueMatch {
        name: name.into(),
        value: Some(value_match::Value::Exact(value.into())),
    }
}

/// A named value of this form.
pub fn form(name: &str, pattern: &str) -> ValueMatch {
    ValueMatch {
        name: name.into(),
        value: Some(value_match::Value::Pattern(pattern.into())),
    }
}

/// Fields that are set.
pub fn set(fields: &[(&str, &str)]) -> v1::HeaderChanges {
    let fields = fields.iter().map(|(name, value)| v1::Header {
        name: (*name).into(),
        value: (*value).into(),
    });
    v1::HeaderChanges {
        set: fields.collect(),
        ..v1::HeaderChanges::default()
    }
}

/// Another prefix.
pub fn prefix_change(prefix: &str) -> Option<PathChange> {
    Some(PathChange {
        change: Some(path_change::Change::Prefix(prefix.into())),
    })
}

impl Mesh {
    /// `shop/<name>` with an application that answers everything, at this last byte.
    pub async fn version(&self, name: &str, host: u8) -> App {
        let app = App::ok(self.net.at(host)).await;
        self.serve(name, &app);
        app
    }

    /// `shop/<name>` with this application.
    pub fn serve(&self, name: &str, app: &App) {
        self.endpoint(name, 0, app.address(), |_| ());
        self.service(name, policy());
    }

    /// `shop/catalog`, without endpoints of its own, with these rules.
    pub fn routes(&self, rules: Vec<RouteRule>) {
        self.routes_with(rules, |_| ());
    }

    /// As [`Mesh::routes`], the service changed by `change`.
    pub fn routes_with(&self, mut rules: Vec<RouteRule>, change: impl FnOnce(&mut v1::Service)) {
        for (at, rule) in rules.iter_mut().enumerate() {
            let route = rule.route.as_mut().unwrap();
            route.rule = at as u32;
            if at > 0 {
                // No two of a route have the same name.
                route.rule_name += &format!("-{at}");
            }
        }
        self.service_with("catalog", |service| {
            service.routes = vec![v1::PortRoutes {
                ports: vec![PORT.into()],
                grpc: false,
                rules,
            }];
            change(service);
        });
    }

    /// Completes when `count` resources more have been taken, or refused.
    pub async fn until_taken(&self, count: usize) {
        crate::eventually("the change is taken", async || {
            self.control.acks() + self.control.nacks().len() > count
        })
        .await;
    }

    /// Puts other rules, and waits until they are in force.
    pub async fn change_routes(&self, rules: Vec<RouteRule>) {
        // What is still to be said of resources before counts for none of these.
        crate::eventually("all is taken", async || self.control.is_settled()).await;
        let before = self.control.acks() + self.control.nacks().len();
        self.routes(rules);
        self.until_taken(before).await;
    }
}
