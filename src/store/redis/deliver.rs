//! Bumps on their way to Redis, and the names that nothing may be served of until they have arrived.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Core,
    fault::Fault,
    fill::unlink,
    names::{Names, id, slot},
    node::Via,
    nodes::{Answer, Ask},
    scripts,
};
use crate::{
    namespace::{Name, Namespaces},
    store::Bump,
};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(500);

/// How long to wait before the next: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// How many names may wait; more, and everything is cleared instead.
const MOST: usize = 64 << 10;

/// The names of writes whose clearing has not arrived yet. In this process nothing is served of them, and nothing stored.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    names: Mutex<HashMap<u64, usize>>,
    count: AtomicUsize,
}

impl Suspects {
    #[inline]
    pub(super) fn are_none(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    #[inline]
    pub(super) fn touch(&self, names: &Namespaces) -> bool {
        !self.are_none() && {
            let suspects = self.lock();
            names.names().any(|name| suspects.contains_key(&id(name)))
        }
    }

    fn add(&self, names: &Namespaces) {
        let mut suspects = self.lock();
        for name in names.names() {
            *suspects.entry(id(name)).or_default() += 1;
        }
        self.count.store(suspects.len(), Ordering::SeqCst);
    }

    fn remove(&self, names: &Namespaces) {
        let mut suspects = self.lock();
        for name in names.names() {
            if let Some(times) = suspects.get_mut(&id(name)) {
                *times -= 1;
                if *times == 0 {
                    suspects.remove(&id(name));
                }
            }
        }
        self.count.store(suspects.len(), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of bumps out of this process.
#[derive(Debug)]
pub(super) struct Deliveries {
    jobs: mpsc::UnboundedSender<Job>,
    pub(super) suspects: Arc<Suspects>,
    /// Names that wait, for all to see.
    waiting: Arc<AtomicUsize>,
}

/// A write's bump.
pub(super) struct Job {
    names: Namespaces,
    kind: Bump,
    fence: Option<u128>,
    done: oneshot::Sender<()>,
}

impl Deliveries {
    pub(super) fn new(waiting: Arc<AtomicUsize>) -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (jobs, queue) = mpsc::unbounded_channel();
        (Self { jobs, suspects: Arc::default(), waiting }, queue)
    }

    /// Sends a bump on its way. It arrives, sooner or later, whether or not the answer is awaited.
    pub(super) fn send(&self, names: Namespaces, kind: Bump, fence: Option<u128>) -> oneshot::Receiver<()> {
        let (done, arrived) = oneshot::channel();
        self.waits(&names);
        // Without the thread there is no process any more that anything could be served by.
        let _ = self.jobs.send(Job { names, kind, fence, done });
        arrived
    }

    fn waits(&self, names: &Namespaces) {
        self.suspects.add(names);
        self.waiting.fetch_add(names.count(), Ordering::Relaxed);
    }

    /// A job with these names does not wait any more.
    fn is_done_with(&self, names: &Namespaces) {
        self.suspects.remove(names);
        self.waiting.fetch_sub(names.count(), Ordering::Relaxed);
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// What is to be done for one name.
struct Errand {
    generation: String,
    fences: String,
    /// Hard, unless all want it soft.
    kind: Bump,
    /// Those of the fences to be taken back, and when that was asked for.
    tokens: Vec<(u128, Instant)>,
    for_whom: Vec<Arc<Open>>,
}

/// A job whose names have not all been delivered.
struct Open {
    names: Namespaces,
    left: AtomicUsize,
    /// Those who wait for it.
    done: Mutex<Vec<oneshot::Sender<()>>>,
}

/// Among so many jobs that were taken last for a name, one with the same names is looked for.
const RECENT: usize = 16;

/// Delivers until nobody sends any more.
pub(super) async fn run(core: Arc<Core>, mut queue: mpsc::UnboundedReceiver<Job>) {
    let mut errands: HashMap<u64, Errand> = HashMap::new();
    let mut pause = PAUSES.0;
    loop {
        if errands.is_empty() {
            match queue.recv().await {
                Some(job) => take(&mut errands, &core, job),
                None => return,
            }
        }
        while let Ok(job) = queue.try_recv() {
            take(&mut errands, &core, job);
        }
        if errands.len() > MOST {
            gather(&mut errands, &core);
        }
        let before = errands.len();
        errands = attempt(&core, errands).await;
        if errands.is_empty() {
            pause = PAUSES.0;
            continue;
        }
        if errands.len() == before {
            tracing::debug!(waiting = errands.len(), "invalidations wait for redis");
            pause = (pause * 2).min(PAUSES.1);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.reconnected.notified() => {}
        }
    }
}

fn take(errands: &mut HashMap<u64, Errand>, core: &Core, job: Job) {
    let Job { names, kind, fence, done } = job;
    let before = same_as(errands, &names);
    let known = before.is_some();
    let open = before.unwrap_or_else(|| {
        Arc::new(Open { left: AtomicUsize::new(names.count()), names: names.clone(), done: Mutex::default() })
    });
    open.is_awaited_by(done);
    for name in names.names() {
        let errand = errands.entry(id(name)).or_insert_with(|| Errand::of(&core.names, name, kind));
        if kind == Bump::Hard {
            errand.kind = Bump::Hard;
        }
        if let Some(token) = fence {
            errand.takes_back(token, core.fence.unwrap_or_default());
        }
        if !known {
            errand.for_whom.push(open.clone());
        }
    }
    if known {
        core.deliveries.is_done_with(&names);
    }
}

/// A job with these names of which nothing is delivered yet: what is cleared again while it waits is cleared once for both, so that what
/// waits does not grow with every write.
fn same_as(errands: &HashMap<u64, Errand>, names: &Namespaces) -> Option<Arc<Open>> {
    let recent = errands.get(&id(names.names().next()?))?.for_whom.iter().rev().take(RECENT);
    let same = |open: &&Arc<Open>| {
        open.left.load(Ordering::SeqCst) == names.count() && open.names.names().map(id).eq(names.names().map(id))
    };
    recent.into_iter().find(same).cloned()
}

impl Open {
    fn waiters(&self) -> MutexGuard<'_, Vec<oneshot::Sender<()>>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of its names has been delivered, or waits elsewhere; whether that was the last.
    fn is_left_by_one(&self) -> bool {
        self.left.fetch_sub(1, Ordering::SeqCst) == 1
    }

    fn is_awaited_by(&self, who: oneshot::Sender<()>) {
        let mut done = self.waiters();
        if done.len() == done.capacity() {
            done.retain(|who| !who.is_closed());
        }
        done.push(who);
    }
}

impl Errand {
    fn of(keys: &Names, name: Name<'_>, kind: Bump) -> Self {
        let (generation, fences) = (keys.generation(name), keys.fence(name));
        Self { generation, fences, kind, tokens: Vec::new(), for_whom: Vec::new() }
    }

    /// One more fence to be taken back. Those that have waited for as long as a fence `stands` are past their deadlines, and end by
    /// themselves.
    fn takes_back(&mut self, token: u128, stands: Duration) {
        if self.tokens.len() == self.tokens.capacity() {
            self.tokens.retain(|(_, since)| since.elapsed() < stands);
        }
        self.tokens.push((token, Instant::now()));
    }
}

/// So many names wait that it is as well to clear the root, to which all belong: it waits for all of them, and is suspect in their place.
/// Fences are left to their deadlines.
fn gather(errands: &mut HashMap<u64, Errand>, core: &Core) {
    let root = Namespaces::root();
    core.deliveries.waits(&root);
    let open = Open { left: AtomicUsize::new(root.count()), names: root.clone(), done: Mutex::default() };
    for before in errands.drain().flat_map(|(_, errand)| errand.for_whom) {
        if before.is_left_by_one() {
            before.waiters().drain(..).for_each(|who| open.is_awaited_by(who));
            core.deliveries.is_done_with(&before.names);
        }
    }
    tracing::warn!("too many invalidations wait for redis: everything will be cleared");
    let name = root.names().next().expect("the root");
    let all = Errand { for_whom: vec![Arc::new(open)], ..Errand::of(&core.names, name, Bump::Hard) };
    errands.insert(id(name), all);
}

/// Tries to deliver each, and returns those that could not be.
async fn attempt(core: &Arc<Core>, errands: HashMap<u64, Errand>) -> HashMap<u64, Errand> {
    let alone = core.nodes.one().is_some();
    let asks = |errand: &Errand| errand.first(alone);
    let (bumped, mut left) = round(core, errands, asks).await;
    // In a cluster, fences go once the generations have gone.
    let (fenced, done): (HashMap<_, _>, HashMap<_, _>) =
        bumped.into_iter().partition(|(_, errand)| !alone && !errand.tokens.is_empty());
    let (unfenced, still) = round(core, fenced, Errand::second).await;
    left.extend(still);
    done.into_values().chain(unfenced.into_values()).for_each(|errand| errand.ends(core));
    left
}

/// Sends what each has to send, and parts those that were answered from those that were not.
async fn round(
    core: &Core,
    errands: HashMap<u64, Errand>,
    asks: impl Fn(&Errand) -> Vec<Ask>,
) -> (HashMap<u64, Errand>, HashMap<u64, Errand>) {
    let all: Vec<Vec<Ask>> = errands.values().map(asks).collect();
    let counts: Vec<usize> = all.iter().map(Vec::len).collect();
    let mut answers = core.nodes.ask(all.into_iter().flatten().collect(), Via::Control, ATTEMPT).await.into_iter();
    let (mut done, mut left) = (HashMap::new(), HashMap::new());
    for ((key, mut errand), count) in errands.into_iter().zip(counts) {
        let answered: Vec<Answer> = answers.by_ref().take(count).collect();
        if answered.iter().all(Answer::is_ok) {
            done.insert(key, errand);
            continue;
        }
        if errand.kind == Bump::Soft && answered.iter().any(|answer| matches!(answer, Err(Fault::Said(_)))) {
            // Full, it takes no scripts that write. Clearing too much is better than too little.
            errand.kind = Bump::Hard;
        }
        left.insert(key, errand);
    }
    (done, left)
}

impl Errand {
    /// What bumps the name; with one master, what takes its fences back as well.
    fn first(&self, alone: bool) -> Vec<Ask> {
        let Self { generation, fences, kind, tokens, .. } = self;
        match kind {
            _ if alone && !tokens.is_empty() => {
                tokens.iter().map(|(token, _)| scripts::unfence(fences, generation, *token)).collect()
            }
            Bump::Soft if tokens.is_empty() => vec![scripts::soften(generation, fastrand::u64(..))],
            _ => vec![unlink(generation)],
        }
    }

    /// What takes its fences back.
    fn second(&self) -> Vec<Ask> {
        let remove = |(token, _): &(u128, Instant)| {
            let command = redis::cmd("ZREM").arg(&self.fences).arg(scripts::text(*token)).take();
            Ask { slot: slot(self.fences.as_bytes()), command }
        };
        self.tokens.iter().map(remove).collect()
    }
}

impl Errand {
    fn ends(self, core: &Core) {
        // It went by the connection of the pushes, and so is not pushed to us. What it has cleared besides, the set of a key, say, is
        // known here no more than elsewhere: of a generation that is gone, nobody is told that it is cleared once more.
        if let Some(pushed) = core.names.parse(self.generation.as_bytes()) {
            core.near.bump_hashes(pushed.hashes());
        }
        for open in self.for_whom {
            // With its first name, which this server may lose before another server has the others.
            core.recent.delivered(&open.names, self.kind);
            if open.is_left_by_one() {
                // What began after the write, and read the old generation before it was gone, is dead as well.
                core.near.bump_hashes(open.names.hashes());
                core.deliveries.is_done_with(&open.names);
                for who in open.waiters().drain(..) {
                    let _ = who.send(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_that_have_ended_by_themselves_do_not_wait_to_be_taken_back() {
        let errand = || {
            let keys = Names::new("app");
            Errand::of(&keys, Namespaces::root().names().next().expect("the root"), Bump::Hard)
        };
        let (mut ended, mut standing) = (errand(), errand());
        for token in 0..1000 {
            ended.takes_back(token, Duration::ZERO);
            standing.takes_back(token, Duration::from_secs(3600));
        }
        assert!(ended.tokens.len() < 10, "{}", ended.tokens.len());
        assert_eq!(standing.tokens.len(), 1000);
    }
}
