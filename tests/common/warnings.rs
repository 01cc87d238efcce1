//! A subscriber that keeps warnings and errors, with their fields.
#![allow(dead_code, unreachable_pub)]

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex},
};

use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// The warnings, as text.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    /// Returns the warnings that contain a word.
    pub fn all_with(&self, word: &str) -> Vec<String> {
        self.0.lock().expect("no panic").iter().filter(|warning| warning.contains(word)).cloned().collect()
    }

    /// Returns the number of warnings that contain a word.
    pub fn with(&self, word: &str) -> usize {
        self.all_with(word).len()
    }
}

/// Runs a future on a runtime of one thread, and returns its warnings.
pub fn warned(work: impl Future<Output = ()>) -> Warnings {
    // Without a global subscriber, another test that reaches a warning first may turn it off for all threads.
    let _ = tracing::subscriber::set_global_default(Warnings::default());
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
    });
    warnings
}

struct FieldVisitor<'a>(&'a mut String);

impl Visit for FieldVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        *self.0 += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut warning = String::new();
        event.record(&mut FieldVisitor(&mut warning));
        self.0.lock().expect("no panic").push(warning);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
