//! Functions that send requests inside a runtime, for peers that do not respond at once or that spawn tasks.

use std::{future::poll_fn, hint::black_box, pin::pin};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body;
use tokio::runtime::{Builder, Runtime};
use tower::Service;

/// Creates a runtime for this thread.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime")
}

/// Sends one request and reads the body to its end. Returns the length of the body.
pub async fn send<S, R, B>(service: &mut S, request: Request<R>) -> usize
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    let (parts, body) = respond(service, black_box(request)).await.into_parts();
    black_box(&parts);
    let mut body = pin!(body);
    let mut read = 0;
    while let Some(Ok(frame)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        read += black_box(frame).into_data().map_or(0, |data| data.len());
    }
    read
}

async fn respond<S, R, B>(service: &mut S, request: Request<R>) -> Response<B>
where
    S: Service<Request<R>, Response = Response<B>>,
{
    assert!(poll_fn(|cx| service.poll_ready(cx)).await.is_ok());
    let Ok(response) = service.call(request).await else { panic!("the service failed") };
    response
}

/// Sends one request and then lets the runtime poll spawned tasks once.
pub fn send_in<S, R, B>(runtime: &Runtime, service: &mut S, request: Request<R>) -> usize
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    runtime.block_on(async {
        let read = send(service, request).await;
        tokio::task::yield_now().await;
        read
    })
}

/// Sends one request as [`send_in`] does. Returns the complete response.
pub fn response_in<S, R, B>(runtime: &Runtime, service: &mut S, request: Request<R>) -> (Parts, Vec<u8>)
where
    S: Service<Request<R>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    runtime.block_on(async {
        let (parts, body) = respond(service, request).await.into_parts();
        let mut body = pin!(body);
        let mut read = Vec::new();
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let Ok(frame) = frame else { panic!("the body failed") };
            read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        }
        tokio::task::yield_now().await;
        (parts, read)
    })
}
