//! What the tests of Redis Sentinel and Redis Cluster stand on does what it says: asked by `redis-cli` alone.

mod cluster;
mod sentinels;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crate::support::PATIENCE;

/// A client that keeps its connection, and speaks as one does by hand.
struct OldClient(BufReader<TcpStream>);

impl OldClient {
    fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        OldClient(BufReader::new(stream))
    }

    /// The first line of the answer.
    fn ask(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes()).expect("it is open");
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it is open");
        line.trim_end().to_owned()
    }
}

/// Says how long something took; shown where a test's output is.
fn took(what: &str, since: Instant) {
    eprintln!("{what}: {} ms", since.elapsed().as_millis());
}
