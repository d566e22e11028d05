use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Terms;
use crate::domain::{Decimal, Refusal};
use crate::wire::number;

/// Weights are millionths and sum to this.
const WHOLE: i64 = 1_000_000;
/// Digits of a score after the point.
const DIGITS: u32 = 12;

/// What a proposal is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// What it costs.
    Price,
    /// Carbon emission intensity, gCO2e per tonne-km.
    Ei,
    /// Hours until it is there.
    LeadTimeHours,
    /// How its carrier is rated.
    Rating,
}

impl Field {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Field::Price => "price",
            Field::Ei => "ei",
            Field::LeadTimeHours => "lead_time_hours",
            Field::Rating => "rating",
        }
    }

    fn of(self, terms: &Terms) -> Option<Decimal> {
        match self {
            Field::Price => Some(terms.price),
            Field::Ei => Some(terms.ei),
            Field::LeadTimeHours => Some(terms.lead_time_hours),
            Field::Rating => terms.rating,
        }
    }
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Lower ones.
    Asc,
    /// Higher ones.
    Desc,
}

/// One term of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Criterion {
    field: Field,
    weight: Decimal,
    direction: Direction,
    reference: Decimal,
}

/// How the proposals of a bid are compared: one to four criteria whose weights sum to 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criteria(Vec<Criterion>);

/// A criterion as it is written.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WrittenCriterion {
    /// `price`, `ei`, `lead_time_hours` or `rating`.
    #[schema(value_type = String)]
    field: Field,
    /// Above 0; those of all criteria sum to 1.
    #[schema(value_type = f64)]
    weight: Box<RawValue>,
    /// `asc`: lower is better; `desc`: higher is better.
    #[schema(value_type = String)]
    direction: Direction,
    /// What a value is measured against, above 0.
    #[schema(value_type = f64)]
    reference: Box<RawValue>,
}

/// What a proposal is ranked by, in units of 10⁻¹²: lower is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Score(i128);

impl Criteria {
    /// Checks what somebody has written.
    pub fn check(written: Vec<WrittenCriterion>) -> Result<Self, Refusal> {
        let mut own: Vec<Criterion> = Vec::with_capacity(written.len());
        for (at, one) in written.into_iter().enumerate() {
            let decimal = |name: &str, raw: &RawValue| {
                let field = format!("criteria[{at}].{name}");
                let value = Decimal::parse(raw.get()).map_err(|error| Refusal::invalid(&field, error))?;
                match value.millionths() > 0 {
                    true => Ok(value),
                    false => Err(Refusal::invalid(&field, "must be above 0")),
                }
            };
            if own.iter().any(|other| other.field == one.field) {
                return Err(Refusal::invalid(&format!("criteria[{at}].field"), "is there twice"));
            }
            own.push(Criterion {
                field: one.field,
                weight: decimal("weight", &one.weight)?,
                direction: one.direction,
                reference: decimal("reference", &one.reference)?,
            });
        }
        match own.iter().map(|one| i128::from(one.weight.millionths())).sum::<i128>() == i128::from(WHOLE) {
            true => Ok(Criteria(own)),
            false => Err(Refusal::invalid("criteria", "must have weights that sum to 1")),
        }
    }

    /// As it is stored, and shown.
    pub fn written(&self) -> Vec<WrittenCriterion> {
        let write = |one: &Criterion| WrittenCriterion {
            field: one.field,
            weight: number(one.weight),
            direction: one.direction,
            reference: number(one.reference),
        };
        self.0.iter().map(write).collect()
    }

    /// The score of these terms: the sum of weight × value/reference (reference/value where higher is better), each
    /// term rounded half-even to 12 digits after the point. The error is the field that cannot be measured.
    pub fn score(&self, terms: &Terms) -> Result<Score, Field> {
        let mut sum = 0;
        for one in &self.0 {
            let value = one.field.of(terms).ok_or(one.field)?;
            let (over, under) = match one.direction {
                Direction::Asc => (value, one.reference),
                Direction::Desc => (one.reference, value),
            };
            if under.millionths() == 0 {
                return Err(one.field);
            }
            // weight is millionths, the scales of value and reference cancel out; at most 10⁶ · 10¹⁸ · 10⁶
            let over = i128::from(one.weight.millionths()) * i128::from(over.millionths()) * 1_000_000;
            sum += half_even(over, i128::from(under.millionths()));
        }
        Ok(Score(sum))
    }
}

/// `over / under`, neither negative, rounded to the nearest whole number, halves to the even one.
fn half_even(over: i128, under: i128) -> i128 {
    let (whole, rest) = (over / under, over % under);
    match (rest * 2).cmp(&under) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Equal => whole + whole % 2,
        std::cmp::Ordering::Greater => whole + 1,
    }
}

