//! The extension of generations under which an entry is stored.

use std::sync::Arc;

use redis::Value;

use super::{
    change::{By, Change, ChangeAnswers},
    command::{Command, CommandResult, get},
    generation_times::Reach,
    inner::{RedisInner, millis},
    keys::{id, slot},
};
use crate::{
    clock::Nanos,
    entry::{Entry, stamp::Generation},
    namespace::set::Name,
};

/// Returns the names of an entry with their generations.
fn parts(entry: &Entry) -> impl Iterator<Item = (Name<'_>, Generation)> {
    let generations = entry.stamp().generations().unwrap_or_default();
    entry.namespaces().names().zip(generations.iter().copied()).filter_map(|(name, generation)| Some((name, generation?)))
}

impl RedisInner {
    /// Returns the positions of an entry's generations that other processes have created, and the commands that read their lives.
    pub(super) fn life_commands(&self, entry: &Entry, left: Nanos) -> (Vec<usize>, Vec<Command>) {
        let is_unknown = |(name, generation)| matches!(self.generation_times.reach(name, generation, left), Reach::Unknown);
        let ask = |(place, (name, _)): (usize, (Name<'_>, Generation))| {
            let key = self.keys.generation(name);
            (place, Command { slot: slot(key.as_bytes()), command: redis::cmd("PTTL").arg(&key).take() })
        };
        parts(entry).enumerate().filter(|(_, part)| is_unknown(*part)).map(ask).unzip()
    }

    /// Extends the generations of a stored entry that end before the entry. `asked` are the positions of
    /// [`life_commands`](Self::life_commands) with the answers.
    ///
    /// Returns the entry with a stamp that includes the extensions, if there were any.
    pub(super) async fn extend_generations(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        left: Nanos,
        asked: impl Iterator<Item = (usize, CommandResult)>,
    ) -> Option<Arc<Entry>> {
        for (place, answer) in asked {
            if let (Some((name, generation)), Ok((Value::Int(lives), _))) = (parts(entry).nth(place), answer) {
                // It has no end, or is gone. The next lookup shows which.
                let span = if lives < 0 { self.generation_times.longest() } else { lives as u64 * 1_000_000 };
                self.generation_times.record(id(name), generation, span);
            }
        }
        let mut short = Vec::new();
        for (name, generation) in parts(entry) {
            if let Reach::Short(span) = self.generation_times.reach(name, generation, left) {
                // Recorded before it is sent, so that concurrent fills under the same name do not send it as well.
                self.generation_times.record_extension(id(name), generation, span);
                short.push((name, generation, span));
            }
        }
        if short.is_empty() {
            return None;
        }
        let (mut commands, mut changes) = (Vec::new(), Vec::new());
        for (name, _, span) in &short {
            let key = self.keys.generation(*name);
            let command = redis::cmd("PEXPIRE").arg(&key).arg(millis(*span)).arg("GT").take();
            let change = Change::new(commands.len(), *name, key.clone(), [0; 24], By::Extend);
            changes.push(change.read_at(entry.stamp().epoch()));
            commands.extend([Command { slot: slot(key.as_bytes()), command }, get(&key)]);
        }
        let Ok((ChangeAnswers { changed, .. }, changes)) = self.change(commands, changes, None).await else { return None };
        let same = short.iter().zip(&changed).all(|((_, generation, _), changed)| changed.generation == Some(*generation));
        let is_other = |name: &Name<'_>| !short.iter().any(|(other, ..)| other.hash() == name.hash());
        let others = entry.namespaces().names().filter(is_other).map(|name| (name.hash(), entry.stamp().epoch()));
        let extended = changes.iter().zip(&changed).map(|(change, changed)| change.part(changed));
        let epoch = self.memory.renew(others.chain(extended)).filter(|_| same)?;
        Some(Arc::new(entry.stamped(entry.stamp().again(epoch, entry.stamp().taken()))))
    }
}
