//! A WebSocket connection (RFC 6455): one small future that owns the socket.
//!
//! Outward it drains the connection's [`Frames`], several frames with one write. Inward it decodes one
//! message at a time and hands it to an [`Inbox`]; the next one is read when that has been dealt with and most
//! of the queue has been sent, so that a client that asks and does not read is held up by its own socket.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_codec::{AsyncRead, AsyncWrite, Decoder, ReadBuf};
use actix_http::ws::{Codec, Frame, Item, ProtocolError};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use tokio::time::Sleep;

use super::Frames;
use super::assembly::{Assembly, Bad, Message, text};
use super::scratch::{LARGE, READ, SCRATCH, WRITE};
use crate::wire::{CloseCode, websocket};

/// How long the other side may take to answer a Close, or to take the last frames.
const GOODBYE: Duration = Duration::from_millis(2500);

/// Who takes the messages of a connection.
pub trait Inbox {
    /// Takes one; the next one comes when the future, if there is one, is done.
    fn receive(&mut self, message: Message) -> Option<LocalBoxFuture<'static, ()>>;

    /// The client broke the protocol: it has been told, and nothing more comes.
    fn failed(&mut self, code: CloseCode);
}

/// Limits of what comes in.
#[derive(Clone, Copy, Debug)]
pub struct WsLimits {
    /// Largest message, and largest frame, bytes.
    pub message_bytes: usize,
    /// A message that was begun must be complete within this time.
    pub message_time: Duration,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Both sides talk.
    Open,
    /// Our Close has been sent: the other side's is waited for.
    Closing,
    /// Both have said Close: what is left is sent, then the end.
    Ending,
    /// The other side broke the protocol: it is told, and given time to see it before the socket goes.
    Failing,
}

/// One connection.
pub struct WsConnection<Io, I> {
    io: Io,
    codec: Codec,
    read: BytesMut,
    assembly: Option<Box<Assembly>>,
    frames: Frames,
    inbox: I,
    busy: Option<LocalBoxFuture<'static, ()>>,
    unsent: Bytes,
    phase: Phase,
    timer: Option<Pin<Box<Sleep>>>,
    limits: WsLimits,
}

impl<Io: AsyncRead + AsyncWrite + Unpin, I: Inbox + Unpin> WsConnection<Io, I> {
    /// A connection whose handshake has been answered; `read` is what came right behind it.
    pub fn new(io: Io, read: BytesMut, frames: Frames, inbox: I, limits: WsLimits) -> Self {
        WsConnection {
            io,
            codec: Codec::new().max_size(limits.message_bytes),
            // an empty view keeps the whole buffer alive
            read: if read.is_empty() { BytesMut::new() } else { read },
            assembly: None,
            frames,
            inbox,
            busy: None,
            unsent: Bytes::new(),
            phase: Phase::Open,
            timer: None,
            limits,
        }
    }

    /// Sends what waits; ready when nothing more will come, or the socket is broken.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            while !self.unsent.is_empty() {
                let sent = ready!(Pin::new(&mut self.io).poll_write(context, &self.unsent))?;
                if sent == 0 {
                    return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                self.unsent.advance(sent);
                self.frames.queue().set_unsent(self.unsent.len());
            }
            // an empty view would keep the last frame alive
            self.unsent = Bytes::new();
            let is_over = WRITE.with_borrow_mut(|scratch| self.fill(scratch, context))?;
            if self.unsent.is_empty() {
                ready!(Pin::new(&mut self.io).poll_flush(context))?;
                return if is_over { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
        }
    }

