//! The example application over PostgreSQL: it answers as over SQLite, and a row that was changed past the cache is visible
//! in later reads.
#![allow(dead_code, missing_docs, unreachable_pub)]

#[path = "../main.rs"]
mod backend;
#[path = "../../../tests/common/port.rs"]
mod port;
#[path = "../../../tests/postgres/server.rs"]
mod server;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{Method, StatusCode, header};
use backend::{
    app::{Backend, Calls, app},
    args::Args,
    buckets::Buckets,
    caching,
    client::{Client, Reply},
    db::Db,
    listener, seed,
    serve::Server,
};
use port::free_port;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower_response_cache::{Memory, ResponseCache};

/// The longest wait for a state, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running application.
struct Running {
    client: Client,
    cache: ResponseCache,
    _server: Server,
    _data: TempDir,
}

impl Running {
    /// Serves the application over a database, with the cache if it `is_cached`.
    async fn start(database: Option<&server::Server>, is_cached: bool) -> Self {
        let data = tempfile::tempdir().expect("a directory");
        let db = match database {
            Some(database) => Db::connect(&database.url("postgres"), 4).await.expect("a database"),
            None => Db::open(&data.path().join("app.db"), 4).expect("a database"),
        };
        let buckets = Arc::new(Buckets::open(&data.path().join("buckets")).expect("buckets"));
        seed::fill(&db, Arc::clone(&buckets)).await.expect("initial data");
        let cache = caching::cache(Memory::default());
        let app = app(Arc::new(Backend { db, buckets, calls: Calls::default() }));
        let app = if is_cached { app.layer(cache.layer()) } else { app };
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = Server::start(port, app).expect("a server");
        Self { client: Client::new(server.address()), cache, _server: server, _data: data }
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Reply {
        self.client.send(Method::GET, path, token, "").await.expect("a response")
    }

    /// Reads until the response is a hit.
    async fn get_until_hit(&self, path: &str, token: Option<&str>) -> Reply {
        let begun = Instant::now();
        loop {
            let reply = self.get(path, token).await;
            if reply.hit() {
                return reply;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} is never a hit: {}", reply.cache_status());
        }
    }
}

/// A read, or a write with its body.
type Request = (Method, &'static str, Option<usize>, Value);

fn requests() -> Vec<Request> {
    let get = |path, user| (Method::GET, path, user, Value::Null);
    let reads = [
        get("/", None),
        get("/nothing", None),
        get("/tables", None),
        get("/tables/nothing", None),
        get("/tables/airlines", None),
        get("/tables/flights?limit=3", None),
        get("/tables/flights?carrier=UA&dep_delay.min=60&sort=-dep_delay&limit=20", None),
        get("/tables/flights?carrier=HA&sort=-id&limit=500&offset=2", None),
        get("/tables/flights?sort=dep_delay&limit=5&offset=26000", None),
        get("/tables/flights?sort=-tailnum&dest.min=X&day.max=2", None),
        get("/tables/flights?carrier=none", None),
        get("/tables/flights?day=99999999999999999999", None),
        get("/tables/flights?limit=501", None),
        get("/tables/flights?carrier=%27%20OR%201=1--", None),
        get("/tables/weather?origin=JFK&temp.min=30.5&temp.max=31&sort=humid", None),
        get("/tables/weather?temp=31", None),
        get("/tables/planes?manufacturer=BOEING&sort=-seats&limit=100", None),
        get("/tables/planes?sort=model", None),
        get("/tables/flights?stats=carrier", None),
        get("/tables/flights?stats=origin&carrier=UA", None),
        get("/tables/flights?stats=dest&day.max=3", None),
        get("/tables/flights?stats=day&carrier=none", None),
        get("/tables/flights?stats=hour&origin=JFK", None),
        get("/tables/flights?stats=flight", None),
        get("/storage/flights?prefix=UA/", None),
        get("/storage/weather", None),
        get("/storage/planes", None),
        get("/storage/planes?prefix=test/", None),
        get("/storage/nothing", None),
        get("/storage/flights/UA/07.csv", None),
        get("/auth/user", None),
        get("/auth/user", Some(0)),
        get("/auth/user", Some(3)),
    ];
    let flight = json!({ "day": 3, "carrier": "HA", "flight": 51, "origin": "JFK", "dest": "HNL", "dep_delay": 7 });
    let weather = json!({ "origin": "JFK", "day": 3, "hour": 77, "temp": 1, "precip": 0.5 });
    let no_tailnum = json!({ "tailnum": Value::Null, "dest": "Ä Ö\n\"'" });
    let writes = [
        (Method::POST, "/auth/login", None, json!({ "name": "user1", "password": "wrong" })),
        (Method::POST, "/auth/login", None, json!({ "name": "nobody", "password": "x" })),
        (Method::POST, "/tables/flights", None, flight.clone()),
        (Method::POST, "/tables/flights", Some(3), flight.clone()),
        (Method::POST, "/tables/flights", Some(0), json!({ "day": 3 })),
        (Method::POST, "/tables/flights", Some(0), json!({ "day": "three" })),
        (Method::POST, "/tables/flights", Some(0), flight.clone()),
        (Method::POST, "/tables/flights", Some(1), flight),
        (Method::PATCH, "/tables/flights/27005", Some(0), json!({ "dep_delay": 1000000, "arr_delay": Value::Null })),
        (Method::PATCH, "/tables/flights/5", Some(0), no_tailnum),
        (Method::PATCH, "/tables/flights/99999999", Some(0), json!({ "dep_delay": 1 })),
        (Method::PATCH, "/tables/flights/five", Some(0), json!({ "dep_delay": 1 })),
        (Method::PATCH, "/tables/airlines/1", Some(0), json!({ "carrier": "UA" })),
        (Method::PATCH, "/tables/weather/7", Some(0), json!({ "precip": 2.25 })),
        (Method::POST, "/tables/weather", Some(0), weather.clone()),
        // A row of PostgreSQL that violates a constraint uses up an id, so that no other row follows it.
        (Method::POST, "/tables/weather", Some(0), weather),
        (Method::DELETE, "/tables/flights/9", Some(0), Value::Null),
        (Method::DELETE, "/tables/flights/9", Some(0), Value::Null),
        (Method::PATCH, "/auth/user", Some(0), json!({ "email": "new@example.com" })),
        (Method::PATCH, "/auth/user", Some(1), json!({ "display_name": "Ünal", "email": "a@b" })),
        (Method::PUT, "/storage/planes/test/a.txt", Some(0), json!("a")),
        (Method::POST, "/storage/planes/test/a.txt", Some(0), json!({ "move_to": "test/b.txt", "bucket": "weather" })),
        (Method::DELETE, "/storage/flights/UA/08.csv", Some(0), Value::Null),
        (Method::POST, "/auth/logout", Some(3), Value::Null),
    ];
    // The second reads of the first round are hits.
    [&reads[..], &reads, &writes, &reads].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_over_postgresql_equal_those_over_sqlite() {
    let database = server::Server::start();
    let sqlite = Running::start(None, false).await;
    let postgres = Running::start(Some(&database), true).await;
    let listener = listener::start(&database.url("postgres"), &postgres.cache).await.expect("a listener");
    let mut tokens = Vec::new();
    for user in 0..4 {
        tokens.push([&sqlite, &postgres].map(|app| app.client.login(user)));
    }
    let mut signed_in = Vec::new();
    for [first, second] in tokens {
        signed_in.push([first.await.expect("a token"), second.await.expect("a token")]);
    }
    let (mut hits, mut statuses) = (0, Vec::new());
    for (method, path, user, body) in requests() {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut replies = Vec::new();
        for (at, app) in [&sqlite, &postgres].into_iter().enumerate() {
            let token = user.map(|user| signed_in[user][at].as_str());
            replies.push(app.client.send(method.clone(), path, token, body.clone()).await.expect("a response"));
        }
        let [expected, found] = [0, 1].map(|at| {
            let Reply { status, headers, body, .. } = &replies[at];
            let fields = [header::CONTENT_TYPE, header::LOCATION, header::ALLOW, header::WWW_AUTHENTICATE];
            (*status, fields.map(|name| headers.get(name).cloned()), String::from_utf8_lossy(body).into_owned())
        });
        assert_eq!(found, expected, "{method} {path} {body}");
        hits += usize::from(replies[1].hit());
        statuses.push(expected.0.as_u16());
    }
    for status in [200, 201, 204, 400, 401, 403, 404, 409] {
        assert!(statuses.contains(&status), "no request has the status {status}: {statuses:?}");
    }
    assert!(!statuses.contains(&500) && hits > 20, "{hits} hits, {statuses:?}");
    assert!(listener.stats().connected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_changed_with_psql_is_visible_in_later_reads() {
    let database = server::Server::start();
    let (cached, fresh) = (Running::start(Some(&database), true).await, Running::start(Some(&database), false).await);
    let token = cached.client.login(1).await.expect("a token");
    let airlines = "/tables/airlines?carrier=HA";

    // Without a listener, the old response is a hit.
    let before = cached.get_until_hit(airlines, None).await.json();
    database.sql("UPDATE airlines SET name = 'without a listener' WHERE carrier = 'HA'");
    let after = cached.get(airlines, None).await;
    assert!(after.hit() && after.json() == before && fresh.get(airlines, None).await.json() != before);

    let listener = listener::start(&database.url("postgres"), &cached.cache).await.expect("a listener");
    let mut times = Vec::new();
    for (sql, path) in [
        ("UPDATE airlines SET name = 'with a listener' WHERE carrier = 'HA'", airlines),
        ("UPDATE airlines SET name = 'renamed' WHERE carrier = 'UA'", "/tables/flights?stats=carrier"),
        (
            "INSERT INTO flights (day, carrier, flight, origin, dest) VALUES (1, 'HA', 1, 'JFK', 'HNL')",
            "/tables/flights?carrier=HA&sort=-id&limit=3",
        ),
        ("UPDATE flights SET carrier = 'UA' WHERE id = 5", "/tables/flights?limit=5"),
        ("DELETE FROM flights WHERE id = 6", "/tables/flights?sort=id&limit=9"),
        ("UPDATE weather SET temp = 99 WHERE id = 1", "/tables/weather?limit=1"),
        ("TRUNCATE planes", "/tables/planes?manufacturer=BOEING"),
        ("UPDATE users SET display_name = 'psql' WHERE name = 'user1'", "/auth/user"),
        ("UPDATE roles SET name = 'writer' WHERE name = 'editor'", "/auth/user"),
        ("DELETE FROM permissions WHERE name = 'tables:write'", "/auth/user"),
        ("DELETE FROM sessions", "/auth/user"),
    ] {
        let token = path.starts_with("/auth").then_some(token.as_str());
        let before = cached.get_until_hit(path, token).await;
        database.sql(sql);
        let committed = Instant::now();
        let expected = fresh.get(path, token).await;
        assert_ne!(expected.body, before.body, "{sql}");
        let seen = loop {
            let since = committed.elapsed();
            let read = cached.get(path, token).await;
            if (read.status, &read.body) != (before.status, &before.body) {
                assert_eq!((read.status, &read.body), (expected.status, &expected.body), "{sql}");
                break since;
            }
            assert!(since < PATIENCE, "{sql}: {path} is old after {PATIENCE:?}\n{}", listener.stats());
        };
        times.push(seen);
    }
    // Only the table of a change is concerned.
    let weather = cached.get_until_hit("/tables/weather?limit=1", None).await;
    database.sql("UPDATE airlines SET name = 'last' WHERE carrier = 'HA'");
    let changed = Instant::now();
    while cached.get(airlines, None).await.json()["rows"][0]["name"] != "last" {
        assert!(changed.elapsed() < PATIENCE, "{airlines} is old after {PATIENCE:?}\n{}", listener.stats());
    }
    assert!(cached.get("/tables/weather?limit=1", None).await.hit() && weather.status == StatusCode::OK);
    println!("from the end of psql to the first read with the change: {times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_together_fill_the_first_schema_of_the_search_path_once() {
    let database = server::Server::start();
    database.sql("CREATE SCHEMA own; ALTER DATABASE app SET search_path = own, public");
    let start = || Running::start(Some(&database), false);
    tokio::join!(start(), start(), start());
    start().await;
    assert_eq!(database.sql("SELECT count(*) FROM own.users"), seed::USERS.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_after_a_restart_of_postgresql() {
    let mut database = server::Server::start();
    let app = Running::start(Some(&database), false).await;
    let get = || app.get("/tables/airlines", None);
    // Several connections are idle afterwards.
    tokio::join!(get(), get(), get(), get());
    database.crash();
    database.restart();
    for _ in 0..8 {
        assert_eq!(get().await.status, StatusCode::OK);
    }
}

/// Runs a demonstration in a process of its own, because a process has one recorder of metrics. Returns its output.
fn demonstration(database: &server::Server, flags: &str) -> String {
    let mut other = Command::new(std::env::current_exe().expect("this program"));
    other.env("DATABASE", database.url("postgres")).env("FLAGS", flags);
    let output =
        other.args(["--ignored", "--exact", "demonstration_of_another_test", "--nocapture"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "other tests run it in a process of its own"]
async fn demonstration_of_another_test() {
    let (url, flags) = (std::env::var("DATABASE").expect("a URL"), std::env::var("FLAGS").expect("flags"));
    let fixed = ["--demo", "--seconds", "1", "--listen", "127.0.0.1:0", "--postgres", &url];
    let args = Args::parse(fixed.into_iter().chain(flags.split_whitespace()).map(Into::into)).expect("valid flags");
    backend::run(args).await.expect("statements that hold");
}

#[test]
fn audit_of_the_demonstration_finds_writes_past_the_cache_only_without_the_listener() {
    let database = server::Server::start();
    let slots = || database.sql("SELECT count(*) FROM pg_replication_slots");
    let change = "ok: the next read has the change";
    let [none, found] = ["ok: the audit has found no outdated hit", "ok: the audit has found the writes past the cache"];
    // The second demonstration finds the database filled.
    for (flags, expected) in
        [("--bypass-writes", &[change, none][..]), ("--bypass-writes --no-listener", &[found]), ("", &[change, none])]
    {
        let text = demonstration(&database, flags);
        for expected in expected {
            assert!(text.contains(expected), "{flags}: expected {expected}\n{text}");
        }
        assert_eq!(text.contains(change), !flags.contains("--no-listener"), "{flags}\n{text}");
        println!("{}", text.lines().find(|line| line.contains("ms after the commit")).unwrap_or("no listener"));
    }
    let begun = Instant::now();
    while slots() != "0" {
        assert!(begun.elapsed() < PATIENCE, "a demonstration has left its slot behind");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn databases_that_cannot_be_used_are_refused_at_the_start() {
    for (flags, expected) in [
        (&["--postgres", "mysql://localhost/app"][..], "`--postgres` takes a URL"),
        (&["--no-listener"], "`--no-listener` needs `--postgres URL`"),
    ] {
        let error = Args::parse(flags.iter().map(Into::into)).expect_err("an error");
        assert!(error.contains(expected), "{error}");
    }
    let database = server::Server::start();
    let url = |role: &str| database.url(role);
    for (url, expected) in [
        (url("postgres") + "?sslmode=require", "the URL requires TLS: expected `sslmode=disable` or `sslmode=prefer`"),
        (url("postgres") + "?sslmode=verify-full", "invalid URL: "),
        (url("nobody"), "role \"nobody\" does not exist"),
        ("postgres://postgres:sEcReT@127.0.0.1:1/app".into(), "error connecting to server"),
    ] {
        let error = Db::connect(&url, 1).await.err().expect("an error").to_string();
        assert!(error.contains(expected) && !error.contains("sEcReT"), "{url}: {error}");
    }

    let start = async |url: String| match listener::start(&url, &caching::cache(Memory::default())).await {
        Ok(_) => panic!("{url} is accepted"),
        Err(error) => error.to_string(),
    };
    drop(Running::start(Some(&database), false).await);
    database.sql("CREATE ROLE plain LOGIN; CREATE PUBLICATION backend FOR ALL TABLES");
    let error = start(url("plain")).await;
    assert!(error.contains("ALTER ROLE \"plain\" REPLICATION"), "{error}");
    let error = start(server::Server::with(&["wal_level=replica"]).url("postgres")).await;
    assert!(error.contains("wal_level is replica"), "{error}");
}
