//! The crate under test: stores, rules and layers of one run, with or without a mutation.

use axum::{Router, body::Body};
use http::{Request, Response};
use std::time::Duration;
use tower::{
    BoxError, Layer, Service, ServiceExt,
    util::{BoxCloneService, MapErrLayer, MapResponseLayer},
};
use tower_response_cache::{CacheLayer, Clock, Identity, InvalidateLayer, Memory, Redis, Rule, Rules, Store, redis::Coherence};

use super::{
    held::ErrorAs503,
    mutations::{Inner, Mutation, Outer},
    origin::Origin,
    program::{Credential, Setup, StoreKind},
    routes::{Kind, MAX_BODY, ROUTES, Route},
};

pub type Frontend = BoxCloneService<Request<Body>, Response<Body>, BoxError>;

/// A store in memory or in Redis.
#[derive(Clone)]
pub enum AnyStore {
    Memory(Memory),
    Redis(Redis),
}

/// One process: a store and the service that uses it.
#[derive(Clone)]
pub struct Process {
    pub store: AnyStore,
    pub rules: Rules,
    pub frontend: Frontend,
}

impl Process {
    pub async fn build(origin: Origin, mutation: Option<Mutation>, redis: Option<(&str, &str)>) -> Self {
        let (setup, clock) = (origin.setup, origin.clock.clone());
        let rules = rules(&setup, mutation);
        match (setup.store, redis) {
            (StoreKind::Redis { leased, memory, .. }, Some((url, prefix))) => {
                let store = redis_store(url, prefix, clock, leased, memory).await;
                let frontend = frontend(store.clone(), rules.clone(), origin, mutation);
                Self { store: AnyStore::Redis(store), rules, frontend }
            }
            _ => {
                let store = Memory::builder().capacity(8 << 20).clock(clock).build();
                let frontend = frontend(store.clone(), rules.clone(), origin, mutation);
                Self { store: AnyStore::Memory(store), rules, frontend }
            }
        }
    }

    /// Returns the number of fills in progress.
    pub fn fills(&self) -> u64 {
        match &self.store {
            AnyStore::Memory(store) => store.stats().flights,
            AnyStore::Redis(store) => store.stats().flights,
        }
    }
}

async fn redis_store(url: &str, prefix: &str, clock: Clock, leased: bool, memory: bool) -> Redis {
    let coherence = if leased { Coherence::Leased } else { Coherence::Validated };
    // A long timeout, because the machine may be slow.
    let mut builder =
        Redis::builder(url).prefix(prefix).clock(clock).coherence(coherence).command_timeout(Duration::from_secs(10));
    if memory {
        builder = builder.memory(8 << 20);
    }
    let store = builder.require_connection().build().await.expect("a Redis");
    while leased && !store.is_leased() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    store
}

/// Converts a layer's body into Axum's body.
fn plain<B>() -> MapResponseLayer<impl FnOnce(Response<B>) -> Response<Body> + Clone>
where
    B: http_body::Body<Data = bytes::Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    MapResponseLayer::new(|response: Response<B>| response.map(Body::new))
}

fn frontend<St: Store>(store: St, rules: Rules, origin: Origin, mutation: Option<Mutation>) -> Frontend {
    let setup = origin.setup;
    let inner = Inner { inner: origin, mutation };
    let flights = if mutation == Some(Mutation::NoCoalescing) { 0 } else { 4096 };
    let cache = CacheLayer::new(store.clone()).rules(rules.clone()).max_concurrent_fills(flights).cache_status("t");
    let rules = if mutation == Some(Mutation::IgnoresWrites) { Rules::new() } else { rules };
    let invalidate = InvalidateLayer::new(store).rules(rules);
    let whole = match (setup.nested, setup.invalidate_inside) {
        (false, false) => boxed(plain().layer(invalidate.layer(cache.layer(inner)))),
        (false, true) => boxed(plain().layer(cache.layer(invalidate.layer(inner)))),
        (true, false) => {
            let nested = Router::new().fallback_service(ErrorAs503(inner)).layer(cache);
            boxed(Router::new().nest("/api", nested).layer(invalidate))
        }
        (true, true) => {
            let nested = Router::new().fallback_service(ErrorAs503(inner)).layer(invalidate);
            boxed(Router::new().nest("/api", nested).layer(cache))
        }
    };
    BoxCloneService::new(Outer::new(whole, mutation))
}

