//! Requests to the Inspector.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use serde_json::{Value, json};
use tower::Service;

use super::{
    access::{Access, is_foreign, is_https},
    body::InspectorBody,
    builder::Inspector,
    input::Input,
    page::{self, Notice},
    shared::Shared,
};
use crate::key;

/// A part of the Inspector.
enum Place {
    Page,
    Login,
    Logout,
    Api(String),
    /// The mount without the slash at its end, below which relative links lead elsewhere.
    Mount(String),
    Unknown,
}

impl Place {
    /// Returns the place of a request, behind a router that has removed the mount from the path and behind one that has not.
    fn of(parts: &Parts) -> Self {
        let path = key::path_as_sent(&parts.uri, &parts.extensions);
        let is_removed = !key::is_as_sent(&parts.uri, &parts.extensions);
        // The mount may contain `/api/`, too.
        let name = match is_removed {
            true => parts.uri.path().strip_prefix("/api/"),
            false => path.rsplit_once("/api/").map(|(_, name)| name).filter(|name| !name.contains('/')),
        };
        if let Some(name) = name {
            return Self::Api(name.to_owned());
        }
        let is_below_mount = is_removed && parts.uri.path() != "/";
        match path.rsplit('/').next().unwrap_or_default() {
            "" => Self::Page,
            "login" => Self::Login,
            "logout" => Self::Logout,
            _ if is_below_mount => Self::Unknown,
            // Without the dot, a colon would end a scheme.
            last => Self::Mount(format!("./{last}/")),
        }
    }
}

impl<B> Service<Request<B>> for Inspector
where
    B: Body<Data: Send, Error: Send> + Send + 'static,
{
    type Response = Response<InspectorBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            Shared::start_samples(&shared);
            Ok(secured(respond(&shared, request).await))
        })
    }
}

async fn respond<B: Body>(shared: &Arc<Shared>, request: Request<B>) -> Response<InspectorBody> {
    let (parts, body) = request.into_parts();
    let (method, headers) = (&parts.method, &parts.headers);
    let is_read = *method == Method::GET || *method == Method::HEAD;
    let place = Place::of(&parts);
    if !is_read && is_foreign(headers, &parts.uri) {
        return error(StatusCode::FORBIDDEN, "the request comes from a page of another origin");
    }
    if let (Place::Login, &Method::POST) = (&place, method) {
        return match Input::read(&parts.uri, headers, body).await {
            Ok(input) => log_in(shared, &input, is_https(headers, &parts.uri)),
            Err(status) => error(status, "the content cannot be read"),
        };
    }
    if !shared.access.allows(headers) {
        return match place {
            Place::Page if is_read => page::login(None),
            Place::Mount(mount) if is_read => redirect(&mount),
            _ => unauthorized(),
        };
    }
    let input = match Input::read(&parts.uri, headers, body).await {
        Ok(input) => input,
        Err(status) => return error(status, "the content cannot be read"),
    };
    if method.as_str() == "PURGE" {
        return purge(shared, &input).await;
    }
    let host = headers.get(header::HOST);
    match (place, method) {
        (Place::Page, _) if is_read && input.get("part") == Some("live") => page::live_part(shared).await,
        (Place::Page, _) if is_read => page::page(shared, &Notice::default()).await,
        (Place::Page, &Method::POST) => page::act(shared, &input, host).await,
        (Place::Mount(mount), _) if is_read => redirect(&mount),
        (Place::Login | Place::Logout, &Method::POST) => log_out(),
        (Place::Api(name), _) => match (name.as_str(), is_read, method == Method::POST) {
            ("stats", true, _) => ok(&shared.report().await),
            ("keys", true, _) => ok(&shared.keys()),
            ("explain", true, _) | ("explain", _, true) => match shared.explain(&input, host).await {
                Ok(explained) => ok(&explained.json(shared.shown)),
                Err(why) => error(StatusCode::BAD_REQUEST, &why),
            },
            ("purge" | "invalidate", _, true) => purge(shared, &input).await,
            ("stats" | "keys" | "explain" | "purge" | "invalidate", _, _) => {
                error(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here")
            }
            _ => error(StatusCode::NOT_FOUND, "there is no such endpoint"),
        },
        (Place::Unknown, _) => error(StatusCode::NOT_FOUND, "there is no such page"),
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "the method is not allowed here"),
    }
}

async fn purge(shared: &Shared, input: &Input) -> Response<InspectorBody> {
    let purged = shared.purge(input).await;
    json_response(purged.status, &purged.json)
}

fn log_in(shared: &Shared, input: &Input, is_secure: bool) -> Response<InspectorBody> {
    let given = input.get("token").unwrap_or_default();
    if !shared.access.is_token(given.as_bytes()) {
        return page::login(Some("That is not the token."));
    }
    let mut response = redirect("./");
    if let Some(cookie) = shared.access.session_cookie(is_secure) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn log_out() -> Response<InspectorBody> {
    let mut response = redirect("./");
    response.headers_mut().insert(header::SET_COOKIE, Access::end_of_session());
    response
}

fn redirect(target: &str) -> Response<InspectorBody> {
    let mut response = error(StatusCode::SEE_OTHER, "see the page");
    if let Ok(target) = HeaderValue::from_str(target) {
        response.headers_mut().insert(header::LOCATION, target);
    }
    response
}

fn unauthorized() -> Response<InspectorBody> {
    let mut response = error(StatusCode::UNAUTHORIZED, "the inspector needs its token");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"response cache\""));
    response
}

fn error(status: StatusCode, why: &str) -> Response<InspectorBody> {
    json_response(status, &json!({ "error": why }))
}

fn ok(value: &Value) -> Response<InspectorBody> {
    json_response(StatusCode::OK, value)
}

fn json_response(status: StatusCode, value: &Value) -> Response<InspectorBody> {
    let mut response = Response::new(InspectorBody::new(format!("{value:#}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Adds the fields that keep responses out of caches and out of other pages.
fn secured(mut response: Response<InspectorBody>) -> Response<InspectorBody> {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        // With `no-referrer`, browsers send `Origin: null` with the forms of the page itself.
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}
