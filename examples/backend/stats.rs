//! Statistics of flights by a column: delays in rain and in dry weather, cancellations, seats.
//!
//! The query joins each flight with its weather and its aircraft, and ranks the delays of each group. It takes tens of milliseconds.

use rusqlite::{Connection, params_from_iter};
use serde_json::{Value, json};

use super::{error::Error, query::TableQuery, tables::json_row};

pub(crate) fn by_column(db: &Connection, table_query: &TableQuery, group: &str) -> Result<Value, Error> {
    let groups = db
        .prepare_cached(&sql(group, &table_query.clause()))?
        .query_map(params_from_iter(table_query.values()), json_row)?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(json!({ "table": table_query.table.name, "by": group, "groups": groups }))
}

fn sql(group: &str, clause: &str) -> String {
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
        )
        SELECT
            grouped AS {group},
            count(*) AS flights,
            sum(dep_delay IS NULL) AS cancelled,
            round(avg(dep_delay), 2) AS mean_delay,
            max(CASE WHEN place = (departed + 1) / 2 THEN dep_delay END) AS median_delay,
            max(CASE WHEN place = (departed * 9 + 9) / 10 THEN dep_delay END) AS p90_delay,
            round(avg(CASE WHEN precip > 0 THEN dep_delay END), 2) AS mean_delay_in_rain,
            round(avg(CASE WHEN precip = 0 THEN dep_delay END), 2) AS mean_delay_in_the_dry,
            round(avg(CASE WHEN visib < 3 THEN arr_delay END), 2) AS mean_arrival_delay_in_fog,
            sum(seats) AS seats,
            sum(distance) AS miles,
            group_concat(DISTINCT airlines.name) AS airlines
        FROM ranked LEFT JOIN airlines USING (carrier)
        GROUP BY grouped
        ORDER BY grouped"
    )
}
