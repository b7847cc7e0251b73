//! Restores and copies. Refresh tokens of the past are worse than none: to show them may end what people have consented
//! to. So refreshing is frozen when the database is not the one that it was, until an operator has looked.
//!
//! How is that known? By what is outside of the database: the name that the configuration gives the installation, the
//! identifier of the Postgres cluster, and how far the database had come when a replica of ours last saw it, which each
//! of them keeps in its state directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fail::fail_point;
use keyholder_catalog::oauth2::Reuse;
use keyholder_domain::ProviderId;
use keyholder_store::{Installation, Only, Reached};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::pause;
use crate::{Broker, BrokerError};

/// How often it is looked, and how often the installation comes a step further.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// So many steps may be lost in a failover to a standby that lags behind: about a minute.
const LAG: i64 = 12;

/// Why nothing is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freeze {
    /// The database is older than what was seen of it.
    Restored,
    /// The data came out of another Postgres cluster: a dump, or a copy.
    Moved,
    /// The database belongs to an installation of another name.
    OtherCluster,
}

impl Freeze {
    /// The stable name.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "DATABASE_RESTORED",
            Self::Moved => "DATABASE_MOVED",
            Self::OtherCluster => "OTHER_CLUSTER",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Restored => "the database is older than what was seen of it: it was restored from a backup",
            Self::Moved => "the data came out of another Postgres cluster: it was restored or copied",
            Self::OtherCluster => {
                "the database belongs to an installation of another name: it is a copy, or refresher.cluster is wrong"
            }
        }
    }
}

/// What a replica remembers of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    installation_id: Uuid,
    era: i64,
    epoch: i64,
}

fn judge(installation: &Installation, seen: Option<Seen>, cluster: &str) -> Option<Freeze> {
    if !installation.cluster.is_empty() && installation.cluster != cluster {
        return Some(Freeze::OtherCluster);
    }
    if installation.known_system.is_some_and(|known| known != installation.system) {
        return Some(Freeze::Moved);
    }
    let seen = seen.filter(|seen| seen.installation_id == installation.installation_id)?;
    let now = (installation.era, installation.epoch);
    let older = now.0 < seen.era || (now.0 == seen.era && now.1 + LAG < seen.epoch);
    older.then_some(Freeze::Restored)
}

impl Broker {
    pub(super) async fn guard_for_ever(&self, mut stop: watch::Receiver<bool>) {
        while !pause(LOOK_AGAIN, &mut stop).await {
            fail_point!("guard");
            if let Err(error) = self.store().ready_probes().await {
                tracing::debug!(%error, "clients in quarantine could not be looked at");
            }
            if let Err(error) = self.guard().await {
                tracing::debug!(%error, "it could not be looked whether the database is the one that it was");
            }
        }
    }

