//! Generations as Redis stores them.

use redis::Value;

use super::command::CommandResult;
use crate::entry::{
    stamp::{Counter, Generation},
    validity::Validity,
};

/// Compares the generations `then` of an entry with the current ones. `None`, which is invalidated, if one is missing or differs.
pub(crate) fn compare(then: &[Option<Generation>], now: &[Option<Generation>]) -> Option<Validity> {
    let mut life = Validity::Valid;
    for (then, now) in then.iter().zip(now) {
        match (then, now) {
            (Some(then), Some(now)) if then.hard == now.hard => {
                if then.soft != now.soft {
                    life = Validity::Stale;
                }
            }
            _ => return None,
        }
    }
    (then.len() == now.len()).then_some(life)
}

/// Reads a generation: 16 bytes, 8 bytes, and perhaps the number of its creation. The identity of the server is mixed in.
pub(crate) fn parse_generation(value: &Value, server: u128) -> Option<Generation> {
    let Value::BulkString(bytes) = value else { return None };
    parse_bytes(bytes, server)
}

pub(super) fn parse_bytes(bytes: &[u8], server: u128) -> Option<Generation> {
    let (hard, rest) = bytes.split_first_chunk::<16>()?;
    let (soft, _) = rest.split_first_chunk::<8>()?;
    Some(Generation { hard: u128::from_be_bytes(*hard) ^ server, soft: u64::from_be_bytes(*soft) })
}

/// Creates a new generation: 16 bytes that change when entries are invalidated, and 8 that change when they become stale.
pub(super) fn random_generation() -> [u8; 24] {
    let mut fresh = [0; 24];
    getrandom::fill(&mut fresh).expect("the operating system gives random bytes");
    fresh
}

pub(super) fn random_u128() -> u128 {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    u128::from_be_bytes(random) | 1
}

/// Reads the counter of creations. The identity of the server is mixed into its random part, so that it differs after a failover.
pub(super) fn parse_counter(answer: CommandResult) -> Option<Counter> {
    let (value, server) = answer.ok()?;
    let Value::BulkString(text) = value else { return None };
    let (random, number) = read_number(&text)?;
    Some(Counter { random: random ^ server as u64 ^ (server >> 64) as u64, number })
}

/// Reads the number of creation from a stored generation.
pub(super) fn parse_number(generation: &Value) -> Option<Counter> {
    let Value::BulkString(text) = generation else { return None };
    let (random, number) = read_number(text.get(24..)?)?;
    Some(Counter { random, number })
}

fn read_number(text: &[u8]) -> Option<(u64, u64)> {
    let (random, number) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((u64::from_str_radix(random, 16).ok()?, number.parse().ok()?))
}
