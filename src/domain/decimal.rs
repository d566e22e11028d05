use std::fmt;

/// An exact decimal: at most 12 digits before and 6 after the point, held as millionths.
///
/// It is read from a number's text, never through binary floating point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(i64);

/// Why a text is not a [`Decimal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not a JSON number (RFC 8259 §6).
    #[error("must be a JSON number")]
    NotANumber,
    /// More than 12 digits before or 6 after the point.
    #[error("must have at most 12 digits before and 6 after the point")]
    OutOfRange,
}

const SCALE: u32 = 6;
const MAX_MILLIONTHS: u128 = 999_999_999_999_999_999;

impl Decimal {
    /// A value from its millionths, as stored.
    pub const fn from_millionths(value: i64) -> Self {
        Decimal(value)
    }

    /// The value in millionths, as stored.
    pub const fn millionths(self) -> i64 {
        self.0
    }

    /// Whether the value is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Reads a JSON number's text, exponent included.
    pub fn parse(text: &str) -> Result<Self, DecimalError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return Err(DecimalError::NotANumber),
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if whole.is_empty() || leading_zero || !digits_only(whole) || !digits_only(fraction) {
            return Err(DecimalError::NotANumber);
        }
        let millionths = scale(whole, fraction, exponent)?;
        Ok(Decimal(if negative { -millionths } else { millionths }))
    }
}

fn parse_exponent(text: &str) -> Result<i32, DecimalError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DecimalError::NotANumber);
    }
    text.parse().map_err(|_| DecimalError::OutOfRange)
}

/// `whole.fraction × 10^exponent` in millionths, exact or out of range.
fn scale(whole: &str, fraction: &str, exponent: i32) -> Result<i64, DecimalError> {
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Ok(0);
    }
    let trimmed = significant.trim_end_matches('0');
    let dropped = (significant.len() - trimmed.len()) as i64;
    let shift = i64::from(exponent) - fraction.len() as i64 + dropped + i64::from(SCALE);
    if !(0..=18).contains(&shift) || trimmed.len() > 18 {
        return Err(DecimalError::OutOfRange);
    }
    let value: u128 = trimmed.parse().map_err(|_| DecimalError::OutOfRange)?;
    let millionths = value * 10_u128.pow(shift as u32);
    if millionths > MAX_MILLIONTHS {
        return Err(DecimalError::OutOfRange);
    }
    Ok(millionths as i64)
}

impl fmt::Display for Decimal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10_u64.pow(SCALE);
        let magnitude = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (magnitude / unit, magnitude % unit);
        if fraction == 0 {
            return write!(out, "{sign}{whole}");
        }
        let fraction = format!("{fraction:06}");
        write!(out, "{sign}{whole}.{}", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_decimal_keeps_what_its_text_says() {
        for (text, shown) in [
            ("0", "0"),
            ("-0", "0"),
            ("72.5", "72.5"),
            ("0.000001", "0.000001"),
            ("999999999999.999999", "999999999999.999999"),
            ("1.5e3", "1500"),
            ("15E-1", "1.5"),
            ("2.50000000", "2.5"),
            ("-3.25", "-3.25"),
        ] {
            assert_eq!(Decimal::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_decimal_refuses_what_it_cannot_hold_exactly() {
        for text in ["0.0000001", "1000000000000", "1e12", "1e-7", "1e999999999999"] {
            assert_eq!(Decimal::parse(text), Err(DecimalError::OutOfRange), "{text}");
        }
        for text in ["", "-", "NaN", "Infinity", "1.", ".5", "01", "+1", "1e", "0x1", "1 ", "\"1\""] {
            assert_eq!(Decimal::parse(text), Err(DecimalError::NotANumber), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(millionths in -999_999_999_999_999_999i64..=999_999_999_999_999_999) {
            let value = Decimal::from_millionths(millionths);
            prop_assert_eq!(Decimal::parse(&value.to_string()), Ok(value));
        }
    }
}
