//! The delivery of queued invalidations and locks: to each master independently of the others.

use std::{
    collections::HashSet,
    mem,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::Value;
use tokio::sync::Notify;

use super::{
    command::{Command, CommandResult, unlink},
    error::CommandError,
    inner::RedisInner,
    keys::{RedisKeys, slot},
    node::{Node, Route},
    outbox::{NewDelivery, Release},
    scripts,
    waiting::Delivery,
};
use crate::{
    clock::{Clock, monotonic, nanos},
    store::epochs::InvalidationKind,
};

/// The longest time for one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(500);

/// The largest number of names in one attempt. The server invalidates that many within the timeout.
const MAX_AT_ONCE: usize = 4096;

/// The first and the longest pause after a failed attempt.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// The pause before a lock that was not held is given back again. It doubles with each attempt.
const RETURN_PAUSE: Duration = Duration::from_millis(50);

/// The shortest time of gathering for which processes push together, since that takes two round trips in place of one.
const TOGETHER: Duration = Duration::from_millis(10);

/// The longest time for which processes wait for each other before they push together. Otherwise it is a quarter of the time of gathering.
const MAX_WAIT: Duration = Duration::from_millis(25);

/// The queue of one master.
struct Lane {
    /// `None` for slots without a known master.
    node: Option<Arc<Node>>,
    names: Vec<u64>,
    /// Names with waiting calls.
    awaited: HashSet<u64>,
    was_down: bool,
    releases: Vec<Release>,
    /// Set while an attempt is running. Notified to give it up.
    busy: Option<Arc<Notify>>,
    pause: Duration,
    /// The earliest time of the next attempt.
    at: Instant,
    /// The time until which names are gathered, from the first one on.
    gathers: Option<Instant>,
}

/// What one attempt sends.
struct Batch {
    names: Vec<(u64, Delivery)>,
    /// Names that are pushed together with those of other processes.
    together: Vec<(u64, Delivery)>,
    releases: Vec<Release>,
}

/// The result of one attempt.
struct AttemptResult {
    node: Option<Arc<Node>>,
    names: Vec<(u64, Delivery, Outcome)>,
    releases: Vec<(Release, Outcome)>,
}

/// The result of a group of commands, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Done,
    /// There was nothing to do.
    Nothing,
    /// The server refused the command.
    Refused,
    /// No answer, or one that does not settle the matter.
    Failed,
    /// The master is known to be down, and no command was sent.
    Unavailable,
}

/// Delivers until the store ends.
pub(crate) async fn run(inner: Arc<RedisInner>) {
    let mut lanes: Vec<Lane> = Vec::new();
    let mut attempts = FuturesUnordered::new();
    loop {
        let (names, releases) = inner.outbox.fresh();
        assign(&inner, &mut lanes, names, releases);
        let now = Instant::now();
        reassign(&inner, &mut lanes, now);
        let mut next: Option<Instant> = None;
        for lane in &mut lanes {
            if let Some(attempt) = lane.next(&inner, now, &mut next) {
                attempts.push(attempt);
            }
        }
        lanes.retain(|lane| lane.busy.is_some() || !lane.is_empty());
        let pause = async {
            match next {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(result) = attempts.next(), if !attempts.is_empty() => finish_attempt(&inner, &mut lanes, result),
            () = inner.outbox.changed.notified() => {}
            () = pause => {}
        }
    }
}

/// Assigns names and locks to the masters of their slots.
fn assign(inner: &RedisInner, lanes: &mut Vec<Lane>, names: Vec<NewDelivery>, releases: Vec<Release>) {
    for NewDelivery { id, slot, is_new } in names {
        let lane = lane_of(inner, lanes, slot);
        lane.awaited.insert(id);
        if is_new {
            lane.names.push(id);
        }
    }
    for release in releases {
        lane_of(inner, lanes, slot(release.lock.as_bytes())).releases.push(release);
    }
}

fn lane_of<'a>(inner: &RedisInner, lanes: &'a mut Vec<Lane>, slot: u16) -> &'a mut Lane {
    let node = inner.topology.master_of(slot);
    let index = lanes.iter().position(|lane| same(&lane.node, &node)).unwrap_or_else(|| {
        if let Some(node) = &node {
            // The delivery task then notices at once when the breaker opens or closes.
            node.breaker.set_listener(&inner.outbox.changed);
        }
        lanes.push(Lane::of(node));
        lanes.len() - 1
    });
    &mut lanes[index]
}

