//! A sorted set that knows the place of each key: a weight-balanced tree, O(log n) for everything.
//!
//! Adams, "Efficient sets: a balancing act" (1993), with the parameters ⟨3, 2⟩ that Hirai and Yamamoto,
//! "Balancing weight-balanced trees" (2011), proved right.

use std::cmp::Ordering;

const DELTA: usize = 3;
const GAMMA: usize = 2;

type Link<K> = Option<Box<Node<K>>>;

#[derive(Clone, Debug)]
struct Node<K> {
    key: K,
    size: usize,
    left: Link<K>,
    right: Link<K>,
}

/// A sorted set; places count from 0.
#[derive(Clone, Debug)]
pub struct OrderStatistics<K> {
    root: Link<K>,
}

impl<K> Default for OrderStatistics<K> {
    fn default() -> Self {
        OrderStatistics { root: None }
    }
}

impl<K: Ord> OrderStatistics<K> {
    /// How many keys there are.
    pub fn count(&self) -> usize {
        size(&self.root)
    }

    /// Adds a key and tells its place; None: it was there.
    pub fn insert(&mut self, key: K) -> Option<usize> {
        let (root, place) = insert(self.root.take(), key);
        self.root = Some(root);
        place
    }

    /// Takes a key out and tells what its place was.
    pub fn remove(&mut self, key: &K) -> Option<usize> {
        let (root, place) = remove(self.root.take(), key);
        self.root = root;
        place
    }

    /// The place of a key.
    pub fn place(&self, key: &K) -> Option<usize> {
        let (mut node, mut before) = (self.root.as_ref()?, 0);
        loop {
            match key.cmp(&node.key) {
                Ordering::Equal => return Some(before + size(&node.left)),
                Ordering::Less => node = node.left.as_ref()?,
                Ordering::Greater => {
                    before += size(&node.left) + 1;
                    node = node.right.as_ref()?;
                }
            }
        }
    }

    /// Up to `limit` keys from a place on, in order.
    pub fn range(&self, from: usize, limit: usize) -> Vec<&K> {
        let mut keys = Vec::with_capacity(limit.min(self.count()));
        collect(&self.root, from, limit, &mut keys);
        keys
    }
}

fn size<K>(link: &Link<K>) -> usize {
    link.as_ref().map_or(0, |node| node.size)
}

fn insert<K: Ord>(link: Link<K>, key: K) -> (Box<Node<K>>, Option<usize>) {
    let Some(mut node) = link else {
        return (Box::new(Node { key, size: 1, left: None, right: None }), Some(0));
    };
    let place = match key.cmp(&node.key) {
        Ordering::Equal => None,
        Ordering::Less => {
            let (left, place) = insert(node.left.take(), key);
            node.left = Some(left);
            place
        }
        Ordering::Greater => {
            let before = size(&node.left) + 1;
            let (right, place) = insert(node.right.take(), key);
            node.right = Some(right);
            place.map(|place| before + place)
        }
    };
    (balance(node), place)
}

fn remove<K: Ord>(link: Link<K>, key: &K) -> (Link<K>, Option<usize>) {
    let Some(mut node) = link else { return (None, None) };
    let place = match key.cmp(&node.key) {
        Ordering::Equal => {
            let place = size(&node.left);
            return (join(node.left.take(), node.right.take()), Some(place));
        }
        Ordering::Less => {
            let (left, place) = remove(node.left.take(), key);
            node.left = left;
            place
        }
        Ordering::Greater => {
            let before = size(&node.left) + 1;
            let (right, place) = remove(node.right.take(), key);
            node.right = right;
            place.map(|place| before + place)
        }
    };
    (Some(balance(node)), place)
}

/// Two neighbouring subtrees as one.
fn join<K>(left: Link<K>, right: Link<K>) -> Link<K> {
    match (left, right) {
        (None, only) | (only, None) => only,
        (left, Some(right)) => {
            let (mut first, right) = take_first(right);
            first.left = left;
            first.right = right;
            Some(balance(first))
        }
    }
}

