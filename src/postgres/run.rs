//! The task of a listener: changes become invalidations, and are confirmed after them.

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    select,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    connection::Part,
    error::{PostgresError, PostgresErrorKind},
    lsn::Lsn,
    mapping::{Mapping, Names, everything},
    options::Options,
    pgoutput::{self, Message},
    session::{Replace, Server, Session, SlotState},
    slot,
    stats::{Counters, count},
};
use crate::{handle::ResponseCache, namespace::Namespace};

/// The largest number of names of one invalidation.
const MAX_NAMES: usize = 1000;

/// The pause between two signs of life. The server ends a connection without them, after 60 seconds by default.
const ALIVE: Duration = Duration::from_secs(10);

/// The time without a message of the server after which the connection is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// The longest pause before the next attempt to connect, and to invalidate.
const MAX_PAUSE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(2));

/// The time after which a connection has lasted, so that the next attempt comes at once.
const LASTING: Duration = Duration::from_secs(1);

/// The worker of a listener.
pub(super) struct Worker {
    pub(super) cache: ResponseCache,
    pub(super) options: Options,
    pub(super) counters: Arc<Counters>,
    history: Option<History>,
    replace: Replace,
    /// The text of the outage that was logged last.
    logged: Option<String>,
    /// The text of the fault of a table or of the publication that was logged last.
    fault: Option<String>,
}

/// The position up to which this process has processed the log of a server.
struct History {
    server: Server,
    confirmed: Lsn,
}

/// The changes that are received and not yet confirmed.
#[derive(Default)]
struct Batch {
    names: Names,
    /// The transactions.
    ids: Vec<u32>,
    /// True if the last transaction has not ended.
    is_open: bool,
    /// The position behind the last transaction that has ended.
    end: Lsn,
    transactions: u64,
}

impl Batch {
    /// Adds a message of the output plugin.
    fn add(&mut self, data: &[u8], mapping: &mut Mapping) -> Result<(), PostgresError> {
        let invalid = |pgoutput::Malformed(expected)| {
            PostgresError::protocol(format!("invalid message of pgoutput: expected {expected}"))
        };
        match pgoutput::read(data).map_err(invalid)? {
            Message::Begin { id } => {
                self.ids.push(id);
                self.is_open = true;
            }
            Message::Commit { end } => {
                self.end = end;
                self.is_open = false;
                self.transactions += 1;
            }
            message => mapping.add(&message, &mut self.names),
        }
        Ok(())
    }
}

impl Worker {
    pub(super) fn new(cache: ResponseCache, options: Options) -> Self {
        Self { cache, options, counters: Arc::default(), history: None, replace: Replace::No, logged: None, fault: None }
    }

    /// Listens until `stopped` is ready.
    pub(super) async fn run(mut self, session: Option<Session>, stopped: impl Future<Output = ()>) {
        let (mut session, counters) = (session, self.counters.clone());
        select! {
            () = stopped => {}
            never = self.listen(&mut session) => match never {},
        }
        counters.connected.store(false, Relaxed);
        if let Some(session) = session {
            session.close().await;
        }
    }

    async fn listen(&mut self, session: &mut Option<Session>) -> Infallible {
        let mut pauses = Pauses::new(Duration::from_millis(100), MAX_PAUSE.0);
        let mut opened = Instant::now();
        // The first outage of a listener that stands by is expected.
        let mut is_known = session.is_none();
        loop {
            let failed = match session {
                Some(open) => {
                    let Err(error) = self.serve(open).await;
                    if self.counters.connected.swap(false, Relaxed) {
                        is_known = false;
                    }
                    pauses.after_a_connection_of(opened.elapsed());
                    *session = None;
                    Some(error)
                }
                None => match Session::open(&self.options, self.replace, false).await {
                    Ok(open) => {
                        count(&self.counters.reconnections, 1);
                        self.replace = Replace::No;
                        *session = Some(open);
                        opened = Instant::now();
                        None
                    }
                    Err(error) => Some(error),
                },
            };
            let Some(error) = failed else { continue };
            if error.code() == Some("42704") {
                self.replace = Replace::Undecodable;
            }
            let text = error.to_string();
            if !is_known && self.logged.as_ref() != Some(&text) {
                tracing::warn!(
                    error = text,
                    slot = self.options.slot,
                    "changes in PostgreSQL do not arrive: entries may be outdated until the listener has connected again, which it tries on"
                );
                self.logged = Some(text);
            }
            is_known = error.kind() == PostgresErrorKind::SlotActive || is_known;
            sleep(pauses.next()).await;
        }
    }

