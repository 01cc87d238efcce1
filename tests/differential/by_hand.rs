//! Invalidations by hand: by namespace and by key.

use axum::body::Body;
use http::Request;
use tower_response_cache::{Namespace, Store};

use super::{
    broken::Fault,
    drive::Driver,
    history::{Cleared, Scope, levels},
    program::{Ask, Name},
    world::{AnyStore, Process},
};

impl Driver {
    pub async fn invalidate(&mut self, names: &Name, soft: bool, process: u8) {
        let process = self.processes[usize::from(process) % self.processes.len()].clone();
        let commit = self.log.lock().next();
        if self.fault != Some(Fault::IgnoresInvalidation) {
            match &process.store {
                AnyStore::Memory(store) => by_hand(store, names, soft).await,
                AnyStore::Redis(store) => by_hand(store, names, soft).await,
            }
        }
        let mut log = self.log.lock();
        let ack = Some(log.next());
        log.cleared.push(Cleared { scope: Scope::Name(levels(names)), soft, commit, ack });
    }

    pub async fn invalidate_key(&mut self, ask: &Ask) {
        let (number, request) = self.request(ask, None);
        self.log.lock().sent[number].left = true;
        let process = self.processes[usize::from(ask.process) % self.processes.len()].clone();
        let commit = self.log.lock().next();
        let cleared = match &process.store {
            AnyStore::Memory(store) => one_key(store, &process, &request).await,
            AnyStore::Redis(store) => one_key(store, &process, &request).await,
        };
        if cleared {
            let mut log = self.log.lock();
            let ack = Some(log.next());
            log.cleared.push(Cleared { scope: Scope::Key(Box::new(ask.clone())), soft: false, commit, ack });
        }
    }
}

async fn by_hand<St: Store>(store: &St, names: &Name, soft: bool) {
    let name = match names {
        Name::Everything => Namespace::new("*").expect("a namespace"),
        Name::Family(family) => Namespace::of([family]),
        Name::Member(family, id) => Namespace::of([*family, &id.to_string()]),
        Name::User(user) => Namespace::of(["u", &store.identity(format!("user{user}"))]),
    };
    let done = if soft { store.invalidate_softly([name]).await } else { store.invalidate([name]).await };
    done.expect("the store can be reached");
}

async fn one_key<St: Store>(store: &St, process: &Process, request: &Request<Body>) -> bool {
    match process.rules.key(store, request) {
        Some(key) => store.invalidate_key(&key).await.is_ok(),
        None => false,
    }
}
