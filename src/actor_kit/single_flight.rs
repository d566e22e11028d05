use std::sync::atomic::{AtomicU8, Ordering};

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const DIRTY: u8 = 2;

/// Work that many may ask for and one run at a time satisfies.
///
/// ```text
/// ask ──► run ────────────► run again ──► idle
///           ask  ask  ask ──┘
/// ```
/// Whoever gets `true` from [`SingleFlight::ask`] starts the run; after each run
/// [`SingleFlight::finish`] says whether somebody asked meanwhile.
#[derive(Debug, Default)]
pub struct SingleFlight(AtomicU8);

impl SingleFlight {
    /// Asks for a run that begins after this call; true when the caller has to start it.
    pub fn ask(&self) -> bool {
        self.0.fetch_max(RUNNING, Ordering::AcqRel) == IDLE || {
            // a run is under way: have it repeated, unless it ended in this very moment
            self.0.compare_exchange(RUNNING, DIRTY, Ordering::AcqRel, Ordering::Acquire) == Err(IDLE)
                && self.ask()
        }
    }

    /// Ends a run; true when it has to be repeated.
    pub fn finish(&self) -> bool {
        if self.0.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return false;
        }
        self.0.store(RUNNING, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_during_a_run_repeats_it_once() {
        let flight = SingleFlight::default();
        assert!(flight.ask());
        assert!(!flight.ask());
        assert!(!flight.ask());
        assert!(flight.finish());
        assert!(!flight.finish());
        assert!(flight.ask());
    }
}
