use std::fmt;

/// A place in a distributed trace: W3C Trace Context (<https://www.w3.org/TR/trace-context/>).
///
/// Written as its `traceparent` header, version 00: `00-<trace id>-<span id>-<flags>`, 55 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Never 0.
    trace_id: u128,
    /// Never 0.
    span_id: u64,
    is_sampled: bool,
}

impl Trace {
    /// A trace that begins here; the ids are random.
    pub fn new(trace_id: u128, span_id: u64) -> Self {
        Trace { trace_id: trace_id.max(1), span_id: span_id.max(1), is_sampled: false }
    }

    /// Reads a `traceparent` header; None makes a new trace begin (§3.2.2.2 to §3.2.2.5, §4.2).
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |part: &str, length: usize| {
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            (part.len() == length && part.bytes().all(is_hex)).then(|| u128::from_str_radix(part, 16).ok())?
        };
        let mut parts = text.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let (trace_id, span_id) = (hex(parts.next()?, 32)?, hex(parts.next()?, 16)?);
        let flags = hex(parts.next()?, 2)?;
        // later versions may add parts
        let is_known = version < 0xff && (version > 0 || parts.next().is_none());
        let span_id = u64::try_from(span_id).ok()?;
        let is_valid = is_known && trace_id != 0 && span_id != 0;
        is_valid.then_some(Trace { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }

    /// The work that this place has given to another, which goes by `span_id`.
    pub fn child(&self, span_id: u64) -> Self {
        Trace { span_id: span_id.max(1), ..*self }
    }

    /// The trace, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> impl fmt::Display + fmt::Debug + use<> {
        Hex::<32>(self.trace_id)
    }

    /// The place in it, as 16 hexadecimal digits.
    pub fn span_id(&self) -> impl fmt::Display + fmt::Debug + use<> {
        Hex::<16>(self.span_id.into())
    }
}

#[derive(Debug)]
struct Hex<const DIGITS: usize>(u128);

impl<const DIGITS: usize> fmt::Display for Hex<DIGITS> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:0DIGITS$x}", self.0)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(out, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// The request that something comes from: by it an event is followed to its deliveries.
///
/// Written as `<traceparent> <request id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The request's name: 1–64 of `[A-Za-z0-9-_.]`; of a WebSocket's request also `/` and its number.
    pub request_id: Box<str>,
    /// Its place in its caller's trace, or in its own.
    pub trace: Trace,
}

impl Origin {
    /// Reads what [`Display`](fmt::Display) has written.
    pub fn parse(text: &str) -> Option<Self> {
        let (trace, request_id) = text.split_once(' ')?;
        Some(Origin { request_id: request_id.into(), trace: Trace::parse(trace)? })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.trace, self.request_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_says() {
        let read = Trace::parse(EXAMPLE).expect("its own example");
        assert_eq!(read.to_string(), EXAMPLE);
        assert_eq!(read.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(read.span_id().to_string(), "00f067aa0ba902b7");
        let child = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01";
        assert_eq!(read.child(7).to_string(), child);
        // of a later version what is known is read, and what else it holds left aside
        for later in [
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-else",
            &EXAMPLE.replace("00-4", "01-4"),
        ] {
            assert_eq!(Trace::parse(later), Some(read), "{later}");
        }
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        ] {
            assert_eq!(Trace::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(trace_id in any::<u128>(), span_id in any::<u64>(), name in "[A-Za-z0-9_.-]{1,64}") {
            let origin = Origin { request_id: name.into(), trace: Trace::new(trace_id, span_id) };
            prop_assert_eq!(Origin::parse(&origin.to_string()), Some(origin));
        }

        #[test]
        fn nothing_else_is_written_again_as_it_came(text in "[0-9a-f-]{0,60}|.{0,60}") {
            if let Some(read) = Trace::parse(&text) {
                prop_assert_eq!(&read.to_string()[3..52], &text[3..52]);
            }
        }
    }
}
