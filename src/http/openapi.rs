use actix_web::{App, HttpResponse, get};
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_actix_web::AppExt;
use utoipa_actix_web::service_config::ServiceConfig;

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
    super::poll::routes(config);
    super::tickets::routes(config);
    super::acks::routes(config);
    super::events::routes(config);
    super::fleets::routes(config);
    super::topics::routes(config);
    super::keys::routes(config);
    super::block_list::routes(config);
    super::admin::routes(config);
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
    document
}

/// This document.
#[utoipa::path(tag = "operation", responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
#[get("/openapi.json")]
async fn openapi_document() -> HttpResponse {
    HttpResponse::Ok().json(document())
}
