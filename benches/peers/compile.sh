#!/usr/bin/env bash
# Measures the build of a small axum application with each cache and without one: additional crates, time of a clean release build, and
# program size. Prints a Markdown table. Builds in a temporary directory.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export CARGO_TARGET_DIR=$scratch/target CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0

# `application NAME DEPENDENCIES` creates an application. Standard input is the code that adds the cache to the route.
application() {
    mkdir -p "$scratch/$1/src"
    cat >"$scratch/$1/Cargo.toml" <<END
[package]
name = "$1"
version = "0.0.0"
edition = "2024"

[workspace]

[dependencies]
axum = "0.8"
tokio = { version = "1.54", features = ["macros", "rt-multi-thread"] }
$2

[profile.release]
strip = true
END
    # The versions of the other measurements.
    cp "$here/Cargo.lock" "$scratch/$1/Cargo.lock"
    cat >"$scratch/$1/src/main.rs" <<END
#[tokio::main]
async fn main() {
    let app = axum::Router::new().route("/items/{id}", axum::routing::get(async || "an item"));
$(cat)
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    axum::serve(listener, app).await.unwrap();
}
END
    (cd "$scratch/$1" && cargo fetch --quiet)
}

# Counts the dependencies of an application.
crates() {
    (cd "$scratch/$1" && cargo tree --edges normal,build --prefix none --no-dedupe --format '{p}') |
        sed -e 's/ (.*//' | sort -u | grep -vc "^$1 "
}

measure() {
    local name=$1 seconds more
    more=$(($(crates "$name") - $(crates plain)))
    rm -rf "$CARGO_TARGET_DIR"
    TIMEFORMAT='%0R %0U'
    seconds=$({ time cargo build --release --quiet --manifest-path "$scratch/$name/Cargo.toml" 2>"$scratch/output"; } 2>&1) ||
        { cat "$scratch/output" >&2 && return 1; }
    printf '| %s | %s | %s | %s | %s |\n' "$2" "$more" "${seconds% *}" "${seconds#* }" \
        "$(($(stat -c %s "$CARGO_TARGET_DIR/release/$name") / 1024))"
}

application plain "" </dev/null

application this "tower-response-cache = { path = \"$here/../..\" }" <<'END'
    use tower_response_cache::{CacheLayer, Memory, Rule};
    let rule = Rule::ttl(std::time::Duration::from_secs(60));
    let app = app.layer(CacheLayer::new(Memory::new(64 << 20)).route("/items/{id}", rule));
END

# This layer does not fit axum's routes, because its errors are boxed and it requires `Sync` bodies.
application tower_http_cache 'http-body-util = "0.1.5"
tower = { version = "0.5", features = ["util"] }
tower-http-cache = "0.6"' <<'END'
    use axum::{error_handling::HandleError, extract::Request, http::StatusCode, response::Response};
    use tower_http_cache::prelude::*;
    let minute = std::time::Duration::from_secs(60);
    type Item = http_body_util::Full<axum::body::Bytes>;
    let answer = async |_: Request| Ok::<_, std::convert::Infallible>(Response::new(Item::from("an item")));
    let layer = CacheLayer::builder(InMemoryBackend::new(10_000)).ttl(minute).build();
    let cached = tower::Layer::layer(&layer, tower::service_fn(answer));
    let app = app.route_service("/cached/{id}", HandleError::new(cached, async |_: axum::BoxError| StatusCode::BAD_GATEWAY));
END

application hitbox 'hitbox = "0.2"
hitbox-http = "0.2"
hitbox-moka = "0.2"
hitbox-tower = "0.2"' <<'END'
    use hitbox_http::{extractors::{Method, path::PathExtractor}, predicates::{NeutralRequestPredicate, response::StatusCode}};
    let config = hitbox::Config::builder()
        .request_predicate(NeutralRequestPredicate::new())
        .response_predicate(StatusCode::new(axum::http::StatusCode::OK))
        .extractor(Method::new().path("/items/{id}"))
        .policy(hitbox::policy::PolicyConfig::builder().ttl(std::time::Duration::from_secs(60)).build())
        .build();
    let backend = hitbox_moka::MokaBackend::builder().max_entries(10_000).build();
    let app = app.layer(hitbox_tower::Cache::builder().backend(backend).config(config).build());
END

printf 'Clean release builds on %s cores; load averages before the builds:%s\n\n' "$(nproc)" "$(uptime | sed 's/.*load average://')"
printf '| | additional crates | seconds | CPU seconds | program size in KiB |\n|---|---:|---:|---:|---:|\n'
measure plain "axum alone"
measure this "tower-response-cache, default features"
measure tower_http_cache "tower-http-cache"
measure hitbox "hitbox, hitbox-tower, hitbox-http, hitbox-moka"
