//! The demonstration: the same load without and with the cache, a comparison, and a few writes.

use std::sync::Arc;

use tower_response_cache::ResponseCache;

use super::{
    BoxError,
    app::Backend,
    args::Args,
    audit::{self, Writes},
    client::Client,
    external,
    load_test::{self, CLIENTS, Limit},
    report, seed,
    serve::Server,
    walkthrough,
};

/// Runs the demonstration. `uncached` and `cached` are two servers over the same data. `backend` is the state of the cached one.
pub(crate) async fn run(
    uncached: Server,
    cached: &Server,
    cache: &ResponseCache,
    backend: &Backend,
    args: &Args,
) -> Result<(), BoxError> {
    let client = Client::new(uncached.address());
    let mut tokens = Vec::new();
    for user in 0..seed::USERS {
        tokens.push(client.login(user).await?);
    }
    let tokens: Arc<[String]> = tokens.into();

    println!("{CLIENTS} clients, first without the cache, then the same requests with the cache\n");
    let without =
        load_test::run(uncached.address(), Arc::clone(&tokens), Limit::Time(args.measure), "without the cache").await?;
    // These writes have not passed through the cache, which other processes may have filled.
    cache.invalidate(["*"]).await?;
    let again = Limit::Operations(without.operations.clone());
    let with = load_test::run(cached.address(), tokens, again, "with the cache").await?;
    println!("\n{}", report::table(&without, &with, &backend.calls.counts()));
    if with.stale > 0 {
        return Err("the cache has served stale responses".into());
    }

    println!("Each write is visible in the next read");
    let client = Client::new(cached.address());
    walkthrough::run(&client, !args.redis.urls.is_empty() || args.listens()).await?;
    if args.listens() {
        external::change_row(&client, cache, &backend.db).await?;
    }
    let writer = if args.bypass_writes { &Client::new(uncached.address()) } else { &client };
    let writes = match (args.bypass_writes, args.listens()) {
        (false, _) => Writes::ThroughCache,
        (true, false) => Writes::PastCache,
        (true, true) => Writes::PastCacheWithListener,
    };
    audit::run(&client, writer, cache, writes).await?;
    uncached.stop().await;
    walkthrough::look_as_an_operator(&client, args.admin_token.as_deref()).await
}

/// Prints requests to try, with a valid token.
pub(crate) async fn print_examples(server: &Server) -> Result<(), BoxError> {
    let address = server.address();
    let token = Client::new(address).login(1).await?;
    println!(
        "\nServing on http://{address} until Ctrl-C. Requests to try:

  T={token}
  curl -i 'http://{address}/tables/flights?stats=carrier'
  curl -i 'http://{address}/tables/flights?carrier=UA&dep_delay.min=60&sort=-dep_delay&limit=5'
  curl -i http://{address}/tables/flights -H \"Authorization: Bearer $T\" \\
       -d '{{\"day\": 31, \"carrier\": \"UA\", \"flight\": 1, \"origin\": \"JFK\", \"dest\": \"BOS\", \"dep_delay\": 999}}'
  curl -i 'http://{address}/storage/flights?prefix=UA/'
  curl -i http://{address}/storage/flights/UA/note.txt -H \"Authorization: Bearer $T\" -X PUT -d 'a note'
  curl -i http://{address}/auth/user -H \"Authorization: Bearer $T\"
  curl -i -X POST http://{address}/auth/logout -H \"Authorization: Bearer $T\"
  curl http://{address}/metrics"
    );
    Ok(())
}
