//! A file of rules that is read again when it has changed.

use std::{
    error, fmt, fs,
    future::Future,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::{AbortHandle, JoinHandle, spawn_blocking};

use super::error::RulesFileError;
use crate::{
    rules::{error::RulesError, table::Rules},
    store::error::StoreError,
};

/// The shortest pause between two reads of a file.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// A file of rules in TOML, in [the form of `Rules`](Rules#impl-Deserialize%3C'de%3E-for-Rules). Needs the feature `config`.
/// [`ResponseCache::watch_rules`](crate::ResponseCache::watch_rules) reads it again when it has changed.
///
/// ```
/// use std::{path::Path, time::Duration};
/// use tower_response_cache::{Rule, rules::RulesFile};
///
/// # let path = std::env::temp_dir().join(format!("rules-{}.toml", std::process::id()));
/// # std::fs::write(&path, "[[route]]\npath = '/t/{table}'\nttl = '60s'\n").unwrap();
/// // Rules with closures are added to those of the file, at each load.
/// let special = Rule::ttl_by(|request| Duration::from_secs(request.param("id").len() as u64));
/// let file = RulesFile::new(&path).with(move |rules| rules.try_route("/special/{id}", special.clone()));
/// assert_eq!(file.load()?.cached_routes().count(), 2);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), tower_response_cache::rules::LoadError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct RulesFile {
    path: Arc<Path>,
    with: Vec<Arc<Completion>>,
}

/// The largest size of a file, in bytes.
const MAX_SIZE: u64 = 16 << 20;

/// Reads a file. A pipe or a device might never end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let of_kind = |is_fit, why| if is_fit { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, why)) };
    of_kind(fs::metadata(path)?.is_file(), "it is no regular file")?;
    let mut content = Vec::new();
    fs::File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    of_kind(content.len() as u64 <= MAX_SIZE, "it is larger than 16 MiB")?;
    Ok(content)
}

type Completion = dyn Fn(Rules) -> Result<Rules, RulesError> + Send + Sync;

impl RulesFile {
    /// Returns a file. Nothing is read before [`load`](Self::load).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into(), with: Vec::new() }
    }

    /// Adds rules in code to those of the file, each time that the file is read. A closure in a rule is equal only to its own clones, so that the
    /// closure should add clones of rules that it owns: see [`ResponseCache::reload`](crate::ResponseCache::reload).
    pub fn with(mut self, complete: impl Fn(Rules) -> Result<Rules, RulesError> + Send + Sync + 'static) -> Self {
        self.with.push(Arc::new(complete));
        self
    }

    /// Returns the JSON Schema (draft 7) of a file of rules, for editors. It describes the form of each value, and the options that exclude or need each
    /// other. The loader checks more: patterns that overlap, and the parameters of templates. [Operations](crate::guide::operations#rules-in-editors)
    /// shows its use.
    pub fn json_schema() -> &'static str {
        include_str!("../../../docs/rules.schema.json")
    }

    /// Reads the file. The call blocks its thread meanwhile.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is empty, is larger than 16 MiB, or is no regular file, if a closure of [`with`](Self::with) panics, and where
    /// [`Rules::from_toml`] and the closures return an error.
    pub fn load(&self) -> Result<Rules, LoadError> {
        self.rules(read(&self.path))
    }

    fn rules(&self, content: io::Result<Vec<u8>>) -> Result<Rules, LoadError> {
        let fault = |kind| LoadError { path: self.path.clone(), kind };
        let content = content.map_err(|error| fault(LoadErrorKind::Io(Arc::new(error))))?;
        let text = str::from_utf8(&content).map_err(|error| {
            let line = 1 + content[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            fault(LoadErrorKind::NotText(line))
        })?;
        if text.trim().is_empty() {
            return Err(fault(LoadErrorKind::Empty));
        }
        let rules = Rules::from_toml(text).map_err(|error| fault(LoadErrorKind::File(error.into())))?;
        // A panic must not end the watch.
        let completed = || self.with.iter().try_fold(rules, |rules, with| with(rules));
        match catch_unwind(AssertUnwindSafe(completed)) {
            Ok(completed) => completed.map_err(|error| fault(LoadErrorKind::Code(error))),
            Err(_) => Err(fault(LoadErrorKind::Panicked)),
        }
    }

    /// Looks at the file at this interval. Calls `apply` with the rules of each new content that has no fault, and `refuse` with the error of each
    /// other one.
    pub(crate) fn watch<F>(
        self,
        interval: Duration,
        apply: impl Fn(Rules) -> F + Send + Sync + 'static,
        refuse: impl Fn(&LoadError) + Send + Sync + 'static,
    ) -> RulesWatch
    where
        F: Future<Output = Result<(), StoreError>> + Send,
    {
        let state = Arc::new(Mutex::new(WatchState::default()));
        let shared = state.clone();
        let task: JoinHandle<()> = tokio::spawn(async move {
            let mut known = None;
            loop {
                self.look(&mut known, &shared, &apply, &refuse).await;
                tokio::time::sleep(interval.max(SHORTEST_INTERVAL)).await;
            }
        });
        RulesWatch { state, task: task.abort_handle() }
    }

    /// Reads the file, and applies its rules if its content is not the known one.
    async fn look<F>(
        &self,
        known: &mut Option<Digest>,
        state: &Mutex<WatchState>,
        apply: &impl Fn(Rules) -> F,
        refuse: &impl Fn(&LoadError),
    ) where
        F: Future<Output = Result<(), StoreError>>,
    {
        let path = self.path.clone();
        let content = spawn_blocking(move || read(&path)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let digest = content.as_ref().map(|content| *blake3::hash(content).as_bytes()).map_err(io::Error::kind);
        if known.replace(digest) == Some(digest) {
            return;
        }
        match self.rules(content) {
            Ok(rules) => {
                if let Err(error) = apply(rules).await {
                    tracing::warn!(%error, "rules were reloaded, and what they change is not invalidated in the store yet");
                }
                tracing::info!(file = %self.path.display(), "rules reloaded");
                let mut state = lock(state);
                state.reloads += 1;
                state.error = None;
            }
            Err(error) => {
                tracing::error!(%error, "rules not reloaded, the rules before stay in force");
                refuse(&error);
                let mut state = lock(state);
                state.failures += 1;
                state.error = Some(error);
            }
        }
    }
}

/// The hash of a content, or the reason for which there is none.
type Digest = Result<[u8; 32], io::ErrorKind>;

#[derive(Default)]
struct WatchState {
    reloads: u64,
    failures: u64,
    error: Option<LoadError>,
}

fn lock(state: &Mutex<WatchState>) -> MutexGuard<'_, WatchState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A task that reloads the rules of a cache when their file changes: the result of [`ResponseCache::watch_rules`](crate::ResponseCache::watch_rules).
/// Dropping it stops the task.
#[must_use = "dropping it stops the task"]
pub struct RulesWatch {
    state: Arc<Mutex<WatchState>>,
    task: AbortHandle,
}

impl RulesWatch {
    /// Returns the error of the present content of the file, as of the last read. Returns `None` if the rules of that content are in force, and before
    /// the first read.
    pub fn last_error(&self) -> Option<LoadError> {
        lock(&self.state).error.clone()
    }

    /// Returns the number of contents whose rules were put into force since the watch began. The first content counts.
    pub fn reloads(&self) -> u64 {
        lock(&self.state).reloads
    }

    /// Returns the number of contents with a fault since the watch began. A content counts once, not at each read. A missing file counts as a content.
    pub fn failures(&self) -> u64 {
        lock(&self.state).failures
    }
}

impl Drop for RulesWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for RulesWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("RulesWatch").field("reloads", &state.reloads).field("error", &state.error).finish_non_exhaustive()
    }
}

