//! The tables of rights in the words of the protocol, and what of them cannot be reached yet.

/// What may be heard: a topic, services by their scopes, users by their roles (or `everybody`, `nobody`, `members`,
/// or `@sub` for one user).
pub const TOPICS: &[(&str, &str, &str)] = &[
    ("fleet:FLT-1", "subscribe", "everybody"),
    ("region:kr-49", "subscribe", "everybody"),
    ("question:Q-1", "subscribe", "everybody"),
    ("tenant", "subscribe", "everybody"),
    ("bid:BID-1", "subscribe", "everybody"),
    ("ranking:BID-1", "subscribe manage admin", "everybody"),
    ("presence:ranking:BID-1", "subscribe manage admin", "everybody"),
    ("order:ORD-1", "subscribe", "dispatcher manager admin"),
    ("order:ORD-ME", "subscribe", "dispatcher manager admin @me"),
    ("presence:order:ORD-ME", "subscribe", "dispatcher manager admin @me"),
    ("user:me", "act_as_user admin", "@me"),
    ("user:you", "act_as_user admin", "@you"),
    ("topic:open", "subscribe", "everybody"),
    ("topic:crew", "subscribe", "members"),
    ("presence:topic:open", "subscribe", "everybody"),
    ("presence:topic:crew", "subscribe", "members"),
    ("presence:fleet:FLT-1", "subscribe", "everybody"),
    ("presence:order:ORD-1", "subscribe", "dispatcher manager admin"),
    ("presence:user:me", "act_as_user admin", "@me"),
    ("presence:admin", "admin", "admin"),
    ("admin", "admin", "admin"),
    ("dashboard", "admin", "admin"),
    ("fleet:*", "admin", "nobody"),
    ("region:*", "admin", "nobody"),
    ("question:*", "admin", "nobody"),
    ("bid:*", "admin", "nobody"),
    ("ranking:B*", "admin", "nobody"),
    ("order:*", "admin", "nobody"),
    ("user:m*", "admin", "nobody"),
    ("topic:*", "admin", "nobody"),
    ("presence:*", "admin", "nobody"),
];

/// Streams of one kind of topic, each with its topic in the table.
pub const STREAMS: &[(&str, &str)] = &[
    ("GET /v2/realtime/ei-updates", "fleet:FLT-1"),
    ("GET /v2/realtime/bid-updates", "bid:FLT-1"),
    ("GET /v2/realtime/proposal-ranking-updates", "ranking:FLT-1"),
    ("GET /v2/realtime/order-updates", "order:FLT-1"),
];

/// What may be done.
pub struct Row {
    /// In words.
    pub what: &'static str,
    /// By services with any of these scopes.
    pub services: &'static str,
    /// By users with any of these roles.
    pub users: &'static str,
    /// How, over HTTP and WebSocket.
    pub operations: &'static [&'static str],
    /// On which topics, where one is named.
    pub topics: &'static [&'static str],
}

const fn row(
    what: &'static str,
    services: &'static str,
    users: &'static str,
    operations: &'static [&'static str],
) -> Row {
    Row { what, services, users, operations, topics: &["topic:open"] }
}

const PUBLISHING: &[&str] = &["POST /v2/events", "POST /v2/events/batch", "WS publish"];
const ANY_SCOPE: &str = "publish subscribe manage admin act_as_user";

