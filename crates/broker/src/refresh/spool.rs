//! Answers that the database could not take, in files until it can.
//!
//! What is written is sealed already, and names nothing but ids. A file is complete or not there: it is written under
//! another name first, made durable, and renamed. Whoever finds it puts it into the database, also another process that
//! starts on the same folder later.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use fail::fail_point;
use keyholder_domain::{ConnectionId, Generation, OrganizationId};
use keyholder_store::KeptAnswer;
use keyholder_vault::Sealed;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::pause;
use crate::{Broker, BrokerError};

/// How files end that are complete.
const COMPLETE: &str = "answer";

/// How often the folder is looked at.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);

/// A spooled answer.
#[derive(Debug, Serialize, Deserialize)]
struct Spooled {
    organization_id: String,
    connection_id: String,
    attempt_id: Uuid,
    generation: i64,
    sealed_answer: String,
}

/// Writes an answer into a folder. It survives the process once this has returned.
pub(super) fn write(folder: &Path, kept: &KeptAnswer<'_>) -> io::Result<PathBuf> {
    let spooled = Spooled {
        organization_id: kept.organization_id.to_string(),
        connection_id: kept.connection_id.to_string(),
        attempt_id: kept.attempt_id,
        generation: kept.generation.get(),
        sealed_answer: kept.sealed_answer.to_owned(),
    };
    let file = folder.join(format!("{}.{COMPLETE}", kept.attempt_id.simple()));
    let unfinished = file.with_extension("part");
    let mut writing =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    writing.write_all(&serde_json::to_vec(&spooled)?)?;
    writing.sync_all()?;
    fs::rename(&unfinished, &file)?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

/// The complete files of a folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == COMPLETE) {
            files.push(path);
        }
    }
    Ok(files)
}

impl Broker {
    /// Where answers are spooled, if anything is refreshed here. Makes the folder.
    pub fn prepare_state_directory(&self) -> io::Result<()> {
        let Some(folder) = self.spool_folder() else { return Ok(()) };
        fs::create_dir_all(&folder)?;
        // Better not to start than to find out when an answer is to be saved.
        let probe = folder.join(".writable");
        File::create(&probe)?.sync_all()?;
        fs::remove_file(probe)
    }

    pub(super) fn spool_folder(&self) -> Option<PathBuf> {
        self.refresher().settings.state_directory.as_ref().map(|directory| directory.join("spool"))
    }

    /// How many answers wait in the folder.
    pub fn spooled_answers(&self) -> usize {
        self.spool_folder().and_then(|folder| files(&folder).ok()).map_or(0, |files| files.len())
    }

    /// Puts spooled answers into the database, for ever.
    pub(super) async fn replay_spool(&self, mut stop: tokio::sync::watch::Receiver<bool>) {
        while !pause(LOOK_AGAIN, &mut stop).await {
            fail_point!("spool");
            self.replay_spooled().await;
        }
    }

    /// Puts spooled answers into the database, each as far as it goes.
    pub(super) async fn replay_spooled(&self) {
        let Some(folder) = self.spool_folder() else { return };
        for file in files(&folder).unwrap_or_default() {
            match self.replay(&file).await {
                Ok(()) => {
                    fs::remove_file(&file).ok();
                }
                Err(error) => {
                    tracing::warn!(%error, "a spooled answer could not be put into the database; trying again");
                }
            }
        }
    }

    async fn replay(&self, file: &Path) -> Result<(), BrokerError> {
        let Some(spooled) = read(file) else {
            // Nobody can make anything of it; it stays for an operator to look at.
            let unreadable = file.with_extension("unreadable");
            tracing::error!(file = %file.display(), "a spooled answer cannot be read");
            fs::rename(file, unreadable).ok();
            return Ok(());
        };
        let kept = KeptAnswer {
            organization_id: &spooled.0,
            connection_id: spooled.1,
            attempt_id: spooled.2.attempt_id,
            generation: spooled.3,
            sealed_answer: &spooled.2.sealed_answer,
        };
        tracing::info!(connection_id = %kept.connection_id, attempt_id = %kept.attempt_id, "a spooled answer is put into the database");
        self.keep_or_save(&kept).await.map(drop)
    }
}

fn read(file: &Path) -> Option<(OrganizationId, ConnectionId, Spooled, Generation)> {
    let spooled: Spooled = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let organization_id = OrganizationId::parse(&spooled.organization_id).ok()?;
    let connection_id = ConnectionId::parse(&spooled.connection_id).ok()?;
    let generation = Generation::new(spooled.generation).ok()?;
    Sealed::parse(&spooled.sealed_answer).ok()?;
    Some((organization_id, connection_id, spooled, generation))
}
