//! A canonical representative of all states that behave alike.
//!
//! Generations are random values, and only their equality matters. They are renamed by their first appearance,
//! and all stamps that can no longer match are equivalent. Creation numbers matter by their order. Readers
//! in the same place, and writers that bump the same namespaces, are interchangeable.

use crate::scope::{Coherence, Mutation, Scope};
use crate::state::*;

pub(crate) fn form(scope: &Scope, mut state: State) -> State {
    if scope.mutation != Mutation::CounterFromZero {
        for name in 0..scope.namespaces as usize {
            rename_generations(scope, &mut state, name);
        }
        if scope.mutation != Mutation::MissingIsValid && !scope.exact {
            forget_dead_entries(scope, &mut state);
        }
    }
    if scope.added {
        rank_creations(&mut state);
    }
    if scope.mutation == Mutation::None && !scope.exact {
        sort_writers(scope, &mut state);
        if !scope.flights && !scope.lock && !scope.unanswered {
            sort_readers(scope, &mut state);
        }
    }
    state
}

/// Renames the generations that a stamp may still be compared with. All others become [`UNMATCHABLE`].
fn rename_generations(scope: &Scope, state: &mut State, name: usize) {
    let mut names = [MISSING; 16];
    let mut count = 0;
    let mut rename = |generation: &mut Generation| {
        if *generation == MISSING {
            return;
        }
        let mut index = 0;
        while index < count {
            if names[index] == *generation {
                *generation = index as u8 + 1;
                return;
            }
            index += 1;
        }
        names[count] = *generation;
        count += 1;
        *generation = count as u8;
    };
    rename(&mut state.redis.generations[name]);
    if let Some(replica) = &mut state.replica {
        rename(&mut replica.generations[name]);
    }
    rename(&mut state.process.generations[name]);
    for reader in &mut state.readers {
        if compares(scope, reader) {
            rename(&mut reader.generations[name]);
        }
    }
    state.given[name] = count as u8;

    let look_up = |generation: &mut Generation| {
        if *generation != MISSING {
            let found = names[..count].iter().position(|known| known == generation);
            *generation = found.map_or(UNMATCHABLE, |index| index as u8 + 1);
        }
    };
    let look_up_entry = |entry: &mut Option<Entry>| {
        if let Some(entry) = entry {
            look_up(&mut entry.generations[name]);
        }
    };
    look_up_entry(&mut state.redis.entry);
    if let Some(replica) = &mut state.replica {
        look_up_entry(&mut replica.entry);
    }
    look_up_entry(&mut state.process.memory);
    for reader in &mut state.readers {
        look_up_entry(&mut reader.found);
        if !compares(scope, reader) {
            look_up(&mut reader.generations[name]);
        }
    }
}

/// Returns whether a reader still compares its generations with a stamp.
fn compares(scope: &Scope, reader: &Reader) -> bool {
    matches!(reader.step, Step::Read | Step::Create) || (scope.flights && reader.step == Step::Stamped)
}

/// Makes all entries equal that can never be served again.
fn forget_dead_entries(scope: &Scope, state: &mut State) {
    let current = state.redis.store;
    let forget = |entry: &mut Option<Entry>, by_store: bool| {
        if let Some(entry) = entry
            && (entry.generations.contains(&UNMATCHABLE) || (by_store && entry.store != current))
        {
            entry.version = 0;
            entry.key = 0;
            entry.generations = [UNMATCHABLE; NAMES];
            entry.differed = true;
        }
    };
    forget(&mut state.redis.entry, !scope.split);
    if let Some(replica) = &mut state.replica {
        forget(&mut replica.entry, false);
    }
    if scope.coherence == Coherence::Validated {
        forget(&mut state.process.memory, !scope.split);
    }
    for reader in &mut state.readers {
        forget(&mut reader.found, false);
        let lost = reader.generations.contains(&UNMATCHABLE) || (!scope.split && reader.store != current);
        if scope.mutation == Mutation::None && scope.coherence == Coherence::Validated && reader.step == Step::Store && lost {
            reader.version = 0;
            reader.generations = [UNMATCHABLE; NAMES];
            reader.differed = true;
        }
    }
}

/// Renumbers creations without gaps in their order, and renames the random parts of counters.
fn rank_creations(state: &mut State) {
    let mut all = [Created::default(); 4 + READERS];
    let mut count = 0;
    let mut randoms = [0_u8; 4 + READERS];
    let mut known = 0;
    visit_creations(state, |created| {
        if created.random == 0 {
            return;
        }
        let at = randoms[..known].iter().position(|random| *random == created.random).unwrap_or_else(|| {
            randoms[known] = created.random;
            known += 1;
            known - 1
        });
        created.random = at as u8 + 1;
        if !all[..count].contains(created) {
            all[count] = *created;
            count += 1;
        }
    });
    visit_creations(state, |created| {
        if created.random != 0 {
            let below = all[..count].iter().filter(|other| other.random == created.random && *other < created).count();
            created.number = below as u8 + 1;
        }
    });
    state.given_randoms = known as u8;
}

fn visit_creations(state: &mut State, mut visit: impl FnMut(&mut Created)) {
    visit(&mut state.redis.counter);
    visit(&mut state.redis.created);
    if let Some(replica) = &mut state.replica {
        visit(&mut replica.counter);
        visit(&mut replica.created);
    }
    for reader in &mut state.readers {
        visit(&mut reader.counter);
    }
}

fn sort_writers(scope: &Scope, state: &mut State) {
    let alike = scope.writers.len() == 2 && scope.writers[0] == scope.writers[1] && scope.targets(0) == scope.targets(1);
    if !alike {
        return;
    }
    let token = |state: &State, writer: usize| {
        let held = |redis: &Redis| [redis.fences[0] >> writer & 1, redis.fences[1] >> writer & 1];
        (state.writers[writer], held(&state.redis), state.replica.as_ref().map(held))
    };
    if token(state, 0) > token(state, 1) {
        state.writers.swap(0, 1);
        let swap = |redis: &mut Redis| {
            for fences in &mut redis.fences {
                *fences = (*fences & 1) << 1 | *fences >> 1;
            }
        };
        swap(&mut state.redis);
        if let Some(replica) = &mut state.replica {
            swap(replica);
        }
    }
}

fn sort_readers(scope: &Scope, state: &mut State) {
    let near = (0..scope.readers.len()).take_while(|&reader| scope.is_near(reader)).count();
    state.readers[..near].sort_unstable();
    state.readers[near..scope.readers.len()].sort_unstable();
}