fn same(one: &Option<Arc<Node>>, other: &Option<Arc<Node>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Assigns again before the next attempt in a cluster, since the slots may have other masters.
fn reassign(inner: &RedisInner, lanes: &mut Vec<Lane>, now: Instant) {
    if inner.topology.single().is_some() {
        return;
    }
    let all = inner.outbox.take_moved();
    let (mut names, mut releases) = (Vec::new(), Vec::new());
    for lane in lanes.iter_mut().filter(|lane| lane.busy.is_none() && (all || lane.at <= now && lane.pause > PAUSES.0)) {
        names.extend(inner.outbox.again(lane.names.drain(..)));
        releases.append(&mut lane.releases);
    }
    assign(inner, lanes, names, releases);
}

impl Lane {
    fn of(node: Option<Arc<Node>>) -> Self {
        let (names, releases) = (Vec::new(), Vec::new());
        Self {
            node,
            names,
            awaited: HashSet::new(),
            was_down: false,
            releases,
            busy: None,
            pause: PAUSES.0,
            at: Instant::now(),
            gathers: None,
        }
    }

    /// Returns the earliest time at which the waiting names are sent.
    fn names_due(&mut self, gather: Duration, now: Instant) -> Instant {
        let until = || self.node.as_ref().map_or(now, |node| now + gathering_time(node, gather));
        self.at.max(*self.gathers.get_or_insert_with(until))
    }

    fn is_empty(&self) -> bool {
        self.names.is_empty() && self.releases.is_empty()
    }

    fn is_down(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.breaker.is_open())
    }

    /// Returns the next attempt if it may begin now. Otherwise lowers `next` to the time of the next check.
    fn next(
        &mut self,
        inner: &Arc<RedisInner>,
        now: Instant,
        next: &mut Option<Instant>,
    ) -> Option<impl Future<Output = AttemptResult> + use<>> {
        let mut looks_again = |at| *next = Some(next.map_or(at, |before: Instant| before.min(at)));
        if let Some(attempt) = &self.busy {
            if self.is_down() {
                attempt.notify_one();
            }
            return None;
        }
        if self.is_down() {
            // The task is woken when the breaker closes. Until then no call waits.
            inner.outbox.report_queued(self.awaited.drain());
            self.was_down = true;
            if self.at <= now {
                (self.pause, self.at) = (PAUSES.1, now + PAUSES.1);
            }
            if !self.is_empty() {
                looks_again(self.at);
            }
            return None;
        }
        let names_due = (!self.names.is_empty()).then(|| self.names_due(inner.gather, now));
        let due = self.releases.iter().map(|release| release.at).chain(names_due).min()?;
        // A breaker that has closed ends the pause.
        if due > now && !mem::take(&mut self.was_down) {
            looks_again(due);
            return None;
        }
        let mut together = false;
        if let Some(node) = &self.node
            && names_due.is_some()
        {
            together = inner.gather >= TOGETHER && !gathering_time(node, inner.gather).is_zero();
            node.last_push.store(monotonic(), Ordering::Relaxed);
        }
        self.gathers = None;
        let ids: Vec<u64> = self.names.drain(..self.names.len().min(MAX_AT_ONCE)).collect();
        for id in &ids {
            self.awaited.remove(id);
        }
        let together = together && inner.topology.single().is_some();
        let (together, names) =
            inner.outbox.take(ids.into_iter()).into_iter().partition(|(_, delivery)| together && delivery.is_only_hard());
        let (releases, later) = mem::take(&mut self.releases).into_iter().partition(|release| release.at <= now);
        self.releases = later;
        let given_up = Arc::<Notify>::default();
        self.busy = Some(given_up.clone());
        Some(attempt(inner.clone(), self.node.clone(), Batch { names, together, releases }, given_up))
    }
}

