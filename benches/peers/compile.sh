#!/usr/bin/env bash
# What it takes to build a small axum application with a cache, beside one without: the crates that come in addition, the time of a
# clean release build, and the size of the program. Prints a table in Markdown. Builds in a scratch directory, which it removes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export CARGO_TARGET_DIR=$scratch/target CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0

# `application NAME DEPENDENCIES`, with what is laid over the route on standard input.
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
    # The versions are those of the other measurements.
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

# The crates of an application, its own aside.
crates() {
    (cd "$scratch/$1" && cargo tree --edges normal,build --prefix none --no-dedupe --format '{p}') |
        sed -e 's/ (.*//' | sort -u | grep -vc "^$1 "
}

measure() {
    local name=$1 seconds more
    more=$(($(crates "$name") - $(crates plain)))
    rm -rf "$CARGO_TARGET_DIR"
    TIMEFORMAT='%0R %0U'
    seconds=$({ time cargo build --release --quiet --manifest-path "$scratch/$name/Cargo.toml" 2>"$scratch/said"; } 2>&1) ||
        { cat "$scratch/said" >&2 && return 1; }
    printf '| %s | %s | %s | %s | %s |\n' "$2" "$more" "${seconds% *}" "${seconds#* }" \
        "$(($(stat -c %s "$CARGO_TARGET_DIR/release/$name") / 1024))"
}

application plain "" </dev/null

application ours "tower-response-cache = { path = \"$here/../..\" }" <<'END'
    use tower_response_cache::{CacheLayer, Memory, Rule};
    let rule = Rule::ttl(std::time::Duration::from_secs(60));
    let app = app.layer(CacheLayer::new(Memory::new(64 << 20)).route("/items/{id}", rule));
END

# It cannot be laid over a route of axum: its errors are boxed, and it demands bodies that are `Sync`.
application thc 'http-body-util = "0.1.5"
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

printf 'Clean release builds on %s cores; load averages before:%s\n\n' "$(nproc)" "$(uptime | sed 's/.*load average://')"
printf '| | crates more | seconds | processor seconds | KiB of program |\n|---|---:|---:|---:|---:|\n'
measure plain "axum alone"
measure ours "tower-response-cache, default features"
measure thc "tower-http-cache"
measure hitbox "hitbox, hitbox-tower, hitbox-http, hitbox-moka"
