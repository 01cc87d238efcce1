//! A plain design, for comparison: generations are tracked themselves with `NOLOOP`, and each process sends a `PING` every 50 ms.

use std::{
    slice::from_ref,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Row, Scale,
    bumps::{NAMES, RATE},
    judge::{Reading, most_held, share_over},
};
use crate::rig::Server;

const SIGN_IN: &str = "HELLO 3\r\nCLIENT TRACKING ON BCAST PREFIX cache:1:g: PREFIX cache:1:f: NOLOOP\r\n";

async fn connect(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr()).await.expect("a server is there");
    stream.set_nodelay(true).expect("an option of the socket");
    stream.write_all(SIGN_IN.as_bytes()).await.expect("a server is there");
    stream
}

/// Reads all pushes and replies, and sends heartbeats.
async fn follow(mut stream: TcpStream) {
    let mut beats = interval(Duration::from_millis(50));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = vec![0; 16 << 10];
    loop {
        tokio::select! {
            read = stream.read(&mut buffer) => if read.unwrap_or(0) == 0 { return },
            _ = beats.tick() => if stream.write_all(b"PING\r\n").await.is_err() { return },
        }
    }
}

/// Measures the idle processes, and invalidations that are each followed by the creation of the next generation.
pub(super) async fn bumps(scale: Scale, server: &Server) {
    let mut clients = JoinSet::new();
    for _ in 0..scale.many {
        clients.spawn(follow(connect(server).await));
    }
    sleep(Duration::from_secs(1)).await;
    let idle = share_over(from_ref(server), scale.time).await;
    scale.print(Row { row: "idle, naive", processes: scale.many, aim: None, measured: idle * 100.0, unit: "% of a core" });

    let client = ::redis::Client::open(server.url()).expect("an address");
    let mut writer = client.get_multiplexed_async_connection().await.expect("a connection");
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (before, mut count) = (Reading::of(server).await, 0);
    while before.at.elapsed() < scale.time {
        ticks.tick().await;
        let key = format!("cache:1:g:{{db:{}}}", count % NAMES);
        let (mut unlink, mut create) = (::redis::cmd("UNLINK"), ::redis::cmd("SET"));
        let _: () = unlink.arg(&key).query_async(&mut writer).await.expect("an answer");
        let create = create.arg(&key).arg("0123456789abcdef01234567").arg("NX").arg("GET");
        let _: Option<String> = create.query_async(&mut writer).await.expect("an answer");
        count += 1;
    }
    let after = Reading::of(server).await;
    let seconds = (after.at - before.at).as_secs_f64();
    let cost = (after.cpu - before.cpu - idle * seconds) / count as f64;
    scale.print(Row { row: "cpu per bump, naive", processes: scale.many, aim: None, measured: cost * 1000.0, unit: "ms" });
    scale.print(Row {
        row: "bumps reached, naive",
        processes: scale.many,
        aim: None,
        measured: count as f64 / seconds,
        unit: "1/s",
    });
}

/// Measures the memory that Redis holds for a connection that does not read.
pub(super) async fn frozen(scale: Scale, server: &Server) {
    let _stalled = connect(server).await;
    let begin = Instant::now();
    let mut most = 0;
    while most < 2 * scale.held as u64 && begin.elapsed() < Duration::from_secs(60) {
        super::frozen::change_keys(server, "cache:1:g:").await;
        most = most.max(most_held(server, "normal").await);
    }
    scale.print(Row {
        row: "held for a frozen process, naive (not cut off)",
        processes: 1,
        aim: None,
        measured: most as f64 / f64::from(1 << 20),
        unit: "MiB",
    });
}
