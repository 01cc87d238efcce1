//! The fuzz target from stored bytes to a response. No input may panic.

use std::{
    convert::Infallible,
    future::{Ready, poll_fn, ready},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service};

use crate::{
    body::CacheBody,
    clock::{Clock, Nanos},
    codec::{contents_as_entry, frame::Moment},
    entry::Content,
    key::KeyRef,
    layer::CacheLayer,
    lookup::variant,
    rules::{Rules, rule::Rule},
    store::{backend::Backend, memory::Memory},
};

/// A body without content.
#[derive(Debug, Default)]
struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// Stores arbitrary contents under the keys of a request, and answers this request and similar ones. Used by the fuzz target `response`.
///
/// The first byte chooses the request and the rule. The second and the third are the length of the contents under the key of the target.
/// The rest is the contents under the key of the variant, if the first contents are a list of variants. Both are stored with a correct key.
/// The last two bytes of each are the length of its body. Returns the number of responses from the store.
pub fn fuzz_response(input: &[u8]) -> usize {
    let Some((&[choice, low, high], rest)) = input.split_first_chunk::<3>() else { return 0 };
    let (first, second) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    let rule = match choice & 1 {
        0 => Rule::ttl(Duration::from_secs(60)),
        _ => Rule::http(),
    };
    let clock = Clock::manual();
    let moment = Moment { there: NOW, here: clock.nanos() };
    let store = Memory::builder().capacity(1 << 20).clock(clock).build();
    let rules = Rules::new().route("/{*path}", rule);
    let asked = request(0);
    let Some(key) = rules.key(&store, &asked) else { return 0 };
    let Some(entry) = contents_as_entry(key.as_ref(), first, choice & 2 != 0, moment) else { return 0 };
    if let Content::Variants(vary) = entry.content()
        && let Some(found) = rules.find(asked.uri(), asked.extensions())
    {
        let secret = &store.context().secret;
        let variant = variant::variant_key(found.rule, secret, key.as_ref(), vary, asked.headers());
        if let Some(entry) = contents_as_entry(KeyRef::new(variant.canonical()), second, choice & 4 != 0, moment) {
            store.put_now(&entry);
        }
    }
    store.put_now(&entry);
    let inner = Origin(Arc::default());
    let mut cache = CacheLayer::new(store).rules(rules).cache_status("fuzz").layer(inner.clone());
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            // Each twice, so that the second one takes the fast path.
            for n in 0..2 * REQUESTS {
                answered(&mut cache, request(n / 2)).await;
            }
        });
    });
    2 * REQUESTS - inner.0.load(Ordering::Relaxed).min(2 * REQUESTS)
}

/// The current time by the clock of the stored times: a second after the samples were generated.
const NOW: Nanos = 1_700_000_001_000_000_000;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// The number of different requests.
const REQUESTS: usize = 8;

fn request(n: usize) -> Request<Empty> {
    let get = Request::get("/a").header(header::ACCEPT_LANGUAGE, "en, de;q=0.5").header("x-tenant", "one");
    let request = match n {
        0 => get,
        1 => get.method(Method::HEAD),
        2 => get.header(header::RANGE, "bytes=0-1"),
        3 => get.header(header::RANGE, "bytes=0-1,3-4,-1"),
        4 => get.header(header::IF_NONE_MATCH, "*"),
        5 => get.header(header::IF_MODIFIED_SINCE, "Tue, 14 Nov 2023 22:13:20 GMT"),
        6 => get.header(header::CACHE_CONTROL, "max-stale=1000000000"),
        _ => get.header(header::CACHE_CONTROL, "only-if-cached, min-fresh=1"),
    };
    request.body(Empty).expect("a request")
}

/// Awaits the response and its complete body.
async fn answered<S>(cache: &mut S, request: Request<Empty>)
where
    S: Service<Request<Empty>, Response = Response<CacheBody<Empty>>, Error = Infallible>,
{
    let Ok(()) = poll_fn(|cx| cache.poll_ready(cx)).await;
    let Ok(response) = cache.call(request).await;
    let mut body = pin!(response.into_body());
    while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
}

/// Counts its calls, and answers requests that the store cannot answer.
#[derive(Debug, Clone)]
struct Origin(Arc<AtomicUsize>);

impl Service<Request<Empty>> for Origin {
    type Response = Response<Empty>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Empty>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Empty>) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Empty);
        // A stored response may be validated.
        let conditional = request.headers().contains_key(header::IF_NONE_MATCH);
        *response.status_mut() = if conditional { StatusCode::NOT_MODIFIED } else { StatusCode::INTERNAL_SERVER_ERROR };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::contents_of_samples;

    /// `choice`, the contents under the key of the target, and those under the key of the variant.
    fn input(choice: u8, first: &[u8], second: &[u8]) -> Vec<u8> {
        let length = u16::try_from(first.len()).expect("short").to_le_bytes();
        [&[choice, length[0], length[1]], first, second].concat()
    }

    /// Writes the seeds of the fuzz target where `FUZZ_SEEDS` names a directory.
    fn seed(number: usize, input: &[u8]) {
        if let Some(directory) = std::env::var_os("FUZZ_SEEDS") {
            std::fs::write(std::path::Path::new(&directory).join(format!("seed-{number}")), input).expect("a directory");
        }
    }
    #[test]
    fn only_response_entries_become_responses() {
        let [response, trailers, http, variants] = contents_of_samples();
        let served = |number: usize, choice: u8, first: &[u8], second: &[u8]| {
            let input = input(choice, first, second);
            seed(number, &input);
            fuzz_response(&input)
        };
        assert!(served(1, 0, &response, b"") > 0);
        assert!(served(2, 0, &trailers, b"") > 0);
        assert!(served(3, 1, &http, b"") > 0);
        assert!(served(4, 0, &variants, &response) > 0);
        assert_eq!(served(5, 0, &variants, &variants), 0);
        assert_eq!(served(6, 1, &variants, &variants), 2, "only-if-cached, which calls nobody");
    }
}