/// Returns the time for which names wait for others. It ends at the same moment in all processes. It is zero unless something was
/// invalidated a short time ago.
fn gathering_time(node: &Node, gather: Duration) -> Duration {
    let (last, gather) = (node.last_push.load(Ordering::Relaxed), nanos(gather));
    if last == 0 || monotonic().saturating_sub(last) >= gather {
        return Duration::ZERO;
    }
    let here = Clock::system().nanos();
    let there = node.time.at(here).unwrap_or(here);
    Duration::from_nanos(gather - there % gather)
}

/// Takes the result of an attempt. Failed deliveries are queued again.
fn finish_attempt(inner: &RedisInner, lanes: &mut [Lane], result: AttemptResult) {
    let AttemptResult { node, names, releases } = result;
    let Some(lane) = lanes.iter_mut().find(|lane| same(&lane.node, &node)) else { return };
    lane.busy = None;
    let mut failed = false;
    for (id, mut delivery, outcome) in names {
        if outcome <= Outcome::Nothing {
            finish_delivery(inner, id, delivery);
            continue;
        }
        failed = true;
        match outcome {
            Outcome::Unavailable => delivery.report_queued(),
            // A full server refuses scripts that write. A hard invalidation is accepted, and it costs only misses.
            Outcome::Refused if delivery.kind == InvalidationKind::Soft => delivery.kind = InvalidationKind::Hard,
            _ => {}
        }
        inner.outbox.requeue(id, delivery);
        lane.names.push(id);
        lane.awaited.insert(id);
    }
    for (release, outcome) in releases {
        match outcome {
            Outcome::Failed | Outcome::Unavailable => {
                failed = true;
                lane.releases.push(Release { at: Instant::now() + lane.pause, ..release });
            }
            // The command that takes the lock may still be on its way, or the server is full.
            Outcome::Nothing | Outcome::Refused if release.again > 0 => {
                let at = Instant::now() + RETURN_PAUSE * (1 << release.tries.min(8));
                lane.releases.push(Release { again: release.again - 1, tries: release.tries + 1, pass: 0, at, ..release });
            }
            Outcome::Done | Outcome::Nothing | Outcome::Refused => inner.outbox.count_released(1),
        }
    }
    if failed {
        tracing::debug!(names = lane.names.len(), locks = lane.releases.len(), "invalidations not delivered: trying again");
        (lane.at, lane.pause) = (Instant::now() + lane.pause, (lane.pause * 2).min(PAUSES.1));
    } else {
        (lane.at, lane.pause) = (Instant::now(), PAUSES.0);
    }
}

/// Finishes the delivery of a name that has been invalidated in Redis.
fn finish_delivery(inner: &RedisInner, id: u64, delivery: Delivery) {
    // The push may still be on its way, and in a cluster there is none for this process' own commands. Responses that began after the write and read the old generation
    // before it was deleted become invalid here.
    if let Some(pushed) = inner.keys.parse(delivery.generation.as_bytes()) {
        inner.memory.bump_hashes(pushed.hashes());
    }
    inner.recent.delivered(id, &delivery.generation, &delivery.fences, delivery.kind);
    inner.outbox.confirm(id, delivery);
}

/// Makes one attempt for one master. `given_up` ends it early.
async fn attempt(inner: Arc<RedisInner>, node: Option<Arc<Node>>, batch: Batch, given_up: Arc<Notify>) -> AttemptResult {
    let Batch { names, together, releases } = batch;
    let send = async { tokio::join!(send_both(&inner, &names, &releases), push_together(&inner, &together)) };
    let ((mut of_names, of_releases), pushed) = tokio::select! {
        outcomes = send => outcomes,
        () = given_up.notified() => {
            let [of_names, of_releases, pushed] = [names.len(), releases.len(), together.len()].map(|count| vec![Outcome::Unavailable; count]);
            ((of_names, of_releases), pushed)
        }
    };
    of_names.extend(pushed);
    let names =
        names.into_iter().chain(together).zip(of_names).map(|((id, delivery), outcome)| (id, delivery, outcome)).collect();
    AttemptResult { node, names, releases: releases.into_iter().zip(of_releases).collect() }
}

