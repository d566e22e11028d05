//! Bids and proposals, as they are stored.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ranking::BidRanking;
use super::{AntiSniping, Criteria, Proposal, Pseudonyms, Status, Terms};
use crate::domain::{Decimal, Timestamp, Visibility};
use crate::storage::{BidRow, ProposalRow, StoreError};

/// What is to be carried, as its owner describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// A line for people.
    pub title: String,
    /// From where: any JSON.
    pub origin: Box<RawValue>,
    /// Where to: any JSON.
    pub destination: Box<RawValue>,
    /// What: any JSON.
    pub cargo: Box<RawValue>,
}

/// A bid.
#[derive(Clone, Debug)]
pub struct Bid {
    /// Its id within the tenant.
    pub id: String,
    /// The user who created it; None: a service.
    pub owner: Option<String>,
    /// What it is about.
    pub about: About,
    /// How its proposals are compared.
    pub criteria: Criteria,
    /// Who may see them.
    pub visibility: Visibility,
    /// Proposals of a higher intensity are not ranked.
    pub max_ei: Option<Decimal>,
    /// Where it is in its life.
    pub status: Status,
    /// When it opens by itself.
    pub opens_at: Option<Timestamp>,
    /// When it closes.
    pub closes_at: Option<Timestamp>,
    /// Whether late changes extend it.
    pub anti_sniping: Option<AntiSniping>,
    /// What its pseudonyms are made with.
    pub secret: String,
    /// The proposal that has won.
    pub awarded: Option<String>,
    /// The order that this has created.
    pub order_id: Option<String>,
    /// Counts the changes of its status.
    pub version: i64,
    /// Counts the changes of its proposals.
    pub ranking_version: i64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its status last changed.
    pub updated_at: Timestamp,
}

impl Bid {
    /// Reads a row.
    pub fn read(row: BidRow) -> Result<Self, StoreError> {
        let bad = |what: &str| StoreError::Unexpected(format!("the {what} of bid {}", row.bid_id));
        let criteria = serde_json::from_str(&row.criteria).map_err(|_| bad("criteria"))?;
        let at = |us: Option<i64>| us.map(Timestamp::from_micros);
        let anti_sniping = row.snipe_window_us.zip(row.snipe_extend_us);
        Ok(Bid {
            criteria: Criteria::check(criteria).map_err(|_| bad("criteria"))?,
            about: serde_json::from_str(&row.about).map_err(|_| bad("description"))?,
            visibility: Visibility::parse(&row.visibility).ok_or_else(|| bad("visibility"))?,
            status: Status::parse(&row.status).ok_or_else(|| bad("status"))?,
            max_ei: row.max_ei.map(Decimal::from_millionths),
            opens_at: at(row.opens_us),
            closes_at: at(row.closes_us),
            anti_sniping: anti_sniping.map(|(window_us, extend_us)| AntiSniping { window_us, extend_us }),
            created_at: Timestamp::from_micros(row.created_us),
            updated_at: Timestamp::from_micros(row.updated_us),
            id: row.bid_id,
            owner: row.owner,
            secret: row.secret,
            awarded: row.awarded,
            order_id: row.order_id,
            version: row.version,
            ranking_version: row.ranking_version,
        })
    }

    /// As it is stored.
    pub fn row(&self, tenant: &str) -> BidRow {
        let us = |at: Option<Timestamp>| at.map(Timestamp::micros);
        BidRow {
            tenant: tenant.to_owned(),
            bid_id: self.id.clone(),
            owner: self.owner.clone(),
            about: serde_json::to_string(&self.about).expect("plain data"),
            criteria: serde_json::to_string(&self.criteria.written()).expect("plain data"),
            visibility: self.visibility.as_str().to_owned(),
            max_ei: self.max_ei.map(Decimal::millionths),
            status: self.status.as_str().to_owned(),
            opens_us: us(self.opens_at),
            closes_us: us(self.closes_at),
            snipe_window_us: self.anti_sniping.map(|own| own.window_us),
            snipe_extend_us: self.anti_sniping.map(|own| own.extend_us),
            secret: self.secret.clone(),
            awarded: self.awarded.clone(),
            order_id: self.order_id.clone(),
            version: self.version,
            ranking_version: self.ranking_version,
            due_us: us(self.due_at()),
            created_us: self.created_at.micros(),
            updated_us: self.updated_at.micros(),
        }
    }

    /// When it opens or closes by itself next.
    pub fn due_at(&self) -> Option<Timestamp> {
        match self.status {
            Status::Draft => self.opens_at,
            Status::Open => self.closes_at,
            Status::Closed | Status::Awarded | Status::Cancelled => None,
        }
    }
}

impl Proposal {
    /// Reads a row.
    pub fn read(row: ProposalRow) -> Self {
        Proposal {
            id: row.proposal_id.into(),
            carrier: row.carrier_id.into(),
            terms: Terms {
                price: Decimal::from_millionths(row.price),
                ei: Decimal::from_millionths(row.ei),
                lead_time_hours: Decimal::from_millionths(row.lead_time_hours),
                rating: row.rating.map(Decimal::from_millionths),
            },
            withdrawn: row.withdrawn,
            version: row.version,
            submitted_at: Timestamp::from_micros(row.submitted_us),
            updated_at: Timestamp::from_micros(row.updated_us),
        }
    }

    /// As it is stored.
    pub fn row(&self, tenant: &str, bid_id: &str) -> ProposalRow {
        ProposalRow {
            tenant: tenant.to_owned(),
            bid_id: bid_id.to_owned(),
            proposal_id: self.id.to_string(),
            carrier_id: self.carrier.to_string(),
            price: self.terms.price.millionths(),
            ei: self.terms.ei.millionths(),
            lead_time_hours: self.terms.lead_time_hours.millionths(),
            rating: self.terms.rating.map(Decimal::millionths),
            withdrawn: self.withdrawn,
            version: self.version,
            submitted_us: self.submitted_at.micros(),
            updated_us: self.updated_at.micros(),
        }
    }
}

impl BidRanking {
    /// That of a bid, without proposals yet.
    pub fn of(bid: &Bid) -> Self {
        let own = BidRanking::new(bid.criteria.clone(), bid.max_ei);
        match bid.visibility {
            Visibility::Anonymous => own.under(Pseudonyms::new(&bid.secret)),
            Visibility::Open | Visibility::Sealed => own,
        }
    }

    /// Takes in what was stored by others meanwhile, in the order of their changes.
    pub fn catch_up(&mut self, rows: Vec<ProposalRow>) {
        for row in rows {
            self.put(Proposal::read(row));
        }
    }
}
