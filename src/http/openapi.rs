use std::sync::LazyLock;

use actix_web::dev::ResourceDef;
use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, get};
use bytes::Bytes;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

/// The media type of errors (RFC 9457).
const PROBLEM: &str = "application/problem+json";

/// The document's head; paths and schemas come from the handlers themselves.
#[derive(OpenApi)]
#[openapi(
    info(title = "Bongsu", description = "Actor-model realtime engine"),
    security(("api_key" = []), ("bearer" = []))
)]
struct Head;

/// Registers every route, with its description.
pub fn routes(config: &mut ServiceConfig<'_>) {
    super::streams::routes(config);
    super::user_events::routes(config);
    super::poll::routes(config);
    super::websocket::routes(config);
    super::tickets::routes(config);
    super::acks::routes(config);
    super::events::routes(config);
    super::fleets::routes(config);
    super::bids::routes(config);
    super::proposals::routes(config);
    super::orders::routes(config);
    super::accounts::routes(config);
    super::topics::routes(config);
    super::keys::routes(config);
    super::block_list::routes(config);
    super::admin::routes(config);
    super::jobs::routes(config);
    super::health::routes(config);
    super::metrics::routes(config);
    config.service(openapi_document);
}

/// The OpenAPI 3.1 document of every route.
pub fn document() -> utoipa::openapi::OpenApi {
    let (_, mut document) =
        App::new().into_utoipa_app().openapi(Head::openapi()).configure(routes).split_for_parts();
    let components = document.components.get_or_insert_with(Default::default);
    let api_key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    components.add_security_scheme("api_key", api_key);
    components.add_security_scheme("bearer", bearer);
    document.paths.paths.values_mut().flat_map(operations).for_each(describe_refusals);
    document
}

/// Refusals that come before an operation's own.
const ANYWHERE: &[(&str, &str)] = &[
    ("403", "forbidden, or the address is blocked"),
    ("429", "over a limit: `Retry-After` says until when"),
    ("431", "the request's head is too large"),
    ("503", "the store is away: `Retry-After` says when to come again"),
];
/// Those of operations that are not for everybody.
const WITH_CREDENTIALS: &[(&str, &str)] = &[("401", "without credentials, or with some that are no good")];
/// Those of operations with a body.
const WITH_BODY: &[(&str, &str)] = &[
    ("400", "no JSON, or nested too deep"),
    ("408", "the body did not arrive in time"),
    ("413", "the body is too large"),
    ("415", "the content type is not application/json"),
    ("422", "a field is unknown or invalid"),
];

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, head, .. } = item;
    [get, put, post, delete, patch, head].into_iter().flatten()
}

/// Adds the refusals that an operation shares with others, and gives all of them the media type they have.
fn describe_refusals(operation: &mut Operation) {
    let is_open = operation.security.is_some();
    let shared = [
        ANYWHERE,
        if is_open { &[] } else { WITH_CREDENTIALS },
        if operation.request_body.is_some() { WITH_BODY } else { &[] },
    ];
    let responses = &mut operation.responses.responses;
    for (status, description) in shared.concat() {
        let problem = || {
            let content = Content::new(Some(Ref::from_schema_name("ProblemBody")));
            let response = ResponseBuilder::new().description(description);
            response.content(PROBLEM, content).build().into()
        };
        responses.entry(status.to_owned()).or_insert_with(problem);
    }
    let is_problem = |content: &RefOr<Content>| {
        let schema = serde_json::to_string(content).unwrap_or_default();
        schema.contains("/ProblemBody\"")
    };
    for (_, response) in responses.iter_mut() {
        let RefOr::T(response) = response else { continue };
        if let Some(content) = response.content.get("application/json").filter(|own| is_problem(own)).cloned()
        {
            response.content = [(PROBLEM.to_owned(), content)].into();
        }
    }
}

/// This document.
#[utoipa::path(tag = "operation", security(()), responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
#[get("/openapi.json")]
async fn openapi_document() -> HttpResponse {
    static DOCUMENT: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&document()).expect("a document is plain data").into());
    HttpResponse::Ok().content_type(ContentType::json()).body(DOCUMENT.clone())
}

/// The methods that a path can be asked by; none where there is no such path.
pub fn methods_at(path: &str) -> Vec<&'static str> {
    static ROUTES: LazyLock<Vec<(ResourceDef, Vec<&'static str>)>> = LazyLock::new(|| {
        let methods = |item: &PathItem| {
            let PathItem { get, put, post, delete, patch, head, .. } = item;
            let all = [("GET", get), ("HEAD", head), ("PUT", put), ("POST", post)];
            let all = all.into_iter().chain([("DELETE", delete), ("PATCH", patch)]);
            all.filter(|(_, own)| own.is_some()).map(|(name, _)| name).collect()
        };
        document().paths.paths.iter().map(|(path, item)| (ResourceDef::new(&**path), methods(item))).collect()
    });
    let found = ROUTES.iter().find(|(route, _)| route.is_match(path));
    found.map(|(_, methods)| methods.clone()).unwrap_or_default()
}
