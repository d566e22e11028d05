//! The tables, in the subset of SQL types that SQLite and PostgreSQL share.

diesel::table! {
    security_state (id) {
        id -> BigInt,
        generation -> BigInt,
    }
}

diesel::table! {
    block_list (cidr) {
        cidr -> Text,
        reason -> Nullable<Text>,
        created_us -> BigInt,
        expires_us -> Nullable<BigInt>,
    }
}

diesel::table! {
    api_keys (key_id) {
        key_id -> Text,
        hash -> Text,
        tenant -> Text,
        scopes -> Text,
        sub -> Nullable<Text>,
        development -> Bool,
        created_us -> BigInt,
        revoked_us -> Nullable<BigInt>,
    }
}

diesel::table! {
    tickets (ticket_id) {
        ticket_id -> Text,
        hash -> Text,
        tenant -> Text,
        key_id -> Nullable<Text>,
        sub -> Nullable<Text>,
        path -> Nullable<Text>,
        topics -> Nullable<Text>,
        first_use_by_us -> BigInt,
        first_used_us -> Nullable<BigInt>,
        expires_us -> BigInt,
        roles -> Text,
        carriers -> Text,
        issued_us -> BigInt,
        revoked_generation -> Nullable<BigInt>,
    }
}

diesel::table! {
    kicks (tenant, sub) {
        tenant -> Text,
        sub -> Text,
        not_before_us -> BigInt,
        generation -> BigInt,
    }
}

diesel::table! {
    declared_topics (tenant, name) {
        tenant -> Text,
        name -> Text,
        membership -> Bool,
        created_us -> BigInt,
        generation -> BigInt,
    }
}

diesel::table! {
    topic_members (tenant, name, sub) {
        tenant -> Text,
        name -> Text,
        sub -> Text,
        since -> Nullable<Text>,
        generation -> BigInt,
    }
}

diesel::table! {
    token_secrets (id) {
        id -> BigInt,
        secret -> Text,
        created_us -> BigInt,
    }
}

diesel::table! {
    outbox (id) {
        id -> BigInt,
        tenant -> Text,
        topic -> Text,
        name -> Text,
        class -> Text,
        key -> Nullable<Text>,
        version -> Nullable<BigInt>,
        data -> Text,
        public -> Nullable<Text>,
        created_us -> BigInt,
        dead_reason -> Nullable<Text>,
        origin -> Nullable<Text>,
    }
}

diesel::table! {
    idempotency_keys (tenant, principal, key) {
        tenant -> Text,
        principal -> Text,
        key -> Text,
        request_hash -> Text,
        answer -> Text,
        expires_us -> BigInt,
    }
}

diesel::table! {
    fleets (tenant, fleet_id) {
        tenant -> Text,
        fleet_id -> Text,
        ei -> BigInt,
        grade -> Text,
        measured_us -> BigInt,
        updated_us -> BigInt,
        version -> BigInt,
    }
}

diesel::table! {
    fleet_readings (tenant, fleet_id, version) {
        tenant -> Text,
        fleet_id -> Text,
        version -> BigInt,
        ei -> BigInt,
        grade -> Text,
        measured_us -> BigInt,
    }
}

diesel::table! {
    log_commits (id) {
        id -> BigInt,
        instance -> Text,
        number -> BigInt,
        holder -> Nullable<Text>,
    }
}

diesel::table! {
    log_tenants (tenant) {
        tenant -> Text,
        epoch -> Text,
        head -> BigInt,
        trimmed -> BigInt,
        bytes -> BigInt,
        global_floor -> BigInt,
    }
}

diesel::table! {
    log_entries (tenant, seq) {
        tenant -> Text,
        seq -> BigInt,
        topic -> Text,
        name -> Text,
        class -> Text,
        key -> Nullable<Text>,
        version -> Nullable<BigInt>,
        at_us -> BigInt,
        expires_us -> Nullable<BigInt>,
        bytes -> BigInt,
        data -> Text,
        public -> Nullable<Text>,
    }
}

diesel::table! {
    log_floors (tenant, topic) {
        tenant -> Text,
        topic -> Text,
        floor -> BigInt,
        steps -> Nullable<Text>,
    }
}

