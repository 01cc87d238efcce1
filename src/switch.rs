//! A switch that turns caching on and off at run time.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Turns the caching of one or several [`CacheLayer`](crate::CacheLayer)s on and off at run time. Clones share one state.
///
/// While the switch is off, requests go to the inner service and no response is stored. Requests that a rule covers are marked with
/// [`Bypass::Disabled`](crate::status::Bypass::Disabled). Invalidations continue: an entry that a write has invalidated meanwhile is not
/// served after the switch is on again. Fills that were in progress when it was turned off are completed under their original stamp.
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{CacheLayer, Memory, Rule, Switch};
///
/// let switch = Switch::new(true);
/// let layer = CacheLayer::new(Memory::new(1 << 20)).rule(Rule::ttl(Duration::from_secs(60))).enabled(&switch);
/// # let _ = layer;
///
/// // In a handler for operators, for example:
/// switch.set(false);
/// assert!(!switch.is_on());
/// ```
#[derive(Clone)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// Returns a switch in this state.
    pub fn new(on: bool) -> Self {
        Self(Arc::new(AtomicBool::new(on)))
    }

    /// Turns the switch on or off for all its clones. Later requests see the change.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::SeqCst);
    }

    /// Returns true if the switch is on.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns a switch that is on.
impl Default for Switch {
    fn default() -> Self {
        Self::new(true)
    }
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        Self::new(on)
    }
}

impl From<&Switch> for Switch {
    fn from(switch: &Switch) -> Self {
        switch.clone()
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Switch").field(&self.is_on()).finish()
    }
}
