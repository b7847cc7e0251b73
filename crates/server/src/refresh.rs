//! `keyholder refresh`: what an operator sees of the refresher, and says to it. Works on the database alone, so that it
//! works while nothing else does.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use keyholder_broker::{ClientStatus, Installation};
use keyholder_domain::{Clock as _, ProviderId, SystemClock, Text, Timestamp};
use keyholder_store::Store;

use crate::config::Config;
use crate::serve::{ServeError, connect};

/// For how long refused grants are believed once an operator has said so, in seconds.
const BELIEVED: f64 = 3_600.0;

/// A table of every OAuth client, and whether anything is refreshed at all.
pub async fn status(config: &Config) -> Result<String, ServeError> {
    let store = connect(config).await?;
    let installation = store.installation().await?;
    let clients = store.client_statuses().await?;
    Ok(format!(
        "{}\n\n{}",
        whole(&installation),
        table(&clients, installation.frozen_time.is_some(), SystemClock.now())
    ))
}

/// Ends the quarantine of a provider's clients, or of one of them.
pub async fn resume(
    config: &Config,
    provider_id: &ProviderId,
    client_id: Option<&Text>,
) -> Result<i64, ServeError> {
    Ok(connect(config).await?.resume_clients(provider_id, client_id, None, BELIEVED).await?)
}

/// Lets refreshing go on after a restore.
pub async fn release(config: &Config) -> Result<bool, ServeError> {
    let store: Store = connect(config).await?;
    Ok(store.release_freeze(&config.refresher.cluster).await?)
}

fn whole(installation: &Installation) -> String {
    let (Some(since), Some(reason)) = (installation.frozen_time, &installation.frozen_reason) else {
        return "Refreshing is on.".to_owned();
    };
    let mut text = format!("Refreshing is FROZEN since {}: {reason}.\n", shown(since));
    if installation.probes.is_empty() {
        text += "No connection was tried.\n";
    }
    for (class, outcome) in installation.probes.iter() {
        text += &format!("  one connection of the reuse class {class} was tried: {outcome}\n");
    }
    text + "keyholder refresh release lets it go on."
}

fn table(clients: &[ClientStatus], frozen: bool, now: Timestamp) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header([
        "PROVIDER",
        "CLIENT",
        "OF",
        "CONNECTIONS",
        "WAITING",
        "UNDER WAY",
        "FAILING",
        "AMBIGUOUS",
        "REFUSED",
        "SAFETY",
        "PER SECOND",
        "STATE",
    ]);
    for client in clients {
        let numbers = [
            client.connections,
            client.ready,
            client.under_way,
            client.failing,
            client.ambiguous,
            client.refused,
        ];
        let mut row = vec![
            client.provider_id.clone(),
            if client.client_id.is_empty() { "-".to_owned() } else { client.client_id.clone() },
            if client.organization_id.is_empty() {
                "installation".to_owned()
            } else {
                client.organization_id.clone()
            },
        ];
        row.extend(numbers.iter().map(i64::to_string));
        row.push(client.deadline.map_or_else(|| "-".to_owned(), |end| seconds(end, now)));
        row.push(client.rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")));
        row.push(if frozen { "frozen".to_owned() } else { state(client, now) });
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(3).take(8) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

fn state(client: &ClientStatus, now: Timestamp) -> String {
    match (&client.quarantine, client.pause_time.filter(|pause| *pause > now)) {
        (Some(quarantine), _) => format!("QUARANTINE: {quarantine}"),
        (None, Some(pause)) => format!("paused for {}", seconds(pause, now)),
        (None, None) => "in use".to_owned(),
    }
}

fn seconds(then: Timestamp, now: Timestamp) -> String {
    format!("{} s", (then - now).whole_seconds())
}

fn shown(time: Timestamp) -> String {
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02} UTC", time.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_in_quarantine_says_so_with_the_number_of_connections_that_wait() {
        let now = SystemClock.now();
        let client = ClientStatus {
            organization_id: String::new(),
            provider_id: "google".to_owned(),
            client_id: "keyholder".to_owned(),
            connections: 1_204,
            ready: 7,
            under_way: 0,
            failing: 3,
            ambiguous: 1,
            refused: 5,
            deadline: Some(now + std::time::Duration::from_secs(90)),
            rate: Some(12.34),
            pause_time: None,
            quarantine: Some("MANY_GRANTS_REFUSED".to_owned()),
        };
        let text = table(std::slice::from_ref(&client), false, now);
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let expected =
            "google keyholder installation 1204 7 0 3 1 5 90 s 12.3 QUARANTINE: MANY_GRANTS_REFUSED";
        assert_eq!(row.join(" "), expected);
        assert!(table(&[client], true, now).ends_with("frozen"));
    }
}
