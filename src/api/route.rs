//! Which path is which resource, and which methods go with it.
//!
//! Promises: this is the one list of paths; `openapi.json` is tested against it.

use hyper::Method;

use super::path::{self, Segments};
use crate::metrics::Kind;

/// A kind of path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    /// Items and operations on them. Which of its paths mean what depends on the
    /// table, see `items.rs`.
    Items,
    Tables,
    Table,
    DryRun,
    Reconcilers,
    Reconciler,
    Rollback,
    Cluster,
    Leave,
    Member,
    Ring,
    Health,
    Ready,
    Metrics,
    OpenApi,
    /// For peers only, and no part of the published API.
    Peer,
}

const READ: (&[Method], &str) = (&[Method::GET, Method::HEAD], "GET, HEAD");

impl Resource {
    /// The methods that go with the path, as a list and as `Allow` writes them.
    pub fn methods(self) -> (&'static [Method], &'static str) {
        match self {
            Resource::Items => (
                &[
                    Method::GET,
                    Method::HEAD,
                    Method::PUT,
                    Method::DELETE,
                    Method::POST,
                ],
                "GET, HEAD, PUT, DELETE, POST",
            ),
            Resource::Table | Resource::Reconciler => (
                &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
                "GET, HEAD, PUT, DELETE",
            ),
            Resource::Rollback | Resource::Leave | Resource::DryRun => (&[Method::POST], "POST"),
            Resource::Member => (&[Method::DELETE], "DELETE"),
            Resource::Peer => (&[Method::GET], "GET"),
            Resource::Tables
            | Resource::Reconcilers
            | Resource::Cluster
            | Resource::Ring
            | Resource::Health
            | Resource::Ready
            | Resource::Metrics
            | Resource::OpenApi => READ,
        }
    }

    /// What a request of this method on this resource is counted as.
    pub fn kind(self, method: &Method) -> Kind {
        match self {
            Resource::Items => match *method {
                Method::GET => Kind::Get,
                Method::HEAD => Kind::Head,
                Method::PUT => Kind::Put,
                Method::DELETE => Kind::Delete,
                Method::POST => Kind::Operation,
                _ => Kind::Unknown,
            },
            Resource::Tables | Resource::Table => Kind::Table,
            Resource::DryRun => Kind::DryRun,
            Resource::Reconcilers | Resource::Reconciler | Resource::Rollback => Kind::Reconciler,
            Resource::Cluster | Resource::Leave | Resource::Member | Resource::Ring => {
                Kind::Cluster
            }
            Resource::Health | Resource::Ready | Resource::Metrics | Resource::OpenApi => {
                Kind::Health
            }
            Resource::Peer => Kind::Peer,
        }
    }
}

/// Whether a path is one of an item, told without taking it apart. Used to refuse
/// early; [`find`] decides.
pub fn is_item(path: &str) -> bool {
    path.strip_prefix("/v1/tables/")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(_, rest)| rest.starts_with("items/"))
}

