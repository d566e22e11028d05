//! A link that can be broken: a TCP proxy that cuts, pauses and delays what it carries.

mod trap;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

pub use trap::{Cut, When};
use trap::{Tail, Trap, Watched};

/// What a link carries at once.
const PIECE: usize = 64 * 1024;

/// Carries connections to an address; ended, with all of them, when dropped.
///
/// It has a thread to itself, so that a test that blocks holds nothing up.
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    carried: Arc<Carried>,
}

/// How the link is at present.
#[derive(Clone, Default)]
struct Link {
    is_over: bool,
    is_paused: bool,
    is_refused: bool,
    delay: Duration,
    cuts: u64,
    trap: Option<Arc<Trap>>,
}

#[derive(Default)]
struct Carried {
    open: AtomicUsize,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Proxy {
    /// A link to `target`, on a free port of its own.
    pub async fn to(target: SocketAddr) -> Self {
        let (link, state) = watch::channel(Link::default());
        let carried = Arc::<Carried>::default();
        let (bound, address) = oneshot::channel();
        let counts = carried.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                bound.send(listener.local_addr().expect("an address")).expect("somebody waits");
                serve(listener, target, state, counts).await;
            });
        });
        Proxy { address: address.await.expect("it listens"), link, carried }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `url`, which names the target, by way of this link.
    pub fn url(&self, url: &str, target: SocketAddr) -> String {
        assert!(url.contains(&target.to_string()), "{url} does not name {target}");
        url.replace(&target.to_string(), &self.address.to_string())
    }

    /// Resets every connection; new ones are taken.
    pub fn cut(&self) {
        self.link.send_modify(|link| link.cuts += 1);
    }

    /// Resets every connection, and new ones at once, until it is resumed.
    pub fn refuse(&self) {
        self.link.send_modify(|link| (link.cuts, link.is_refused) = (link.cuts + 1, true));
    }

    /// Carries nothing more, and says nothing of it, until it is resumed.
    pub fn pause(&self) {
        self.link.send_modify(|link| link.is_paused = true);
    }

    /// Carries again what comes and what has waited.
    pub fn resume(&self) {
        self.link.send_modify(|link| (link.is_paused, link.is_refused, link.trap) = (false, false, None));
    }

    /// Carries every piece this much later, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.link.send_modify(|link| link.delay = delay);
    }

    /// Cuts, or holds, the first connection over which a client sends these words in this order from now on, once.
    pub fn cut_at(&self, words: &[&str], when: When) -> Cut {
        let (trap, cut) = Trap::new(words, when);
        self.link.send_modify(|link| link.trap = Some(Arc::new(trap)));
        cut
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.carried.open.load(Ordering::Relaxed)
    }

    /// Bytes carried to the target, and back.
    pub fn bytes(&self) -> (u64, u64) {
        (self.carried.sent.load(Ordering::Relaxed), self.carried.received.load(Ordering::Relaxed))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.send_modify(|link| link.is_over = true);
    }
}

async fn serve(
    listener: TcpListener,
    target: SocketAddr,
    link: watch::Receiver<Link>,
    carried: Arc<Carried>,
) {
    let mut over = link.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = over.wait_for(|link| link.is_over) => return,
        };
        if let Ok((client, _)) = accepted {
            tokio::spawn(carry(client, target, link.clone(), carried.clone()));
        }
    }
}

