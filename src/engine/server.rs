use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_codec::Framed;
use actix_http::body::BoxBody;
use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Request, Response, ServiceConfig, h1};
use actix_rt::net::TcpStream;
use actix_server::{Server, ServerHandle};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config,
};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_tls::accept::{TlsError, max_concurrent_tls_connect};
use actix_web::dev::AppConfig;
use actix_web::middleware::from_fn;
use actix_web::{App, web};
use futures_util::future::LocalBoxFuture;
use socket2::{Domain, SockRef, Socket, Type};
use utoipa_actix_web::AppExt;

use super::StartError;
use super::client_io::{ClientIo, StallGuard};
use super::front::Front;
use super::tls::Certificate;
use crate::http::{self, Services};
use crate::log::PageLimit;
use crate::rooms::{Registry, RegistryOptions, RoomRegistryActor, Rooms};
use crate::sessions::{QueueLimits, QueueMetrics, SessionContext};
use crate::settings::resolve;
use crate::telemetry::Metrics;

/// Unflushed bytes above which actix-http no longer asks a body for more; small, so that a burst leaves no
/// large buffer behind with each connection.
const WRITE_BUFFER: usize = 7000;
/// The kernel's buffer per connection: what a reader that stopped can keep from its sweep.
const SEND_BUFFER: usize = 64 * 1024;

/// Events of one read of a replay.
const PAGE_EVENTS: usize = 256;

/// Sockets being served.
pub(super) struct Serving {
    /// Where.
    pub address: SocketAddr,
    /// Where the open metrics are, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Ends them.
    pub handles: Vec<ServerHandle>,
}

/// Binds and serves; must run inside the engine's actix system.
pub(super) fn start(
    services: &Services,
    certificate: Option<&Arc<Certificate>>,
) -> Result<Serving, StartError> {
    let options = &services.settings.server;
    let listener = listen(&options.bind, options.backlog)?;
    let address = local(&listener)?;
    let workers = match options.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        own => own,
    };
    let own = services.clone();
    let failed = |error: std::io::Error| StartError::Listen {
        address: address.to_string(),
        problem: error.to_string(),
    };
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(options.max_connections_per_worker)
        .disable_signals()
        .shutdown_timeout(2);
    let server = match certificate {
        None => builder.listen("bongsu", listener, move || connections(&own, address)),
        Some(certificate) => {
            // stalled handshakes must not keep others from beginning theirs
            max_concurrent_tls_connect(options.max_connections_per_worker);
            let mut acceptor = Acceptor::new(certificate.config()?);
            acceptor.set_handshake_timeout(Duration::from_millis(options.tls_handshake_timeout_ms));
            builder.listen("bongsu", listener, move || {
                let metrics = own.metrics.clone();
                acceptor
                    .clone()
                    .map_err(TlsError::into_service_error)
                    .and_then(connections::<TlsStream<TcpStream>>(&own, address).map_err(TlsError::Service))
                    .map_err(move |error| count_failure(&metrics, error))
            })
        }
    };
    let server = server.map_err(failed)?.run();
    let mut handles = vec![server.handle()];
    actix_rt::spawn(server);
    let metrics_address = metrics(services, &mut handles)?;
    Ok(Serving { address, metrics_address, handles })
}

/// Counts handshakes that came to nothing.
fn count_failure<Tls, Http>(metrics: &Metrics, error: TlsError<Tls, Http>) -> TlsError<Tls, Http> {
    match error {
        TlsError::Timeout => metrics.limits().handshake_failed("timeout"),
        TlsError::Tls(_) => metrics.limits().handshake_failed("refused"),
        TlsError::Service(_) => {}
    }
    error
}

fn listen(bind: &str, backlog: u32) -> Result<TcpListener, StartError> {
    let failed = |problem: String| StartError::Listen { address: bind.to_owned(), problem };
    let address = resolve(bind).map_err(|error| failed(error.to_string()))?;
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Ok(socket.into())
    };
    open().map_err(|error| failed(error.to_string()))
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::Runtime(error.to_string()))
}

