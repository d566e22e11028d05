use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Criteria, Field, Score};
use crate::domain::{Decimal, Timestamp};

/// What a carrier offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What it costs.
    pub price: Decimal,
    /// Carbon emission intensity, gCO2e per tonne-km.
    pub ei: Decimal,
    /// Hours until it is there.
    pub lead_time_hours: Decimal,
    /// How the carrier is rated, if it is.
    pub rating: Option<Decimal>,
}

/// Why a proposal takes part without being ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disqualified {
    /// Its intensity is above the bid's `max_ei`.
    EiAboveMax,
    /// It says nothing about how its carrier is rated, which is a criterion.
    RatingMissing,
    /// What a criterion divides by is zero.
    PriceZero,
    /// The same of its intensity.
    EiZero,
    /// The same of its lead time.
    LeadTimeHoursZero,
    /// The same of its carrier's rating.
    RatingZero,
}

impl Disqualified {
    /// The reason as a stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Disqualified::EiAboveMax => "ei_above_max",
            Disqualified::RatingMissing => "rating_missing",
            Disqualified::PriceZero => "price_zero",
            Disqualified::EiZero => "ei_zero",
            Disqualified::LeadTimeHoursZero => "lead_time_hours_zero",
            Disqualified::RatingZero => "rating_zero",
        }
    }
}

/// Whether a proposal can win, and by what it is compared.
pub fn appraise(terms: &Terms, criteria: &Criteria, max_ei: Option<Decimal>) -> Result<Score, Disqualified> {
    if max_ei.is_some_and(|most| terms.ei > most) {
        return Err(Disqualified::EiAboveMax);
    }
    criteria.score(terms).map_err(|field| match field {
        Field::Price => Disqualified::PriceZero,
        Field::Ei => Disqualified::EiZero,
        Field::LeadTimeHours => Disqualified::LeadTimeHoursZero,
        Field::Rating if terms.rating.is_none() => Disqualified::RatingMissing,
        Field::Rating => Disqualified::RatingZero,
    })
}

/// A proposal as a bid has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Its id within the bid.
    pub id: Arc<str>,
    /// Whose it is.
    pub carrier: Arc<str>,
    /// What is offered.
    pub terms: Terms,
    /// Whether it was taken back.
    pub withdrawn: bool,
    /// The ranking's version with its last change: of equal scores the lower one comes first.
    pub version: i64,
    /// When it was submitted.
    pub submitted_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}