fn take_first<K>(mut node: Box<Node<K>>) -> (Box<Node<K>>, Link<K>) {
    match node.left.take() {
        None => {
            let right = node.right.take();
            (node, right)
        }
        Some(left) => {
            let (first, left) = take_first(left);
            node.left = left;
            (first, Some(balance(node)))
        }
    }
}

/// The node with its size, and its subtrees in proportion again after one of them has grown or shrunk by one.
fn balance<K>(mut node: Box<Node<K>>) -> Box<Node<K>> {
    let (left, right) = (weight(&node.left), weight(&node.right));
    if right > DELTA * left {
        let heavy = node.right.take().expect("it is the heavier one");
        let heavy = match weight(&heavy.left) < GAMMA * weight(&heavy.right) {
            true => heavy,
            false => rotate_right(heavy),
        };
        node.right = Some(heavy);
        rotate_left(node)
    } else if left > DELTA * right {
        let heavy = node.left.take().expect("it is the heavier one");
        let heavy = match weight(&heavy.right) < GAMMA * weight(&heavy.left) {
            true => heavy,
            false => rotate_left(heavy),
        };
        node.left = Some(heavy);
        rotate_right(node)
    } else {
        resize(node)
    }
}

fn weight<K>(link: &Link<K>) -> usize {
    size(link) + 1
}

fn resize<K>(mut node: Box<Node<K>>) -> Box<Node<K>> {
    node.size = size(&node.left) + size(&node.right) + 1;
    node
}

fn rotate_left<K>(mut node: Box<Node<K>>) -> Box<Node<K>> {
    let mut up = node.right.take().expect("what goes up is there");
    node.right = up.left.take();
    up.left = Some(resize(node));
    resize(up)
}

fn rotate_right<K>(mut node: Box<Node<K>>) -> Box<Node<K>> {
    let mut up = node.left.take().expect("what goes up is there");
    node.left = up.right.take();
    up.right = Some(resize(node));
    resize(up)
}

fn collect<'a, K>(link: &'a Link<K>, from: usize, limit: usize, keys: &mut Vec<&'a K>) {
    let Some(node) = link else { return };
    let before = size(&node.left);
    if from < before {
        collect(&node.left, from, limit, keys);
    }
    if from <= before && keys.len() < limit {
        keys.push(&node.key);
    }
    if keys.len() < limit {
        collect(&node.right, from.saturating_sub(before + 1), limit, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_balanced<K>(link: &Link<K>) -> bool {
        link.as_ref().is_none_or(|node| {
            let (left, right) = (weight(&node.left), weight(&node.right));
            node.size == left + right - 1
                && left <= DELTA * right
                && right <= DELTA * left
                && is_balanced(&node.left)
                && is_balanced(&node.right)
        })
    }

    proptest! {
        /// After any changes it is what a sorted list would be, and in proportion.
        #[test]
        fn it_is_a_sorted_list(changes in prop::collection::vec((any::<bool>(), 0u16..80), 0..400), from in 0usize..90, limit in 0usize..90) {
            let (mut own, mut list) = (OrderStatistics::default(), Vec::<u16>::new());
            for (adds, key) in changes {
                let found = list.binary_search(&key);
                match adds {
                    true => {
                        prop_assert_eq!(own.insert(key), found.err());
                        if let Err(place) = found {
                            list.insert(place, key);
                        }
                    }
                    false => {
                        prop_assert_eq!(own.remove(&key), found.ok());
                        if let Ok(place) = found {
                            list.remove(place);
                        }
                    }
                }
                prop_assert!(is_balanced(&own.root));
                prop_assert_eq!(own.count(), list.len());
                prop_assert_eq!(own.place(&key), list.binary_search(&key).ok());
            }
            let part: Vec<&u16> = list.iter().skip(from).take(limit).collect();
            prop_assert_eq!(own.range(from, limit), part);
        }
    }

    #[test]
    fn keys_in_order_do_not_make_it_a_list() {
        let mut own = OrderStatistics::default();
        for key in 0..100_000 {
            assert_eq!(own.insert(key), Some(key));
        }
        assert!(is_balanced(&own.root));
        assert_eq!(own.range(99_998, 10), [&99_998, &99_999]);
        assert_eq!(own.place(&54_321), Some(54_321));
    }
}
