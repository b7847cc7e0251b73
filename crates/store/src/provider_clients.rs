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

fn organization(key: &ClientKey) -> &str {
    key.organization_id.as_ref().map_or("", OrganizationId::as_str)
}

impl Store {
    /// Notes that a client did what it should, which ends its quarantine if the provider did not take it before. Returns
    /// the quarantine that it is still in.
    ///
    /// `seen_rate`: how many calls went well within the last second.
    pub async fn client_worked(&self, key: &ClientKey, seen_rate: f64) -> Result<Option<String>, StoreError> {
        let left = run!(self, connection => {
            sqlx::query_scalar!(
                "UPDATE provider_clients SET failures = 0, pause_time = NULL,
                     quarantine = CASE WHEN quarantine = 'CLIENT_REFUSED' THEN NULL ELSE quarantine END,
                     quarantine_time = CASE WHEN quarantine = 'CLIENT_REFUSED' THEN NULL ELSE quarantine_time END,
                     probe_time = CASE WHEN quarantine = 'CLIENT_REFUSED' THEN NULL ELSE probe_time END,
                     window_good = window_good + CASE WHEN window_end_time > clock_timestamp() THEN 1 ELSE 0 END,
                     rate = CASE WHEN limited_time > clock_timestamp() - interval '2 seconds'
                                     THEN greatest(rate, $4::double precision)
                                 WHEN limited_time < clock_timestamp() - interval '60 seconds' THEN rate + 0.05
                                 WHEN limited_time < clock_timestamp() - interval '20 seconds' THEN rate + 0.01
                                 ELSE rate END
                 WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3
                 RETURNING quarantine",
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                seen_rate,
            )
            .fetch_optional(connection)
            .await
        })?;
        Ok(left.flatten())
    }

    /// Notes that a client had too many calls: it is left alone for `seconds`, and used less often from then on.
    pub async fn client_limited(
        &self,
        key: &ClientKey,
        seconds: f64,
        seen_rate: f64,
    ) -> Result<(), StoreError> {
        run!(self, connection => {
            sqlx::query!(
                "UPDATE provider_clients SET
                     rate = CASE WHEN rate IS NULL THEN greatest($5::double precision, 1)
                                 WHEN limited_time > clock_timestamp() - interval '2 seconds'
                                     THEN greatest(rate, $5::double precision)
                                 ELSE greatest(rate * 0.97, 0.1) END,
                     limited_time = clock_timestamp(),
                     pause_time = greatest(pause_time, clock_timestamp() + make_interval(secs => $4))
                 WHERE organization_id = $1 AND provider_id = $2 AND client_id = $3",
                organization(key),
                key.provider_id.as_str(),
                key.client_id.as_str(),
                seconds,
                seen_rate,
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
                           probe_time = clock_timestamp() + make_interval(secs => $5)
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
                       UPDATE refreshes r SET ready = true, earliest_time = clock_timestamp()
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
