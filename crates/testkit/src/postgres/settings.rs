use super::Binaries;

/// What a server is to do differently.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    parameters: Vec<(String, String)>,
    statement_statistics: bool,
}

impl Settings {
    /// Sets a parameter of `postgresql.conf`, such as `max_connections`. The last word counts.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Loads `pg_stat_statements` if this machine has it;
    /// [`PrivatePostgres::has_statement_statistics`](super::PrivatePostgres::has_statement_statistics) tells.
    #[must_use]
    pub fn statement_statistics(mut self) -> Self {
        self.statement_statistics = true;
        self
    }

    /// Whether to load `pg_stat_statements`.
    pub(super) fn preload(&self, binaries: &Binaries) -> bool {
        self.statement_statistics && binaries.have_statement_statistics()
    }

    /// The server's arguments.
    pub(super) fn arguments(&self, preload: bool) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut set =
            |name: &str, value: &str| arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        set("timezone", "UTC");
        set("log_timezone", "UTC");
        if preload {
            set("shared_preload_libraries", "pg_stat_statements");
        }
        for (name, value) in &self.parameters {
            set(name, value);
        }
        arguments
    }
}
