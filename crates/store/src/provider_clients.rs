//! OAuth clients as their providers treat them: budgets, pauses and quarantine, shared by all replicas.

use keyholder_domain::{OrganizationId, ProviderId, Text, Timestamp};

use crate::{ClientKey, Store, StoreError};

/// Why nothing is refreshed with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quarantine {
    /// The provider does not take the client. It is tried with one connection now and then.
    ClientRefused,
    /// The provider refuses the grants of many connections at once, which is not believed. An operator decides.
    ManyGrantsRefused,
}

impl Quarantine {
    /// The name in the database, in metrics and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientRefused => "CLIENT_REFUSED",
            Self::ManyGrantsRefused => "MANY_GRANTS_REFUSED",
        }
    }
}

/// What the refused grants of a client look like just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedGrants {
    /// How many were refused since the first one of this while.
    pub refused: i32,
    /// How many refreshes went well since then.
    pub good: i32,
    /// Whether an operator said that they are to be believed.
    pub believed: bool,
}

/// A client in the operator's table.
#[derive(Debug, Clone)]
pub struct ClientStatus {
    /// Whose own client it is; empty: the installation's.
    pub organization_id: String,
    /// At which provider.
    pub provider_id: String,
    /// Its public id.
    pub client_id: String,
    /// How many connections it looks after.
    pub connections: i64,
    /// How many are waiting for their turn.
    pub ready: i64,
    /// How many are being refreshed.
    pub under_way: i64,
    /// How many failed last time.
    pub failing: i64,
    /// How many of which it is not known whether the provider has replaced the tokens.
    pub ambiguous: i64,
    /// How many whose grant the provider says is gone, which is not believed yet.
    pub refused: i64,
    /// When the first access token of those that wait ends.
    pub deadline: Option<Timestamp>,
    /// Calls a second that the provider takes, as far as it has said so.
    pub rate: Option<f64>,
    /// Until when it is left alone.
    pub pause_time: Option<Timestamp>,
    /// Why nothing is refreshed with it.
    pub quarantine: Option<String>,
}

/// How fast a client is used, in calls a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Now.
    pub rate: f64,
    /// The highest that went well for a while, as far as it is known.
    pub good: Option<f64>,
    /// The lowest that was too fast, as far as it is known.
    pub bad: Option<f64>,
}

fn pace(rate: Option<f64>, good: Option<f64>, bad: Option<f64>) -> Option<Pace> {
    rate.map(|rate| Pace { rate, good, bad })
}

/// A client that did what it should.
#[derive(Debug, Clone, Default)]
pub struct ClientWorked {
    /// The quarantine that it is still in.
    pub quarantine: Option<String>,
    /// Its pace; none: as fast as there is room.
    pub pace: Option<Pace>,
    /// When that was set.
    pub pace_time: Option<Timestamp>,
    /// Whether it had too many calls within the last two seconds.
    pub just_limited: bool,
    /// Whether it had too many calls last more than two minutes ago.
    pub calm: bool,
    /// Whether its pace was used to the full for two seconds, and by this call.
    pub settled: bool,
}

/// A client that had too many calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientLimited {
    /// Its pace till now.
    pub pace: Option<Pace>,
    /// When that was set.
    pub pace_time: Option<Timestamp>,
    /// Whether it says nothing about the pace: it has been known since the call was claimed, or no call went well since the
    /// pace was set.
    pub known: bool,
}

struct WorkedRow {
    quarantine: Option<String>,
    rate: Option<f64>,
    good_rate: Option<f64>,
    bad_rate: Option<f64>,
    rate_time: Option<Timestamp>,
    just_limited: bool,
    calm: bool,
    settled: bool,
}

struct LimitedRow {
    rate: Option<f64>,
    good_rate: Option<f64>,
    bad_rate: Option<f64>,
    rate_time: Option<Timestamp>,
    known: bool,
    in_vain: bool,
}

pub(crate) fn organization(key: &ClientKey) -> &str {
    key.organization_id.as_ref().map_or("", OrganizationId::as_str)
}

