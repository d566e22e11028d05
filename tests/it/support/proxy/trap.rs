//! Where a link is cut: at words that a client sends, or at what they are answered.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::support::PATIENCE;

/// When a link is cut, as seen from what the client has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the server hears of it.
    Asked,
    /// Once the server has answered with these bytes (or anything, where there are none), which the client does
    /// not hear. What it still had to say of what was asked before may come first.
    Answered(&'static str),
    /// Not at all: what was asked is held until the link is resumed.
    Held,
}

impl When {
    /// Once PostgreSQL has carried a COMMIT out: it answers with its name.
    pub const COMMITTED: When = When::Answered("COMMIT\0");
}

/// Cuts the first connection over which a client sends these words, one after the other.
pub(super) struct Trap {
    words: Vec<Vec<u8>>,
    pub when: When,
    is_taken: AtomicBool,
    sprung: watch::Sender<bool>,
}

impl Trap {
    /// Tells when it has sprung.
    pub fn new(words: &[&str], when: When) -> (Self, Cut) {
        let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let (sprung, cut) = watch::channel(false);
        (Trap { words, when, is_taken: AtomicBool::new(false), sprung }, Cut(cut))
    }

    /// It has sprung; what the connection fails with, where it is cut.
    pub fn spring(&self) -> io::Error {
        self.sprung.send_replace(true);
        io::ErrorKind::ConnectionReset.into()
    }
}

/// Tells when a trap has sprung.
pub struct Cut(watch::Receiver<bool>);

impl Cut {
    /// Whether the connection was cut.
    pub fn is_done(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the connection has been cut.
    pub async fn done(&mut self) {
        let done = tokio::time::timeout(PATIENCE, self.0.wait_for(|done| *done)).await;
        done.expect("waited in vain for the cut").expect("the proxy is there");
    }
}

/// The end of what has been carried, which a word may have begun in.
#[derive(Default)]
pub(super) struct Tail(pub Vec<u8>);

impl Tail {
    /// Whether the word is there; what came before its end is passed over.
    pub fn finds(&mut self, word: &[u8]) -> bool {
        let found = match word {
            [] => Some(0),
            word => self.0.windows(word.len()).position(|part| part == word),
        };
        let kept = self.0.len().min(word.len().saturating_sub(1));
        let over = found.map_or(self.0.len() - kept, |at| at + word.len());
        self.0.drain(..over);
        found.is_some()
    }
}

/// How much of a trap's words a connection has carried.
#[derive(Default)]
pub(super) struct Watched {
    trap: Option<Arc<Trap>>,
    found: usize,
    tail: Tail,
}

impl Watched {
    /// The trap, if this piece completes its words and no other connection has done so before.
    pub fn sees(&mut self, trap: Option<Arc<Trap>>, piece: &[u8]) -> Option<Arc<Trap>> {
        let trap = trap?;
        if !self.trap.as_ref().is_some_and(|own| Arc::ptr_eq(own, &trap)) {
            *self = Watched { trap: Some(trap.clone()), ..Watched::default() };
        }
        self.tail.0.extend_from_slice(piece);
        while let Some(word) = trap.words.get(self.found) {
            if !self.tail.finds(word) {
                return None;
            }
            self.found += 1;
        }
        (!trap.is_taken.swap(true, Ordering::Relaxed)).then_some(trap)
    }
}
