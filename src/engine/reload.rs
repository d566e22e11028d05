use super::tls::Certificate;
use crate::http::Services;
use crate::limits::Rules;
use crate::settings::Settings;

/// Puts in force what may change while serving; whatever of it cannot be read stays as it was.
pub(super) fn reload(services: &Services, certificate: Option<&Certificate>, settings: &Settings) {
    services.gate.limiter.set_rules(Rules::of(settings));
    if let Err(problem) = services.blocks.read_file(&settings.limits.block_list_file) {
        tracing::error!(problem, "the block list's file could not be reread; nothing of it changed");
    }
    if let Some(Err(problem)) = certificate.map(|certificate| certificate.reload(settings)) {
        tracing::error!(problem, "the certificate could not be reread; the former one stays");
    }
}
