use actix::Message;

/// "Are you there?" An actor that answers has an event loop that turns.
#[derive(Clone, Copy, Debug)]
pub struct Probe;

impl Message for Probe {
    type Result = ();
}
