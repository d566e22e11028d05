use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use actix_codec::{AsyncRead, Decoder, Encoder, ReadBuf};
use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::DispatchError;
use actix_http::{ConnectionType, Protocol, Request, Response, ServiceConfig, Version, h1};
use actix_service::Service;
use actix_web::dev::ServiceResponse;
use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::client_io::{ClientIo, StallGuard};
use crate::http;
use crate::sessions::{SendQueue, StreamConnection};

/// What is read of a connection before it is decided who serves it.
const FIRST_READ: usize = 4096;

/// What serves the connections of one worker thread.
pub(super) struct Front<Http, App> {
    /// Serves connections.
    pub http: Http,
    /// Serves requests.
    pub app: App,
    /// How heads are read and written.
    pub config: ServiceConfig,
    /// A client says something within this time.
    pub patience: Duration,
    /// A connection is kept for a next request for this time.
    pub keep_alive: Duration,
}

impl<Http, App> Front<Http, App>
where
    App: Service<Request, Response = ServiceResponse<BoxBody>, Error = actix_web::Error>,
{
    /// Serves a connection to its end.
    ///
    /// An event stream that is its connection's first request is taken over by a [`StreamConnection`]: in
    /// the HTTP service, which is made for many requests, it would cost four times the memory and a third
    /// more work per event. Everything else, such as a stream on a connection that was used before, the
    /// HTTP service does.
    pub async fn serve<Io>(self: Rc<Self>, mut io: StallGuard<Io>) -> Result<(), DispatchError>
    where
        Io: ClientIo,
        Http: Service<
                (StallGuard<Io>, Protocol, Option<SocketAddr>),
                Response = (),
                Error = DispatchError,
                Future: 'static,
            >,
    {
        let peer = io.tcp().peer_addr().ok();
        let Ok(first) = timeout(self.patience, read(&mut io)).await else {
            return Ok(());
        };
        if first.is_empty() {
            return Ok(());
        }
        match self.stream_request(&first, peer) {
            Some((request, codec)) => {
                drop(first);
                // boxed, as it is over before the stream begins
                if let Some(Stream { head, body, is_chunked, queue }) =
                    Box::pin(self.answer(request, codec)).await
                {
                    StreamConnection::new(io, head, body, is_chunked, queue).await;
                }
                Ok(())
            }
            None => {
                io.put_back(first);
                io.expect_requests(Rc::default(), self.patience + self.keep_alive, self.patience);
                let served: Pin<Box<dyn Future<Output = _>>> =
                    Box::pin(self.http.call((io, Protocol::Http1, peer)));
                served.await
            }
        }
    }

    /// The request for an event stream that these bytes begin with, if they hold the whole of one; what
    /// comes behind it is never answered, as the stream ends the connection.
    fn stream_request(&self, bytes: &[u8], peer: Option<SocketAddr>) -> Option<(Request, h1::Codec)> {
        let path = bytes.strip_prefix(b"GET ")?;
        if !http::STREAMS.iter().any(|stream| path.starts_with(stream.as_bytes())) {
            return None;
        }
        let mut codec = h1::Codec::new(self.config.clone());
        let mut rest = BytesMut::from(bytes);
        let Ok(Some(h1::Message::Item(mut request))) = codec.decode(&mut rest) else {
            return None;
        };
        let is_plain =
            codec.message_type() == h1::MessageType::None && !request.head().headers().contains_key("expect");
        if !is_plain || !http::STREAMS.contains(&request.path()) {
            return None;
        }
        request.head_mut().peer_addr = peer;
        Some((request, codec))
    }

    /// The app's answer.
    async fn answer(&self, request: Request, mut codec: h1::Codec) -> Option<Stream> {
        let may_chunk = request.version() >= Version::HTTP_11;
        let response = self.app.call(request).await;
        let (mut response, body) = response.map_or_else(Response::from, Response::from).into_parts();
        response.head_mut().set_connection_type(ConnectionType::Close);
        response.head_mut().no_chunking(!may_chunk);
        let is_chunked = may_chunk && body.size() == BodySize::Stream;
        let queue = response.extensions_mut().remove::<Rc<SendQueue>>();
        let mut head = BytesMut::new();
        codec.encode(h1::Message::Item((response, body.size())), &mut head).ok()?;
        Some(Stream { head: head.freeze(), body, is_chunked, queue })
    }
}

/// An answer that lasts as long as its connection.
struct Stream {
    /// Encoded.
    head: Bytes,
    body: BoxBody,
    is_chunked: bool,
    /// Where the body's frames come from.
    queue: Option<Rc<SendQueue>>,
}

/// What comes first; nothing when the client goes without a word.
async fn read(io: &mut (impl AsyncRead + Unpin)) -> Bytes {
    let mut bytes = vec![0; FIRST_READ];
    let read = poll_fn(|context| {
        let mut buffer = ReadBuf::new(&mut bytes);
        Pin::new(&mut *io).poll_read(context, &mut buffer).map_ok(|()| buffer.filled().len())
    });
    let length = read.await.unwrap_or(0);
    bytes.truncate(length);
    bytes.into()
}