impl fmt::Debug for RulesFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RulesFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The error of a [`RulesFile`]. Its text names the file, the line, the column, the fault, and the allowed values.
#[derive(Debug, Clone)]
pub struct LoadError {
    path: Arc<Path>,
    kind: LoadErrorKind,
}

#[derive(Debug, Clone)]
enum LoadErrorKind {
    Io(Arc<io::Error>),
    /// The line of the first byte that is not UTF-8.
    NotText(usize),
    /// Most likely, the file is being written.
    Empty,
    File(Box<RulesFileError>),
    Code(RulesError),
    Panicked,
}

impl LoadError {
    /// Returns the line of the fault in the file, counted from 1, if it has a place.
    pub fn line(&self) -> Option<usize> {
        match &self.kind {
            LoadErrorKind::File(error) => error.line(),
            LoadErrorKind::NotText(line) => Some(*line),
            LoadErrorKind::Io(_) | LoadErrorKind::Empty | LoadErrorKind::Code(_) | LoadErrorKind::Panicked => None,
        }
    }

    /// Returns the column of the fault, counted in characters from 1, if it has a place.
    pub fn column(&self) -> Option<usize> {
        match &self.kind {
            LoadErrorKind::File(error) => error.column(),
            _ => None,
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line() {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column() {
            write!(f, ":{column}")?;
        }
        match &self.kind {
            LoadErrorKind::Io(error) => write!(f, ": the file cannot be read: {error}"),
            LoadErrorKind::NotText(_) => f.write_str(": the line is not text in UTF-8"),
            LoadErrorKind::Empty => f.write_str(": the file is empty: expected rules, or a comment if there are none"),
            LoadErrorKind::File(error) => write!(f, ": {}", error.message()),
            LoadErrorKind::Code(error) => write!(f, ": rules in code: {error}"),
            LoadErrorKind::Panicked => {
                f.write_str(": rules in code: a closure has panicked: expected an error, as of `Rules::try_route`")
            }
        }
    }
}

impl error::Error for LoadError {}
