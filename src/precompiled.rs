//! Code that a debug build of this crate contains, so that debug builds of apps need not compile it again.
//!
//! Without optimization, the compiler generates a generic function once for each set of types, in the first crate that uses it. Here are the
//! types of the services that axum's `Router::layer` makes. A release build generates all functions in the app, where they are inlined.

use std::{
    pin::pin,
    task::{Context, Poll},
};

use axum::{body::Body, routing::Route};
use http::Request;
use tower::Service;

#[cfg(feature = "redis")]
use crate::redis::Redis;
use crate::{
    handle::any_store::AnyStore,
    invalidate::InvalidateService,
    service::CacheService,
    store::{Store, memory::Memory},
};

type Cached<St> = InvalidateService<CacheService<Route, St>, St>;

/// Calls the service, and polls the response and its body once, as a server does. This function never runs.
fn respond<St: Store>(service: &mut Cached<St>, cx: &mut Context<'_>) {
    let mut future = pin!(service.call(Request::new(Body::empty())));
    if let Poll::Ready(Ok(response)) = future.as_mut().poll(cx) {
        let mut body = pin!(response.into_body());
        drop(http_body::Body::poll_frame(body.as_mut(), cx));
    }
}

type Respond<St> = fn(&mut Cached<St>, &mut Context<'_>);

#[used]
static WITH_ANY_STORE: Respond<AnyStore> = respond;

#[used]
static WITH_MEMORY: Respond<Memory> = respond;

#[cfg(feature = "redis")]
#[used]
static WITH_REDIS: Respond<Redis> = respond;