/// Sends deliveries and locks in one pipeline.
async fn send_both(inner: &RedisInner, names: &[(u64, Delivery)], releases: &[Release]) -> (Vec<Outcome>, Vec<Outcome>) {
    let alone = inner.topology.single().is_some();
    let groups = names.iter().map(|(_, delivery)| delivery.first(&inner.keys, alone));
    let back = releases.iter().map(|release| vec![scripts::release(&release.lock, release.token, release.pass)]);
    let mut outcomes = send_groups(inner, groups.chain(back).collect()).await;
    let of_releases = outcomes.split_off(names.len());
    // In a cluster, fences are removed after the generations.
    let second = |(index, (_, delivery)): (usize, &(u64, Delivery))| {
        (!alone && !delivery.tokens.is_empty() && outcomes[index] <= Outcome::Nothing).then(|| (index, delivery.second()))
    };
    let (indices, groups): (Vec<usize>, Vec<Vec<Command>>) = names.iter().enumerate().filter_map(second).unzip();
    if !groups.is_empty() {
        for (index, outcome) in indices.into_iter().zip(send_groups(inner, groups).await) {
            outcomes[index] = outcome;
        }
    }
    (outcomes, of_releases)
}

/// Invalidates names by one push for several processes: each deletes its generations, then waits, and the first one whose wait ends pushes the
/// names of all. They begin at the same moment by the clock of the server, as well as they know it.
async fn push_together(inner: &RedisInner, names: &[(u64, Delivery)]) -> Vec<Outcome> {
    if names.is_empty() {
        return Vec::new();
    }
    let generations: Vec<&str> = names.iter().map(|(_, delivery)| delivery.generation.as_str()).collect();
    let touched: Vec<String> = generations.iter().map(|generation| inner.keys.touched(generation)).collect();
    let waiting = inner.keys.waiting();
    // Scores are exact up to 53 bits.
    let outcome = match send_one(inner, scripts::gather(&waiting, &generations, &touched, fastrand::u64(..1 << 48))).await {
        Ok((Value::Int(number), server)) => {
            tokio::time::sleep((inner.gather / 4).min(MAX_WAIT)).await;
            let number = number.unsigned_abs();
            let answer = send_one(inner, scripts::push(&waiting, &inner.keys.pushed_mark(number), &touched, number)).await;
            match answer {
                // A server that has been replaced in between may not have replicated the deletions.
                Ok((_, other)) if other != server => Outcome::Failed,
                answer => Outcome::of(&answer),
            }
        }
        Ok(_) => Outcome::Failed,
        error => Outcome::of(&error),
    };
    match outcome {
        // The user of the server may lack a command that only these scripts need.
        Outcome::Refused => {
            send_groups(inner, names.iter().map(|(_, delivery)| delivery.first(&inner.keys, true)).collect()).await
        }
        outcome => vec![outcome; names.len()],
    }
}

async fn send_one(inner: &RedisInner, command: Command) -> CommandResult {
    let mut answers = inner.topology.send(vec![command], Route::Control, ATTEMPT_TIMEOUT).await.into_iter();
    answers.next().unwrap_or(Err(CommandError::Unavailable))
}

/// Sends groups of commands. Returns the worst outcome of each group.
async fn send_groups(inner: &RedisInner, groups: Vec<Vec<Command>>) -> Vec<Outcome> {
    let counts: Vec<usize> = groups.iter().map(Vec::len).collect();
    let mut answers =
        inner.topology.send(groups.into_iter().flatten().collect(), Route::Control, ATTEMPT_TIMEOUT).await.into_iter();
    let mut worst = |count| answers.by_ref().take(count).map(|answer| Outcome::of(&answer)).max().unwrap_or(Outcome::Done);
    counts.into_iter().map(&mut worst).collect()
}