/// What serves the connections of one worker thread, with a room registry of its own.
fn connections<Io: ClientIo>(
    services: &Services,
    address: SocketAddr,
) -> impl ServiceFactory<
    Io,
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
    Service: Service<Io, Future: 'static>,
> + use<Io> {
    let worker = worker(services);
    let app = app(services.clone(), worker.clone()).into_factory();
    let app = Rc::new(map_config(app, |()| AppConfig::default()));
    let http = Rc::new(http_service(services, worker, address));
    let server = &services.settings.server;
    let stall = Duration::from_millis(server.stall_timeout_ms);
    let patience = Duration::from_millis(server.request_head_timeout_ms);
    let keep_alive = Duration::from_millis(server.keep_alive_ms);
    let config = ServiceConfig::default();
    fn_factory(move || {
        let (http, app, config) = (http.new_service(()), app.new_service(()), config.clone());
        async move {
            let front = Rc::new(Front { http: http.await?, app: app.await?, config, patience, keep_alive });
            Ok(fn_service(move |io: Io| {
                prepare(io.tcp(), stall);
                front.clone().serve(StallGuard::new(io, stall))
            }))
        }
    })
}

/// HTTP as actix does it: many requests on a connection, and the way out to WebSocket.
#[expect(clippy::type_complexity, reason = "the one place that spells out what actix-http asks of its parts")]
fn http_service<Io: ClientIo>(
    services: &Services,
    worker: Rc<http::WorkerContext>,
    address: SocketAddr,
) -> HttpService<
    StallGuard<Io>,
    impl ServiceFactory<
        Request,
        Config = (),
        Response: Into<Response<BoxBody>> + 'static,
        Error: Into<Response<BoxBody>> + 'static,
        InitError: std::fmt::Debug,
        Future: 'static,
        Service: Service<Request, Future: 'static>,
    > + use<Io>,
    BoxBody,
    h1::ExpectHandler,
    impl ServiceFactory<
        (Request, Framed<StallGuard<Io>, h1::Codec>),
        Config = (),
        Response = (),
        Error: std::fmt::Display + Into<Response<BoxBody>>,
        InitError: std::fmt::Debug,
        Future: 'static,
    > + use<Io>,
> {
    let options = &services.settings.server;
    let services = services.clone();
    let app = app(services.clone(), worker.clone())
        .into_factory()
        .map_err(|error: actix_web::Error| error.error_response());
    HttpService::build()
        .keep_alive(KeepAlive::Timeout(Duration::from_millis(options.keep_alive_ms)))
        .client_request_timeout(Duration::from_millis(options.request_head_timeout_ms))
        // values up to 500 ms can hang a socket for ever, longer ones linger
        .client_disconnect_timeout(Duration::ZERO)
        // otherwise a stream outlives the client that closed its half of it
        .h1_allow_half_closed(false)
        .h1_write_buffer_size(WRITE_BUFFER)
        .local_addr(address)
        .on_connect_ext(|io: &StallGuard<Io>, connection| {
            io.exchange().into_iter().for_each(|exchange| drop(connection.insert(exchange)));
        })
        .upgrade(fn_service(move |request| upgrade(services.clone(), worker.clone(), request)))
        .finish(map_config(app, |()| AppConfig::default()))
}

/// What the kernel is told of each accepted connection: a peer that acknowledges nothing is gone.
fn prepare(stream: &TcpStream, stall: Duration) {
    let socket = SockRef::from(stream);
    let told = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_send_buffer_size(SEND_BUFFER))
        .and_then(|()| socket.set_tcp_user_timeout(Some(stall)));
    if let Err(error) = told {
        tracing::debug!(%error, "a connection's socket options could not be set");
    }
}

