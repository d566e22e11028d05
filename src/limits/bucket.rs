use std::time::Duration;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval_ns: u64,
    burst: u64,
}

impl Rate {
    /// `count` tokens within `per`, all of which may be taken at once; None, which is no limit, for 0.
    pub fn new(count: u32, per: Duration) -> Option<Self> {
        let interval_ns = nanos(per).checked_div(u64::from(count))?.max(1);
        Some(Rate { interval_ns, burst: u64::from(count) })
    }

    /// The same speed with room for `burst` tokens, at least one.
    pub fn with_burst(self, burst: u32) -> Self {
        Rate { burst: u64::from(burst.max(1)), ..self }
    }
}

/// A token bucket in one number: the moment at which it will be full again.
///
/// This is the virtual scheduling form of the generic cell rate algorithm (ITU-T I.371): what is missing
/// from the bucket is the time from now to that moment, so filling it takes no work and a full bucket
/// need not be kept. Times are since any moment that its owner sticks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    /// Takes tokens, or says after what time they will be there.
    ///
    /// More tokens than the bucket holds are given when it is full, and then take longer to come back.
    pub fn take(&mut self, rate: Rate, tokens: u32, now: Duration) -> Result<(), Duration> {
        let (now, cost) = (nanos(now), rate.interval_ns.saturating_mul(u64::from(tokens)));
        let holds = rate.interval_ns.saturating_mul(rate.burst);
        let missing = self.full_at_ns.saturating_sub(now);
        let may_miss = holds - cost.min(holds);
        if missing > may_miss {
            return Err(Duration::from_nanos(missing - may_miss));
        }
        self.full_at_ns = now.saturating_add(missing).saturating_add(cost);
        Ok(())
    }

    /// Takes a token that may not be there, down to an empty bucket; returns how many are missing then.
    pub fn drain(&mut self, rate: Rate, now: Duration) -> u64 {
        let now = nanos(now);
        let missing = self.full_at_ns.saturating_sub(now).saturating_add(rate.interval_ns);
        let missing = missing.min(rate.interval_ns.saturating_mul(rate.burst));
        self.full_at_ns = now.saturating_add(missing);
        missing.div_ceil(rate.interval_ns)
    }

    /// Puts a token back.
    pub fn give_back(&mut self, rate: Rate) {
        self.full_at_ns = self.full_at_ns.saturating_sub(rate.interval_ns);
    }

    /// Whether it has less missing than the other.
    pub fn is_fuller_than(&self, other: &Bucket) -> bool {
        self.full_at_ns < other.full_at_ns
    }

    /// Whether nothing is missing: then it is the same as a new one.
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at_ns <= nanos(now)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A bucket as one would draw it: a level that rises with time, in tokens times interval.
    struct Drawn {
        level_ns: i128,
        at: Duration,
    }

    impl Drawn {
        fn fill(&mut self, rate: Rate, now: Duration) {
            let holds = i128::from(rate.interval_ns * rate.burst);
            let elapsed = now.saturating_sub(self.at).as_nanos() as i128;
            self.level_ns = (self.level_ns + elapsed).min(holds);
            self.at = now;
        }

        fn take(&mut self, rate: Rate, tokens: u32) -> bool {
            let holds = i128::from(rate.interval_ns * rate.burst);
            let cost = i128::from(rate.interval_ns) * i128::from(tokens);
            let given = self.level_ns >= cost.min(holds);
            self.level_ns -= if given { cost } else { 0 };
            given
        }

        fn give_back(&mut self, rate: Rate) {
            let holds = i128::from(rate.interval_ns * rate.burst);
            self.level_ns = (self.level_ns + i128::from(rate.interval_ns)).min(holds);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Take(u32),
        GiveBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3_000_000_000u64).prop_map(Step::Wait),
            (0..30u32).prop_map(Step::Take),
            Just(Step::GiveBack)
        ]
    }

    fn rate() -> impl Strategy<Value = Rate> {
        (1..50u32, 1..20u32).prop_map(|(count, burst)| Rate::new(count, SECOND).unwrap().with_burst(burst))
    }

    proptest! {
        #[test]
        fn a_bucket_is_the_level_that_one_would_draw(rate in rate(), steps in prop::collection::vec(step(), 1..80)) {
            let (mut bucket, mut now) = (Bucket::default(), SECOND);
            let mut drawn = Drawn { level_ns: i128::from(rate.interval_ns * rate.burst), at: now };
            for step in steps {
                match step {
                    Step::Wait(ns) => now += Duration::from_nanos(ns),
                    Step::Take(tokens) => {
                        drawn.fill(rate, now);
                        let taken = bucket.take(rate, tokens, now);
                        prop_assert_eq!(taken.is_ok(), drawn.take(rate, tokens));
                        if let Err(after) = taken {
                            prop_assert!(bucket.clone().take(rate, tokens, now + after).is_ok());
                            let sooner = now + after - Duration::from_nanos(1);
                            prop_assert!(bucket.clone().take(rate, tokens, sooner).is_err());
                        }
                    }
                    Step::GiveBack => {
                        drawn.fill(rate, now);
                        drawn.give_back(rate);
                        bucket.give_back(rate);
                    }
                }
            }
        }

        #[test]
        fn no_window_of_time_sees_more_than_the_burst_and_what_came_meanwhile(
            rate in rate(),
            waits in prop::collection::vec(0..500_000_000u64, 1..60),
        ) {
            let (mut bucket, mut now) = (Bucket::default(), SECOND);
            let mut taken = Vec::new();
            for wait in waits {
                now += Duration::from_nanos(wait);
                while bucket.take(rate, 1, now).is_ok() {
                    taken.push(nanos(now));
                }
            }
            for (index, from) in taken.iter().enumerate() {
                for (further, to) in taken[index..].iter().enumerate() {
                    prop_assert!(further as u64 <= rate.burst + (to - from) / rate.interval_ns);
                }
            }
        }
    }

    #[test]
    fn a_drained_bucket_counts_what_is_missing_and_forgets_it_with_time() {
        let (rate, mut bucket) = (Rate::new(10, 10 * SECOND).unwrap(), Bucket::default());
        let counted: Vec<u64> = (0..12).map(|_| bucket.drain(rate, SECOND)).collect();
        assert_eq!(counted, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10]);
        assert_eq!(bucket.drain(rate, 6 * SECOND), 6);
        assert!(!bucket.is_full(11 * SECOND) && bucket.is_full(12 * SECOND));
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(Rate::new(0, SECOND), None);
    }
}
