//! The page: tables and charts that need no script, and a script that updates them.

use http::{HeaderValue, Response, StatusCode, header};
use httpdate::fmt_http_date;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::{
    body::InspectorBody,
    explaining::Explained,
    hottest,
    input::Input,
    over_time,
    report::{self, occurred},
    route_figures::{RouteCounts, quantiles},
    server::keys_table,
    shared::Shared,
    shown::Shown,
    table::table,
};
use crate::{
    explain::explanation::word,
    route::ANY_ROUTE,
    rules::reload_history::ReloadHistory,
    stats::{AuditResult, Stats},
};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The results of a form.
#[derive(Default)]
pub(super) struct Notice {
    explained: Option<Explained>,
    message: Option<String>,
    is_failure: bool,
    request: String,
}

/// Handles a form of the page.
pub(super) async fn act(shared: &Shared, input: &Input, host: Option<&HeaderValue>) -> Response<InspectorBody> {
    let mut notice = Notice { request: input.get("request").unwrap_or_default().to_owned(), ..Notice::default() };
    if input.get("action") == Some("purge") {
        let purged = shared.purge(input).await;
        notice.is_failure = purged.status != StatusCode::OK;
        notice.message = Some(match purged.json["error"].as_str() {
            Some(error) => format!("Not purged: {error}."),
            None => format!("Purged, and visible to the next request: {}.", purged.json["invalidated"]),
        });
    } else {
        match shared.explain(input, host).await {
            Ok(explained) => notice.explained = Some(explained),
            Err(why) => (notice.message, notice.is_failure) = (Some(format!("Not explained: {why}.")), true),
        }
    }
    page(shared, &notice).await
}

/// Returns the page.
pub(super) async fn page(shared: &Shared, notice: &Notice) -> Response<InspectorBody> {
    let live = live(shared).await;
    let content = html! {
        header {
            h1 { "Response cache" }
            p #state.quiet role="status" { "Version " (env!("CARGO_PKG_VERSION")) "." }
            @if shared.access.has_token() {
                form.line method="post" action="logout" { button { "Log out" } }
            }
        }
        main {
            @if let Some(message) = &notice.message {
                p class={ "notice" @if notice.is_failure { " bad" } } role="alert" { (message) }
            }
            (explain_section(notice, shared.shown))
            (purge_section())
            (live)
        }
        @let script = PreEscaped(SCRIPT);
        script nonce=(NONCE) { (script) }
    };
    document(StatusCode::OK, "Response cache", &content)
}

/// Returns the part of the page that the script updates.
async fn live(shared: &Shared) -> Markup {
    let (stats, server) = (shared.cache.stats(), shared.server().await);
    html! {
        div #live {
            @if !shared.cache.is_enabled() { p.notice.bad { "Caching is turned off." } }
            (figures(&stats, &server))
            (reloads(&shared.cache.reload_history()))
            (findings(shared))
            (over_time::charts(&shared.samples.until(&stats)))
            (routes(&stats))
            (over_time::routes(&shared.samples.routes.until(&stats)))
            (hottest::tables(shared))
            (audits(&stats))
            (shadow(&stats))
            (reasons("Misses", "Requests for which the inner service was called after a lookup.", &occurred(&stats.misses, report::miss)))
            (reasons("Not stored", "Responses that were not stored.", &occurred(&stats.not_stored, report::no_store)))
            (reasons("Bypasses", "Requests that bypassed the cache although a rule covers them.", &occurred(&stats.bypasses, report::bypass)))
            (counters(&stats))
            (keys_table(&server))
            (rules(shared))
        }
    }
}

