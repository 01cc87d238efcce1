//! Responses per user: each user has a separate entry, which all devices of the user share.
//!
//! ```sh
//! cargo run --example per_user
//! curl -i localhost:3000/email -H 'authorization: Bearer anna-phone'                     # per-user; fwd=uri-miss; stored
//! curl -i localhost:3000/email -H 'authorization: Bearer anna-laptop'                    # per-user; hit; ttl=59
//! curl -i localhost:3000/email -H 'authorization: Bearer ben-phone'                      # per-user; fwd=uri-miss; stored
//! curl -X PUT localhost:3000/email -H 'authorization: Bearer anna-phone' -d anna@new.example
//! curl -i localhost:3000/email -H 'authorization: Bearer anna-laptop'                    # per-user; fwd=uri-miss; stored
//! curl -i localhost:3000/email -H 'authorization: Bearer ben-phone'                      # per-user; hit; ttl=41
//! curl -i localhost:3000/email                                                           # 401 Unauthorized
//! ```

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::extract::{Extension, Request, State};
use axum::http::{StatusCode, header::AUTHORIZATION};
use axum::middleware::{Next, from_fn};
use axum::{Router, response::Response, routing::get};
use tokio::{net::TcpListener, sync::Mutex};
use tower_response_cache::{Identity, Memory, ResponseCache, Rule};

type Emails = Arc<Mutex<HashMap<&'static str, String>>>;

#[derive(Clone, Copy)]
struct User(&'static str);

/// Verifies the token. This runs outside the cache, so that a hit needs a valid token too.
async fn authenticate(mut request: Request, next: Next) -> Result<Response, StatusCode> {
    let user = match request.headers().get(AUTHORIZATION).and_then(|token| token.to_str().ok()) {
        Some("Bearer anna-phone" | "Bearer anna-laptop") => User("anna"),
        Some("Bearer ben-phone") => User("ben"),
        _ => return Err(StatusCode::UNAUTHORIZED),
    };
    request.extensions_mut().insert(user);
    Ok(next.run(request).await)
}

async fn email(Extension(user): Extension<User>, State(emails): State<Emails>) -> String {
    emails.lock().await.get(user.0).cloned().unwrap_or_default() + "\n"
}

async fn set_email(Extension(user): Extension<User>, State(emails): State<Emails>, email: String) {
    emails.lock().await.insert(user.0, email);
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let user = Identity::by(|request| request.extensions().get::<User>().map(|user| user.0.to_owned())).required();
    let cache = ResponseCache::new(Memory::new(64 << 20))
        .route("/email", Rule::ttl(Duration::from_secs(60)).identity(user).namespace("email:{identity}"))
        .cache_status("per-user");
    let app = Router::new()
        .route("/email", get(email).put(set_email))
        .with_state(Emails::default())
        .layer(cache.layer())
        .layer(from_fn(authenticate));
    axum::serve(TcpListener::bind("127.0.0.1:3000").await?, app).await
}
