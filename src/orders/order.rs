use crate::domain::Timestamp;

/// Where an order stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is there.
    Created,
    /// A carrier has taken it on.
    Assigned,
    /// The carrier has the cargo.
    PickedUp,
    /// The cargo is on its way.
    InTransit,
    /// It has arrived: nothing comes after that.
    Delivered,
    /// It will not be carried out: nothing comes after that.
    Cancelled,
    /// Something stands in the way; the flow goes on where it was left, or later.
    Exception,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 7] = [
        Status::Created,
        Status::Assigned,
        Status::PickedUp,
        Status::InTransit,
        Status::Delivered,
        Status::Cancelled,
        Status::Exception,
    ];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Assigned => "assigned",
            Status::PickedUp => "picked_up",
            Status::InTransit => "in_transit",
            Status::Delivered => "delivered",
            Status::Cancelled => "cancelled",
            Status::Exception => "exception",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        Status::ALL.into_iter().find(|own| own.as_str() == text)
    }

    /// Its place in the flow, for those that have one.
    const fn step(self) -> Option<u8> {
        match self {
            Status::Created => Some(0),
            Status::Assigned => Some(1),
            Status::PickedUp => Some(2),
            Status::InTransit => Some(3),
            Status::Delivered => Some(4),
            Status::Cancelled | Status::Exception => None,
        }
    }

    /// Whether it lies before another one in the flow.
    pub fn is_before(self, other: Status) -> bool {
        self.step().zip(other.step()).is_some_and(|(own, other)| own < other)
    }
}

/// An order before a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Where it stands.
    pub status: Status,
    /// In an exception: the step that was reached before.
    pub exception_from: Option<Status>,
    /// When the newest of what was reported happened.
    pub newest: Option<Timestamp>,
}

/// What somebody reports of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where it is said to stand.
    pub status: Status,
    /// When that happened; when it is received, if that is not said.
    pub occurred_at: Option<Timestamp>,
}

/// What a report does to an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The order stands there now; it may have stood there before.
    Apply {
        /// In an exception: the step to go on from.
        exception_from: Option<Status>,
        /// When it happened.
        occurred_at: Timestamp,
    },
    /// It comes out of order, being older than what was reported before or from an earlier step: it is history.
    Keep {
        /// When it happened.
        occurred_at: Timestamp,
    },
    /// No order goes from where this one stands to there.
    Illegal,
}