/// Returns the part of the page that the script updates, alone.
pub(super) async fn live_part(shared: &Shared) -> Response<InspectorBody> {
    let mut response = Response::new(InspectorBody::new(live(shared).await.into_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// Returns the page with the form for the token.
pub(super) fn login(error: Option<&str>) -> Response<InspectorBody> {
    let content = html! {
        header { h1 { "Response cache" } }
        main {
            @if let Some(error) = error { p.notice.bad role="alert" { (error) } }
            form method="post" action="login" {
                label for="token" { "Token of the Inspector" }
                input #token name="token" type="password" autocomplete="current-password" required;
                button { "Log in" }
            }
        }
    };
    document(StatusCode::UNAUTHORIZED, "Log in: response cache", &content)
}

/// The place of the nonce in a page, which is replaced for each response.
const NONCE: &str = "NONCE-OF-THIS-RESPONSE";

fn document(status: StatusCode, title: &str, content: &Markup) -> Response<InspectorBody> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                link rel="icon" href="data:,";
                title { (title) }
                @let style = PreEscaped(STYLE);
                style nonce=(NONCE) { (style) }
            }
            body { (content) }
        }
    };
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let nonce = format!("{:032x}", u128::from_ne_bytes(random));
    let page = page.into_string().replace(&format!("nonce=\"{NONCE}\""), &format!("nonce=\"{nonce}\""));
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::new(InspectorBody::new(page));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.extend(HeaderValue::from_str(&policy).ok().map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
    response
}

fn explain_section(notice: &Notice, shown: Shown) -> Markup {
    html! {
        section aria-labelledby="explain" {
            h2 #explain { "Explain a request" }
            form method="post" action="./" {
                label for="request" { "A URL, a path, or a line for curl" }
                textarea #request name="request" required spellcheck="false" { (notice.request) }
                button name="action" value="explain" { "Explain" }
            }
            @if let Some(explained) = &notice.explained { (explanation(explained, shown)) }
        }
    }
}

fn explanation(explained: &Explained, shown: Shown) -> Markup {
    let Explained { method, target, explanation } = explained;
    let row = |name: &str, value: Markup| html! { tr { th scope="row" { (name) } td { (value) } } };
    let list = |items: Vec<String>| html! { @for item in &items { code { (item) } " " } };
    html! {
        div #explanation.wide role="region" aria-label="Explanation" tabindex="0" {
            table {
                caption { (method) " " (target) }
                tbody {
                    (row("Outcome", html! {
                        strong #outcome { (word(explanation.outcome())) }
                        @if let Some(reason) = explanation.reason() { " (" (reason) ")" }
                    }))
                    @if let Some(remedy) = explanation.remedy() { (row("Remedy", html! { (remedy) })) }
                    @if let Some(rule) = explanation.rule() { (row("Rule", html! { (rule) })) }
                    @for part in explanation.key_parts() {
                        (row("Key", html! { (part.kind()) ": " code { (shown.part(part)) } }))
                    }
                    (row("Namespaces", list(explanation.namespaces().iter().map(|name| shown.name(name.as_str())).collect())))
                    @if !explanation.varies_by().is_empty() { (row("Varies by", list(explanation.varies_by().to_vec()))) }
                    (row("Stored", match explanation.stored() {
                        None => html! { "nothing that may be served" },
                        Some(stored) => html! { (stored) },
                    }))
                    @if explanation.revalidates() { (row("Revalidation", html! { "The inner service may answer 304." })) }
                    @if let Some(error) = explanation.store_error() { (row("Store", html! { (error) })) }
                }
            }
            @if let Some(stored) = explanation.stored().filter(|_| shown.bodies) {
                @let body = stored.body();
                pre { (String::from_utf8_lossy(&body[..body.len().min(4096)])) }
            }
        }
    }
}

fn purge_section() -> Markup {
    html! {
        section aria-labelledby="purge" {
            h2 #purge { "Invalidate" }
            form method="post" action="./" {
                input type="hidden" name="action" value="purge";
                label for="namespace" { "Namespace, with all names below it" }
                input #namespace name="namespace" autocomplete="off";
                label for="uri" { "URI" }
                input #uri name="uri" autocomplete="off";
                div.buttons {
                    button { "Invalidate" }
                    button.bad name="everything" value="true" { "Invalidate everything" }
                }
            }
        }
    }
}

