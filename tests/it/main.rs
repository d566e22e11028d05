//! The integration tests: real servers, real sockets, real clients. A module per behaviour.

mod support;

mod architecture;
mod documentation;
mod first_light;
mod logging;
mod storage;
