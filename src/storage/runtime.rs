use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

/// The multi-thread runtime that owns every database connection, and what runs beside the actors.
#[derive(Debug)]
pub struct StorageRuntime {
    runtime: Option<Runtime>,
}

impl StorageRuntime {
    /// Starts its threads.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("bongsu-storage")
            .enable_all()
            .build()?;
        Ok(StorageRuntime { runtime: Some(runtime) })
    }

    /// A handle to spawn on.
    pub fn handle(&self) -> Handle {
        self.runtime.as_ref().expect("present until dropped").handle().clone()
    }

    /// Runs a future from a thread that is part of no runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.as_ref().expect("present until dropped").block_on(future)
    }
}

impl Drop for StorageRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(2));
        }
    }
}
