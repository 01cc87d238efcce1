//! The future of `InvalidateService`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project::pin_project;

use super::{
    body::InvalidateBody,
    write::{InvalidateState, Write},
};
use crate::{extensions::Invalidations, single_flight::detach::Detachable, store::Store};

/// The response of an [`InvalidateService`](crate::InvalidateService).
#[pin_project]
pub struct InvalidateFuture<F, St, B: Body<Data: Send, Error: Send> + Send + 'static, E: Send + 'static> {
    #[pin]
    pub(crate) state: State<F, St, B, E>,
}

#[pin_project(project = StateProj)]
pub(crate) enum State<F, St, B: Body<Data: Send, Error: Send> + Send + 'static, E: Send + 'static> {
    // Safe: only what its handler names is invalidated.
    Pass {
        #[pin]
        inner: F,
        shared: Option<Arc<InvalidateState<St>>>,
    },
    Write(Detachable<Result<Response<InvalidateBody<B>>, E>>),
}

impl<F, St, B, E> Future for InvalidateFuture<F, St, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    St: Store,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    E: Send + 'static,
{
    type Output = Result<Response<InvalidateBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProj::Pass { inner, shared } = state.as_mut().project() {
            let response = ready!(inner.poll(cx))?;
            if response.extensions().get::<Invalidations>().is_none() {
                return Poll::Ready(Ok(response.map(InvalidateBody::inner)));
            }
            let write = named(shared.take().expect("polled after its end"), response);
            state.set(State::Write(write));
        }
        match state.project() {
            StateProj::Write(write) => Pin::new(write).poll(cx),
            StateProj::Pass { .. } => unreachable!("it has ended"),
        }
    }
}

/// Returns the invalidation of the namespaces that the response to a safe request names.
#[cold]
fn named<St, B, E>(
    shared: Arc<InvalidateState<St>>,
    mut response: Response<B>,
) -> Detachable<Result<Response<InvalidateBody<B>>, E>>
where
    St: Store,
    B: Body<Data: Send, Error: Send> + Send + 'static,
    E: Send + 'static,
{
    let mut write = Write::new(shared);
    if let Some(named) = response.extensions_mut().remove::<Invalidations>() {
        write.names.extend_exactly(&named.into_parts().0);
    }
    Detachable::to_the_end(write.said(response))
}

impl<F, St, B: Body<Data: Send, Error: Send> + Send + 'static, E: Send + 'static> fmt::Debug for InvalidateFuture<F, St, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvalidateFuture")
    }
}
