//! A process that is stopped while its pushes go on.

use std::{
    env,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tower_response_cache::Redis;

use super::{Row, Scale, judge::most_held};
use crate::rig::Server;

/// The frozen process: it states if it holds a lease when it begins, and after each time in which it did not run.
pub(super) fn process(url: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let store = runtime.block_on(async { Redis::builder(url).memory(1 << 20).build().await.expect("a store") });
    while !store.is_leased() {
        thread::sleep(Duration::from_millis(1));
    }
    println!("{}", store.is_leased());
    let mut last = Instant::now();
    loop {
        let (leased, now) = (store.is_leased(), Instant::now());
        if now - last > Duration::from_secs(1) {
            println!("{leased}");
        }
        last = now;
        thread::sleep(Duration::from_millis(1));
    }
}

struct Frozen {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Frozen {
    fn start(url: &str) -> Self {
        let mut command = Command::new(env::current_exe().expect("the path of this program"));
        let mut child = command.args(["process", url]).stdout(Stdio::piped()).spawn().expect("this program starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("the command kill").success(), "kill {signal}");
    }

    fn is_leased(&mut self) -> bool {
        self.lines.next().expect("the process runs").expect("a line") == "true"
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Changes many long keys under a prefix that is tracked.
pub(super) async fn change_keys(server: &Server, prefix: &str) {
    let client = ::redis::Client::open(server.url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let long = "x".repeat(1_000);
    let mut commands = ::redis::pipe();
    for number in 0..1_000 {
        commands.cmd("SET").arg(format!("{prefix}{{{long}{number}}}")).arg("").arg("PX").arg(60_000).ignore();
    }
    let _: () = commands.query_async(&mut connection).await.expect("an answer");
}

/// Stops a process, changes keys until Redis closes its connection, and lets it continue.
pub(super) async fn frozen(scale: Scale, server: &Server) {
    let mut process = Frozen::start(&server.url());
    assert!(process.is_leased(), "a process with a lease");
    process.signal("-STOP");
    let (begin, mut most, mut cut_off) = (Instant::now(), 0, false);
    while !cut_off && begin.elapsed() < Duration::from_secs(60) && most < 4 * scale.held as u64 {
        for prefix in ["cache:1:g:", "cache:1:t:"] {
            change_keys(server, prefix).await;
        }
        let mut held = 0;
        for class in ["pubsub", "normal"] {
            held = held.max(most_held(server, class).await);
        }
        // The stopped process cannot read, so the bytes are gone only with its connection.
        cut_off = most > 1 << 20 && held < most / 2;
        most = most.max(held);
    }
    let times = begin.elapsed();
    tokio::time::sleep(Duration::from_secs(2).saturating_sub(times)).await;
    process.signal("-CONT");
    let leased = process.is_leased();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let aim = Some(mib(scale.held as u64));
    scale.print(Row { row: "held for a frozen process", processes: 1, aim, measured: mib(most), unit: "MiB" });
    let number = |is| f64::from(u8::from(is));
    scale.print(Row { row: "frozen process is cut off", processes: 1, aim: Some(1.0), measured: number(cut_off), unit: "yes" });
    scale.print(Row {
        row: "frozen process knows that it lacks the lease",
        processes: 1,
        aim: Some(1.0),
        measured: number(!leased),
        unit: "yes",
    });
}
