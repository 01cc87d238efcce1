//! Statistics of flights by a column: delays in rain and in dry weather, cancellations, seats.
//!
//! The query joins each flight with its weather and its aircraft, and ranks the delays of each group. It takes tens of milliseconds.

use serde_json::{Value, json};

use super::{
    db::{Db, Statement},
    error::Error,
    query::TableQuery,
};

pub(crate) async fn by_column(db: &Db, table_query: &TableQuery, group: &str) -> Result<Value, Error> {
    let groups = db.read(Statement::new(sql(group, &table_query.clause()), table_query.values())).await?;
    let groups: Vec<_> = groups.into_iter().map(|row| row.rounded(2).into_json()).collect();
    Ok(json!({ "table": table_query.table.name, "by": group, "groups": groups }))
}

fn sql(group: &str, clause: &str) -> String {
    // The databases have different types for `sum` and `avg`.
    let sum = |value: &str| format!("CAST(sum({value}) AS BIGINT)");
    let mean = |value: &str, condition: &str| {
        let chosen = format!("CASE WHEN {condition} THEN {value} END");
        format!("CAST(sum({chosen}) AS DOUBLE PRECISION) / count({chosen})")
    };
    format!(
        "WITH chosen AS (
            SELECT flights.{group} AS grouped, flights.carrier, dep_delay, arr_delay, distance, precip, visib, seats
            FROM flights
            LEFT JOIN weather USING (origin, day, hour)
            LEFT JOIN planes ON planes.tailnum = flights.tailnum
            {clause}
        ),
        ranked AS (
            SELECT *,
                row_number() OVER (PARTITION BY grouped ORDER BY dep_delay NULLS LAST) AS place,
                count(dep_delay) OVER (PARTITION BY grouped) AS departed
            FROM chosen
        ),
        served AS (SELECT DISTINCT grouped, airlines.name FROM chosen JOIN airlines USING (carrier))
        SELECT
            grouped AS {group},
            count(*) AS flights,
            count(*) - count(dep_delay) AS cancelled,
            {mean_delay} AS mean_delay,
            max(CASE WHEN place = (departed + 1) / 2 THEN dep_delay END) AS median_delay,
            max(CASE WHEN place = (departed * 9 + 9) / 10 THEN dep_delay END) AS p90_delay,
            {in_rain} AS mean_delay_in_rain,
            {in_the_dry} AS mean_delay_in_the_dry,
            {in_fog} AS mean_arrival_delay_in_fog,
            {seats} AS seats,
            {miles} AS miles,
            (SELECT string_agg(name, ',' ORDER BY name) FROM served WHERE served.grouped IS NOT DISTINCT FROM ranked.grouped)
                AS airlines
        FROM ranked
        GROUP BY grouped
        ORDER BY grouped NULLS FIRST",
        mean_delay = mean("dep_delay", "true"),
        in_rain = mean("dep_delay", "precip > 0"),
        in_the_dry = mean("dep_delay", "precip = 0"),
        in_fog = mean("arr_delay", "visib < 3"),
        seats = sum("seats"),
        miles = sum("distance"),
    )
}
