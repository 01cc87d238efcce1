//! The result of a run.

use std::{collections::HashSet, time::Duration};

use super::{
    check::{self, Guarantee, History, Violation},
    operation::{Ending, Source},
};

/// Result of a run.
#[derive(Debug)]
pub struct Report {
    pub violations: Vec<Violation>,
    /// What happened to the register of the first violation.
    pub evidence: Vec<String>,
    pub stalest: Duration,
    pub reads: u64,
    pub hits: u64,
    pub writes: usize,
    pub undelivered: usize,
    pub refused: usize,
    pub disconnected: usize,
    /// Writes whose handler has lost their outcome.
    pub lost: usize,
    /// Writes that were committed although their client had disconnected.
    pub committed_without_client: usize,
    pub failed: usize,
    pub kills: usize,
    pub crowd: CrowdReport,
}

/// The work of the further stores.
#[derive(Clone, Copy, Debug)]
pub struct CrowdReport {
    /// Their number, each new one after a kill included.
    pub stores: u64,
    pub reads: u64,
    pub hits: u64,
}

impl Report {
    pub fn of(history: &History, guarantee: Guarantee, violations: Vec<Violation>, crowd: CrowdReport) -> Self {
        let count = |is: &dyn Fn(&Ending) -> bool| history.operations.iter().filter(|operation| is(&operation.ending)).count();
        // The reads of further stores are summed up in other operations.
        let own = || history.operations.iter().filter(|operation| operation.process.store == 0);
        let reads = |is: &dyn Fn(Source) -> bool| {
            own().filter(|operation| matches!(operation.ending, Ending::Read { source, .. } if is(source))).count() as u64
        };
        let disconnected: HashSet<u64> = history
            .operations
            .iter()
            .filter(|operation| operation.ending == Ending::Disconnected)
            .map(|operation| operation.id)
            .collect();
        let register = violations.iter().find_map(Violation::key);
        Self {
            violations,
            evidence: register.map(|key| history.of_register(key)).unwrap_or_default(),
            stalest: check::stalest(history, guarantee),
            reads: reads(&|_| true) + crowd.reads,
            hits: reads(&|source| source == Source::Store) + crowd.hits,
            writes: count(&|ending| matches!(ending, Ending::Written { .. })),
            undelivered: count(&|ending| matches!(ending, Ending::Written { delivered: false, .. })),
            refused: count(&|ending| *ending == Ending::NotFenced),
            disconnected: disconnected.len(),
            lost: count(&|ending| *ending == Ending::Lost),
            committed_without_client: history.commits.iter().filter(|commit| disconnected.contains(&commit.operation)).count(),
            failed: count(&|ending| matches!(ending, Ending::Failed(_))),
            kills: history.kills.len(),
            crowd,
        }
    }

    pub fn hit_ratio(&self) -> f64 {
        self.hits as f64 / self.reads.max(1) as f64
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            stalest,
            reads,
            writes,
            undelivered,
            refused,
            disconnected,
            lost,
            committed_without_client,
            failed,
            kills,
            violations,
            crowd,
            ..
        } = self;
        if crowd.stores > 0 {
            write!(f, "{} further stores with {} of the reads; ", crowd.stores, crowd.reads)?;
        }
        write!(
            f,
            "{reads} reads, hit ratio {:.2}, the stalest by {stalest:.1?}; {writes} writes acknowledged, {undelivered} of them undelivered, {refused} refused, {lost} lost; \
             {disconnected} clients disconnected, {committed_without_client} of their writes committed; {kills} processes killed, {failed} requests \
             failed; {} violations",
            self.hit_ratio(),
            violations.len()
        )
    }
}
