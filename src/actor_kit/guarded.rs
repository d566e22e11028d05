use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// How many panics an actor may have before the process is better ended.
#[derive(Clone, Copy, Debug)]
pub struct PanicBudget {
    /// Most panics within `window`.
    pub panics: usize,
    /// The time they are counted over.
    pub window: Duration,
}

impl Default for PanicBudget {
    fn default() -> Self {
        PanicBudget { panics: 5, window: Duration::from_secs(10) }
    }
}

/// An actor's logic that is rebuilt from its source of truth after a panic.
///
/// `actix::Supervisor` does not survive a panic, so shells run their logic through this. More panics
/// than the budget call `give_up`, which ends the process: a node that cannot hold itself together
/// is better replaced.
pub struct Guarded<L> {
    logic: L,
    rebuild: Box<dyn FnMut() -> L>,
    budget: PanicBudget,
    panics: VecDeque<Instant>,
    give_up: Box<dyn FnMut()>,
}

impl<L> Guarded<L> {
    /// Builds the logic for the first time.
    pub fn new(mut rebuild: impl FnMut() -> L + 'static, give_up: impl FnMut() + 'static) -> Self {
        Guarded {
            logic: rebuild(),
            rebuild: Box::new(rebuild),
            budget: PanicBudget::default(),
            panics: VecDeque::new(),
            give_up: Box::new(give_up),
        }
    }

    /// Runs `work` on the logic; None when it panicked and the logic has been rebuilt.
    pub fn run<R>(&mut self, work: impl FnOnce(&mut L) -> R) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(|| work(&mut self.logic))) {
            Ok(result) => Some(result),
            Err(_) => {
                self.panicked();
                None
            }
        }
    }

    fn panicked(&mut self) {
        let now = Instant::now();
        self.panics.push_back(now);
        while self.panics.front().is_some_and(|at| now.duration_since(*at) > self.budget.window) {
            self.panics.pop_front();
        }
        tracing::error!(panics = self.panics.len(), "an actor panicked and was rebuilt");
        if self.panics.len() > self.budget.panics {
            (self.give_up)();
        }
        self.logic = (self.rebuild)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn a_panic_rebuilds_the_logic_and_too_many_give_up() {
        let given_up = Rc::new(Cell::new(0));
        let seen = given_up.clone();
        let mut guarded = Guarded::new(|| 7, move || seen.set(seen.get() + 1));
        guarded.run(|logic| *logic = 8);
        assert_eq!(guarded.run(|logic| *logic), Some(8));
        for _ in 0..5 {
            assert_eq!(guarded.run(|_| -> () { panic!("on purpose") }), None);
        }
        assert_eq!((guarded.run(|logic| *logic), given_up.get()), (Some(7), 0));
        guarded.run(|_| panic!("once more"));
        assert_eq!(given_up.get(), 1);
    }
}
