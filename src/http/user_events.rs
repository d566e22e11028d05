//! The streams of the clients of system 2: a user's own events, unnamed.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;

use super::Problem;
use super::auth::{authenticate, shown};
use super::problem::ProblemBody;
use super::services::services;
use super::streams::respond_own;
use crate::identity::rights::{self, Command};

/// Who is connected to this node.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamStatus {
    /// Users of the tenant with an open connection, by name.
    connected_users: Vec<String>,
    /// The tenant's open event streams.
    active_streams: usize,
    /// The node.
    server_id: String,
    /// Whether its links to Redis stand; false where there is none.
    redis_connected: bool,
}

macro_rules! user_stream {
    ($(#[$doc:meta])* $name:ident, $path:literal) => {
        $(#[$doc])*
        #[utoipa::path(
            tag = "realtime",
            params(
                ("cursor" = Option<String>, Query, description = "position to resume from; Last-Event-ID beats it"),
                ("ticket" = Option<String>, Query, description = "for clients that cannot send headers"),
            ),
            responses(
                (status = 200, description = "an event stream; `ready` and `close` are named, all else is unnamed", content_type = "text/event-stream"),
                (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
            )
        )]
        #[get($path)]
        pub async fn $name(request: HttpRequest) -> HttpResponse {
            respond_own(&request).await
        }
    };
}

user_stream!(
    /// Listen to the caller's own events, as system 2 sent them.
    sse, "/events/sse"
);
user_stream!(
    /// The same.
    sse_alias, "/api/events/sse"
);

/// Who is connected to this node, as system 2 told it.
#[utoipa::path(
    tag = "realtime",
    responses((status = 200, body = StreamStatus), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody))
)]
#[get("/events/status")]
pub async fn status(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let services = services(&request);
    let principal = authenticate(&request).await?;
    // only whom the configuration believes comes this far without credentials
    if shown(&request).has_credentials() {
        rights::require(&principal, Command::WatchStreams)?;
    }
    let open = services.workers.connections(principal.tenant()?, 0, usize::MAX).await;
    let users: BTreeSet<&str> = open.iter().filter_map(|own| own.user_id.as_deref()).collect();
    Ok(HttpResponse::Ok().json(StreamStatus {
        connected_users: users.into_iter().map(str::to_owned).collect(),
        active_streams: open.iter().filter(|own| own.transport == "sse").count(),
        server_id: services.server_id.to_string(),
        redis_connected: services.log.is_shared() && services.log.is_running(),
    }))
}

/// The routes of this file.
pub fn routes(config: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    config.service(sse).service(sse_alias).service(status);
}
