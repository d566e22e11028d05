use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// Keys of requests that are under way in this process.
#[derive(Clone, Debug, Default)]
pub struct InFlightKeys(Arc<Mutex<HashSet<String>>>);

impl InFlightKeys {
    /// Enters a key until the guard is dropped; None while another request holds it.
    pub fn enter(&self, key: String) -> Option<InFlight> {
        let entered = self.0.lock().expect("no panic while held").insert(key.clone());
        entered.then(|| InFlight { keys: self.0.clone(), key })
    }
}

/// A key that is under way.
#[derive(Debug)]
pub struct InFlight {
    keys: Arc<Mutex<HashSet<String>>>,
    key: String,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.keys.lock().expect("no panic while held").remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_again_when_its_request_ends() {
        let keys = InFlightKeys::default();
        let first = keys.enter("k".into());
        assert!(first.is_some() && keys.enter("k".into()).is_none());
        drop(first);
        assert!(keys.enter("k".into()).is_some());
    }
}
