use std::time::Duration;

/// Why a session ends; the code tells the client what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// 1000: done; another connection took its place.
    Replaced,
    /// 1001: the server cannot serve this session now.
    GoingAway,
    /// 3000: this node is draining.
    Draining,
    /// 3001: the client reads slower than its events come.
    SlowConsumer,
    /// 3002: events are missing that cannot be had any more.
    InsufficientState,
    /// 3003: the connection reached its maximum age.
    MaximumAge,
    /// 3500: the credentials are no longer valid.
    Unauthenticated,
    /// 3501: the principal may not be here.
    Forbidden,
    /// 1002: frames that no client may send.
    BadFrame,
    /// 1007: text that is not UTF-8.
    InvalidText,
    /// 1009: a message larger than `max_message_bytes`.
    TooLarge,
    /// 3502: a message that is no request.
    Protocol,
    /// 3503: too many requests or connections.
    RateLimited,
}

impl CloseCode {
    /// Every code, in numerical order.
    pub const ALL: [CloseCode; 13] = [
        CloseCode::Replaced,
        CloseCode::GoingAway,
        CloseCode::BadFrame,
        CloseCode::InvalidText,
        CloseCode::TooLarge,
        CloseCode::Draining,
        CloseCode::SlowConsumer,
        CloseCode::InsufficientState,
        CloseCode::MaximumAge,
        CloseCode::Unauthenticated,
        CloseCode::Forbidden,
        CloseCode::Protocol,
        CloseCode::RateLimited,
    ];

    /// The number on the wire (RFC 6455 §7.4 where it has one).
    pub const fn code(self) -> u16 {
        match self {
            CloseCode::Replaced => 1000,
            CloseCode::GoingAway => 1001,
            CloseCode::BadFrame => 1002,
            CloseCode::InvalidText => 1007,
            CloseCode::TooLarge => 1009,
            CloseCode::Draining => 3000,
            CloseCode::SlowConsumer => 3001,
            CloseCode::InsufficientState => 3002,
            CloseCode::MaximumAge => 3003,
            CloseCode::Unauthenticated => 3500,
            CloseCode::Forbidden => 3501,
            CloseCode::Protocol => 3502,
            CloseCode::RateLimited => 3503,
        }
    }

    /// The reason on the wire and in metrics.
    pub const fn reason(self) -> &'static str {
        match self {
            CloseCode::Replaced => "replaced",
            CloseCode::GoingAway => "going_away",
            CloseCode::BadFrame => "bad_frame",
            CloseCode::InvalidText => "invalid_utf8",
            CloseCode::TooLarge => "message_too_large",
            CloseCode::Draining => "draining",
            CloseCode::SlowConsumer => "slow_consumer",
            CloseCode::InsufficientState => "insufficient_state",
            CloseCode::MaximumAge => "maximum_age",
            CloseCode::Unauthenticated => "unauthenticated",
            CloseCode::Forbidden => "forbidden",
            CloseCode::Protocol => "protocol_error",
            CloseCode::RateLimited => "rate_limited",
        }
    }

    /// Whether the client should connect again by itself.
    pub const fn reconnect(self) -> bool {
        !matches!(
            self,
            CloseCode::Unauthenticated
                | CloseCode::Forbidden
                | CloseCode::BadFrame
                | CloseCode::InvalidText
                | CloseCode::TooLarge
                | CloseCode::Protocol
        )
    }

    /// How long the client should wait before it connects again, unless the server draws a delay of its own.
    pub const fn default_retry(self) -> Duration {
        match self {
            CloseCode::SlowConsumer | CloseCode::MaximumAge | CloseCode::InsufficientState => {
                Duration::from_millis(0)
            }
            // two pages that share a ticket must not take it from each other all the time
            CloseCode::Replaced => Duration::from_secs(600),
            _ => Duration::from_millis(1000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_final_codes_stop_a_client_from_reconnecting() {
        for code in CloseCode::ALL {
            let is_final = matches!(code.code(), 3500..=3502 | 1002 | 1007 | 1009);
            assert_eq!(code.reconnect(), !is_final, "{code:?}");
        }
    }
}