    /// Looks whether the database is the one that it was, and freezes refreshing if not. Returns when that is known.
    pub(super) async fn guard_first(&self, stop: &mut watch::Receiver<bool>) {
        loop {
            match self.guard().await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "it could not be looked whether the database is the one that it was; trying again");
                }
            }
            if pause(Duration::from_secs(1), stop).await {
                return;
            }
        }
    }

    async fn guard(&self) -> Result<(), BrokerError> {
        let cluster = &self.refresher().settings.cluster;
        let installation = self.store().installation().await?;
        if installation.frozen_time.is_some() {
            return Ok(());
        }
        let seen = self.seen();
        if let Some(freeze) = judge(&installation, seen, cluster) {
            if self.store().freeze(freeze.as_str()).await? {
                tracing::error!(
                    reason = freeze.as_str(),
                    "refreshing is frozen: {}; look at keyholder refresh status, then run keyholder refresh release",
                    freeze.sentence()
                );
                self.probe_classes().await;
            }
            return Ok(());
        }
        self.store().settle_installation(cluster).await?;
        if installation.cluster.is_empty()
            && installation.known_system.is_some()
            && !cluster.is_empty()
            && !self.refresher().nameless.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                %cluster, "the database is of an installation without a name; keyholder refresh release gives it this one"
            );
        }
        let reached = self.store().advance_epoch(LOOK_AGAIN.as_secs_f64() - 0.5).await?;
        *self.refresher().reached.lock().unwrap_or_else(PoisonError::into_inner) = reached;
        let Reached { era, epoch } = reached;
        self.remember(Seen { installation_id: installation.installation_id, era, epoch });
        Ok(())
    }

    /// Tries one connection of each reuse class, so that an operator knows what to expect.
    async fn probe_classes(&self) {
        let mut classes: BTreeMap<&'static str, Vec<&ProviderId>> = BTreeMap::new();
        for provider in self.catalog().iter() {
            let Some(recipe) = &provider.oauth2 else { continue };
            classes.entry(class_name(recipe.refresh.reuse)).or_default().push(&provider.id);
        }
        for (class, providers) in classes {
            match self.probe_class(&providers).await {
                Ok(None) => {}
                Ok(Some(outcome)) => {
                    tracing::warn!(class, outcome, "one connection of this reuse class was tried");
                    self.store().note_probe(class, &outcome).await.ok();
                }
                Err(error) => tracing::warn!(class, %error, "a reuse class could not be tried"),
            }
        }
    }

    async fn probe_class(&self, providers: &[&ProviderId]) -> Result<Option<String>, BrokerError> {
        let Some(sample) = self.store().sample(providers).await? else { return Ok(None) };
        let only = Only { organization_id: &sample.organization_id, connection_id: sample.connection_id };
        let since = Instant::now();
        let Some(attempt) = self.store().claim_refresh(only).await? else { return Ok(None) };
        self.see_through(&attempt, since).await;
        let row = self.store().refresh(only).await?;
        let error = row.and_then(|row| row.last_error);
        Ok(Some(error.unwrap_or_else(|| "REFRESHED".to_owned())))
    }

    /// How far a database must have come for anything to be claimed in it: as far as it was seen by this process, but for
    /// what a standby may lag behind.
    pub(super) fn reached(&self) -> Reached {
        let reached = *self.refresher().reached.lock().unwrap_or_else(PoisonError::into_inner);
        Reached { epoch: reached.epoch - LAG, ..reached }
    }

    fn seen_file(&self) -> Option<PathBuf> {
        self.refresher().settings.state_directory.as_ref().map(|directory| directory.join("epoch.json"))
    }

    fn seen(&self) -> Option<Seen> {
        serde_json::from_slice(&fs::read(self.seen_file()?).ok()?).ok()
    }

    fn remember(&self, seen: Seen) {
        let Some(file) = self.seen_file() else { return };
        if self.seen() == Some(seen) {
            return;
        }
        let unfinished = file.with_extension(format!("{}.part", std::process::id()));
        let written = serde_json::to_vec(&seen).map_err(std::io::Error::from).and_then(|text| {
            let mut writing = fs::File::create(&unfinished)?;
            writing.write_all(&text)?;
            writing.sync_all()?;
            fs::rename(&unfinished, &file)
        });
        if let Err(error) = written {
            tracing::warn!(%error, file = %file.display(), "how far the database has come could not be written down");
        }
    }
}

const fn class_name(reuse: Reuse) -> &'static str {
    match reuse {
        Reuse::Static => "static",
        Reuse::Window(_) => "window",
        Reuse::UntilUsed(_) => "until_used",
        Reuse::None => "none",
        Reuse::NoRefresh => "no_refresh",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installation() -> Installation {
        Installation {
            installation_id: Uuid::nil(),
            cluster: "prod".to_owned(),
            era: 1,
            epoch: 100,
            known_system: Some(7),
            system: 7,
            frozen_time: None,
            frozen_reason: None,
            probes: Default::default(),
        }
    }

    fn seen(era: i64, epoch: i64) -> Option<Seen> {
        Some(Seen { installation_id: Uuid::nil(), era, epoch })
    }

    #[test]
    fn f39_a_database_that_is_older_than_what_was_seen_of_it_was_restored() {
        assert_eq!(judge(&installation(), seen(1, 113), "prod"), Some(Freeze::Restored));
        assert_eq!(judge(&installation(), seen(2, 0), "prod"), Some(Freeze::Restored));
    }

    #[test]
    fn what_a_lagging_standby_may_lose_is_no_restore_and_neither_is_a_state_directory_of_elsewhere() {
        assert_eq!(judge(&installation(), seen(1, 112), "prod"), None);
        assert_eq!(judge(&installation(), seen(0, 1_000), "prod"), None);
        let other = Some(Seen { installation_id: Uuid::max(), era: 9, epoch: 9 });
        assert_eq!(judge(&installation(), other, "prod"), None);
        assert_eq!(judge(&installation(), None, "prod"), None);
    }

    #[test]
    fn f40_a_database_of_another_name_or_in_another_cluster_is_a_copy() {
        assert_eq!(judge(&installation(), None, "staging"), Some(Freeze::OtherCluster));
        assert_eq!(judge(&installation(), None, ""), Some(Freeze::OtherCluster));
        let moved = Installation { system: 8, ..installation() };
        assert_eq!(judge(&moved, None, "prod"), Some(Freeze::Moved));
    }
}
