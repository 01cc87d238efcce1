//! Manual invalidations, by namespace and by key.

use axum::body::Body;
use http::Request;
use tower_response_cache::{Namespace, Store};

use super::{
    driver::Driver,
    history::{Invalidation, Scope, levels},
    mutations::Mutation,
    program::{Name, RequestSpec},
    system::{AnyStore, Process},
};

impl Driver {
    pub async fn invalidate(&mut self, names: &Name, soft: bool, process: u8) {
        let process = self.processes[usize::from(process) % self.processes.len()].clone();
        let commit = self.log.lock().next();
        if self.mutation != Some(Mutation::IgnoresInvalidation) {
            match &process.store {
                AnyStore::Memory(store) => invalidate_names(store, names, soft).await,
                AnyStore::Redis(store) => invalidate_names(store, names, soft).await,
            }
        }
        let mut log = self.log.lock();
        let ack = Some(log.next());
        log.invalidations.push(Invalidation { scope: Scope::Name(levels(names)), soft, commit, ack });
    }

    pub async fn invalidate_key(&mut self, spec: &RequestSpec) {
        let (number, request) = self.request(spec, None);
        self.log.lock().requests[number].disconnected = true;
        let process = self.processes[usize::from(spec.process) % self.processes.len()].clone();
        let commit = self.log.lock().next();
        let done = match &process.store {
            AnyStore::Memory(store) => invalidate_one_key(store, &process, &request).await,
            AnyStore::Redis(store) => invalidate_one_key(store, &process, &request).await,
        };
        if done {
            let mut log = self.log.lock();
            let ack = Some(log.next());
            log.invalidations.push(Invalidation { scope: Scope::Key(Box::new(spec.clone())), soft: false, commit, ack });
        }
    }
}

async fn invalidate_names<St: Store>(store: &St, names: &Name, soft: bool) {
    let name = match names {
        Name::Everything => Namespace::new("*").expect("a namespace"),
        Name::Family(family) => Namespace::of([family]),
        Name::Member(family, id) => Namespace::of([*family, &id.to_string()]),
        Name::User(user) => Namespace::of(["u", &store.identity(format!("user{user}"))]),
    };
    let done = if soft { store.invalidate_softly([name]).await } else { store.invalidate([name]).await };
    done.expect("the store can be reached");
}

async fn invalidate_one_key<St: Store>(store: &St, process: &Process, request: &Request<Body>) -> bool {
    match process.rules.key(store, request) {
        Some(key) => store.invalidate_key(&key).await.is_ok(),
        None => false,
    }
}
