//! Finds the bench events in a byte stream without parsing HTTP or SSE.
//!
//! Every bench event carries `"t_us":` and a number of fixed width exactly once, near the end of
//! its frame, so that finding it means that the frame has (nearly) all arrived. Chunk framing
//! between frames is skipped like any other byte.

const MARKER: &[u8; 7] = b"\"t_us\":";
const DIGITS: usize = 13;
const STAMP: usize = MARKER.len() + DIGITS;

/// Added to every time stamp: a JSON number must not begin with zeros, and with this it still has
/// the same width for the first 9·10¹² µs.
pub(super) const STAMP_BASE_US: u64 = 1_000_000_000_000;

/// The longest tail that one read can leave for the next, in bytes.
pub(super) const CARRY_MAX: usize = STAMP - 1;

/// How far the search may jump when the window ends in a given byte (Boyer–Moore–Horspool).
const SKIP: [u8; 256] = {
    let mut skip = [MARKER.len() as u8; 256];
    let mut at = 0;
    while at + 1 < MARKER.len() {
        skip[MARKER[at] as usize] = (MARKER.len() - 1 - at) as u8;
        at += 1;
    }
    skip
};

/// The end of the previous read, in case a stamp began there.
#[derive(Default)]
pub(super) struct Carry {
    len: u8,
    bytes: [u8; CARRY_MAX],
}

/// Counts the stamps that became complete with the `fresh` bytes that were read to
/// `scratch[CARRY_MAX..]`; the room before them takes the carried bytes, so that a stamp split
/// between two reads lies in one piece. `on_stamp` gets each stamp's time in µs.
pub(super) fn scan(
    carry: &mut Carry,
    scratch: &mut [u8],
    fresh: usize,
    mut on_stamp: impl FnMut(u64),
) -> u32 {
    let begin = CARRY_MAX - usize::from(carry.len);
    scratch[begin..CARRY_MAX].copy_from_slice(&carry.bytes[..usize::from(carry.len)]);
    let hay = &scratch[begin..CARRY_MAX + fresh];
    let (mut at, mut found) = (0, 0);
    let tail = loop {
        match find(&hay[at..]) {
            Some(offset) if at + offset + STAMP <= hay.len() => {
                let digits = &hay[at + offset + MARKER.len()..at + offset + STAMP];
                if let Some(stamp) = parse(digits) {
                    on_stamp(stamp);
                }
                found += 1;
                at += offset + STAMP;
            }
            Some(offset) => break at + offset,
            None => break at.max(hay.len().saturating_sub(MARKER.len() - 1)),
        }
    };
    let rest = &hay[tail..];
    carry.len = rest.len() as u8;
    carry.bytes[..rest.len()].copy_from_slice(rest);
    found
}

fn find(hay: &[u8]) -> Option<usize> {
    let mut end = MARKER.len();
    while end <= hay.len() {
        let last = hay[end - 1];
        if last == b':' && &hay[end - MARKER.len()..end] == MARKER {
            return Some(end - MARKER.len());
        }
        end += usize::from(SKIP[usize::from(last)]);
    }
    None
}

fn parse(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    text.parse::<u64>().ok()?.checked_sub(STAMP_BASE_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = b": hi\n\n".to_vec();
        for n in 0..3u64 {
            let frame = format!(
                "event: tick\nid: 0-{n}\ndata: {{\"t_\":\"t_us\",\"data\":{{\"n\":{n},\"t_us\":{},\"pad\":\"xx\"}}}}\n\n",
                STAMP_BASE_US + 7 * n
            );
            bytes.extend_from_slice(format!("{:x}\r\n{frame}\r\n", frame.len()).as_bytes());
        }
        bytes
    }

    fn feed(pieces: &[&[u8]]) -> (u32, Vec<u64>) {
        let mut scratch = vec![0; CARRY_MAX + 4096];
        let (mut carry, mut found, mut stamps) = (Carry::default(), 0, Vec::new());
        for piece in pieces {
            scratch[CARRY_MAX..CARRY_MAX + piece.len()].copy_from_slice(piece);
            found += scan(&mut carry, &mut scratch, piece.len(), |stamp| stamps.push(stamp));
        }
        (found, stamps)
    }

    #[test]
    fn frames_split_at_every_pair_of_offsets_are_counted_once() {
        let bytes = stream();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(feed(&pieces), (3, vec![0, 7, 14]), "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn pieces_of_every_size_are_counted_once() {
        let bytes = stream();
        for size in 1..=bytes.len() {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(feed(&pieces), (3, vec![0, 7, 14]), "pieces of {size}");
        }
    }

    #[test]
    fn a_stamp_that_is_no_number_counts_without_a_time() {
        assert_eq!(feed(&[b"\"t_us\":null,\"pad\":\"xxxxxxxx\"}"]), (1, Vec::new()));
    }

    #[test]
    fn a_carry_stays_small() {
        assert!(size_of::<Carry>() <= 64);
    }
}