diesel::table! {
    log_versions (tenant, topic, name, key) {
        tenant -> Text,
        topic -> Text,
        name -> Text,
        key -> Text,
        version -> BigInt,
        seq -> BigInt,
    }
}

diesel::table! {
    log_dedup (tenant, topic, dedup_key) {
        tenant -> Text,
        topic -> Text,
        dedup_key -> Text,
        seq -> BigInt,
        until_us -> BigInt,
    }
}

diesel::table! {
    log_answers (tenant, principal, key) {
        tenant -> Text,
        principal -> Text,
        key -> Text,
        request_hash -> Text,
        answer -> Text,
        until_us -> BigInt,
    }
}

diesel::table! {
    bids (tenant, bid_id) {
        tenant -> Text,
        bid_id -> Text,
        owner -> Nullable<Text>,
        about -> Text,
        criteria -> Text,
        visibility -> Text,
        max_ei -> Nullable<BigInt>,
        status -> Text,
        opens_us -> Nullable<BigInt>,
        closes_us -> Nullable<BigInt>,
        snipe_window_us -> Nullable<BigInt>,
        snipe_extend_us -> Nullable<BigInt>,
        secret -> Text,
        awarded -> Nullable<Text>,
        order_id -> Nullable<Text>,
        version -> BigInt,
        ranking_version -> BigInt,
        due_us -> Nullable<BigInt>,
        created_us -> BigInt,
        updated_us -> BigInt,
    }
}

diesel::table! {
    proposals (tenant, bid_id, proposal_id) {
        tenant -> Text,
        bid_id -> Text,
        proposal_id -> Text,
        carrier_id -> Text,
        price -> BigInt,
        ei -> BigInt,
        lead_time_hours -> BigInt,
        rating -> Nullable<BigInt>,
        withdrawn -> Bool,
        version -> BigInt,
        submitted_us -> BigInt,
        updated_us -> BigInt,
    }
}

diesel::table! {
    orders (tenant, order_id) {
        tenant -> Text,
        order_id -> Text,
        shipper -> Text,
        carrier -> Nullable<Text>,
        origin -> Nullable<Text>,
        destination -> Nullable<Text>,
        cargo -> Nullable<Text>,
        bid_id -> Nullable<Text>,
        status -> Text,
        exception_from -> Nullable<Text>,
        newest_us -> Nullable<BigInt>,
        created_us -> BigInt,
        updated_us -> BigInt,
        reports -> BigInt,
        version -> BigInt,
    }
}

diesel::table! {
    order_reports (tenant, order_id, number) {
        tenant -> Text,
        order_id -> Text,
        number -> BigInt,
        status -> Text,
        applied -> Bool,
        occurred_us -> BigInt,
        received_us -> BigInt,
        tracking -> Nullable<Text>,
        reason -> Nullable<Text>,
    }
}

diesel::table! {
    jobs (job_id) {
        job_id -> Text,
        tenant -> Text,
        kind -> Text,
        channel -> Text,
        priority -> BigInt,
        payload -> Text,
        state -> Text,
        attempts -> BigInt,
        max_attempts -> BigInt,
        due_us -> BigInt,
        deadline_us -> Nullable<BigInt>,
        error -> Nullable<Text>,
        server_id -> Text,
        created_us -> BigInt,
        finished_us -> Nullable<BigInt>,
        attempts_before -> BigInt,
    }
}

diesel::table! {
    account_numbers (tenant) {
        tenant -> Text,
        last -> BigInt,
    }
}

diesel::table! {
    accounts (tenant, account_id) {
        tenant -> Text,
        account_id -> BigInt,
        owner -> Text,
        name -> Text,
        balance -> BigInt,
        created_us -> BigInt,
        updated_us -> BigInt,
    }
}

diesel::table! {
    snapshots (tenant, owner, snapshot_id, account_id) {
        tenant -> Text,
        owner -> Text,
        snapshot_id -> Text,
        account_id -> BigInt,
        name -> Text,
        balance -> BigInt,
        taken_us -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(accounts, snapshots);
diesel::allow_tables_to_appear_in_same_query!(bids, proposals);
