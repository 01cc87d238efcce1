//! Invalidation by `LISTEN` and `NOTIFY`, where logical replication is not available. The guide page on PostgreSQL states the price.
//!
//! A trigger sends the namespace of a changed table:
//!
//! ```sql
//! CREATE FUNCTION notify_cache() RETURNS trigger LANGUAGE plpgsql AS
//!     $$ BEGIN PERFORM pg_notify('cache', 'db_query:' || TG_TABLE_NAME); RETURN NULL; END $$;
//! CREATE TRIGGER notify_cache AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON orders
//!     FOR EACH STATEMENT EXECUTE FUNCTION notify_cache();
//! ```
//!
//! ```sh
//! DATABASE_URL=postgres://postgres@localhost/app cargo run --example listen_notify
//! ```

use std::{convert::Infallible, future::poll_fn, time::Duration};

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};
use tower_response_cache::{BoxError, Memory, ResponseCache};

/// Listens until the connection ends.
async fn listen_once(url: &str, cache: &ResponseCache) -> Result<(), BoxError> {
    let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
    let (sender, mut names) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                _ = sender.send(notification.payload().to_owned());
            }
        }
    });
    client.batch_execute("LISTEN cache").await?;
    // Notifications are lost while nobody listens. From here on, none is.
    cache.invalidate(["*"]).await?;
    while let Some(name) = names.recv().await {
        // After an error, everything is invalidated by the next connection.
        cache.invalidate([name]).await?;
    }
    Err("the connection has ended".into())
}

/// Listens, and connects again after each failure.
pub(crate) async fn listen(url: String, cache: ResponseCache) -> Infallible {
    loop {
        if let Err(error) = listen_once(&url, &cache).await {
            eprintln!("no notifications: {error}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let cache = ResponseCache::new(Memory::new(64 << 20));
    match listen(std::env::var("DATABASE_URL")?, cache).await {}
}