    /// Processes changes until the connection breaks.
    async fn serve(&mut self, session: &mut Session) -> Result<Infallible, PostgresError> {
        self.begin(session).await?;
        self.history = Some(History { server: session.server.clone(), confirmed: session.confirmed });
        let mut mapping = Mapping::new(self.options.tables.clone(), session.known.clone());
        let mut batch = Batch::default();
        let mut checks = interval(self.options.check_interval);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut signs = interval(ALIVE);
        let mut fresh = session.confirmed;
        let mut heard = Instant::now();
        // Before the stream confirms what it has passed over, so that a lag at the start is seen.
        checks.tick().await;
        self.check(session, &mut fresh).await?;
        loop {
            select! {
                biased;
                _ = checks.tick() => self.check(session, &mut fresh).await?,
                _ = signs.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(PostgresError::new(PostgresErrorKind::Connection, "the server has sent nothing for 60 seconds"));
                    }
                    session.stream.confirm(session.confirmed, true).await?;
                }
                part = session.stream.part() => {
                    let part = part?;
                    if !self.counters.connected.swap(true, Relaxed) && self.logged.take().is_some() {
                        tracing::info!(slot = self.options.slot, "changes in PostgreSQL arrive again");
                    }
                    self.take(part, session, &mut mapping, &mut batch).await?;
                    heard = Instant::now();
                }
            }
        }
    }

    /// Invalidates all watched namespaces if changes may have been missed.
    async fn begin(&mut self, session: &mut Session) -> Result<(), PostgresError> {
        if session.state == SlotState::New {
            if self.history.is_some() {
                tracing::warn!(
                    slot = self.options.slot,
                    "the replication slot was lost, and is replaced: all watched namespaces are invalidated"
                );
                self.invalidate_everything(session).await?;
            }
            // A transaction that committed before the slot began may not be visible yet.
            let (snapshot, mut pauses) =
                (session.snapshot().await?, Pauses::new(Duration::from_millis(1), Duration::from_millis(200)));
            while !session.snapshot().await?.is_past(&snapshot) {
                sleep(pauses.next()).await;
            }
            self.invalidate_everything(session).await?;
            return session.keep_slot(&self.options).await;
        }
        let is_continued = match &self.history {
            // The first connection: the slot itself knows where this application has stopped.
            None => !self.options.invalidates_at_start,
            Some(history) => {
                history.server == session.server && (self.options.stands_by || session.confirmed <= history.confirmed)
            }
        };
        if is_continued {
            return Ok(());
        }
        if self.history.is_some() {
            tracing::warn!(
                slot = self.options.slot,
                "another process has read the replication slot, or the server was replaced: all watched namespaces are invalidated"
            );
        }
        self.invalidate_everything(session).await
    }

    async fn take(
        &mut self,
        part: Part,
        session: &mut Session,
        mapping: &mut Mapping,
        batch: &mut Batch,
    ) -> Result<(), PostgresError> {
        match part {
            Part::Alive { end, wants_reply } => {
                if batch.ids.is_empty() {
                    self.confirmed(session, end);
                }
                if wants_reply {
                    session.stream.confirm(session.confirmed, false).await?;
                }
            }
            Part::Data(data) => batch.add(&data, mapping)?,
        }
        // Transactions that have arrived together are invalidated together.
        let is_complete = !batch.is_open && !batch.ids.is_empty() && !session.stream.has_more();
        if is_complete || batch.names.names.len() >= MAX_NAMES {
            self.flush(session, batch).await?;
        }
        Ok(())
    }

    /// Invalidates the names of a batch, and confirms its transactions.
    async fn flush(&mut self, session: &mut Session, batch: &mut Batch) -> Result<(), PostgresError> {
        if !batch.names.names.is_empty() {
            self.wait_until_visible(session, &batch.ids).await?;
            let names: Vec<_> = batch.names.names.drain().collect();
            self.invalidate(session, names).await?;
        }
        let Names { changes, fallbacks, .. } = std::mem::take(&mut batch.names);
        count(&self.counters.changes, changes);
        count(&self.counters.fallbacks, fallbacks);
        if !batch.is_open {
            count(&self.counters.transactions, std::mem::take(&mut batch.transactions));
            batch.ids.clear();
            self.confirmed(session, batch.end);
            session.stream.confirm(session.confirmed, false).await?;
        }
        Ok(())
    }

    /// Waits until a query sees the changes of committed transactions. The server sends them a moment earlier: a commit is in the log before it is
    /// visible, and much earlier if it waits for a synchronous standby. An entry of that time would hold the old rows.
    async fn wait_until_visible(&self, session: &mut Session, ids: &[u32]) -> Result<(), PostgresError> {
        let mut pauses = Pauses::new(Duration::from_millis(1), Duration::from_millis(50));
        let mut said = Instant::now();
        loop {
            let snapshot = session.snapshot().await?;
            if ids.iter().all(|id| snapshot.shows(*id)) {
                return Ok(());
            }
            sleep(pauses.next()).await;
            stay_alive(session, &mut said).await?;
        }
    }

    /// Invalidates names until the store has confirmed them.
    async fn invalidate(&self, session: &mut Session, names: Vec<Namespace>) -> Result<(), PostgresError> {
        let mut said = Instant::now();
        for names in names.chunks(MAX_NAMES) {
            let mut pauses = Pauses::new(Duration::from_millis(20), MAX_PAUSE.1);
            let mut is_logged = false;
            while let Err(error) = self.cache.invalidate(names).await {
                count(&self.counters.failed_invalidations, 1);
                if !std::mem::replace(&mut is_logged, true) {
                    tracing::warn!(%error, namespaces = names.len(), "changes in PostgreSQL wait for the store: the invalidation is repeated");
                }
                sleep(pauses.next()).await;
                stay_alive(session, &mut said).await?;
            }
            count(&self.counters.invalidations, 1);
            count(&self.counters.namespaces, names.len() as u64);
        }
        Ok(())
    }

    async fn invalidate_everything(&self, session: &mut Session) -> Result<(), PostgresError> {
        count(&self.counters.fallbacks, 1);
        self.invalidate(session, everything(&self.options.tables).into_iter().collect()).await
    }

    /// Checks the tables and the lag. `fresh` is the position of the log up to which entries are not outdated.
    async fn check(&mut self, session: &mut Session, fresh: &mut Lsn) -> Result<(), PostgresError> {
        let sizes = slot::sizes(&mut session.control, &self.options.slot).await?;
        self.counters.lag_bytes.store(sizes.end.since(session.confirmed), Relaxed);
        self.counters.retained_bytes.store(sizes.retained, Relaxed);
        *fresh = session.confirmed.max(*fresh);
        let checked = session.check(&self.options).await;
        if checked.is_ok() {
            self.fault = None;
        }
        let is_late = self.options.max_lag.is_some_and(|max_lag| sizes.end.since(*fresh) > max_lag);
        if let Err(error) = &checked {
            use PostgresErrorKind::{Connection, Protocol};
            if matches!(error.kind(), Connection | Protocol) {
                return checked;
            }
            let text = error.to_string();
            if self.fault.as_ref() != Some(&text) {
                tracing::error!(
                    error = text,
                    "not all changes in PostgreSQL are replicated any more: all watched namespaces are invalidated at each check"
                );
                self.fault = Some(text);
            }
        } else if is_late {
            tracing::warn!(lag = sizes.end.since(*fresh), "the listener is late: all watched namespaces are invalidated");
        }
        if is_late || checked.is_err() {
            self.invalidate_everything(session).await?;
            *fresh = sizes.end;
        }
        Ok(())
    }

    fn confirmed(&mut self, session: &mut Session, end: Lsn) {
        session.confirmed = session.confirmed.max(end);
        if let Some(history) = &mut self.history {
            history.confirmed = session.confirmed;
        }
    }
}

