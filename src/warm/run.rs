//! Sending the requests of a warmer.

use std::{
    fmt,
    future::{Future, pending, poll_fn},
    marker::PhantomData,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http::{Request, Response};
use http_body::Body;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tower::Service;

use crate::{
    error::BoxError,
    hottest::{self, listed::Frequent},
};

/// The limits for sending.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) concurrency: usize,
    pub(super) per_second: Option<u32>,
    pub(super) timeout: Duration,
}

/// The requests so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Requests in total.
    pub requests: u64,
    /// Requests that have got a complete response with a status below 400.
    pub succeeded: u64,
    /// Requests with another status, without a complete response, or beyond their time limit.
    pub failed: u64,
}

/// The result of warming. `Display` prints it in one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Requests in total.
    pub requests: u64,
    /// Requests that have got a complete response with a status below 400.
    pub succeeded: u64,
    /// Requests with another status, without a complete response, or beyond their time limit.
    pub failed: u64,
    /// Bytes of the bodies of the responses.
    pub bytes: u64,
    /// The time from the first request to the end.
    pub elapsed: Duration,
    /// The target of the first request that failed, with the reason. For a request of a list of the hottest ones, the route in place of the target.
    pub first_failure: Option<String>,
}

impl Summary {
    /// Returns the number of requests that were not sent, because warming was cancelled.
    pub fn unsent(&self) -> u64 {
        self.requests - self.succeeded - self.failed
    }
}

impl Summary {
    fn progress(&self) -> Progress {
        let Self { requests, succeeded, failed, .. } = *self;
        Progress { requests, succeeded, failed }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, succeeded, failed, bytes, elapsed, first_failure } = self;
        write!(f, "{requests} requests in {elapsed:.1?}: {succeeded} succeeded, {failed} failed, {bytes} bytes")?;
        if self.unsent() > 0 {
            write!(f, ", {} unsent", self.unsent())?;
        }
        match first_failure {
            Some(reason) => write!(f, "; first failure: {reason}"),
            None => Ok(()),
        }
    }
}

/// The service and the limits for sending requests.
pub(super) struct Work<S, B> {
    service: S,
    options: Options,
    body: PhantomData<fn() -> B>,
}

impl<S, B> Work<S, B> {
    pub(super) fn new(service: S, options: Options) -> Self {
        Self { service, options, body: PhantomData }
    }
}

impl<S, B, ResB> Work<S, B>
where
    S: Service<Request<B>, Response = Response<ResB>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    B: Default + Send + 'static,
    ResB: Body<Error: Into<BoxError>, Data: Send> + Send + 'static,
{
    /// Sends all requests, until their end or until `cancelled` is ready.
    pub(super) async fn send_all(
        &self,
        requests: Vec<Request<()>>,
        cancelled: impl Future<Output = ()>,
        report: impl Fn(Progress),
    ) -> Summary {
        let mut summary = Summary { requests: requests.len() as u64, ..Summary::default() };
        let began = Instant::now();
        {
            let mut cancelled = pin!(cancelled);
            let mut sending = pin!(self.send_each(requests, &mut summary, report));
            let end = |cx: &mut Context<'_>| match cancelled.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(()),
                Poll::Pending => sending.as_mut().poll(cx),
            };
            poll_fn(end).await;
        }
        summary.elapsed = began.elapsed();
        tracing::info!(%summary, "cache warmed");
        summary
    }

    async fn send_each(&self, requests: Vec<Request<()>>, summary: &mut Summary, report: impl Fn(Progress)) {
        let Options { concurrency, per_second, timeout } = self.options;
        let mut ticks = per_second.map(|rate| {
            let mut ticks = interval((Duration::from_secs(1) / rate).max(Duration::from_nanos(1)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        let (mut requests, mut sending) = (requests.into_iter().fuse(), JoinSet::new());
        loop {
            while sending.len() < concurrency
                && let Some(mut request) = requests.next()
            {
                if let Some(ticks) = &mut ticks {
                    ticks.tick().await;
                }
                let service = self.service.clone();
                sending.spawn(async move {
                    let target = match request.extensions_mut().remove::<Frequent>() {
                        Some(Frequent(route)) => format!("a request of {}", route.as_deref().unwrap_or("the fallback")),
                        None => request.uri().to_string(),
                    };
                    let sending = hottest::untracked(send(service, request.map(|()| B::default())));
                    let sent = tokio::time::timeout(timeout, sending).await;
                    sent.unwrap_or_else(|late| Err(late.into())).map_err(|error| format!("{target}: {error}"))
                });
            }
            let Some(ended) = sending.join_next().await else { return };
            match ended.unwrap_or_else(|panic| Err(panic.to_string())) {
                Ok(bytes) => {
                    summary.succeeded += 1;
                    summary.bytes += bytes;
                }
                Err(failure) => {
                    summary.failed += 1;
                    summary.first_failure.get_or_insert(failure);
                }
            }
            report(summary.progress());
        }
    }
}

/// Sends a request and reads its response. Returns the bytes of its body.
async fn send<S, B, ResB>(mut service: S, request: Request<B>) -> Result<u64, BoxError>
where
    S: Service<Request<B>, Response = Response<ResB>, Error: Into<BoxError>>,
    ResB: Body<Error: Into<BoxError>>,
{
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    let (head, body) = service.call(request).await.map_err(Into::into)?.into_parts();
    let (mut body, mut bytes) = (pin!(body), 0);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        bytes += frame.map_err(Into::into)?.data_ref().map_or(0, |data| data.remaining() as u64);
    }
    match head.status.as_u16() < 400 {
        true => Ok(bytes),
        false => Err(format!("status {}", head.status).into()),
    }
}

/// A running warmer, and the future of its [`Summary`]. It goes on if this is dropped.
#[must_use = "awaiting this returns the summary; call `detach` to let it run"]
pub struct Warming {
    task: JoinHandle<Summary>,
    progress: watch::Receiver<Progress>,
    cancel: watch::Sender<bool>,
}

impl Warming {
    pub(super) fn start<S, B, ResB>(work: Work<S, B>, requests: Vec<Request<()>>) -> Self
    where
        S: Service<Request<B>, Response = Response<ResB>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
        B: Default + Send + 'static,
        ResB: Body<Error: Into<BoxError>, Data: Send> + Send + 'static,
    {
        let (report, progress) = watch::channel(Progress { requests: requests.len() as u64, ..Progress::default() });
        let (cancel, mut cancelled) = watch::channel(false);
        let task = tokio::spawn(async move {
            let cancelled = async {
                // An error means that the `Warming` was dropped, which cancels nothing.
                if cancelled.wait_for(|is| *is).await.is_err() {
                    pending::<()>().await;
                }
            };
            work.send_all(requests, cancelled, |progress| _ = report.send_replace(progress)).await
        });
        Self { task, progress, cancel }
    }

    /// Returns the progress of now.
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Waits for the next change of the progress. Returns `None` after the last one.
    pub async fn next(&mut self) -> Option<Progress> {
        self.progress.changed().await.ok()?;
        Some(*self.progress.borrow_and_update())
    }

    /// Ends warming. Requests in progress are given up, and their fills go on. Awaiting this then returns the summary at once.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// Lets warming run to its end without this.
    pub fn detach(self) {}
}

impl Future for Warming {
    type Output = Summary;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Summary> {
        // The task ends early only with its runtime.
        Pin::new(&mut self.task).poll(cx).map(Result::unwrap_or_default)
    }
}

impl fmt::Debug for Warming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Warming").field("progress", &self.progress()).finish_non_exhaustive()
    }
}