impl Store {
    /// Notes that a client did what it should, which ends its quarantine if the provider did not take it before. Returns
    /// the quarantine that it is still in, and its pace.
    ///
    /// `asked`: when the call was claimed.
    pub async fn client_worked(&self, key: &ClientKey, asked: Timestamp) -> Result<ClientWorked, StoreError> {
        let worked = run!(self, connection => {
            sqlx::query_as!(
                WorkedRow,
                r#"UPDATE provider_clients p SET failures = 0, good_time = clock_timestamp(),
                     -- What was on its way when the client had too many calls says nothing about the pause.
                     pause_time = CASE WHEN limited_time > $4 THEN pause_time END,
                     quarantine = CASE WHEN quarantine = 'CLIENT_REFUSED' THEN NULL ELSE quarantine END,
                     quarantine_time = CASE WHEN quarantine = 'CLIENT_REFUSED' THEN NULL ELSE quarantine_time END,
                     probe_time = CASE WHEN quarantine = 'CLIENT_REFUSED' THEN NULL ELSE probe_time END,
                     window_good = window_good + CASE WHEN window_end_time > clock_timestamp() THEN 1 ELSE 0 END
                 WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                 RETURNING quarantine, rate, good_rate, bad_rate, rate_time,
                     coalesce(limited_time > clock_timestamp() - interval '2 seconds', false) AS "just_limited!",
                     coalesce(limited_time < clock_timestamp() - interval '2 minutes', false) AS "calm!",
                     CASE WHEN rate_time + make_interval(secs => greatest(2, 3 / rate)) < clock_timestamp()
                               AND rate_time <= $4 AND paid_time > clock_timestamp() + interval '20 milliseconds'
                          THEN EXISTS (SELECT FROM refreshes r WHERE r.ready AND r.client_organization_id = $1
                                       AND r.provider_id = $2 AND r.client_id = $3)
                          ELSE false END AS "settled!""#,
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                asked as Timestamp,
            )
            .fetch_optional(connection)
            .await
        })?;
        let Some(worked) = worked else { return Ok(ClientWorked::default()) };
        let WorkedRow { quarantine, rate_time: pace_time, just_limited, calm, settled, .. } = worked;
        let pace = pace(worked.rate, worked.good_rate, worked.bad_rate);
        Ok(ClientWorked { quarantine, pace, pace_time, just_limited, calm, settled })
    }

