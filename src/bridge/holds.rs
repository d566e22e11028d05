use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::error::BridgeError;
use crate::domain::TenantId;

/// How long a tenant whose log refuses is left alone, and one whose log is away or on its way.
const REFUSED: Duration = Duration::from_secs(1);
const AWAY: Duration = Duration::from_millis(200);
/// A leader that has not reached some master for this long lets others try.
const UNREACHED: Duration = Duration::from_secs(10);
/// How long after it has let others try a node leads on all the same: at first, and, where that is of no use again and
/// again, at most. The master that takes nothing may be everybody's.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Tenants whose log takes nothing at present: they are left alone for a while, and the others go on.
#[derive(Debug, Default)]
pub(super) struct Holds {
    until: HashMap<TenantId, Instant>,
    /// Since when rows wait for a master to which there is no link.
    unreached: Option<Instant>,
    /// Whether another node may reach a better master.
    is_useless: bool,
    /// Until when this node leads on all the same, and how long that is the next time.
    leads_on: Option<(Instant, Duration)>,
}

impl Holds {
    /// Who is left alone at this moment.
    pub fn names(&mut self) -> Vec<String> {
        let now = Instant::now();
        self.until.retain(|_, until| *until > now);
        self.until.keys().map(|tenant| tenant.as_str().to_owned()).collect()
    }

    /// All masters are linked.
    pub fn all_reached(&mut self) {
        self.unreached = None;
    }

    /// A tenant's log took nothing; whether the others may go on at once.
    pub fn hold(&mut self, tenant: &TenantId, error: &BridgeError, is_linked: bool) -> bool {
        self.is_useless |= matches!(error, BridgeError::Superseded | BridgeError::Unwilling(_));
        let time = match error {
            BridgeError::Refused(_) | BridgeError::Unexpected(_) => {
                tracing::error!(%error, %tenant, "the log refuses what the outbox holds for it");
                REFUSED
            }
            BridgeError::Moving(_) | BridgeError::Unwilling(_) | BridgeError::Superseded => AWAY,
            _ if !is_linked || matches!(error, BridgeError::Unlinked(_)) => {
                self.unreached.get_or_insert_with(Instant::now);
                AWAY
            }
            // the database, or an answer that is late
            _ => {
                tracing::debug!(%error, %tenant, "the outbox could not be published");
                return false;
            }
        };
        tracing::debug!(%error, %tenant, "the outbox waits for the log");
        self.until.insert(tenant.clone(), Instant::now() + time);
        true
    }

    /// Whether another node had better lead, as far as is known since this was last asked.
    pub fn take_useless(&mut self) -> bool {
        let now = Instant::now();
        let is_late = self.unreached.take_if(|since| since.elapsed() >= UNREACHED).is_some();
        if !(std::mem::take(&mut self.is_useless) || is_late) {
            return false;
        }
        let (first, most) = AGAIN;
        let time = match self.leads_on {
            Some((until, _)) if now < until => return false,
            Some((until, time)) if now < until + most => (time * 2).min(most),
            _ => first,
        };
        self.leads_on = Some((now + time, time));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_is_held_holds_up_nobody_and_only_for_a_while() {
        let (mut holds, tenant) = (Holds::default(), TenantId::default_tenant());
        let away = || BridgeError::Away("gone".into());
        assert!(!holds.hold(&tenant, &away(), true), "an answer that is late may be of any of them");
        for (error, is_linked, time) in [
            (BridgeError::Refused("no".into()), true, REFUSED),
            (BridgeError::Moving("later".into()), true, AWAY),
            (away(), false, AWAY),
        ] {
            assert!(holds.hold(&tenant, &error, is_linked));
            assert_eq!(holds.names(), ["default"], "{error}");
            tokio::time::advance(time).await;
            assert!(holds.names().is_empty(), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_master_is_no_good_lets_others_lead() {
        let tenant = TenantId::default_tenant();
        for error in [BridgeError::Superseded, BridgeError::Unwilling("replica".into())] {
            let mut holds = Holds::default();
            assert!(holds.hold(&tenant, &error, true), "others go on");
            assert!(holds.take_useless() && !holds.take_useless(), "{error}");
        }
        let (mut holds, away) = (Holds::default(), BridgeError::Away("gone".into()));
        holds.hold(&tenant, &away, false);
        tokio::time::advance(UNREACHED).await;
        holds.all_reached();
        assert!(!holds.take_useless(), "it is back");
        holds.hold(&tenant, &away, false);
        assert!(!holds.take_useless());
        tokio::time::advance(UNREACHED).await;
        assert!(holds.take_useless() && !holds.take_useless());
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_node_has_a_better_master_the_lead_stays_longer_and_longer() {
        let (mut holds, tenant) = (Holds::default(), TenantId::default_tenant());
        let unwilling = BridgeError::Unwilling("no replicas".into());
        let began = Instant::now();
        let mut times = Vec::new();
        for _ in 0..300_000 / 100 {
            holds.hold(&tenant, &unwilling, true);
            times.extend(holds.take_useless().then(|| began.elapsed().as_secs()));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(times, [0, 2, 6, 14, 30, 62, 122, 182, 242]);
        // and begins anew once it was of use
        tokio::time::advance(AGAIN.1 * 2).await;
        holds.hold(&tenant, &unwilling, true);
        assert!(holds.take_useless());
        tokio::time::advance(AGAIN.0).await;
        holds.hold(&tenant, &unwilling, true);
        assert!(holds.take_useless());
    }
}