/// Carries one connection to its end: an orderly one, or a reset of both sides.
async fn carry(client: TcpStream, target: SocketAddr, link: watch::Receiver<Link>, carried: Arc<Carried>) {
    let cuts = link.borrow().cuts;
    let mut state = link.clone();
    let ended = async {
        let Ok(server) = TcpStream::connect(target).await else { return (client, None, false) };
        let (mut client, mut server) = (client, server);
        // what is small is carried at once
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        carried.open.fetch_add(1, Ordering::Relaxed);
        let in_order = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let is_asked = AtomicBool::new(false);
            let up = Pump { link: link.clone(), count: &carried.sent, is_asked: &is_asked };
            let down = Pump { link, count: &carried.received, is_asked: &is_asked };
            tokio::select! {
                both = async {
                    tokio::try_join!(up.asks(from_client, to_server), down.answers(from_server, to_client))
                } => both.is_ok(),
                _ = state.wait_for(|link| link.is_over || link.is_refused || link.cuts > cuts) => false,
            }
        };
        carried.open.fetch_sub(1, Ordering::Relaxed);
        (client, Some(server), in_order)
    };
    let (client, server, in_order) = ended.await;
    if !in_order {
        for stream in [Some(&client), server.as_ref()].into_iter().flatten() {
            // one that is gone needs no reset
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// One direction of a connection.
struct Pump<'a> {
    link: watch::Receiver<Link>,
    count: &'a AtomicU64,
    /// Set when a trap's words are on their way to the server, whose answer is not for the client any more.
    is_asked: &'a AtomicBool,
}

impl Pump<'_> {
    async fn asks(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut piece = vec![0; PIECE];
        let mut watched = Watched::default();
        loop {
            let length = from.read(&mut piece).await?;
            let trap = self.link.borrow().trap.clone();
            match watched.sees(trap, &piece[..length]) {
                Some(trap) if trap.when == When::Asked => return Err(trap.spring()),
                Some(trap) if trap.when == When::Held => {
                    trap.spring();
                    drop(self.link.wait_for(|link| link.trap.is_none()).await);
                }
                Some(_) => self.is_asked.store(true, Ordering::Relaxed),
                None => {}
            }
            if !self.pass(&piece[..length], &mut to).await? {
                return Ok(());
            }
        }
    }

    async fn answers(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (mut piece, mut tail) = (vec![0; PIECE], Tail::default());
        loop {
            let length = from.read(&mut piece).await?;
            let trap = self.link.borrow().trap.clone();
            if let (true, Some(trap)) = (self.is_asked.load(Ordering::Relaxed), trap)
                && let When::Answered(word) = trap.when
            {
                tail.0.extend_from_slice(&piece[..length]);
                if tail.finds(word.as_bytes()) {
                    return Err(trap.spring());
                }
            }
            if !self.pass(&piece[..length], &mut to).await? {
                return Ok(());
            }
        }
    }

    /// Writes a piece as the link permits; false at its end.
    async fn pass(&mut self, piece: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> io::Result<bool> {
        let delay = self.link.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        drop(self.link.wait_for(|link| !link.is_paused).await);
        self.count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        match piece {
            [] => to.shutdown().await.map(|()| false),
            piece => to.write_all(piece).await.map(|()| true),
        }
    }
}

mod tests {
    use super::*;
    use crate::support::eventually;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn exchange(stream: &mut TcpStream, text: &str) -> io::Result<()> {
        stream.write_all(text.as_bytes()).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        assert_eq!(answer, text.as_bytes());
        Ok(())
    }

    #[tokio::test]
    async fn a_link_carries_both_ways_and_is_cut_by_a_reset() {
        let proxy = Proxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut stream, "hello").await.unwrap();
        assert_eq!((proxy.connections(), proxy.bytes()), (1, (5, 5)));
        proxy.cut();
        let error = exchange(&mut stream, "hello").await.unwrap_err();
        assert!(
            [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind()),
            "{error}"
        );
        eventually("its end", async || (proxy.connections() == 0).then_some(())).await;
        let mut next = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut next, "again").await.unwrap();
        proxy.refuse();
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(exchange(&mut refused, "now").await.is_err());
        proxy.resume();
        let mut last = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut last, "at last").await.unwrap();
    }

    #[tokio::test]
    async fn a_paused_link_is_silent_and_delivers_what_waited() {
        let proxy = Proxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut stream, "hello").await.unwrap();
        proxy.pause();
        stream.write_all(b"late").await.unwrap();
        let mut answer = [0; 4];
        let silence = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut answer)).await;
        assert!(silence.is_err(), "{silence:?}");
        proxy.resume();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"late");
        proxy.delay(Duration::from_millis(50));
        let begun = std::time::Instant::now();
        exchange(&mut stream, "slow").await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn a_link_is_cut_at_a_word_before_it_arrives_or_before_its_answer() {
        let proxy = Proxy::to(echo().await).await;
        for (when, carried) in [(When::Asked, 15), (When::Answered(""), 18), (When::Answered("MIT"), 18)] {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            let before = proxy.bytes().0;
            let mut cut = proxy.cut_at(&["first", "COMMIT"], when);
            exchange(&mut stream, "COMMIT").await.unwrap();
            exchange(&mut stream, "the first").await.unwrap();
            assert!(!cut.is_done());
            stream.write_all(b"COM").await.unwrap();
            stream.read_exact(&mut [0; 3]).await.unwrap();
            assert!(exchange(&mut stream, "MIT").await.is_err());
            cut.done().await;
            assert_eq!(proxy.bytes().0 - before, carried + 3, "{when:?}");
        }
    }

    #[tokio::test]
    async fn what_the_server_says_before_its_answer_does_not_spring_the_trap() {
        let proxy = Proxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut cut = proxy.cut_at(&["COMMIT"], When::Answered("done!"));
        exchange(&mut stream, "COMMIT").await.unwrap();
        exchange(&mut stream, "all is do").await.unwrap();
        assert!(!cut.is_done());
        assert!(exchange(&mut stream, "ne!").await.is_err());
        cut.done().await;
    }
}
