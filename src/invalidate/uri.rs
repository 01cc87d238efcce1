//! Invalidation of one URI without a request.

use http::{Request, Uri};

use crate::{
    key::RequestView,
    namespace::set::Namespaces,
    rules::{RouteMatch, Rules, live::LiveRules, views::Views},
    store::{self, Store, epochs::InvalidationKind, error::StoreError},
};

/// Invalidates the stored responses of a URI, and the namespaces that writes to it invalidate.
pub(crate) async fn invalidate_uri<St: Store>(store: &St, rules: &LiveRules, uri: &Uri) -> Result<(), StoreError> {
    let begun = rules.begin_write();
    let (mut names, kind) = names_of(store, &rules.current(), uri);
    rules.add_changed_since(begun, &mut names);
    match names.is_empty() {
        true => Ok(()),
        false => store::bump_in_time(store, &names, kind).await,
    }
}

fn names_of<St: Store>(store: &St, rules: &Rules, uri: &Uri) -> (Namespaces, InvalidationKind) {
    let mut request = Request::new(());
    *request.uri_mut() = uri.clone();
    let views = Views::of(request.uri(), request.extensions());
    let secret = &store.context().secret;
    let covering = rules.covering(&views);
    let mut names = Namespaces::default();
    for RouteMatch { rule, params, .. } in &covering {
        rule.add_invalidations_by_any_method(&mut names, &RequestView::of(&request, params, secret));
    }
    for key in rules.keys_of_uri(secret, &request, &views) {
        names.push_key(key.as_ref());
    }
    let kind = match covering.iter().all(|found| found.rule.invalidates_softly()) {
        true => InvalidationKind::Soft,
        false => InvalidationKind::Hard,
    };
    (names, kind)
}