impl fmt::Display for Score {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = 10_i128.pow(DIGITS);
        let (whole, fraction) = (self.0 / unit, self.0 % unit);
        if fraction == 0 {
            return write!(out, "{whole}");
        }
        let fraction = format!("{fraction:012}");
        write!(out, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    fn criteria(text: &str) -> Result<Criteria, Refusal> {
        Criteria::check(serde_json::from_str(text).unwrap())
    }

    fn terms(price: &str, ei: &str, rating: Option<&str>) -> Terms {
        Terms {
            price: decimal(price),
            ei: decimal(ei),
            lead_time_hours: decimal("24"),
            rating: rating.map(decimal),
        }
    }

    #[test]
    fn a_score_is_the_sum_of_rounded_terms() {
        let own = criteria(
            r#"[{"field":"price","weight":0.6,"direction":"asc","reference":3},
                {"field":"rating","weight":0.4,"direction":"desc","reference":5}]"#,
        )
        .unwrap();
        // 0.6 · 100/3 = 20, 0.4 · 5/3 = 0.666666666666|6…
        assert_eq!(own.score(&terms("100", "1", Some("3"))).unwrap().to_string(), "20.666666666667");
        assert_eq!(own.score(&terms("0", "1", Some("5"))).unwrap().to_string(), "0.4");
        assert_eq!(own.score(&terms("1", "1", None)), Err(Field::Rating));
        assert_eq!(
            own.score(&terms("1", "1", Some("0"))),
            Err(Field::Rating),
            "nothing can be divided by it"
        );
        assert_eq!(criteria(&serde_json::to_string(&own.written()).unwrap()), Ok(own));
    }

    #[test]
    fn halves_go_to_the_even_neighbour() {
        for (over, under, rounded) in
            [(1, 2, 0), (3, 2, 2), (5, 2, 2), (7, 2, 4), (9, 4, 2), (11, 4, 3), (6, 3, 2)]
        {
            assert_eq!(half_even(over, under), rounded, "{over}/{under}");
        }
    }

    #[test]
    fn the_largest_values_do_not_overflow() {
        let own =
            criteria(r#"[{"field":"price","weight":1,"direction":"asc","reference":0.000001}]"#).unwrap();
        let score = own.score(&terms("999999999999.999999", "0", None)).unwrap();
        assert_eq!(score.to_string(), "999999999999999999");
    }

    #[test]
    fn criteria_that_make_no_sense_are_refused_by_the_field() {
        let one = |field: &str, weight: &str, reference: &str| {
            format!(r#"{{"field":"{field}","weight":{weight},"direction":"asc","reference":{reference}}}"#)
        };
        for (items, field) in [
            (vec![], "criteria"),
            (vec![one("price", "0.5", "1")], "criteria"),
            (vec![one("price", "0.5", "1"), one("ei", "0.500001", "1")], "criteria"),
            (vec![one("price", "0.5", "1"), one("price", "0.5", "1")], "criteria[1].field"),
            (vec![one("price", "1", "0")], "criteria[0].reference"),
            (vec![one("price", "1", "-1")], "criteria[0].reference"),
            (vec![one("price", "0", "1"), one("ei", "1", "1")], "criteria[0].weight"),
            (vec![one("price", "1.0000001", "1")], "criteria[0].weight"),
            (vec![one("price", "\"1\"", "1")], "criteria[0].weight"),
        ] {
            let refusal = criteria(&format!("[{}]", items.join(","))).unwrap_err();
            assert_eq!(refusal.fields[0].0, field, "{items:?}: {refusal}");
        }
    }

    proptest! {
        /// Whatever comes or goes beside them: of two proposals the one that is no worse in anything scores no worse.
        #[test]
        fn what_is_no_worse_in_anything_scores_no_worse(
            (p, q, e, f) in (0i64..1 << 40, 0i64..1 << 20, 0i64..1 << 40, 0i64..1 << 20),
            (weight, reference) in (1i64..1_000_000, 1i64..1 << 40),
        ) {
            let make = |field, weight, reference| Criterion {
                field,
                weight: Decimal::from_millionths(weight),
                direction: Direction::Asc,
                reference: Decimal::from_millionths(reference),
            };
            let own = Criteria(vec![
                make(Field::Price, weight, reference),
                make(Field::Ei, WHOLE - weight, 1_000_000),
            ]);
            let terms = |price, ei| Terms {
                price: Decimal::from_millionths(price),
                ei: Decimal::from_millionths(ei),
                lead_time_hours: Decimal::from_millionths(0),
                rating: None,
            };
            prop_assert!(own.score(&terms(p, e)).unwrap() <= own.score(&terms(p + q, e + f)).unwrap());
        }

        #[test]
        fn rounding_is_off_by_a_half_at_most(over in 0i128..1 << 100, under in 1i128..1 << 60) {
            let rounded = half_even(over, under);
            let off = (rounded * under - over).abs() * 2;
            prop_assert!(off < under || (off == under && rounded % 2 == 0));
        }
    }
}
