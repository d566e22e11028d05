use std::future::Future;
use std::io;
use std::io::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use actix_http::body::{BoxBody, MessageBody};
use bytes::{Buf, Bytes};

use super::SendQueue;
use super::scratch::{LARGE, READ, SCRATCH, WRITE};

/// A response that lasts as long as its connection: one small future that owns the socket.
///
/// It drains the body, several frames with one write, and keeps what the kernel does not take; meanwhile it
/// asks the body for nothing more. What the client still sends is read and thrown away, so that its leaving
/// is noticed at once.
pub struct StreamConnection<Io> {
    io: Io,
    body: BoxBody,
    /// With chunked transfer coding (RFC 9112 §7.1), or as it is.
    is_chunked: bool,
    unsent: Bytes,
    /// Where its frames come from, to be told of what the kernel has not taken.
    queue: Option<Rc<SendQueue>>,
    has_begun: bool,
    is_over: bool,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> StreamConnection<Io> {
    /// Sends `head`, which is the encoded head of a response, then its body, whose frames come from `queue`.
    pub fn new(io: Io, head: Bytes, body: BoxBody, is_chunked: bool, queue: Option<Rc<SendQueue>>) -> Self {
        StreamConnection { io, body, is_chunked, unsent: head, queue, has_begun: false, is_over: false }
    }

    fn tell_unsent(&self) {
        if let Some(queue) = &self.queue {
            queue.set_unsent(self.unsent.len());
        }
    }

    /// Ready when the client is gone.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        READ.with_borrow_mut(|scratch| {
            loop {
                let mut buffer = ReadBuf::new(scratch);
                match ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer)) {
                    Ok(()) if !buffer.filled().is_empty() => {}
                    _ => return Poll::Ready(()),
                }
            }
        })
    }

    /// Ready when everything has been sent, or the socket is broken.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.has_begun && !self.unsent.is_empty() {
                let sent = ready!(Pin::new(&mut self.io).poll_write(context, &self.unsent))?;
                if sent == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.unsent.advance(sent);
                self.tell_unsent();
            } else if self.is_over {
                return Pin::new(&mut self.io).poll_shutdown(context);
            } else {
                // an empty view would keep the last frame alive
                let head = std::mem::take(&mut self.unsent);
                if WRITE.with_borrow_mut(|scratch| self.fill(&head, scratch, context))? {
                    // within TLS, what was written may wait to be encrypted and sent
                    ready!(Pin::new(&mut self.io).poll_flush(context))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes frames from the body and writes them; true when all that there is was taken by the socket.
    fn fill(&mut self, head: &[u8], scratch: &mut Vec<u8>, context: &mut Context<'_>) -> io::Result<bool> {
        scratch.clear();
        scratch.extend_from_slice(head);
        self.has_begun = true;
        let mut is_empty = false;
        while scratch.len() < SCRATCH && !self.is_over && !is_empty {
            match Pin::new(&mut self.body).poll_next(context) {
                Poll::Ready(Some(frame)) => {
                    self.append(scratch, &frame.map_err(|error| io::Error::other(error.to_string()))?)?
                }
                Poll::Ready(None) => {
                    self.is_over = true;
                    scratch.extend_from_slice(if self.is_chunked { b"0\r\n\r\n" } else { b"" });
                }
                Poll::Pending => is_empty = true,
            }
        }
        let sent = match scratch.is_empty() {
            true => 0,
            false => match Pin::new(&mut self.io).poll_write(context, scratch) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            },
        };
        let is_sent = sent == scratch.len();
        if !is_sent {
            self.unsent = Bytes::copy_from_slice(&scratch[sent..]);
            self.tell_unsent();
        }
        scratch.shrink_to(SCRATCH + LARGE);
        Ok(is_empty && is_sent)
    }

    fn append(&self, scratch: &mut Vec<u8>, frame: &[u8]) -> io::Result<()> {
        match self.is_chunked {
            // an empty chunk would be the last one
            true if frame.is_empty() => {}
            true => {
                write!(scratch, "{:x}\r\n", frame.len())?;
                scratch.extend_from_slice(frame);
                scratch.extend_from_slice(b"\r\n");
            }
            false => scratch.extend_from_slice(frame),
        }
        Ok(())
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Future for StreamConnection<Io> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.poll_gone(context).is_ready() {
            return Poll::Ready(());
        }
        this.poll_send(context).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::{Duration, Instant};

    use actix_http::body::BodySize;
    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::clock::Clock;
    use crate::sessions::{QueueLimits, QueueMetrics};
    use crate::telemetry::Metrics;
    use crate::wire::Framing;

    struct Body(Rc<SendQueue>);

    impl MessageBody for Body {
        type Error = Infallible;

        fn size(&self) -> BodySize {
            BodySize::Stream
        }

        fn poll_next(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Bytes, Infallible>>> {
            self.0.poll_next(context).map(|frame| frame.map(Ok))
        }
    }

    #[tokio::test]
    async fn a_reader_that_stops_has_stalled_though_nothing_waits_in_its_queue() {
        let metrics = QueueMetrics::new(&Metrics::default(), Clock::system());
        let limits = QueueLimits { bytes: 10_000, items: 10 };
        let queue = Rc::new(SendQueue::new(Framing::SSE_OBJECT, limits, Rc::new(metrics)));
        let (io, mut reader) = tokio::io::duplex(100);
        let (head, body) = (Bytes::from_static(b"head"), BoxBody::new(Body(queue.clone())));
        let mut stream = StreamConnection::new(io, head, body, false, Some(queue.clone()));
        let in_a_minute = Instant::now() + Duration::from_secs(60);
        let stalled = || queue.stalled_for(in_a_minute) > Duration::from_secs(50);
        assert!((&mut stream).now_or_never().is_none() && !stalled());
        queue.push_control(Bytes::from(vec![b'a'; 500]));
        assert!((&mut stream).now_or_never().is_none() && stalled());
        for _ in 0..5 {
            reader.read_exact(&mut [0; 100]).await.unwrap();
            assert!((&mut stream).now_or_never().is_none());
        }
        reader.read_exact(&mut [0; 4]).await.unwrap();
        assert!(!stalled());
    }
}
