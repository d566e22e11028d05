use std::time::Duration;

use super::bucket::Rate;

/// Failures that are answered at once.
const FREE: u64 = 20;
/// The delay doubles with this many further ones.
const DOUBLED_BY: u64 = 20;
const FIRST: Duration = Duration::from_millis(10);
/// Failures remembered of one address; each is forgotten after [`FORGOTTEN`].
const REMEMBERED: u32 = 1000;
const FORGOTTEN: Duration = Duration::from_secs(6);

/// How failures are remembered: as a bucket that they drain.
pub(super) fn memory() -> Rate {
    Rate::new(1, FORGOTTEN).expect("one is not none").with_burst(REMEMBERED)
}

/// How long the answer to the `failures`-th failure of an address waits: nothing for 20, then 10 ms, and
/// twice as long with every 20 further ones, up to `at_most`.
pub(super) fn delay(failures: u64, at_most: Duration) -> Duration {
    let Some(further) = failures.checked_sub(FREE + 1) else {
        return Duration::ZERO;
    };
    let doublings = u32::try_from(further / DOUBLED_BY).unwrap_or(u32::MAX).min(20);
    FIRST.saturating_mul(1 << doublings).min(at_most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_answered_more_and_more_slowly_up_to_a_bound() {
        let at_most = Duration::from_secs(5);
        let delays: Vec<Duration> = (0..2000).map(|failures| delay(failures, at_most)).collect();
        assert!(delays[..=20].iter().all(Duration::is_zero));
        assert!(delays.is_sorted());
        let of = |failures: usize| delays[failures].as_millis();
        assert_eq!((of(21), of(41), of(61), of(101)), (10, 20, 40, 160));
        assert_eq!(delays[1999], at_most);
        assert_eq!(delay(u64::MAX, Duration::ZERO), Duration::ZERO);
    }
}
