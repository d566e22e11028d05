use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Mutex;
use std::time::Duration;

use indexmap::IndexMap;

use super::bucket::{Bucket, Rate};

const SHARDS: usize = 16;
/// Buckets looked at for each new one; those that are full by then are forgotten.
const LOOKED_AT: usize = 8;

/// A bucket for each key, in bounded memory.
///
/// A full bucket is the same as none, so each new key forgets a few full ones. When there are as many
/// keys as may be kept, it forgets the fullest among a few: a caller who brings ever new addresses makes room
/// by its own hardly touched buckets, and those that are over their limit stay.
#[derive(Debug)]
pub struct Buckets<K> {
    shards: [Mutex<Shard<K>>; SHARDS],
    hasher: RandomState,
    /// Most keys of one shard.
    capacity: usize,
}

#[derive(Debug)]
struct Shard<K> {
    buckets: IndexMap<K, Bucket>,
    hand: usize,
}

impl<K: Hash + Eq> Buckets<K> {
    /// For about `capacity` keys.
    pub fn new(capacity: usize) -> Self {
        Buckets {
            shards: std::array::from_fn(|_| Mutex::new(Shard { buckets: IndexMap::new(), hand: 0 })),
            hasher: RandomState::new(),
            capacity: (capacity / SHARDS).max(1),
        }
    }

    /// See [`Bucket::take`].
    pub fn take(&self, key: K, rate: Rate, tokens: u32, now: Duration) -> Result<(), Duration> {
        self.with(key, now, |bucket| bucket.take(rate, tokens, now))
    }

    /// See [`Bucket::drain`].
    pub fn drain(&self, key: K, rate: Rate, now: Duration) -> u64 {
        self.with(key, now, |bucket| bucket.drain(rate, now))
    }

    /// See [`Bucket::give_back`]; nothing when the bucket was forgotten.
    pub fn give_back(&self, key: &K, rate: Rate) {
        let mut shard = self.shard(key).lock().expect("no panic while held");
        if let Some(bucket) = shard.buckets.get_mut(key) {
            bucket.give_back(rate);
        }
    }

    /// Keys kept at this moment.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no panic while held").buckets.len()).sum()
    }

    fn with<R>(&self, key: K, now: Duration, work: impl FnOnce(&mut Bucket) -> R) -> R {
        let mut shard = self.shard(&key).lock().expect("no panic while held");
        if !shard.buckets.contains_key(&key) {
            shard.make_room(self.capacity, now);
        }
        work(shard.buckets.entry(key).or_default())
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }
}

impl<K: Hash + Eq> Shard<K> {
    fn make_room(&mut self, capacity: usize, now: Duration) {
        let mut fullest: Option<(Bucket, usize)> = None;
        for _ in 0..LOOKED_AT.min(self.buckets.len()) {
            self.hand = (self.hand + 1) % self.buckets.len().max(1);
            let Some((_, bucket)) = self.buckets.get_index(self.hand) else { break };
            if bucket.is_full(now) {
                self.buckets.swap_remove_index(self.hand);
            } else if fullest.is_none_or(|(own, _)| bucket.is_fuller_than(&own)) {
                fullest = Some((*bucket, self.hand));
            }
        }
        if self.buckets.len() >= capacity
            && let Some((_, index)) = fullest
        {
            self.buckets.swap_remove_index(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const SECOND: Duration = Duration::from_secs(1);

    proptest! {
        #[test]
        fn with_room_for_all_keys_each_has_the_bucket_of_its_own(
            steps in prop::collection::vec((0..6u8, 0..800_000_000u64, 1..4u32), 1..200),
        ) {
            let rate = Rate::new(3, SECOND).unwrap();
            let (buckets, mut model, mut now) = (Buckets::new(16 * 6), HashMap::new(), SECOND);
            for (key, wait, tokens) in steps {
                now += Duration::from_nanos(wait);
                let own: &mut Bucket = model.entry(key).or_default();
                prop_assert_eq!(buckets.take(key, rate, tokens, now), own.take(rate, tokens, now));
            }
        }
    }

    #[test]
    fn a_million_hostile_keys_take_bounded_memory_and_do_not_wash_out_a_heavy_one() {
        let rate = Rate::new(100, 60 * SECOND).unwrap();
        let (buckets, now) = (Buckets::new(1600), SECOND);
        while buckets.take(u32::MAX, rate, 1, now).is_ok() {}
        for key in 0..1_000_000 {
            assert_eq!(buckets.take(key, rate, 1, now), Ok(()));
        }
        assert!(buckets.count() <= 1600);
        assert!(buckets.take(u32::MAX, rate, 1, now).is_err(), "still remembered");
    }

    #[test]
    fn full_buckets_are_forgotten_as_new_keys_come() {
        let rate = Rate::new(10, SECOND).unwrap();
        let buckets = Buckets::new(16_000);
        for key in 0..1000 {
            assert_eq!(buckets.take(key, rate, 1, SECOND), Ok(()));
        }
        for key in 1000..2000 {
            assert_eq!(buckets.take(key, rate, 1, 10 * SECOND), Ok(()));
        }
        assert!(buckets.count() <= 1100, "{}", buckets.count());
    }
}