    /// Takes frames from the queue and writes them, what the kernel does not take is kept; true at the end.
    fn fill(&mut self, scratch: &mut Vec<u8>, context: &mut Context<'_>) -> std::io::Result<bool> {
        loop {
            scratch.clear();
            let mut large = Bytes::new();
            let (mut is_empty, mut is_over) = (false, false);
            while large.is_empty() && scratch.len() < SCRATCH && !is_empty && !is_over {
                match self.frames.poll_next(context) {
                    Poll::Ready(Some(frame)) if frame.len() > LARGE => large = frame,
                    Poll::Ready(Some(frame)) => scratch.extend_from_slice(&frame),
                    Poll::Ready(None) => is_over = true,
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
            if sent < scratch.len() || !large.is_empty() {
                self.unsent = match (&scratch[sent..], large) {
                    ([], large) => large,
                    (rest, large) => [rest, &large].concat().into(),
                };
                self.frames.queue().set_unsent(self.unsent.len());
                return Ok(false);
            }
            if is_empty || is_over {
                return Ok(is_over);
            }
        }
    }

    /// Reads and hands over; ready when the other side is gone.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(busy) = &mut self.busy {
                ready!(busy.as_mut().poll(context));
                self.busy = None;
            }
            match self.phase {
                Phase::Open => ready!(self.frames.queue().poll_drained(context, 0)),
                Phase::Closing => {}
                Phase::Ending | Phase::Failing => self.read = BytesMut::new(),
            }
            match self.decode() {
                Ok(Some(frame)) => {
                    if let Err(code) = self.take(frame) {
                        self.fail(code);
                    }
                }
                Ok(None) => match self.poll_read(context) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {
                        self.watch_partial();
                        return Poll::Pending;
                    }
                },
                Err(code) => self.fail(code),
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, CloseCode> {
        // the codec would wait for all of a frame before it refuses its length
        if announced(&self.read).is_some_and(|length| length > self.limits.message_bytes as u64) {
            return Err(CloseCode::TooLarge);
        }
        let frame = self.codec.decode(&mut self.read).map_err(|error| match error {
            ProtocolError::Overflow => CloseCode::TooLarge,
            _ => CloseCode::BadFrame,
        })?;
        if self.read.is_empty() {
            // an empty view keeps the whole buffer alive
            self.read = BytesMut::new();
        }
        Ok(frame)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        READ.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            match buffer.filled() {
                [] => Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into())),
                bytes => {
                    self.read.extend_from_slice(bytes);
                    Poll::Ready(Ok(()))
                }
            }
        })
    }

    fn take(&mut self, frame: Frame) -> Result<(), CloseCode> {
        if self.phase != Phase::Open {
            if let Frame::Close(_) = frame {
                self.phase = Phase::Ending;
            }
            return Ok(());
        }
        let limit = self.limits.message_bytes;
        match frame {
            Frame::Ping(payload) => self.frames.queue().push_control(websocket::pong_frame(&payload)),
            Frame::Pong(_) => {}
            Frame::Close(reason) => {
                let code = reason.map_or(0, |reason| reason.code.into());
                self.frames.queue().end(websocket::close_frame(code, ""));
                self.phase = Phase::Ending;
            }
            Frame::Text(bytes) => self.hand_over(text(&bytes)?),
            Frame::Binary(bytes) => self.hand_over(Message::Binary(bytes)),
            Frame::Continuation(Item::FirstText(first)) => {
                self.assembly = Some(Box::new(Assembly::begin(true, &first, limit)?));
            }
            Frame::Continuation(Item::FirstBinary(first)) => {
                self.assembly = Some(Box::new(Assembly::begin(false, &first, limit)?));
            }
            Frame::Continuation(Item::Continue(fragment)) => {
                self.assembly.as_mut().ok_or(CloseCode::BadFrame)?.push(&fragment)?;
            }
            Frame::Continuation(Item::Last(fragment)) => {
                let mut assembly = self.assembly.take().ok_or(CloseCode::BadFrame)?;
                assembly.push(&fragment)?;
                self.hand_over(assembly.finish()?);
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, message: Message) {
        self.timer = None;
        self.busy = self.inbox.receive(message);
    }

    /// A message that has begun may not stay incomplete for ever.
    fn watch_partial(&mut self) {
        let is_partial = !self.read.is_empty() || self.assembly.is_some();
        if self.phase == Phase::Open && is_partial && self.timer.is_none() {
            self.timer = Some(Box::pin(tokio::time::sleep(self.limits.message_time)));
        }
    }

    fn fail(&mut self, code: CloseCode) {
        // what came before is still answered
        self.frames.queue().finish_with(code);
        self.inbox.failed(code);
        self.assembly = None;
        self.busy = None;
        self.end_by(Phase::Failing);
    }

    fn end_by(&mut self, phase: Phase) {
        self.phase = phase;
        self.timer = Some(Box::pin(tokio::time::sleep(GOODBYE)));
    }

    /// Ready when the connection is over after its time ran out.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(context));
        self.timer = None;
        let is_partial = !self.read.is_empty() || self.assembly.is_some();
        match self.phase {
            Phase::Open if is_partial => self.fail(CloseCode::Protocol),
            Phase::Open => return Poll::Pending,
            Phase::Closing | Phase::Ending | Phase::Failing => return Poll::Ready(()),
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin, I: Inbox + Unpin> Future for WsConnection<Io, I> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.poll_receive(context).is_ready() || this.frames.queue().has_left() {
            return Poll::Ready(());
        }
        if let Poll::Ready(sent) = this.poll_send(context) {
            if sent.is_err() {
                return Poll::Ready(());
            }
            match this.phase {
                Phase::Open => this.end_by(Phase::Closing),
                Phase::Closing => {}
                Phase::Ending => return Pin::new(&mut this.io).poll_shutdown(context).map(drop),
                // what it still sends is read and thrown away: a reset would overtake our Close
                Phase::Failing => drop(Pin::new(&mut this.io).poll_shutdown(context)),
            }
        }
        this.poll_timer(context)
    }
}

impl From<Bad> for CloseCode {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::TooLarge => CloseCode::TooLarge,
            Bad::InvalidText => CloseCode::InvalidText,
        }
    }
}

/// The length of the frame at the beginning of `bytes`, as soon as that can be told (RFC 6455 §5.2).
fn announced(bytes: &[u8]) -> Option<u64> {
    match (bytes.get(1)? & 0x7f, bytes) {
        (126, [_, _, length @ ..]) => Some(u16::from_be_bytes(length.first_chunk().copied()?).into()),
        (127, [_, _, length @ ..]) => Some(u64::from_be_bytes(length.first_chunk().copied()?)),
        (length, _) => Some(length.into()),
    }
}