fn boxed<S, B>(service: S) -> Frontend
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = MapErrLayer::new(Into::into).layer(service);
    BoxCloneService::new(service.map_response(|response: Response<B>| response.map(Body::new)))
}

/// Builds the rules of all routes, from TOML or in code.
fn rules(setup: &Setup, mutation: Option<Mutation>) -> Rules {
    let routes = ROUTES.iter().filter(|route| route.kind != Kind::Uncovered).map(|route| altered(*route, mutation));
    if setup.from_toml {
        let text: String = routes.map(|route| toml(&route, setup, mutation)).collect();
        return Rules::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
    routes.fold(Rules::new(), |rules, route| {
        let pattern = format!("{}/{}/{{id}}", setup.prefix(), route.name);
        rules.route(&pattern, rule(&route, setup, mutation))
    })
}

/// Applies a mutation to a route, unknown to the oracle.
fn altered(route: Route, mutation: Option<Mutation>) -> Route {
    match mutation {
        Some(Mutation::OneSecondTooLong) => Route { ttl: route.ttl + 1, ..route },
        Some(Mutation::SharesUsers) => Route { identity: false, family: route.family.filter(|_| !route.identity), ..route },
        Some(Mutation::StaleTooLong) => Route { while_revalidate: route.while_revalidate * 2, ..route },
        _ => route,
    }
}

fn rule(route: &Route, setup: &Setup, mutation: Option<Mutation>) -> Rule {
    let seconds = Duration::from_secs;
    let mut rule = match route.kind {
        Kind::Http if route.ttl > 0 => Rule::http().default_ttl(seconds(route.ttl)),
        Kind::Http => Rule::http(),
        _ => Rule::ttl(seconds(route.ttl)),
    };
    rule = rule.max_body(MAX_BODY as usize);
    rule = rule.stale_while_revalidate(seconds(route.while_revalidate)).stale_if_error(seconds(route.if_error));
    if let Some(ttl) = route.not_found {
        rule = rule.status(http::StatusCode::NOT_FOUND, seconds(ttl));
    }
    if route.targeted {
        rule = rule.targeted(["cdn-cache-control"]);
    }
    if route.identity {
        rule = rule.identity(match setup.identity {
            Credential::Bearer => Identity::bearer(),
            Credential::Cookie => Identity::cookie("sid"),
            Credential::ApiKey => Identity::header("x-api-key"),
        });
    }
    if let Some(template) = template(route) {
        rule = rule.namespace(&template);
    }
    if route.soft_writes {
        rule = rule.invalidates_softly();
    }
    if mutation == Some(Mutation::SharesUsers) {
        rule = rule.ignore_credentials();
    }
    rule
}

fn template(route: &Route) -> Option<String> {
    route.family.map(|family| if route.identity { format!("{family}:{{identity}}") } else { format!("{family}:{{id}}") })
}

fn toml(route: &Route, setup: &Setup, mutation: Option<Mutation>) -> String {
    let mut text = format!("[[route]]\npath = \"{}/{}/{{id}}\"\nmax_body = {MAX_BODY}\n", setup.prefix(), route.name);
    let mut line = |line: String| text.push_str(&format!("{line}\n"));
    match route.kind {
        Kind::Http => line("http = true".into()),
        _ => line(format!("ttl = \"{}s\"", route.ttl)),
    }
    if route.kind == Kind::Http && route.ttl > 0 {
        line(format!("default_ttl = \"{}s\"", route.ttl));
    }
    line(format!("stale_while_revalidate = \"{}s\"", route.while_revalidate));
    line(format!("stale_if_error = \"{}s\"", route.if_error));
    route.not_found.iter().for_each(|ttl| line(format!("statuses = {{ 404 = \"{ttl}s\" }}")));
    if route.targeted {
        line("targeted = [\"cdn-cache-control\"]".into());
    }
    if route.identity {
        let by = match setup.identity {
            Credential::Bearer => "bearer",
            Credential::Cookie => "cookie:sid",
            Credential::ApiKey => "header:x-api-key",
        };
        line(format!("identity = \"{by}\""));
    }
    template(route).iter().for_each(|template| line(format!("namespaces = [\"{template}\"]")));
    if route.soft_writes {
        line("invalidates_softly = true".into());
    }
    if mutation == Some(Mutation::SharesUsers) {
        line("ignore_credentials = true".into());
    }
    text
}
