//! The task that takes samples.

use std::sync::{Arc, atomic::Ordering};

use tokio::runtime::Handle;

use super::{samples::Sample, shared::Shared};

impl Shared {
    /// Starts the task that takes samples, unless it runs. It ends with the Inspector.
    pub(super) fn start_samples(shared: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else { return };
        if shared.samples.is_running.swap(true, Ordering::Relaxed) {
            return;
        }
        let (every, shared) = (shared.samples.every, Arc::downgrade(shared));
        runtime.spawn(async move {
            while let Some(shared) = shared.upgrade() {
                let stats = shared.cache.stats();
                shared.samples.add(Sample::of(&stats));
                shared.samples.routes.add(&stats);
                drop(shared);
                tokio::time::sleep(every).await;
            }
        });
    }
}