/// Commands. The last row ends the node's service: it is walked last.
pub const COMMANDS: &[Row] = &[
    row(
        "EI update",
        "publish manage",
        "dispatcher manager admin",
        &["POST /v2/fleet/ei-update", "POST /v2/fleet/ei-update/batch", "WS command update_ei"],
    ),
    Row {
        topics: &["topic:open", "topic:crew"],
        ..row("publish to `topic:`", "publish", "manager admin", PUBLISHING)
    },
    Row {
        topics: &[
            "tenant",
            "fleet:F",
            "region:R",
            "question:Q",
            "bid:B",
            "ranking:B",
            "order:O",
            "user:me",
            "presence:topic:open",
            "admin",
            "dashboard",
        ],
        ..row("publish to `tenant` and others", "publish", "nobody", PUBLISHING)
    },
    row(
        "declare topics and their members",
        "manage",
        "manager admin",
        &[
            "PUT /v2/topics/{name}",
            "GET /v2/topics/{name}",
            "POST /v2/topics/{name}/members",
            "DELETE /v2/topics/{name}/members",
        ],
    ),
    row(
        "keys, kicks, connections, jobs",
        "admin",
        "admin",
        &[
            "DELETE /v2/admin/keys/{key_id}",
            "POST /v2/admin/kick",
            "GET /v2/admin/connections",
            "GET /v2/admin/jobs",
            "DELETE /v2/admin/jobs",
            "POST /v2/admin/jobs/{id}/retry",
        ],
    ),
    row(
        "block list, node figures",
        "operator",
        "nobody",
        &[
            "POST /v2/admin/blocklist",
            "GET /v2/admin/blocklist",
            "DELETE /v2/admin/blocklist",
            "GET /metrics",
        ],
    ),
    row("order create", "manage", "shipper manager admin", &["POST /v2/orders", "WS command create_order"]),
    row(
        "order status",
        "publish manage",
        "dispatcher manager admin",
        &["POST /v2/orders/{id}/status", "WS command set_order_status"],
    ),
    row("reading an order", "subscribe", "dispatcher manager admin", &["GET /v2/orders/{id}"]),
    row("reading the orders one may read", "subscribe manage admin", "everybody", &["GET /v2/orders"]),
    row("tickets", "subscribe act_as_user admin", "everybody", &["POST /v2/realtime/tickets"]),
    row("one's own tickets", ANY_SCOPE, "everybody", &["DELETE /v2/realtime/tickets/{ticket_id}"]),
    row("what was shown", ANY_SCOPE, "everybody", &["POST /v2/realtime/ack", "WS ack"]),
    row(
        "reading fleets",
        "subscribe manage admin",
        "everybody",
        &["GET /v2/fleets", "GET /v2/fleets/{id}", "GET /v2/fleets/{id}/history"],
    ),
    row("bid create", "manage", "shipper manager admin", &["POST /v2/bids", "WS command create_bid"]),
    row(
        "bid open, close, cancel, award; the owner too",
        "manage",
        "manager admin",
        &[
            "POST /v2/bids/{id}/open",
            "POST /v2/bids/{id}/close",
            "POST /v2/bids/{id}/cancel",
            "POST /v2/bids/{id}/award",
            "WS command open_bid",
            "WS command close_bid",
            "WS command cancel_bid",
            "WS command award_bid",
        ],
    ),
    row(
        "proposals",
        "manage",
        "carrier",
        &[
            "POST /v2/bids/{id}/proposals",
            "PUT /v2/bids/{id}/proposals/{proposal_id}",
            "DELETE /v2/bids/{id}/proposals/{proposal_id}",
            "WS command submit_proposal",
            "WS command revise_proposal",
            "WS command withdraw_proposal",
        ],
    ),
    row(
        "reading bids",
        "subscribe manage admin",
        "everybody",
        &["GET /v2/bids", "GET /v2/bids/{id}", "GET /v2/bids/{id}/ranking"],
    ),
    row(
        "accounts, snapshots, one's own stream: the user for itself",
        "nobody",
        "everybody",
        &[
            "POST /accounts",
            "PATCH /accounts/{id}",
            "GET /accounts",
            "GET /snapshots",
            "GET /events/sse",
            "GET /api/events/sse",
            "WS command create_account",
            "WS command update_account",
        ],
    ),
    row("who is connected", "manage admin", "manager admin", &["GET /events/status"]),
    row("figures of a dashboard", "subscribe", "admin", &["GET /v2/realtime/metrics"]),
    row("drain", "operator", "nobody", &["POST /v2/admin/drain"]),
];

/// What the topics are walked over.
pub const LISTENING: &[&str] = &["GET /v2/realtime/stream", "GET /v2/realtime/poll"];

/// Rows, or parts of some, that cannot be reached yet, by the operations and WebSocket requests that will reach
/// them: as soon as one of those exists, its row belongs into the tables above.
pub const NOT_YET: &[(&str, &[&str])] = &[
    (
        "questions, answers, location, receipts, typing: the user for itself",
        &[
            "POST /v2/questions",
            "POST /v2/questions/x/answers",
            "POST /v2/questions/x/read",
            "GET /v2/questions/x/messages",
            "POST /v2/answers/x/accept",
            "GET /v2/profile",
            "PUT /v2/profile",
            "POST /v2/location",
            "WS command create_question",
            "WS command create_answer",
            "WS command accept_answer",
            "WS command update_location",
            "WS command message_read",
            "WS command typing_start",
        ],
    ),
    (
        "schedules, emergency calls, swaps",
        &["POST /api/schedules", "POST /api/swaps", "POST /api/swaps/x/approve", "POST /api/emergency-calls"],
    ),
    ("who is present", &["WS presence"]),
    ("the transports of the replaced systems", &["GET /api/sse", "GET /socket.io/"]),
];
