//! Which of the densely numbered events a client has had: every number once, or what is wrong.

/// How far numbers may come before their turn: as many publishes may be on their way at once on one topic.
pub(super) const AHEAD: u32 = u64::BITS;

/// The numbers from 0 on that have come, in whatever order they were appended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dense {
    /// How many different ones.
    had: u32,
    /// Everything below has come or was given up.
    next: u32,
    /// Bit n: `next + n` has come before its turn.
    ahead: u64,
}

impl Dense {
    /// Takes a number that has come; false when it was there before, or comes so late that it was given up.
    pub(super) fn take(&mut self, number: u32) -> bool {
        if number < self.next {
            return false;
        }
        if number - self.next >= AHEAD {
            let given_up = number - self.next - AHEAD + 1;
            self.next += given_up;
            self.ahead = self.ahead.checked_shr(given_up).unwrap_or(0);
        }
        let bit = 1 << (number - self.next);
        if self.ahead & bit != 0 {
            return false;
        }
        self.had += 1;
        self.ahead |= bit;
        let there = self.ahead.trailing_ones();
        self.next += there;
        self.ahead = self.ahead.checked_shr(there).unwrap_or(0);
        true
    }

    /// How many of the first `count` numbers have not come.
    pub(super) fn missing(self, count: u64) -> u64 {
        count.saturating_sub(self.had.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (taken as new, missing of the first `count`)
    fn taken(numbers: &[u32], count: u64) -> (usize, u64) {
        let mut dense = Dense::default();
        (numbers.iter().filter(|number| dense.take(**number)).count(), dense.missing(count))
    }

    #[test]
    fn every_number_counts_once_in_any_order_that_publishers_side_by_side_bring_about() {
        assert_eq!(taken(&[0, 1, 2, 3], 4), (4, 0));
        assert_eq!(taken(&[3, 0, 2, 1], 4), (4, 0));
        let turned: Vec<u32> = (0..64).rev().chain((64..128).rev()).collect();
        assert_eq!(taken(&turned, 128), (128, 0));
    }

    #[test]
    fn one_that_is_missing_and_one_that_comes_again_do_not_make_up_for_each_other() {
        assert_eq!(taken(&[0, 2, 2, 3], 4), (3, 1));
        assert_eq!(taken(&[0, 0, 1, 2], 4), (3, 1));
        assert_eq!(taken(&[2, 1, 2], 3), (2, 1));
        assert_eq!(taken(&[], 4), (0, 4));
    }

    #[test]
    fn a_leap_gives_up_what_lies_too_far_behind() {
        assert_eq!(taken(&[0, 100, 36, 37], 101), (3, 98));
        assert_eq!(taken(&[u32::MAX - 1, 0], 2), (1, 1));
    }
}
