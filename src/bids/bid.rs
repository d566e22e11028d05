use serde::{Deserialize, Serialize};

use crate::domain::{Refusal, RefusalKind, Timestamp};

/// Where a bid is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Made, not yet open for proposals.
    Draft,
    /// Proposals come, change and go.
    Open,
    /// No more changes; somebody may be awarded.
    Closed,
    /// A proposal has won.
    Awarded,
    /// Called off.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Status; 5] =
        [Status::Draft, Status::Open, Status::Closed, Status::Awarded, Status::Cancelled];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Draft => "draft",
            Status::Open => "open",
            Status::Closed => "closed",
            Status::Awarded => "awarded",
            Status::Cancelled => "cancelled",
        }
    }

    /// The status of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|own| own.as_str() == text)
    }

    /// Whether a bid may go from here to there: draft → open → closed → awarded; cancelled from any but awarded.
    pub const fn may_become(self, next: Status) -> bool {
        matches!(
            (self, next),
            (Status::Draft, Status::Open)
                | (Status::Open, Status::Closed)
                | (Status::Closed, Status::Awarded)
                | (Status::Draft | Status::Open | Status::Closed, Status::Cancelled)
        )
    }

    /// Whether nothing becomes of it any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Status::Awarded | Status::Cancelled)
    }

    /// Refuses a move that the life of a bid does not know.
    pub fn require(self, next: Status) -> Result<(), Refusal> {
        match self.may_become(next) {
            true => Ok(()),
            false => Err(Refusal::new(
                RefusalKind::Conflict,
                "illegal_transition",
                format!("the bid is {}, and cannot become {}", self.as_str(), next.as_str()),
            )),
        }
    }
}

/// A bid is extended when the best proposal changes shortly before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AntiSniping {
    /// How long before the end, µs.
    pub window_us: i64,
    /// By how much, µs.
    pub extend_us: i64,
}

impl AntiSniping {
    /// The new end, when the best proposal has changed `now`.
    pub fn extended(self, closes_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let is_late = closes_at.micros() - now.micros() <= self.window_us;
        is_late.then(|| Timestamp::from_micros(closes_at.micros().saturating_add(self.extend_us)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bid_goes_through_its_life_in_order_and_is_called_off_before_it_is_awarded() {
        let legal = [
            "draft open",
            "open closed",
            "closed awarded",
            "draft cancelled",
            "open cancelled",
            "closed cancelled",
        ];
        for from in Status::ALL {
            for to in Status::ALL {
                let step = format!("{} {}", from.as_str(), to.as_str());
                assert_eq!(from.may_become(to), legal.contains(&step.as_str()), "{step}");
                let refusal = from.require(to).err();
                assert!(refusal.is_none_or(|own| own.detail.contains(from.as_str())), "{step}");
            }
        }
    }

    #[test]
    fn a_change_of_the_best_within_the_window_extends_the_end() {
        let own = AntiSniping { window_us: 60, extend_us: 120 };
        let at = Timestamp::from_micros;
        assert_eq!(own.extended(at(1000), at(939)), None);
        assert_eq!(own.extended(at(1000), at(940)), Some(at(1120)));
        assert_eq!(own.extended(at(1000), at(999)), Some(at(1120)));
    }
}