impl Outcome {
    fn of(answer: &CommandResult) -> Self {
        match answer {
            Ok((Value::Int(0), _)) => Self::Nothing,
            Ok(_) => Self::Done,
            Err(CommandError::Unavailable) => Self::Unavailable,
            Err(error @ CommandError::Server(_)) if !error.is_redirect() => Self::Refused,
            Err(_) => Self::Failed,
        }
    }
}

impl Delivery {
    /// Returns the commands that invalidate the name. With one master, they also touch it and remove its fences.
    fn first(&self, keys: &RedisKeys, alone: bool) -> Vec<Command> {
        let Self { generation, fences, kind, tokens, .. } = self;
        let touched = keys.touched(generation);
        match kind {
            _ if alone && !tokens.is_empty() => {
                tokens.iter().map(|(token, _)| scripts::unfence(fences, generation, &touched, *token)).collect()
            }
            InvalidationKind::Soft if tokens.is_empty() => {
                vec![scripts::soften(generation, alone.then_some(&touched), fastrand::u64(..))]
            }
            _ if alone => vec![scripts::bump(generation, &touched)],
            _ => vec![unlink(generation)],
        }
    }

    /// Returns `true` if it only deletes a generation and touches its key.
    fn is_only_hard(&self) -> bool {
        self.kind == InvalidationKind::Hard && self.tokens.is_empty()
    }

    /// Returns the commands that remove its fences.
    fn second(&self) -> Vec<Command> {
        let remove = |(token, _): &(u128, Instant)| {
            let command = redis::cmd("ZREM").arg(&self.fences).arg(scripts::text(*token)).take();
            Command { slot: slot(self.fences.as_bytes()), command }
        };
        self.tokens.iter().map(remove).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{histogram::Exported, namespace::set::Namespaces, redis::Redis};

    /// Returns a node that the worker does not know. The worker opens the breakers of its own nodes, because no server is there.
    fn unknown_node(inner: &RedisInner) -> Arc<Node> {
        let known = inner.topology.master_of(0).expect("the one");
        Arc::new(Node::new(String::new(), known.manager.clone(), 1, Exported::default()))
    }

    #[tokio::test]
    async fn only_frequent_invalidations_are_gathered() {
        let gather = Duration::from_secs(1);
        let store = Redis::builder("redis://127.0.0.1:1").gather(gather).start();
        let inner = store.inner();
        let node = unknown_node(inner);
        let mut lane = Lane::of(Some(node.clone()));
        let mut next = None;
        lane.names.push(0);
        assert!(lane.next(inner, Instant::now(), &mut next).is_some(), "a lone one is sent at once");
        (lane.busy, next) = (None, None);
        lane.names.push(0);
        let now = Instant::now();
        assert!(lane.next(inner, now, &mut next).is_none(), "the second one waits");
        let due = next.expect("a time");
        assert!(due > now && due <= now + gather);
        // Others do not postpone it.
        node.last_push.store(monotonic(), Ordering::Relaxed);
        lane.names.push(1);
        assert!(lane.next(inner, due, &mut next).is_some());
    }

    /// A call that is told at once does not wait for the end of a pause.
    #[tokio::test]
    async fn closing_breaker_ends_the_pause() {
        let store = Redis::builder("redis://127.0.0.1:1").start();
        let inner = store.inner();
        let node = unknown_node(inner);
        let mut lane = Lane::of(Some(node.clone()));
        let soon = |lane: &mut Lane, now| {
            let mut next = None;
            (lane.next(inner, now, &mut next).is_some(), next)
        };
        lane.names.push(0);
        node.breaker.open();
        let now = Instant::now();
        assert_eq!(soon(&mut lane, now), (false, Some(now + PAUSES.1)), "nobody is asked");
        node.breaker.close();
        assert_eq!(soon(&mut lane, now), (true, None), "at once");
        lane.busy = None;
        lane.names.push(0);
        lane.at = now + PAUSES.1;
        assert_eq!(soon(&mut lane, now), (false, Some(lane.at)), "a pause that nothing ends");
        drop(inner.outbox.send(&inner.keys, &Namespaces::root(), InvalidationKind::Hard, None));
    }
}
