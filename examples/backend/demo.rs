//! The demonstration: the same traffic without the cache and with it, the two compared, then a few writes to watch.

use std::{sync::Arc, time::Duration};

use tower_response_cache::Store;

use super::{
    Fault,
    app::Calls,
    client::Client,
    drive::{self, CLIENTS, Until},
    report, seed,
    serve::Server,
    tour,
};

/// `bare` and `cached` are two servers over the same data; `calls` counts the handlers behind the cached one, in front of which
/// `store` is.
pub(crate) async fn run(bare: Server, cached: &Server, store: &impl Store, calls: &Calls, time: Duration) -> Result<(), Fault> {
    let client = Client::new(bare.address());
    let mut tokens = Vec::new();
    for user in 0..seed::USERS {
        tokens.push(client.login(user).await?);
    }
    let tokens: Arc<[String]> = tokens.into();

    println!("{CLIENTS} clients, first on the bare application, then the same requests with the cache in front\n");
    let without = drive::run(bare.address(), Arc::clone(&tokens), Until::Time(time), "without the cache").await?;
    bare.stop().await;
    // It has written past the cache, which other processes may have filled meanwhile.
    store.invalidate(["*"]).await?;
    let again = Until::SameAs(without.deeds.clone());
    let with = drive::run(cached.address(), tokens, again, "with the cache").await?;
    println!("\n{}", report::table(&without, &with, &calls.so_far()));
    if with.stale > 0 {
        return Err("the cache has given stale answers".into());
    }

    println!("A write shows in the very next read");
    tour::walk(&Client::new(cached.address()), store.is_shared()).await
}

/// Says what to try now, with a token that works.
pub(crate) async fn invite(server: &Server) -> Result<(), Fault> {
    let address = server.address();
    let token = Client::new(address).login(1).await?;
    println!(
        "\nServing on http://{address} until Ctrl-C. To try:

  T={token}
  curl -i 'http://{address}/tables/flights?stats=carrier'
  curl -i 'http://{address}/tables/flights?carrier=UA&dep_delay.min=60&sort=-dep_delay&limit=5'
  curl -i http://{address}/tables/flights -H \"Authorization: Bearer $T\" \\
       -d '{{\"day\": 31, \"carrier\": \"UA\", \"flight\": 1, \"origin\": \"JFK\", \"dest\": \"BOS\", \"dep_delay\": 999}}'
  curl -i 'http://{address}/storage/flights?prefix=UA/'
  curl -i http://{address}/storage/flights/UA/note.txt -H \"Authorization: Bearer $T\" -X PUT -d 'a note'
  curl -i http://{address}/auth/user -H \"Authorization: Bearer $T\"
  curl -i -X POST http://{address}/auth/logout -H \"Authorization: Bearer $T\""
    );
    Ok(())
}