/// Sends a sign of life if the last one is old.
async fn stay_alive(session: &mut Session, said: &mut Instant) -> Result<(), PostgresError> {
    if said.elapsed() < ALIVE || session.state == SlotState::New {
        return Ok(());
    }
    *said = Instant::now();
    session.stream.confirm(session.confirmed, false).await
}

/// Pauses between attempts. Each is twice the last one, up to a limit, with jitter.
struct Pauses {
    first: Duration,
    next: Duration,
    limit: Duration,
}

impl Pauses {
    fn new(first: Duration, limit: Duration) -> Self {
        Self { first, next: first, limit }
    }

    /// Begins anew after a connection that has lasted. One that ends soon each time, because of the same fault, is made less and less often.
    fn after_a_connection_of(&mut self, time: Duration) {
        if time >= LASTING {
            self.next = self.first;
        }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.limit);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_connections_do_not_shorten_the_pauses() {
        let limit = Duration::from_secs(15);
        let mut pauses = Pauses::new(Duration::from_millis(100), limit);
        let mut after = |lasted| {
            pauses.after_a_connection_of(lasted);
            pauses.next()
        };
        let short: Vec<_> = (0..9).map(|_| after(Duration::from_millis(900))).collect();
        assert!(short[8] > limit / 2 && short[0] <= Duration::from_millis(100), "{short:?}");
        assert!(after(LASTING) <= Duration::from_millis(100));
    }
}
