//! Frames of a server (RFC 6455 §5.2): whole, unmasked, and so the same for every connection.

use bytes::{BufMut, Bytes, BytesMut};

const FIN: u8 = 0x80;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A text message in one frame.
pub fn text_frame(text: &str) -> Bytes {
    frame(TEXT, &[text.as_bytes()])
}

/// A binary message in one frame.
pub fn binary_frame(bytes: &[u8]) -> Bytes {
    frame(BINARY, &[bytes])
}

/// A Ping without payload.
pub fn ping_frame() -> Bytes {
    frame(PING, &[])
}

/// The answer to a Ping: its payload, at most 125 bytes.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    frame(PONG, &[payload])
}

/// A Close with a code and a reason of at most 123 bytes; code 0 sends neither.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    match code {
        0 => frame(CLOSE, &[]),
        code => frame(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()]),
    }
}

fn frame(opcode: u8, parts: &[&[u8]]) -> Bytes {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = BytesMut::with_capacity(length + 10);
    out.put_u8(FIN | opcode);
    match length {
        0..126 => out.put_u8(length as u8),
        126..65_536 => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
    parts.iter().for_each(|part| out.put_slice(part));
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let text = "x".repeat(length);
            let frame = text_frame(&text);
            assert_eq!(frame.len(), header + length);
            assert_eq!(frame[0], 0x81);
            assert_eq!(&frame[header..], text.as_bytes());
        }
        assert_eq!(&close_frame(1000, "bye")[..], [0x88, 5, 0x03, 0xe8, b'b', b'y', b'e']);
        assert_eq!(&close_frame(0, "")[..], [0x88, 0]);
        assert_eq!(&pong_frame(b"hi")[..], [0x8a, 2, b'h', b'i']);
    }
}