fn app(
    services: Services,
    worker: Rc<http::WorkerContext>,
) -> App<
    impl actix_service::ServiceFactory<
        actix_web::dev::ServiceRequest,
        Config = (),
        Response = actix_web::dev::ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    >,
> {
    let cors = http::cors(&services.settings.cors.allowed_origins);
    App::new()
        .app_data(web::Data::new(services))
        .app_data(worker)
        .into_utoipa_app()
        .configure(http::routes)
        .into_app()
        .wrap(cors)
        .wrap(from_fn(http::record))
}

/// The worker thread's registry actor and what its sessions share.
fn worker(services: &Services) -> Rc<http::WorkerContext> {
    let (settings, clock) = (&services.settings, services.log.clock());
    let sweep = Duration::from_millis(settings.sessions.sweep_ms);
    let stall = Duration::from_millis(settings.server.stall_timeout_ms);
    let options = RegistryOptions {
        heartbeat: Duration::from_millis(settings.sessions.heartbeat_ms),
        user_heartbeat: Duration::from_millis(settings.sessions.user_heartbeat_ms),
        sweep,
        // the last sweep before the connection's guard ends it: the sweep says why
        stall: stall.saturating_sub(sweep).max(stall / 2),
        max_age: Duration::from_secs(settings.sessions.max_age_s),
        retry_spread: Duration::from_millis(settings.drain.retry_spread_ms),
    };
    let metrics = services.metrics.clone();
    let build = move || Registry::new(options, clock, metrics.clone());
    let (rooms, mail): (Rooms, _) = RoomRegistryActor::start_here(build, sweep, services.metrics.clone());
    services.workers.add(mail);
    let sessions = SessionContext {
        log: services.log.clone(),
        revocations: services.revocations.clone(),
        capabilities: Rc::new(http::SessionCapabilities(services.clone())),
        blocks: services.blocks.clone(),
        rooms,
        metrics: services.metrics.clone(),
        mailboxes: services.metrics.mailboxes("session"),
        page: PageLimit { events: PAGE_EVENTS, bytes: settings.sessions.queue_bytes },
        ready_timeout: Duration::from_millis(settings.sessions.ready_timeout_ms),
        stall,
        max_topics: settings.sessions.max_topics,
    };
    Rc::new(http::WorkerContext {
        sessions: Rc::new(sessions),
        queues: Rc::new(QueueMetrics::new(&services.metrics, clock)),
        limits: QueueLimits { bytes: settings.sessions.queue_bytes, items: settings.sessions.queue_items },
    })
}

/// What becomes of a request with `Upgrade: websocket`.
///
/// Boxed: inline, it would widen every connection's future. The WebSocket itself runs in a task of its own, so
/// that nothing of the HTTP connection stays beside it.
fn upgrade<Io: ClientIo>(
    services: Services,
    worker: Rc<http::WorkerContext>,
    (request, mut framed): (Request, Framed<StallGuard<Io>, h1::Codec>),
) -> LocalBoxFuture<'static, Result<(), actix_http::Error>> {
    framed.io_mut().expect_no_requests();
    Box::pin(async move {
        if let Some(connection) = http::websocket(services, worker, request, framed).await {
            actix_rt::spawn(connection);
        }
        Ok(())
    })
}

/// `/metrics` on a port of its own.
fn metrics(services: &Services, handles: &mut Vec<ServerHandle>) -> Result<Option<SocketAddr>, StartError> {
    let bind = &services.settings.metrics.bind;
    if bind.is_empty() {
        return Ok(None);
    }
    let listener = listen(bind, 64)?;
    let address = local(&listener)?;
    let own = services.clone();
    let server = actix_web::HttpServer::new(move || {
        App::new().app_data(web::Data::new(own.clone())).route("/metrics", web::get().to(http::open_metrics))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)
    .map_err(|error| StartError::Listen { address: bind.clone(), problem: error.to_string() })?
    .run();
    handles.push(server.handle());
    actix_rt::spawn(server);
    Ok(Some(address))
}