fn figures(stats: &Stats, server: &Value) -> Markup {
    let figure = |id: &str, name: &str, value: String| html! { div { dt { (name) } dd id=(id) { (value) } } };
    let requests = |of: fn(&crate::stats::RouteStats) -> u64| stats.routes.iter().map(of).sum::<u64>();
    let bypasses: u64 = stats.bypasses.iter().map(|(_, count)| count).sum();
    html! {
        section aria-labelledby="now" {
            h2 #now { "Now" }
            dl.figures {
                (figure("hit-ratio", "Hit ratio", format!("{:.1} %", 100.0 * stats.hit_ratio())))
                (figure("answered", "Answered by the cache", (stats.hits + stats.stale_hits + stats.collapsed).to_string()))
                (figure("missed", "Misses", stats.misses().to_string()))
                (figure("bypassed", "Bypasses", bypasses.to_string()))
                (figure("cache-bytes", "Bytes from the cache", bytes(requests(|route| route.cache_bytes))))
                (figure("inner-bytes", "Bytes from the origin", bytes(requests(|route| route.inner_bytes))))
                (figure("flights", "Fills in progress", stats.flights.to_string()))
                (figure("entries", "Entries in memory", stats.entries.to_string()))
                (figure("bytes", "Memory", format!("{} of {}", bytes(stats.bytes), bytes(stats.capacity))))
                (figure("invalidations", "Invalidations", stats.invalidations.to_string()))
                @if let Some(error) = server["error"].as_str() { (figure("server", "Redis", error.to_owned())) }
                @if let Some(used) = server["bytes"].as_u64() { (figure("server", "Redis memory", bytes(used))) }
                @if let Some(keys) = server["keys"].as_u64() { (figure("server-keys", "Redis keys", keys.to_string())) }
            }
        }
    }
}

fn routes(stats: &Stats) -> Markup {
    let heads = [
        ("Route", false),
        ("Hits", true),
        ("Misses", true),
        ("Bypasses", true),
        ("Hit ratio", true),
        ("From cache", true),
        ("From origin", true),
        ("Hit p50, p99", true),
        ("Miss p50, p99", true),
        ("Uncached p50, p99", true),
    ];
    let rows = html! {
        @for route in &stats.routes {
            @let counts = RouteCounts::of(route);
            tr {
                th scope="row" { (route.route.as_deref().unwrap_or(ANY_ROUTE)) }
                td.number { (counts.answered) }
                td.number { (counts.misses) }
                td.number { (counts.bypasses) }
                td.number { (format!("{:.1} %", 100.0 * route.hit_ratio())) }
                td.number { (bytes(route.cache_bytes)) }
                td.number { (bytes(route.inner_bytes)) }
                @for times in [&route.hit_times, &route.miss_times, &route.bypass_times] {
                    td.number { @match quantiles(times) { Some((half, most)) => (format!("{half:.1?}, {most:.1?}")), None => "–" } }
                }
            }
        }
    };
    table("routes", "Routes", "Requests and latency by route since the start.", &heads, &rows)
}

/// Returns the table of audits, if any rule has audited a hit.
fn audits(stats: &Stats) -> Markup {
    let routes: Vec<_> = stats.routes.iter().filter(|route| !route.audits.is_empty()).collect();
    if routes.is_empty() {
        return html! {};
    }
    let heads = [
        ("Route", false),
        ("Same", true),
        ("Differed", true),
        ("Changed meanwhile", true),
        ("Unstable", true),
        ("Unconfirmed", true),
        ("Failed", true),
        ("Skipped", true),
        ("Parts that differed", false),
    ];
    use AuditResult::{Changed, Differed, Failed, Same, Skipped, Unconfirmed, Unstable};
    let rows = html! {
        @for route in routes {
            tr {
                th scope="row" { (route.route.as_deref().unwrap_or(ANY_ROUTE)) }
                @for result in [Same, Differed, Changed, Unstable, Unconfirmed, Failed, Skipped] {
                    td.number { (report::audited(route, result)) }
                }
                @let parts = route.audit_differences.iter().map(|(part, count)| format!("{part} ({count})"));
                td { (parts.collect::<Vec<_>>().join(", ")) }
            }
        }
    };
    table("audits", "Audits", "Hits that were compared with fresh responses: checked and differed.", &heads, &rows)
}

