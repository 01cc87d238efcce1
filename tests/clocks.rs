//! Lifetimes under wrong clocks: injected clocks, and child processes with shifted wall clocks.
#![cfg(feature = "redis")]

mod common;
#[path = "common/shifted.rs"]
mod shifted;

use std::{
    env,
    io::{self, BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use common::{
    redis::{Server, until},
    *,
};
use shifted::ShiftedClock;
use tower::Layer;
use tower_response_cache::{
    CacheLayer, Clock, Outcome, Redis, Rule, Store,
    redis::{Coherence, RedisBuilder},
};

const HOUR: Duration = Duration::from_secs(3600);

const COHERENCES: [Coherence; 3] = [Coherence::Leased, Coherence::Validated, Coherence::Ttl(HOUR)];

fn builder(url: &str, coherence: Coherence) -> RedisBuilder {
    Redis::builder(url).coherence(coherence).memory(8 << 20).command_timeout(5 * SECOND).max_round_trip(5 * SECOND)
}

/// Returns a rule whose entries stay in Redis long after they expire.
fn rule(ttl: Duration) -> Rule {
    Rule::ttl(ttl).stale_if_error(24 * HOUR)
}

async fn delete_entries(server: &Server) {
    for key in server.keys("*:e:*").await {
        server.command(&["DEL", &key]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_in_memory_does_not_outlive_its_lifetime() {
    for coherence in COHERENCES {
        let server = Server::start().await;
        let (right, wrong) = (Clock::manual(), Clock::manual());
        right.set(right.now() + HOUR);
        let (inner, calls) = counting(|_, n| ok(format!("answer {n}")));
        let one = builder(&server.url(), coherence).clock(right.clone()).build().await.unwrap();
        let one = CacheLayer::new(one).rules(one_rule(rule(MINUTE))).layer(inner.clone());
        let two = builder(&server.url(), coherence).clock(wrong.clone()).build().await.unwrap();
        let two = CacheLayer::new(two).rules(one_rule(rule(MINUTE))).layer(inner);
        send(&one, get("/t/x")).await;
        assert_eq!(outcome(&send(&two, get("/t/x")).await), Outcome::Hit, "{coherence:?}");
        assert_eq!(outcome(&send(&two, get("/t/x")).await), Outcome::Hit, "{coherence:?}");
        // Redis expires its keys by its own clock, which the test does not advance.
        delete_entries(&server).await;
        [&right, &wrong].into_iter().for_each(|clock| clock.advance(MINUTE));
        assert_ne!(outcome(&send(&two, get("/t/x")).await), Outcome::Hit, "{coherence:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn corrected_clock_gives_correct_lifetimes_of_shared_entries() {
    for coherence in COHERENCES {
        let server = Server::start().await;
        let (right, wrong) = (Clock::manual(), Clock::manual());
        wrong.set(wrong.now() + HOUR);
        let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
        let one = builder(&server.url(), coherence).clock(right.clone()).build().await.unwrap();
        let one = CacheLayer::new(one).rules(one_rule(rule(MINUTE))).layer(inner.clone());
        let two = builder(&server.url(), coherence).clock(wrong.clone()).build().await.unwrap();
        let two = CacheLayer::new(two).rules(one_rule(rule(MINUTE))).layer(inner);
        wrong.set(right.now());
        send(&one, get("/t/x")).await;
        assert_eq!(outcome(&send(&two, get("/t/x")).await), Outcome::Hit, "{coherence:?}");
        [&right, &wrong].into_iter().for_each(|clock| clock.advance(MINUTE));
        assert_ne!(outcome(&send(&two, get("/t/x")).await), Outcome::Hit, "{coherence:?}");
    }
}

#[tokio::test]
async fn wall_clock_set_back_prolongs_no_entry_in_memory() {
    let clock = Clock::manual();
    let store = tower_response_cache::Memory::builder().clock(clock.clone()).build();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&cache, get("/t/x")).await;
    clock.set(clock.now() - HOUR);
    assert_eq!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit);
    clock.advance(MINUTE);
    assert_ne!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit);
}

#[tokio::test]
async fn time_of_a_suspended_machine_counts() {
    let clock = Clock::manual();
    let store = tower_response_cache::Memory::builder().clock(clock.clone()).build();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&cache, get("/t/x")).await;
    clock.set(clock.now() + HOUR);
    assert_ne!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit);
}

#[tokio::test(start_paused = true)]
async fn advanced_tokio_clock_expires_entries() {
    let store = tower_response_cache::Memory::builder().clock(Clock::tokio()).build();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store.clone()).rules(one_rule(Rule::ttl(MINUTE))).layer(inner);
    send(&cache, get("/t/x")).await;
    tokio::time::advance(MINUTE - Duration::from_millis(1)).await;
    assert_eq!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_ne!(outcome(&send(&cache, get("/t/x")).await), Outcome::Hit);
    tokio::time::advance(HOUR).await;
    store.remove_expired();
    assert_eq!(store.stats().entries, 0);
}

/// The environment variable that tells the child process its coherence and its server.
const CHILD: &str = "CLOCKS_TEST_CHILD";

/// The lifetime of shared entries.
const SHORT: Duration = Duration::from_secs(2);

/// A child process with its own wall clock.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(server: &Server, coherence: Coherence, clock: &ShiftedClock) -> Self {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.args(["--exact", "child_process", "--nocapture"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let coherence = if coherence == Coherence::Leased { "leased" } else { "validated" };
        command.env(CHILD, format!("{coherence} {}", server.url()));
        clock.apply_to(&mut command);
        let mut child = command.spawn().expect("this program starts again");
        let (input, output) = (child.stdin.take().expect("piped"), BufReader::new(child.stdout.take().expect("piped")));
        Self { child, input, output }
    }

    /// Sends a request. Returns its outcome and the seconds by which the process's wall clock is ahead.
    fn get(&mut self, target: &str) -> (String, i64) {
        writeln!(self.input, "{target}").expect("a process that reads");
        let line = self.output.by_ref().lines().map(|line| line.expect("text")).find_map(|line| {
            let (outcome, seconds) = line.strip_prefix("answer: ")?.rsplit_once(' ')?;
            Some((outcome.to_owned(), seconds.parse::<i64>().expect("seconds")))
        });
        let (outcome, seconds) = line.expect("a line with an outcome");
        (outcome, seconds - unix_seconds())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

/// The program of the child process. Without its environment variable it passes.
#[test]
fn child_process() {
    let Ok(settings) = env::var(CHILD) else { return };
    let (coherence, url) = settings.split_once(' ').expect("two words");
    let coherence = if coherence == "leased" { Coherence::Leased } else { Coherence::Validated };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let store = runtime.block_on(builder(url, coherence).build()).expect("a store");
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(rule(SHORT))).layer(inner);
    for target in io::stdin().lines() {
        let response = runtime.block_on(send(&cache, get(&target.expect("text"))));
        println!("\nanswer: {:?} {}", outcome(&response), unix_seconds());
    }
}

