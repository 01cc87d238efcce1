//! The table of airlines, from the data of `examples/backend`.

use std::{
    collections::BTreeMap,
    io::Read,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::read::GzDecoder;
use tower_response_cache::BoxError;

/// The names of airlines by their carrier codes. Clones share one table.
#[derive(Clone, Default)]
pub(crate) struct Table {
    names: Arc<Mutex<BTreeMap<String, String>>>,
    reads: Arc<AtomicU64>,
}

impl Table {
    /// Returns the table of the data.
    pub(crate) fn load() -> Result<Self, BoxError> {
        let mut text = String::new();
        GzDecoder::new(&include_bytes!("../backend/data/airlines.csv.gz")[..]).read_to_string(&mut text)?;
        let rows = text.lines().skip(1).filter_map(|line| line.split_once(','));
        let names = rows.map(|(carrier, name)| (carrier.to_owned(), name.to_owned())).collect();
        Ok(Self { names: Arc::new(Mutex::new(names)), reads: Arc::default() })
    }

    /// Returns the name of an airline.
    pub(crate) fn name(&self, carrier: &str) -> Option<String> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.names().get(carrier).cloned()
    }

    /// Renames an airline. Returns false if there is no such airline.
    pub(crate) fn rename(&self, carrier: &str, name: &str) -> bool {
        self.names().get_mut(carrier).map(|known| name.clone_into(known)).is_some()
    }

    /// Returns the number of reads of the table.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
