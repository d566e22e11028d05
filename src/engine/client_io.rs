use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_rt::net::TcpStream;
use actix_tls::accept::rustls_0_23::TlsStream;
use bytes::Bytes;
use socket2::SockRef;
use tokio::time::{Instant, Sleep, sleep};

use crate::http::Exchange;

/// A client's connection, plain or within TLS.
pub(super) trait ClientIo: AsyncRead + AsyncWrite + Unpin + 'static {
    /// What the kernel sees of it.
    fn tcp(&self) -> &TcpStream;
}

impl ClientIo for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl ClientIo for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A connection that is over when its peer has taken nothing of what waits for it for a while.
///
/// The kernel alone does not promise that: `TCP_USER_TIMEOUT` is looked at when a probe is due, and the
/// probes of a peer that has shrunk its window come at doubling intervals.
pub(super) struct StallGuard<Io> {
    io: Io,
    stall: Duration,
    /// Read already, for whoever reads next.
    ahead: Bytes,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
    next: Option<Box<NextRequest>>,
}

/// Until when the next request has to be there.
struct NextRequest {
    exchange: Rc<Exchange>,
    /// From the last answer on.
    patience: Duration,
    /// From its own first byte on.
    head: Duration,
    has_begun: bool,
    timer: Pin<Box<Sleep>>,
}

impl<Io: ClientIo> StallGuard<Io> {
    /// Lets a write wait for at most `stall`.
    pub fn new(io: Io, stall: Duration) -> Self {
        StallGuard { io, stall, ahead: Bytes::new(), timer: None, next: None }
    }

    /// Ends the connection when no further request is there `patience` after the last answer, or `head` after
    /// its first byte.
    pub fn expect_requests(&mut self, exchange: Rc<Exchange>, patience: Duration, head: Duration) {
        let timer = Box::pin(sleep(patience));
        self.next = Some(Box::new(NextRequest { exchange, patience, head, has_begun: false, timer }));
    }

    /// It is used for something else from now on.
    pub fn expect_no_requests(&mut self) {
        self.next = None;
    }

    /// What its requests are to tell, if it is waited for them.
    pub fn exchange(&self) -> Option<Rc<Exchange>> {
        self.next.as_ref().map(|next| next.exchange.clone())
    }

    /// Lets what was read be read once more.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.ahead = bytes;
    }

    /// What the kernel sees of it.
    pub fn tcp(&self) -> &TcpStream {
        self.io.tcp()
    }

    fn sent(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Poll::Ready(Ok(1..)), Some(next)) = (written, &mut self.next)
            && next.exchange.sent()
        {
            next.has_begun = false;
            next.timer.as_mut().reset(Instant::now() + next.patience);
        }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.timer = None;
            return moved;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.stall)));
        ready!(timer.as_mut().poll(context));
        // a reset: the kernel keeps nothing for it either
        let told = SockRef::from(self.io.tcp()).set_linger(Some(Duration::ZERO));
        Poll::Ready(Err(told.err().unwrap_or_else(|| io::ErrorKind::TimedOut.into())))
    }
}

impl<Io: ClientIo> AsyncRead for StallGuard<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.io).poll_read(context, buffer);
            if let Some(next) = self.next.as_mut().filter(|next| next.exchange.is_waiting()) {
                let has_read = buffer.filled().len() > before;
                if has_read && !std::mem::replace(&mut next.has_begun, true) {
                    let end = next.timer.deadline().min(Instant::now() + next.head);
                    next.timer.as_mut().reset(end);
                }
                if read.is_pending() && next.timer.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            return read;
        }
        let taken = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(taken));
        if self.ahead.is_empty() {
            // an empty view keeps the whole buffer alive
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: ClientIo> AsyncWrite for StallGuard<Io> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.sent(&written);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.sent(&written);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    const STALL: Duration = Duration::from_secs(10);
    const BUFFER_BYTES: usize = 1 << 20;

    /// What is written stays in memory, where it moves in virtual time; the socket only sees the end.
    struct InMemory {
        memory: DuplexStream,
        tcp: TcpStream,
    }

    impl ClientIo for InMemory {
        fn tcp(&self) -> &TcpStream {
            &self.tcp
        }
    }

    impl AsyncRead for InMemory {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.memory).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for InMemory {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.memory).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.memory).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.memory).poll_shutdown(context)
        }
    }

    /// A guarded end of a connection, its peer's, and the peer's end of the socket.
    async fn pair() -> (StallGuard<InMemory>, DuplexStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (socket, accepted) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (memory, peer) = duplex(BUFFER_BYTES);
        let io = InMemory { memory, tcp: accepted.unwrap().0 };
        (StallGuard::new(io, STALL), peer, socket.unwrap())
    }

    /// The error that ends the writing, and how long nothing had moved then.
    async fn write_until_it_ends(guard: &mut StallGuard<InMemory>) -> (io::ErrorKind, Duration) {
        let mut progress = Instant::now();
        loop {
            match guard.write(&[0; 65536]).await {
                Ok(_) => progress = Instant::now(),
                Err(error) => return (error.kind(), progress.elapsed()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_ends_the_connection_in_time_with_a_reset() {
        let (mut guard, _peer, mut socket) = pair().await;
        let (error, after) = write_until_it_ends(&mut guard).await;
        assert_eq!(error, io::ErrorKind::TimedOut);
        assert!((STALL..STALL + Duration::from_millis(10)).contains(&after), "{after:?}");
        drop(guard);
        let rest = socket.read_to_end(&mut Vec::new()).await;
        assert_eq!(rest.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionReset));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_something_now_and_then_is_waited_for() {
        let (mut guard, mut peer, _socket) = pair().await;
        let started = Instant::now();
        let slow = tokio::spawn(async move {
            let mut taken = vec![0; BUFFER_BYTES / 3];
            for _ in 0..10 {
                tokio::time::sleep(STALL.mul_f64(0.9)).await;
                peer.read_exact(&mut taken).await.unwrap();
            }
            peer
        });
        let (error, _) = write_until_it_ends(&mut guard).await;
        assert_eq!(error, io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= STALL.mul_f64(9.0 + 1.0), "{:?}", started.elapsed());
        drop(slow.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_anything_to_write_is_left_alone() {
        let (mut guard, mut peer, _socket) = pair().await;
        guard.write_all(b"a").await.unwrap();
        tokio::time::sleep(STALL * 10).await;
        guard.write_all(b"b").await.unwrap();
        let mut taken = [0; 2];
        peer.read_exact(&mut taken).await.unwrap();
        assert_eq!((&taken, guard.timer.is_none()), (b"ab", true));
    }
}