/// Asserts that a process with a wrong clock serves shared entries exactly while they are fresh.
async fn serves_while_fresh(coherence: Coherence, seconds: i64) {
    let server = Server::start().await;
    let clock = ShiftedClock::by(seconds);
    let mut process = Process::start(&server, coherence, &clock);
    let store = builder(&server.url(), coherence).build().await.unwrap();
    let (inner, _) = counting(|_, n| ok(format!("answer {n}")));
    let cache = CacheLayer::new(store).rules(one_rule(rule(SHORT))).layer(inner);
    // Repeated on a busy machine, where the entry may have expired before the other process sent its request.
    let mut n = 0;
    let target = loop {
        n += 1;
        let target = format!("/t/x?{n}");
        send(&cache, get(&target)).await;
        let stored = std::time::Instant::now();
        let (outcome, ahead) = process.get(&target);
        assert!((ahead - seconds).abs() <= 5, "the clock is shifted by {ahead} s");
        if stored.elapsed() < SHORT / 2 || outcome == "Hit" {
            assert_eq!(outcome, "Hit", "{coherence:?}, {seconds} s");
            break target;
        }
    };
    tokio::time::sleep(SHORT + SHORT / 4).await;
    let (outcome, _) = process.get(&target);
    assert_ne!(outcome, "Hit", "{coherence:?}, {seconds} s: the entry outlived its lifetime");
    // The clock is corrected while the process runs.
    clock.set(0);
    until("an entry of this process is a hit there", async || {
        n += 1;
        let target = format!("/t/y?{n}");
        send(&cache, get(&target)).await;
        process.get(&target).0 == "Hit"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_an_hour_behind_serves_nothing_expired() {
    serves_while_fresh(Coherence::Leased, -3600).await;
    serves_while_fresh(Coherence::Validated, -3600).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn process_an_hour_ahead_serves_fresh_entries() {
    serves_while_fresh(Coherence::Leased, 3600).await;
    serves_while_fresh(Coherence::Validated, 3600).await;
}
