use std::cell::RefCell;

/// Bytes read, and small frames written, at once.
pub(super) const SCRATCH: usize = 16 * 1024;
/// Frames larger than this are written by themselves, without a copy.
pub(super) const LARGE: usize = 4 * 1024;

thread_local! {
    /// What all connections of a thread read into.
    pub(super) static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
    /// What they put their frames together in.
    pub(super) static WRITE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SCRATCH + LARGE));
}
