use bytes::{Bytes, BytesMut};

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

/// Why fragments are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// More bytes than a message may have.
    TooLarge,
    /// Text that is not UTF-8.
    InvalidText,
}

/// A message that comes in fragments (RFC 6455 §5.4); text is refused at its first wrong byte, not at its end.
#[derive(Debug)]
pub(super) struct Assembly {
    is_text: bool,
    bytes: BytesMut,
    /// Bytes known to be UTF-8.
    valid: usize,
    limit: usize,
}

impl Assembly {
    /// From the first fragment.
    pub fn begin(is_text: bool, first: &[u8], limit: usize) -> Result<Self, Bad> {
        let mut assembly = Assembly { is_text, bytes: BytesMut::new(), valid: 0, limit };
        assembly.push(first)?;
        Ok(assembly)
    }

    /// Adds a fragment.
    pub fn push(&mut self, fragment: &[u8]) -> Result<(), Bad> {
        if self.bytes.len() + fragment.len() > self.limit {
            return Err(Bad::TooLarge);
        }
        self.bytes.extend_from_slice(fragment);
        if self.is_text
            && let Err(error) = std::str::from_utf8(&self.bytes[self.valid..])
        {
            if error.error_len().is_some() {
                return Err(Bad::InvalidText);
            }
            self.valid += error.valid_up_to();
        } else {
            self.valid = self.bytes.len();
        }
        Ok(())
    }

    /// The message, after the last fragment.
    pub fn finish(self) -> Result<Message, Bad> {
        match self.is_text {
            true => text(&self.bytes),
            false => Ok(Message::Binary(self.bytes.freeze())),
        }
    }
}

/// A message of one frame.
pub(super) fn text(bytes: &[u8]) -> Result<Message, Bad> {
    let text = std::str::from_utf8(bytes).map_err(|_| Bad::InvalidText)?;
    Ok(Message::Text(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn assemble(bytes: &[u8], cuts: &[usize], limit: usize) -> Result<Message, Bad> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut start = 0;
        let mut assembly = Assembly::begin(true, &[], limit)?;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            assembly.push(&bytes[start..cut])?;
            start = cut;
        }
        assembly.finish()
    }

    proptest! {
        #[test]
        fn fragments_are_the_text_they_were_cut_from(text in ".{0,60}", cuts in prop::collection::vec(0usize..300, 0..6)) {
            prop_assert_eq!(assemble(text.as_bytes(), &cuts, 1000), Ok(Message::Text(text)));
        }

        #[test]
        fn bytes_that_are_no_text_are_refused_however_they_are_cut(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let expected = std::str::from_utf8(&bytes).map(|text| Message::Text(text.to_owned())).map_err(|_| Bad::InvalidText);
            prop_assert_eq!(assemble(&bytes, &cuts, 1000), expected);
        }
    }

    #[test]
    fn a_wrong_byte_is_noticed_in_its_own_fragment_and_a_long_message_at_its_limit() {
        let mut assembly = Assembly::begin(true, "κόσμε".as_bytes(), 100).unwrap();
        assert_eq!(assembly.push(&[0xed]), Ok(()), "may still become a character");
        assert_eq!(assembly.push(&[0xa0, 0x80]), Err(Bad::InvalidText));
        let mut assembly = Assembly::begin(false, &[0; 60], 100).unwrap();
        assert_eq!(assembly.push(&[0; 40]), Ok(()));
        assert_eq!(assembly.push(&[0]), Err(Bad::TooLarge));
    }
}
