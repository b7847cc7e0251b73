//! The store on a real Postgres.

#[cfg(test)]
#[path = "store/audit.rs"]
mod audit;
#[cfg(test)]
#[path = "store/fixtures.rs"]
mod fixtures;
#[cfg(test)]
#[path = "store/migrations.rs"]
mod migrations;
#[cfg(test)]
#[path = "store/refreshes.rs"]
mod refreshes;
#[cfg(test)]
#[path = "store/release.rs"]
mod release;
#[cfg(test)]
#[path = "store/rows.rs"]
mod rows;
#[cfg(test)]
#[path = "store/tenancy.rs"]
mod tenancy;
