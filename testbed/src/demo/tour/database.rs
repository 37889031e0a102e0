//! An sqlite database, written from both sides in turn.

use std::time::Instant;

use twinshore_testbed::commands::Run;
use twinshore_testbed::regions::Region;

use super::Tour;
use twinshore_testbed::failure::Failure;

/// Transactions of each side.
const ROUNDS: u32 = 8;

impl Tour<'_> {
    async fn sqlite(&self, region: Region, statement: &str) -> Result<String, Failure> {
        let path = self.regions.mount_point(region).join("database.sqlite");
        let output = Run::new("sqlite3", self.patience)
            .arguments(["-batch", "-bail", "-cmd", ".timeout 20000"])
            .argument(path)
            .argument(statement)
            .success()
            .await?;
        Ok(output.text())
    }

    /// Each side adds a row in turn and counts all of them.
    pub async fn database_from_both_sides(&mut self) -> Result<(), Failure> {
        self.progress
            .say("sqlite: one database, a transaction in east, one in west, in turn");
        let started = Instant::now();
        let create = "CREATE TABLE visits (region TEXT, round INTEGER, PRIMARY KEY (region, round))";
        self.sqlite(Region::East, create).await?;
        let mut rows = 0;
        for round in 0..ROUNDS {
            for region in Region::BOTH {
                let insert =
                    format!("INSERT INTO visits VALUES ('{region}', {round}); SELECT count(*) FROM visits");
                let counted = self.sqlite(region, &insert).await?;
                rows += 1;
                if counted != rows.to_string() {
                    let message = format!("{region} counts {counted} rows in the database, there are {rows}");
                    return Err(Failure::Wrong(message));
                }
            }
        }
        for region in Region::BOTH {
            let checked = self
                .sqlite(region, "PRAGMA integrity_check; SELECT count(*) FROM visits")
                .await?;
            if checked != format!("ok\n{rows}") {
                return Err(Failure::Wrong(format!(
                    "the database is damaged in {region}: {checked}"
                )));
            }
        }
        let result = format!("{rows} transactions, integrity ok on both sides");
        self.progress
            .row("sqlite from both sides in turn", result, started.elapsed());
        Ok(())
    }
}