    /// Notes that a client had too many calls, and leaves it alone for `seconds`; for twice as long as before if nothing went
    /// well since. `asked`: when the call was claimed.
    pub async fn client_limited(
        &self,
        key: &ClientKey,
        seconds: f64,
        asked: Timestamp,
    ) -> Result<ClientLimited, StoreError> {
        let limited = run!(self, connection => {
            sqlx::query_as!(
                LimitedRow,
                r#"WITH before AS (
                       SELECT rate, good_rate, bad_rate, rate_time,
                           coalesce(limited_time > $5, false) AS known,
                           rate IS NOT NULL AND NOT coalesce(good_time > rate_time, false) AS in_vain
                       FROM provider_clients
                       WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3 FOR UPDATE
                   ), put AS (
                       UPDATE provider_clients SET limited_time = clock_timestamp(),
                           pause_time = greatest(pause_time, clock_timestamp() + make_interval(secs =>
                               CASE WHEN (SELECT in_vain AND NOT known FROM before) THEN greatest(
                                   $4::double precision,
                                   least(60, greatest(1, 2 * extract(epoch FROM pause_time - limited_time)::double precision))
                               ) ELSE $4::double precision END))
                       WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                   )
                   SELECT rate, good_rate, bad_rate, rate_time, known AS "known!", in_vain AS "in_vain!" FROM before"#,
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                seconds,
                asked as Timestamp,
            )
            .fetch_optional(connection)
            .await
        })?;
        let Some(limited) = limited else { return Ok(ClientLimited::default()) };
        let pace = pace(limited.rate, limited.good_rate, limited.bad_rate);
        Ok(ClientLimited { pace, pace_time: limited.rate_time, known: limited.known || limited.in_vain })
    }

    /// Gives a client another pace, unless somebody else has meanwhile: `before` is when the one that is to be replaced was
    /// set. The new one counts as set at the end of the client's pause.
    pub async fn set_pace(
        &self,
        key: &ClientKey,
        before: Option<Timestamp>,
        pace: Pace,
    ) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE provider_clients SET rate = $4, good_rate = $5, bad_rate = $6,
                     rate_time = greatest(clock_timestamp(), pause_time)
                 WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                   AND rate_time IS NOT DISTINCT FROM $7",
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                pace.rate,
                pace.good,
                pace.bad,
                before as Option<Timestamp>,
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Notes that a call came to nothing through no fault of the grant: after several in a row the client is left alone
    /// for `seconds`, and then tried with one call. Returns how many in a row there were.
    pub async fn client_failed(&self, key: &ClientKey, seconds: f64) -> Result<i32, StoreError> {
        let failures = run!(self, connection => {
            sqlx::query_scalar!(
                "UPDATE provider_clients SET failures = failures + 1,
                     pause_time = CASE WHEN failures + 1 < 5 THEN pause_time
                                       ELSE greatest(pause_time, clock_timestamp() + make_interval(secs => $4)) END
                 WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                 RETURNING failures",
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                seconds,
            )
            .fetch_optional(connection)
            .await
        })?;
        Ok(failures.unwrap_or(0))
    }

    /// Puts a client into quarantine. `probe`: after how many seconds it may be tried with one connection. Returns how
    /// many connections wait for it, or none if it was in quarantine for the same reason already.
    pub async fn quarantine_client(
        &self,
        key: &ClientKey,
        why: Quarantine,
        probe: Option<f64>,
    ) -> Result<Option<i64>, StoreError> {
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"WITH before AS (
                       SELECT quarantine FROM provider_clients
                       WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3 FOR UPDATE
                   ), put AS (
                       UPDATE provider_clients SET quarantine = $4,
                           quarantine_time = coalesce(quarantine_time, clock_timestamp()),
                           probe_time = CASE WHEN quarantine = $4 THEN probe_time
                                             ELSE clock_timestamp() + make_interval(secs => $5) END
                       WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                   )
                   SELECT (SELECT count(*) FROM refreshes r WHERE r.client_organization_id = $1 AND r.provider_id = $2
                           AND r.client_id = $3) AS "waiting!"
                   FROM before WHERE quarantine IS DISTINCT FROM $4"#,
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                why.as_str(),
                probe,
            )
            .fetch_optional(connection)
            .await
        })
    }

    /// Makes a connection due for each client that is in quarantine for many refused grants and may be tried: one that was
    /// not refused. What comes of it tells whether the others are to be believed.
    pub async fn ready_probes(&self) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE refreshes r SET ready = true, due_time = statement_timestamp(),
                     earliest_time = least(r.earliest_time, statement_timestamp())
                 FROM provider_clients p CROSS JOIN LATERAL (
                     SELECT o.organization_id, o.connection_id FROM refreshes o
                     WHERE o.client_organization_id = p.organization_id AND o.provider_id = p.provider_id
                       AND o.client_id = p.client_id AND o.refused_time IS NULL AND o.ambiguous_time IS NULL
                       AND (o.due_time IS NOT NULL OR o.attempt_id IS NOT NULL)
                     ORDER BY o.attempt_id IS NOT NULL DESC, o.ready DESC, o.deadline LIMIT 1
                 ) one
                 WHERE p.quarantine = 'MANY_GRANTS_REFUSED' AND p.probe_time <= statement_timestamp()
                   AND r.organization_id = one.organization_id AND r.connection_id = one.connection_id
                   AND r.attempt_id IS NULL AND NOT r.ready",
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Notes that the provider refused a grant of a client, and says what refused grants look like just now.
    pub async fn count_refused_grant(
        &self,
        key: &ClientKey,
        window: f64,
    ) -> Result<RefusedGrants, StoreError> {
        let found = run!(self, connection => {
            sqlx::query_as!(
                RefusedGrants,
                r#"UPDATE provider_clients SET
                       window_refused = CASE WHEN window_end_time > clock_timestamp() THEN window_refused + 1 ELSE 1 END,
                       window_good = CASE WHEN window_end_time > clock_timestamp() THEN window_good ELSE 0 END,
                       window_end_time = CASE WHEN window_end_time > clock_timestamp() THEN window_end_time
                                              ELSE clock_timestamp() + make_interval(secs => $4) END
                   WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                   RETURNING window_refused AS refused, window_good AS good,
                       coalesce(believed_until > clock_timestamp(), false) AS "believed!""#,
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                window,
            )
            .fetch_optional(connection)
            .await
        })?;
        Ok(found.unwrap_or(RefusedGrants { refused: 1, good: 0, believed: false }))
    }

    /// What refused grants look like just now.
    pub async fn refused_grants(&self, key: &ClientKey) -> Result<RefusedGrants, StoreError> {
        let found = run!(self, connection => {
            sqlx::query_as!(
                RefusedGrants,
                r#"SELECT window_refused AS refused, window_good AS good,
                       coalesce(believed_until > clock_timestamp(), false) AS "believed!"
                   FROM provider_clients
                   WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                     AND window_end_time > clock_timestamp()"#,
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
            )
            .fetch_optional(connection)
            .await
        })?;
        Ok(found.unwrap_or(RefusedGrants { refused: 0, good: 0, believed: false }))
    }

    /// Lets a client be tried now: it has been set anew.
    pub async fn probe_client(&self, key: &ClientKey) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE provider_clients SET probe_time = clock_timestamp(), pause_time = NULL
                 WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                   AND (quarantine = 'CLIENT_REFUSED' OR pause_time IS NOT NULL)",
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Lets every client that is in quarantine because its provider does not take it be tried now: whoever starts may
    /// have been configured anew.
    pub async fn probe_clients(&self) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE provider_clients SET probe_time = clock_timestamp() WHERE quarantine = 'CLIENT_REFUSED'",
            )
            .execute(connection)
            .await
        })?;
        Ok(())
    }

    /// Ends the quarantine of a provider's clients, or of those of one id, or of exactly one: somebody has looked. Refused
    /// grants are believed for `believed` seconds. Returns how many clients there were.
    pub async fn resume_clients(
        &self,
        provider_id: &ProviderId,
        client_id: Option<&Text>,
        exactly: Option<&ClientKey>,
        believed: f64,
    ) -> Result<i64, StoreError> {
        run!(self, connection => {
            sqlx::query_scalar!(
                r#"WITH resumed AS (
                       UPDATE provider_clients SET quarantine = NULL, quarantine_time = NULL, probe_time = NULL,
                           pause_time = NULL, failures = 0, window_end_time = NULL,
                           believed_until = clock_timestamp() + make_interval(secs => $3)
                       WHERE provider_id = $1 AND ($2::text IS NULL OR client_id = $2)
                         AND ($4::text IS NULL OR organization_id = $4) AND quarantine IS NOT NULL
                       RETURNING organization_id, provider_id, client_id
                   ), again AS (
                       -- Asked once more: what they heard is what was doubted.
                       UPDATE refreshes r SET ready = true, due_time = clock_timestamp(),
                           earliest_time = clock_timestamp(), refused_time = NULL
                       FROM resumed s
                       WHERE r.client_organization_id = s.organization_id AND r.provider_id = s.provider_id
                         AND r.client_id = s.client_id AND r.refused_time IS NOT NULL AND r.attempt_id IS NULL
                   )
                   SELECT count(*) AS "number!" FROM resumed"#,
                provider_id.as_str(),
                client_id.map(Text::as_str),
                believed,
                exactly.map(organization),
            )
            .fetch_one(connection)
            .await
        })
    }

    /// Every client with how its connections stand. For the operator: looks at all organizations.
    pub async fn client_statuses(&self) -> Result<Vec<ClientStatus>, StoreError> {
        run!(self, connection => {
            sqlx::query_as!(
                ClientStatus,
                r#"SELECT p.organization_id, p.provider_id, p.client_id, p.rate, p.pause_time, p.quarantine,
                       count(r.connection_id) AS "connections!",
                       count(*) FILTER (WHERE r.ready OR r.due_time <= clock_timestamp()) AS "ready!",
                       count(r.attempt_id) AS "under_way!",
                       count(*) FILTER (WHERE r.last_error IS NOT NULL) AS "failing!",
                       count(r.ambiguous_time) AS "ambiguous!",
                       count(r.refused_time) AS "refused!",
                       min(r.deadline) FILTER (WHERE r.ready OR r.attempt_id IS NOT NULL OR r.last_error IS NOT NULL)
                           AS deadline
                   FROM provider_clients p
                   LEFT JOIN refreshes r ON r.client_organization_id = p.organization_id
                       AND r.provider_id = p.provider_id AND r.client_id = p.client_id
                   GROUP BY p.organization_id, p.provider_id, p.client_id
                   ORDER BY p.provider_id, p.organization_id, p.client_id"#,
            )
            .fetch_all(connection)
            .await
        })
    }
}
