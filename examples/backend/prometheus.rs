//! `GET /metrics`: the metrics of the cache, in the text format of Prometheus.

use std::time::Duration;

use axum::{Router, routing::get};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tower_response_cache::ResponseCache;

/// The name of the cache in the label `cache`.
pub(crate) const CACHE: &str = "backend";

/// The buckets of durations, in seconds.
const SECONDS: [f64; 12] = [0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// The buckets of sizes, in bytes.
const BYTES: [f64; 7] = [512.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0];

/// The time between two upkeeps of the recorder.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder of the process. Histograms are recorded by layers that are made later. A task empties the buffers of the recorder, which
/// would grow with each fill until Prometheus asks.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?
        .install_recorder()?;
    let kept = recorder.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            kept.run_upkeep();
        }
    });
    Ok(recorder)
}

/// Returns the route. Mount it outside of the cache.
pub(crate) fn routes(recorder: PrometheusHandle, cache: ResponseCache) -> Router {
    let text = async move || {
        cache.stats().record(CACHE);
        recorder.render()
    };
    Router::new().route("/metrics", get(text))
}