/// The resource that a path names, with the raw segments that vary. Those of an item
/// begin with its table and the word `items`.
pub fn find(path: &str) -> Option<(Resource, Segments<'_>)> {
    let segments = path::segments(path);
    let (resource, varying) = match *segments {
        ["v1", "tables"] => (Resource::Tables, 2..2),
        ["v1", "tables", table] if !table.is_empty() => (Resource::Table, 2..3),
        ["v1", "tables", table, "dry-run"] if !table.is_empty() => (Resource::DryRun, 2..3),
        ["v1", "tables", _, "items", _, ..] => (Resource::Items, 2..segments.len()),
        ["v1", "reconcilers"] => (Resource::Reconcilers, 2..2),
        ["v1", "reconcilers", name] if !name.is_empty() => (Resource::Reconciler, 2..3),
        ["v1", "reconcilers", _, "rollback"] => (Resource::Rollback, 2..3),
        ["v1", "cluster"] => (Resource::Cluster, 2..2),
        ["v1", "cluster", "leave"] => (Resource::Leave, 3..3),
        ["v1", "cluster", "members", member] if !member.is_empty() => (Resource::Member, 3..4),
        ["v1", "cluster", "ring", _, _] => (Resource::Ring, 3..5),
        ["healthz"] => (Resource::Health, 1..1),
        ["readyz"] => (Resource::Ready, 1..1),
        ["metrics"] => (Resource::Metrics, 1..1),
        ["openapi.json"] => (Resource::OpenApi, 1..1),
        ["internal", "v1", "peer"] => (Resource::Peer, 3..3),
        _ => return None,
    };
    Some((resource, segments.at(varying)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every published path with its methods: the router knows no other.
    const PUBLISHED: [(&str, Resource, &[&str]); 18] = [
        (
            "/v1/tables/{table}/items/{partition_key}",
            Resource::Items,
            &["get", "head", "put", "delete"],
        ),
        (
            "/v1/tables/{table}/items/{partition_key}/{sort_key}",
            Resource::Items,
            &["get", "head", "put", "delete"],
        ),
        (
            "/v1/tables/{table}/items/{partition_key}/operations",
            Resource::Items,
            &["post"],
        ),
        (
            "/v1/tables/{table}/items/{partition_key}/{sort_key}/operations",
            Resource::Items,
            &["post"],
        ),
        ("/v1/tables", Resource::Tables, &["get", "head"]),
        (
            "/v1/tables/{table}",
            Resource::Table,
            &["get", "head", "put", "delete"],
        ),
        ("/v1/tables/{table}/dry-run", Resource::DryRun, &["post"]),
        ("/v1/reconcilers", Resource::Reconcilers, &["get", "head"]),
        (
            "/v1/reconcilers/{name}",
            Resource::Reconciler,
            &["get", "head", "put", "delete"],
        ),
        (
            "/v1/reconcilers/{name}/rollback",
            Resource::Rollback,
            &["post"],
        ),
        ("/v1/cluster", Resource::Cluster, &["get", "head"]),
        ("/v1/cluster/leave", Resource::Leave, &["post"]),
        ("/v1/cluster/members/{node}", Resource::Member, &["delete"]),
        (
            "/v1/cluster/ring/{table}/{partition_key}",
            Resource::Ring,
            &["get", "head"],
        ),
        ("/healthz", Resource::Health, &["get", "head"]),
        ("/readyz", Resource::Ready, &["get", "head"]),
        ("/metrics", Resource::Metrics, &["get", "head"]),
        ("/openapi.json", Resource::OpenApi, &["get", "head"]),
    ];

    #[test]
    fn openapi_lists_the_routes_and_nothing_else() {
        let document: serde_json::Value =
            serde_json::from_str(super::super::health::OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap();
        for (template, resource, methods) in PUBLISHED {
            let (found, _) = find(template).expect(template);
            assert_eq!(found, resource, "{template}");
            assert_eq!(is_item(template), resource == Resource::Items, "{template}");
            let described: BTreeSet<&str> = paths[template]
                .as_object()
                .unwrap_or_else(|| panic!("{template} is missing"))
                .keys()
                .map(String::as_str)
                .filter(|key| *key != "parameters")
                .collect();
            assert_eq!(described, methods.iter().copied().collect(), "{template}");
            for method in methods {
                let method: Method = method.to_uppercase().parse().unwrap();
                assert!(resource.methods().0.contains(&method), "{template}");
            }
            if resource != Resource::Items {
                assert_eq!(resource.methods().0.len(), methods.len(), "{template}");
            }
        }
        assert_eq!(paths.len(), PUBLISHED.len());
    }

    #[test]
    fn what_is_too_long_does_not_pass_for_an_operation() {
        let (_, captured) = find("/v1/tables/t/items/a/b/operations/c").expect("an item's");
        assert_eq!(*captured, ["t", "items", "a", "b", "operations", "c"]);
    }

    #[test]
    fn allow_says_what_is_allowed() {
        for (_, resource, _) in PUBLISHED {
            let (methods, allow) = resource.methods();
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            assert_eq!(names.join(", "), allow);
        }
    }
}
