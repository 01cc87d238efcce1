//! The clock and the random numbers of a simulated machine, in the place of those of the operating system.
//!
//! The standard library and the dependencies read the time and random bytes by functions of the C library. This program defines these
//! functions. In the thread of a simulation they return simulated time and numbers from the seed; in other threads, those of the system.

use std::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use tower_response_cache::Clock;

/// The wall clock at the beginning, in nanoseconds since the Unix epoch.
const WALL: u64 = 1_700_000_000_000_000_000;

/// The monotonic clock at the beginning.
const MONOTONIC: u64 = 1_000_000_000_000;

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
    /// Nanoseconds since the beginning.
    static NOW: Cell<u64> = const { Cell::new(0) };
    /// The time by which the wall clock was set.
    static SHIFT: Cell<i64> = const { Cell::new(0) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    /// Clocks of single processes, which move with the machine.
    static CLOCKS: RefCell<Vec<Clock>> = const { RefCell::new(Vec::new()) };
}

/// `true` in a process that simulates: threads other than that of the simulation do nothing there.
static SIMULATES: AtomicBool = AtomicBool::new(false);

/// Makes the current thread that of a simulation.
pub fn begin(seed: u64) {
    SIMULATES.store(true, Ordering::SeqCst);
    SIMULATED.set(true);
    NOW.set(0);
    RANDOM.set(seed);
    fastrand::seed(seed);
}

/// Moves the clocks to a time since the beginning.
pub fn set_time(now: u64) {
    let passed = Duration::from_nanos(now - NOW.replace(now));
    if !passed.is_zero() {
        CLOCKS.with_borrow(|clocks| clocks.iter().for_each(|clock| clock.advance(passed)));
    }
}

/// Returns the nanoseconds since the beginning.
pub fn now() -> u64 {
    NOW.get()
}

/// Returns the wall clock of the machine of Redis, which is never set wrong, in microseconds since the Unix epoch.
pub fn redis_time() -> u64 {
    (WALL + NOW.get()) / 1_000
}

/// Returns a clock of one process. It can be set wrong.
pub fn process_clock() -> Clock {
    let clock = Clock::manual();
    CLOCKS.with_borrow_mut(|clocks| clocks.push(clock.clone()));
    clock
}

/// Sets the wall clock of the machine by a number of milliseconds.
pub fn shift_wall(millis: i64) {
    SHIFT.set(SHIFT.get() + millis * 1_000_000);
}

/// Returns the next number of SplitMix64.
fn random() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Replaces the function of the C library.
///
/// # Safety
///
/// `out` points to a `timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, out: *mut timespec) -> c_int {
    if !SIMULATED.get() {
        // SAFETY: the arguments are those of the caller.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), out) } as c_int;
    }
    let nanos = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => (WALL + NOW.get()).saturating_add_signed(SHIFT.get()),
        _ => MONOTONIC + NOW.get(),
    };
    let time = timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ };
    // SAFETY: the caller passes a valid pointer.
    unsafe { out.write(time) };
    0
}

/// Replaces the function of the C library.
///
/// # Safety
///
/// `buffer` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    if !SIMULATED.get() {
        // SAFETY: the arguments are those of the caller.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as ssize_t;
    }
    for index in 0..length {
        // SAFETY: the caller passes a pointer to so many bytes.
        unsafe { buffer.cast::<u8>().add(index).write(random() as u8) };
    }
    length as ssize_t
}

/// Replaces the function of the C library: the janitor of expired entries, which is another thread, would be a race.
///
/// # Safety
///
/// `time` points to a `timespec`, and `left` to one or nowhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanosleep(time: *const timespec, left: *mut timespec) -> c_int {
    if SIMULATES.load(Ordering::SeqCst) {
        loop {
            // SAFETY: it has no arguments.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: the arguments are those of the caller.
    unsafe { libc::syscall(libc::SYS_nanosleep, time, left) as c_int }
}

/// Replaces the function of the C library, as [`nanosleep`].
///
/// # Safety
///
/// `time` points to a `timespec`, and `left` to one or nowhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_nanosleep(clock: clockid_t, flags: c_int, time: *const timespec, left: *mut timespec) -> c_int {
    if SIMULATES.load(Ordering::SeqCst) {
        loop {
            // SAFETY: it has no arguments.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: the arguments are those of the caller.
    unsafe { libc::syscall(libc::SYS_clock_nanosleep, c_long::from(clock), c_long::from(flags), time, left) as c_int }
}
