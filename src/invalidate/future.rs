//! The future of `InvalidateService`.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use pin_project::pin_project;

use super::{
    body::InvalidateBody,
    write::{InvalidateState, Write},
};
use crate::{extensions::Invalidations, single_flight::detach::Detachable, store::Store};

/// The response of an [`InvalidateService`](crate::InvalidateService).
#[pin_project]
pub struct InvalidateFuture<F, St, B: Send + 'static, E: Send + 'static> {
    #[pin]
    pub(crate) state: State<F, St, B, E>,
}

#[pin_project(project = StateProj)]
pub(crate) enum State<F, St, B: Send + 'static, E: Send + 'static> {
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
    B: Send + 'static,
    E: Send + 'static,
{
    type Output = Result<Response<InvalidateBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let drive = match state.as_mut().project() {
                StateProj::Write(drive) => return Pin::new(drive).poll(cx),
                StateProj::Pass { inner, shared } => {
                    let mut response = ready!(inner.poll(cx))?;
                    let Some(named) = response.extensions_mut().remove::<Invalidations>() else {
                        return Poll::Ready(Ok(response.map(InvalidateBody::inner)));
                    };
                    let mut write = Write::new(shared.take().expect("polled after its end"));
                    write.names.extend_exactly(&named.into_parts().0);
                    Detachable::to_the_end(write.said(response))
                }
            };
            state.set(State::Write(drive));
        }
    }
}

impl<F, St, B: Send + 'static, E: Send + 'static> fmt::Debug for InvalidateFuture<F, St, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InvalidateFuture")
    }
}
