use crate::domain::{Decimal, EntityId, Timestamp};

/// Grades from best to worst.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[expect(missing_docs, reason = "the letters are the grades")]
pub enum Grade {
    A,
    B,
    C,
    D,
    E,
}

impl Grade {
    const ALL: [Grade; 5] = [Grade::A, Grade::B, Grade::C, Grade::D, Grade::E];

    /// The letter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Grade::A => "A",
            Grade::B => "B",
            Grade::C => "C",
            Grade::D => "D",
            Grade::E => "E",
        }
    }

    /// Reads the letter.
    pub fn parse(text: &str) -> Option<Self> {
        Grade::ALL.into_iter().find(|grade| grade.as_str() == text)
    }
}

/// Upper bounds of the grades A to D, rising; above the last it is E.
#[derive(Clone, Copy, Debug)]
pub struct GradeBounds(pub [Decimal; 4]);

impl GradeBounds {
    /// The grade of an intensity; a bound belongs to the better grade.
    pub fn grade(&self, ei: Decimal) -> Grade {
        let worse = self.0.iter().filter(|bound| ei > **bound).count();
        Grade::ALL[worse]
    }
}

/// A reading that somebody reports.
#[derive(Clone, Debug)]
pub struct NewReading {
    /// Whose.
    pub fleet_id: EntityId,
    /// gCO2e per tonne-km, not negative.
    pub ei: Decimal,
    /// The grade, unless it follows from the bounds.
    pub grade: Option<Grade>,
    /// When it was measured; the time of receipt when not said.
    pub measured_at: Option<Timestamp>,
}

/// A fleet's state before a reading.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    /// Its intensity.
    pub ei: Decimal,
    /// When that was measured.
    pub measured_at: Timestamp,
    /// Its version.
    pub version: i64,
}

/// What a reading does to a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It becomes the fleet's state.
    Accept {
        /// The intensity before; none on the first reading.
        old_ei: Option<Decimal>,
        /// The grade.
        grade: Grade,
        /// When it was measured.
        measured_at: Timestamp,
        /// The fleet's new version.
        version: i64,
    },
    /// It was measured before the one stored: nothing changes, nobody hears of it.
    Stale {
        /// When the stored one was measured.
        stored_at: Timestamp,
    },
}

/// Decides on a reading; `now` is the time of receipt.
pub fn decide(
    before: Option<Before>,
    reading: &NewReading,
    bounds: &GradeBounds,
    now: Timestamp,
) -> Decision {
    if let (Some(before), Some(measured_at)) = (before, reading.measured_at)
        && measured_at < before.measured_at
    {
        return Decision::Stale { stored_at: before.measured_at };
    }
    Decision::Accept {
        old_ei: before.map(|before| before.ei),
        grade: reading.grade.unwrap_or_else(|| bounds.grade(reading.ei)),
        measured_at: reading.measured_at.unwrap_or(now),
        version: before.map_or(1, |before| before.version + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ei(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    fn bounds() -> GradeBounds {
        GradeBounds(["50", "80", "110", "150"].map(ei))
    }

    fn reading(measured_at: Option<i64>) -> NewReading {
        NewReading {
            fleet_id: EntityId::parse("FLT-A01").unwrap(),
            ei: ei("72.5"),
            grade: None,
            measured_at: measured_at.map(Timestamp::from_micros),
        }
    }

    #[test]
    fn grades_follow_their_bounds() {
        for (value, grade) in
            [("0", Grade::A), ("50", Grade::A), ("50.000001", Grade::B), ("110", Grade::C), ("151", Grade::E)]
        {
            assert_eq!(bounds().grade(ei(value)), grade, "{value}");
        }
    }

    #[test]
    fn only_a_reading_measured_earlier_is_stale() {
        let before = Some(Before { ei: ei("80"), measured_at: Timestamp::from_micros(100), version: 4 });
        let now = Timestamp::from_micros(500);
        let decided = |reading: &NewReading| decide(before, reading, &bounds(), now);
        assert_eq!(decided(&reading(Some(99))), Decision::Stale { stored_at: Timestamp::from_micros(100) });
        for measured in [Some(100), Some(900), None] {
            let Decision::Accept { old_ei, version, measured_at, .. } = decided(&reading(measured)) else {
                panic!("{measured:?} is not stale");
            };
            assert_eq!((old_ei, version), (Some(ei("80")), 5));
            assert_eq!(measured_at, Timestamp::from_micros(measured.unwrap_or(500)));
        }
    }

    #[test]
    fn the_first_reading_has_no_predecessor() {
        let decision = decide(None, &reading(None), &bounds(), Timestamp::from_micros(1));
        assert!(matches!(decision, Decision::Accept { old_ei: None, version: 1, grade: Grade::B, .. }));
    }
}
