//! A subscriber that keeps the spans of this crate, with their fields.
#![allow(dead_code, unreachable_pub)]

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// A span: its name and its fields.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    pub name: &'static str,
    pub fields: BTreeMap<&'static str, String>,
}

impl Recorded {
    /// Returns a field, or an empty text.
    pub fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// The spans that have begun.
#[derive(Clone, Default)]
pub struct Spans(Arc<Mutex<Vec<Recorded>>>);

impl Spans {
    /// Runs a future on a runtime of one thread, and returns the spans of this crate.
    pub fn during(work: impl Future<Output = ()>) -> Vec<Recorded> {
        // Without a global subscriber, another test that reaches a span first may turn it off for all threads.
        let _ = tracing::subscriber::set_global_default(Self::default());
        let spans = Self::default();
        tracing::subscriber::with_default(spans.clone(), || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
        });
        let all = spans.0.lock().expect("no panic").clone();
        all.into_iter().filter(|span| !span.name.is_empty()).collect()
    }
}

impl Subscriber for Spans {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && *metadata.level() <= Level::DEBUG && metadata.target().starts_with("tower_response_cache")
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut span = Recorded { name: attributes.metadata().name(), ..Recorded::default() };
        attributes.record(&mut span);
        let mut all = self.0.lock().expect("no panic");
        all.push(span);
        span::Id::from_u64(all.len() as u64)
    }
    fn record(&self, id: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.0.lock().expect("no panic")[id.into_u64() as usize - 1]);
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}
