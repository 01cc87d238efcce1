//! Invalidation by HTTP.

use http::{StatusCode, Uri};
use serde_json::{Value, json};

use super::{input::Input, shared::Shared};
use crate::{namespace::Namespace, store::error::StoreError};

/// The result of a purge: the status of its response and its content.
pub(super) struct Purged {
    pub(super) status: StatusCode,
    pub(super) json: Value,
}

impl Shared {
    /// Invalidates the namespaces or the URI in the parameters, and waits until the invalidation is visible.
    pub(super) async fn purge(&self, input: &Input) -> Purged {
        let names = match names_of(input) {
            Ok(names) => names,
            Err(why) => return refused(why),
        };
        let uris = input.all("uri").chain(input.all("url")).map(|uri| uri.parse().map_err(|_| format!("{uri:?} is not a URI")));
        let uris = match uris.collect::<Result<Vec<Uri>, String>>() {
            Ok(uris) => uris,
            Err(why) => return refused(why),
        };
        if names.is_empty() && uris.is_empty() {
            return refused("name a `namespace`, a `prefix`, a `uri`, or `everything=true`".into());
        }
        let listed = json!({
            "namespaces": names.iter().map(Namespace::as_str).collect::<Vec<_>>(),
            "uris": uris.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        let is_soft = input.is_on("soft") || input.is_on("softly");
        let mut done = match (names.is_empty(), is_soft) {
            (true, _) => Ok(()),
            (false, true) => self.cache.invalidate_softly(names).await,
            (false, false) => self.cache.invalidate(names).await,
        };
        for uri in &uris {
            done = done.and(self.cache.invalidate_uri(uri).await);
        }
        answer(done, &listed)
    }
}

fn answer(done: Result<(), StoreError>, listed: &Value) -> Purged {
    match done {
        Ok(()) => Purged { status: StatusCode::OK, json: json!({ "visible": true, "invalidated": listed }) },
        Err(error) => {
            let (status, is_queued) = match error.is_queued() {
                true => (StatusCode::ACCEPTED, true),
                false => (StatusCode::SERVICE_UNAVAILABLE, false),
            };
            let json = json!({ "visible": false, "queued": is_queued, "invalidated": listed, "error": error.to_string() });
            Purged { status, json }
        }
    }
}

fn refused(why: String) -> Purged {
    Purged { status: StatusCode::BAD_REQUEST, json: json!({ "visible": false, "error": why }) }
}

/// Returns the namespaces that the parameters name. A prefix ends with a level, so that it is the name of an ancestor: `db_query`, `db_query:` and
/// `db_query:*` are one.
fn names_of(input: &Input) -> Result<Vec<Namespace>, String> {
    let prefix = |prefix: &str| {
        let levels = prefix.strip_suffix(":*").or_else(|| prefix.strip_suffix(':')).unwrap_or(prefix);
        levels.to_owned()
    };
    let names = input.all("namespace").chain(input.all("namespaces")).map(str::to_owned);
    let names = names.chain(input.all("prefix").map(prefix));
    let everything = input.is_on("everything").then(|| "*".to_owned());
    names.chain(everything).map(|name| Namespace::new(name).map_err(|error| error.to_string())).collect()
}
