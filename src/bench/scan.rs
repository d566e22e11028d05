//! Finds the bench events in a byte stream without parsing HTTP or SSE.
//!
//! Every bench event carries a member and a number of fixed width exactly once, so that finding it
//! means that its frame has (nearly) all arrived. Chunk framing between frames is skipped like any
//! other byte.

const NAME: usize = 9;
const DIGITS: usize = 10;
const STAMP: usize = NAME + DIGITS;

/// Added to every number: one in JSON must not begin with zeros, and with this it still has the same
/// width for the first 9·10⁹.
const BASE: u64 = 1_000_000_000;

/// The longest tail that one read can leave for the next, in bytes.
pub(super) const CARRY_MAX: usize = STAMP - 1;

/// The member that holds the number of an event.
pub(super) struct Mark {
    name: &'static [u8; NAME],
    /// How far the search may jump when the window ends in a given byte (Boyer–Moore–Horspool).
    skip: [u8; 256],
}

/// Of a published event.
pub(super) static EVENT: Mark = Mark::new(b"\"number\":");
/// Of a fleet's reading: the intensity itself, which may have so many digits before the point.
pub(super) static READING: Mark = Mark::new(b"\"new_ei\":");

impl Mark {
    const fn new(name: &'static [u8; NAME]) -> Self {
        let mut skip = [NAME as u8; 256];
        let mut at = 0;
        while at + 1 < NAME {
            skip[name[at] as usize] = (NAME - 1 - at) as u8;
            at += 1;
        }
        Mark { name, skip }
    }

    fn find(&self, hay: &[u8]) -> Option<usize> {
        let mut end = NAME;
        while end <= hay.len() {
            let last = hay[end - 1];
            if last == b':' && hay[end - NAME..end] == *self.name {
                return Some(end - NAME);
            }
            end += usize::from(self.skip[usize::from(last)]);
        }
        None
    }
}

/// A number as it stands in an event.
pub(super) fn stamp(number: u64) -> u64 {
    BASE + number
}

/// The end of the previous read, in case a stamp began there.
#[derive(Default)]
pub(super) struct Carry {
    len: u8,
    bytes: [u8; CARRY_MAX],
}

/// Finds the stamps that became complete with the `fresh` bytes that were read to
/// `scratch[CARRY_MAX..]`; the room before them takes the carried bytes, so that a stamp split
/// between two reads lies in one piece. `on_stamp` gets each one's number, if it is one.
pub(super) fn scan(
    mark: &Mark,
    carry: &mut Carry,
    scratch: &mut [u8],
    fresh: usize,
    mut on_stamp: impl FnMut(Option<u64>),
) {
    let begin = CARRY_MAX - usize::from(carry.len);
    scratch[begin..CARRY_MAX].copy_from_slice(&carry.bytes[..usize::from(carry.len)]);
    let hay = &scratch[begin..CARRY_MAX + fresh];
    let mut at = 0;
    let tail = loop {
        match mark.find(&hay[at..]) {
            Some(offset) if at + offset + STAMP <= hay.len() => {
                on_stamp(parse(&hay[at + offset + NAME..at + offset + STAMP]));
                at += offset + STAMP;
            }
            Some(offset) => break at + offset,
            None => break at.max(hay.len().saturating_sub(NAME - 1)),
        }
    };
    let rest = &hay[tail..];
    carry.len = rest.len() as u8;
    carry.bytes[..rest.len()].copy_from_slice(rest);
}

fn parse(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse::<u64>().ok()?.checked_sub(BASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<u8> {
        let mut bytes = b": hi\n\n".to_vec();
        for n in 0..3u64 {
            let frame = format!(
                "event: tick\nid: 0-{n}\ndata: {{\"number_\":\"number\",\"data\":{{\"number\":{},\"pad\":\"xx\"}}}}\n\n",
                stamp(7 * n)
            );
            bytes.extend_from_slice(format!("{:x}\r\n{frame}\r\n", frame.len()).as_bytes());
        }
        bytes
    }

    fn feed(mark: &Mark, pieces: &[&[u8]]) -> Vec<Option<u64>> {
        let mut scratch = vec![0; CARRY_MAX + 4096];
        let (mut carry, mut stamps) = (Carry::default(), Vec::new());
        for piece in pieces {
            scratch[CARRY_MAX..CARRY_MAX + piece.len()].copy_from_slice(piece);
            scan(mark, &mut carry, &mut scratch, piece.len(), |stamp| stamps.push(stamp));
        }
        stamps
    }

    #[test]
    fn frames_split_at_every_pair_of_offsets_are_found_once() {
        let bytes = stream();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                let found = feed(&EVENT, &pieces);
                assert_eq!(found, [Some(0), Some(7), Some(14)], "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn pieces_of_every_size_are_found_once() {
        let bytes = stream();
        for size in 1..=bytes.len() {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(feed(&EVENT, &pieces), [Some(0), Some(7), Some(14)], "pieces of {size}");
        }
    }

    #[test]
    fn of_a_reading_the_new_intensity_is_the_number() {
        let data = format!(r#"{{"old_ei":{},"new_ei":{},"version":7}}"#, stamp(4), stamp(5));
        assert_eq!(feed(&READING, &[data.as_bytes()]), [Some(5)]);
    }

    #[test]
    fn a_stamp_that_is_no_number_is_found_without_one() {
        assert_eq!(feed(&EVENT, &[b"\"number\":null,\"pad\":\"xxxxxxxx\"}"]), [None]);
    }

    #[test]
    fn a_carry_stays_small() {
        assert!(size_of::<Carry>() <= 64);
    }
}