/// Returns the table of shadow mode, if any route has had it.
fn shadow(stats: &Stats) -> Markup {
    let routes: Vec<_> = stats.routes.iter().filter(|route| !route.shadow.is_empty()).collect();
    if routes.is_empty() {
        return html! {};
    }
    let heads = [
        ("Route", false),
        ("Expected hit ratio", true),
        ("Would be answered", true),
        ("Misses", true),
        ("Same", true),
        ("Differed", true),
        ("Changed meanwhile", true),
        ("Not compared", true),
        ("Parts that differed", false),
    ];
    let rows = html! {
        @for route in routes {
            @let of = &route.shadow;
            tr {
                th scope="row" { (route.route.as_deref().unwrap_or(ANY_ROUTE)) }
                td.number { (format!("{:.1} %", 100.0 * of.expected_hit_ratio())) }
                @for count in [of.hits + of.stale_hits + of.collapsed, of.misses, of.same, of.differed, of.changed, of.not_compared] {
                    td.number { (count) }
                }
                @let parts = of.differences.iter().map(|(part, count)| format!("{part} ({count})"));
                td { (parts.collect::<Vec<_>>().join(", ")) }
            }
        }
    };
    table("shadow", "Shadow mode", "Requests that the inner service has answered beside the cache.", &heads, &rows)
}

fn reasons(title: &str, caption: &str, rows: &[(&'static str, u64, &'static str)]) -> Markup {
    let id = title.to_lowercase().replace(' ', "-");
    let rows = html! {
        @for (reason, count, remedy) in rows {
            tr { th scope="row" { (reason) } td.number { (count) } td { (remedy) } }
        }
        @if rows.is_empty() { tr { td colspan="3" { "None." } } }
    };
    table(&id, title, caption, &[("Reason", false), ("Count", true), ("Remedy", false)], &rows)
}

fn counters(stats: &Stats) -> Markup {
    let rows = html! {
        @for (name, count) in report::counts(stats) {
            tr { th scope="row" { (name.replace('_', " ")) } td.number { (count) } }
        }
    };
    table("counters", "Counters", "All counters since the start.", &[("Counter", false), ("Count", true)], &rows)
}

/// Returns the line about reloads of the rules, if there was any.
fn reloads(history: &ReloadHistory) -> Markup {
    if history.replaced + history.refused == 0 {
        return html! {};
    }
    html! {
        p #reloads .notice .bad[history.is_refused()] {
            "Rules replaced: " (history.replaced)
            @if let Some(at) = history.last_replaced { ", last on " (fmt_http_date(at)) }
            ". Refused: " (history.refused)
            @if let Some((at, message)) = &history.last_refused { ", last on " (fmt_http_date(*at)) ": " code { (message) } }
            @if history.is_refused() { " The rules before stay in force." }
        }
    }
}

/// Returns the mistakes in the configuration, if there are any.
fn findings(shared: &Shared) -> Markup {
    let found = shared.cache.lint();
    if found.is_empty() {
        return html! {};
    }
    let rows = html! {
        @for finding in &found {
            tr {
                th scope="row" { (finding.kind()) }
                td { (finding.route().unwrap_or_default()) }
                td { (finding.problem()) }
                td { (finding.remedy()) }
            }
        }
    };
    let heads = [("Kind", false), ("Route", false), ("Cause", false), ("Remedy", false)];
    table("findings", "Findings", "Mistakes in the configuration.", &heads, &rows)
}

fn rules(shared: &Shared) -> Markup {
    let heads =
        [("Route", false), ("Lifetime", false), ("Namespaces", false), ("Writes invalidate", false), ("Options", false)];
    let rows = html! {
        @for rule in shared.cache.rule_summaries() {
            tr {
                th scope="row" {
                    (rule.route().unwrap_or(ANY_ROUTE))
                    @if !rule.has_matched() { " " span.quiet { "(no request yet)" } }
                }
                td { (rule.lifetime()) }
                td { (rule.namespaces().join(", ")) }
                td { (rule.invalidates().join(", ")) }
                td { (rule.options().join("; ")) }
            }
        }
    };
    table("rules", "Rules", "The rules in force.", &heads, &rows)
}

fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (count as f64, "B");
    for next in units {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    if unit == "B" { format!("{count} B") } else { format!("{size:.1} {unit}") }
}
