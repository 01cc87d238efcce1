//! The demonstration holds, and concurrent writes by all interfaces are visible to all of them.

#[path = "main.rs"]
#[expect(dead_code, reason = "the program has functions that the tests do not call")]
mod grpc;

use grpc::{
    client::{Clients, Interface},
    demo, spawn,
    table::Table,
};

#[tokio::test]
async fn every_statement_of_the_demonstration_holds() {
    assert!(demo::run().await.expect("a demonstration"));
}

/// Each interface writes an airline of its own, while all of them read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_are_visible_to_all_interfaces() {
    let table = Table::load().expect("the data");
    let address = spawn(&table).await.expect("a server");
    let writers = Interface::ALL.into_iter().zip(["UA", "AA", "DL"]).map(async |(writer, carrier)| {
        let clients = Clients::connect(address).await.expect("a connection");
        for n in 0..50 {
            let name = format!("{n} by {}", writer.name());
            clients.rename(writer, carrier, &name).await.expect("a write");
            for reader in Interface::ALL {
                let read = clients.read(reader, carrier).await.expect("a read");
                assert_eq!(read.name, name, "{}", reader.name());
            }
        }
    });
    let [one, two, three]: [_; 3] = writers.collect::<Vec<_>>().try_into().ok().expect("three writers");
    tokio::join!(one, two, three);
}