/// Decides on a report that is received `now`.
///
/// ```text
/// created ─► assigned ─► picked_up ─► in_transit ─► delivered      steps may be passed over
///    any of them but the last ─► exception ─► the step it came from, or a later one
///    any of them but the last, and exception ─► cancelled
/// ```
/// What is reported again is taken for the newest word on where the order stands. Without a time of its own a report
/// is never out of order in time; a time ahead of `now`, by a clock that is wrong, counts as `now`.
pub fn decide(before: &Before, report: &Report, now: Timestamp) -> Decision {
    let newest = before.newest.unwrap_or(Timestamp::from_micros(i64::MIN));
    let occurred_at = report.occurred_at.map_or(now.max(newest), |at| at.min(now));
    if occurred_at < newest {
        return Decision::Keep { occurred_at };
    }
    let reached = before.exception_from.unwrap_or(before.status);
    let apply = |exception_from| Decision::Apply { exception_from, occurred_at };
    match (before.status, report.status) {
        (_, new) if new.is_before(reached) => Decision::Keep { occurred_at },
        (Status::Delivered | Status::Cancelled, _) => Decision::Illegal,
        (_, Status::Exception) => apply(Some(reached)),
        (_, _) => apply(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn order(status: Status) -> Before {
        Before { status, exception_from: None, newest: Some(at(100)) }
    }

    /// What becomes of an order by a report of this moment.
    fn told(before: Before, status: Status) -> Result<Before, Decision> {
        let decision = decide(&before, &Report { status, occurred_at: Some(at(200)) }, at(200));
        match decision {
            Decision::Apply { exception_from, occurred_at } => {
                Ok(Before { status, exception_from, newest: Some(occurred_at) })
            }
            other => Err(other),
        }
    }

    const FLOW: [Status; 5] =
        [Status::Created, Status::Assigned, Status::PickedUp, Status::InTransit, Status::Delivered];

    #[test]
    fn every_status_is_read_as_it_is_written() {
        for own in Status::ALL {
            assert_eq!(Status::parse(own.as_str()), Some(own));
            assert_eq!(serde_json::to_value(own).unwrap(), own.as_str());
        }
    }

    #[test]
    fn the_flow_goes_forward_only_and_may_pass_over_steps() {
        for (from, before) in FLOW.into_iter().enumerate() {
            for (to, after) in FLOW.into_iter().enumerate() {
                let outcome = told(order(before), after);
                match (from, to) {
                    (4, 4) => assert_eq!(outcome, Err(Decision::Illegal), "a delivery is final"),
                    _ if to >= from => assert_eq!(outcome.unwrap().status, after),
                    _ => assert_eq!(outcome, Err(Decision::Keep { occurred_at: at(200) })),
                }
            }
        }
    }

    #[test]
    fn an_order_is_cancelled_or_held_up_until_it_is_over() {
        for before in FLOW {
            for after in [Status::Cancelled, Status::Exception] {
                let expected = if before == Status::Delivered { Err(Decision::Illegal) } else { Ok(after) };
                assert_eq!(told(order(before), after).map(|own| own.status), expected, "{before:?}");
            }
        }
        for after in Status::ALL {
            assert_eq!(told(order(Status::Cancelled), after), Err(Decision::Illegal), "{after:?}");
        }
    }

    #[test]
    fn an_exception_returns_to_the_step_it_came_from_or_a_later_one() {
        let held = told(order(Status::PickedUp), Status::Exception).unwrap();
        assert_eq!(held.exception_from, Some(Status::PickedUp));
        assert_eq!(told(held, Status::Exception).unwrap().exception_from, Some(Status::PickedUp));
        for (after, is_taken) in [
            (Status::Created, false),
            (Status::Assigned, false),
            (Status::PickedUp, true),
            (Status::InTransit, true),
            (Status::Delivered, true),
            (Status::Cancelled, true),
        ] {
            let outcome = told(held, after);
            assert_eq!(outcome.map(|own| own.exception_from).ok(), is_taken.then_some(None), "{after:?}");
        }
    }

    #[test]
    fn what_happened_before_the_newest_report_is_history_whatever_it_says() {
        for before in Status::ALL {
            for status in Status::ALL {
                let late = Report { status, occurred_at: Some(at(99)) };
                let expected = Decision::Keep { occurred_at: at(99) };
                assert_eq!(decide(&order(before), &late, at(200)), expected, "{before:?} {status:?}");
            }
        }
        let first = Before { newest: None, ..order(Status::Created) };
        let old = Report { status: Status::Assigned, occurred_at: Some(at(-5)) };
        assert!(matches!(decide(&first, &old, at(200)), Decision::Apply { .. }));
    }

    #[test]
    fn a_clock_that_is_wrong_holds_nobody_up() {
        let ahead = Report { status: Status::Assigned, occurred_at: Some(at(900)) };
        let taken = Decision::Apply { exception_from: None, occurred_at: at(200) };
        assert_eq!(decide(&order(Status::Created), &ahead, at(200)), taken);
        // of nodes whose clocks differ the one behind is not out of order
        let now = Report { status: Status::Assigned, occurred_at: None };
        let taken = Decision::Apply { exception_from: None, occurred_at: at(100) };
        assert_eq!(decide(&order(Status::Created), &now, at(50)), taken);
    }

    proptest! {
        /// Whatever is reported in whatever order: no step back, and nothing after the end.
        #[test]
        fn an_order_never_goes_backwards_and_its_end_is_final(
            reports in prop::collection::vec((0usize..7, prop::option::of(0i64..40)), 0..60),
        ) {
            let mut own = Before { status: Status::Created, exception_from: None, newest: None };
            let mut now = 0;
            for (status, occurred) in reports {
                now += 1;
                let report = Report { status: Status::ALL[status], occurred_at: occurred.map(at) };
                let before = own;
                match decide(&own, &report, at(now)) {
                    Decision::Apply { exception_from, occurred_at } => {
                        own = Before { status: report.status, exception_from, newest: Some(occurred_at) };
                        prop_assert!(before.newest.is_none_or(|newest| occurred_at >= newest));
                    }
                    Decision::Keep { occurred_at } => {
                        own.newest = Some(before.newest.map_or(occurred_at, |own| own.max(occurred_at)));
                    }
                    Decision::Illegal => {}
                }
                let reached = |own: &Before| own.exception_from.unwrap_or(own.status);
                prop_assert!(!reached(&own).is_before(reached(&before)), "{before:?} {report:?}");
                prop_assert_eq!(own.exception_from.is_some(), own.status == Status::Exception);
                if matches!(before.status, Status::Delivered | Status::Cancelled) {
                    prop_assert_eq!(own.status, before.status);
                }
            }
        }
    }
}
