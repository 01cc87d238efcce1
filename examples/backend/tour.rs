//! Three writes by hand, each between two reads, to see that it shows in the very next one.

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::{
    Fault,
    client::{Client, Reply},
};

/// Walks through the three, printing each exchange; fails if a write does not show.
pub(crate) async fn walk(client: &Client) -> Result<(), Fault> {
    let token = client.login(0).await?;
    a_row(client, &token).await?;
    an_object(client, &token).await?;
    a_session(client, &token).await
}

async fn a_row(client: &Client, token: &str) -> Result<(), Fault> {
    println!("\nA new row");
    let list = "/tables/flights?carrier=HA&sort=-id&limit=3";
    show("GET", list, &client.get(list).await?);
    let before = client.get(list).await?;
    show("GET", list, &before);
    let row = json!({ "day": 14, "carrier": "HA", "flight": 51, "origin": "JFK", "dest": "HNL", "dep_delay": 4 });
    let inserted = client
        .send(
            Method::POST,
            "/tables/flights",
            Some(token),
            row.to_string(),
        )
        .await?;
    show("POST", "/tables/flights", &inserted);
    let after = client.get(list).await?;
    show("GET", list, &after);
    let newest = &after.json()["rows"][0]["id"];
    println!(
        "  the newest row was {}, and is {newest}",
        before.json()["rows"][0]["id"]
    );
    must(
        inserted.status == StatusCode::CREATED && *newest == inserted.json()["id"],
        "the new row is in the list",
    )
}

async fn an_object(client: &Client, token: &str) -> Result<(), Fault> {
    println!("\nA move from bucket to bucket");
    let (from, to) = (
        "/storage/planes?prefix=tour/",
        "/storage/weather?prefix=tour/",
    );
    let count = async |list: &str| -> Result<usize, Fault> {
        let reply = client.get(list).await?;
        show("GET", list, &reply);
        Ok(reply.json()["objects"].as_array().map_or(0, Vec::len))
    };
    let path = "/storage/planes/tour/note.txt";
    show(
        "PUT",
        path,
        &client
            .send(Method::PUT, path, Some(token), "a note")
            .await?,
    );
    for list in [from, to, from, to] {
        count(list).await?;
    }
    let order =
        json!({ "bucket": "weather", "move_to": format!("tour/{}.txt", std::process::id()) });
    let moved = client
        .send(Method::POST, path, Some(token), order.to_string())
        .await?;
    show("POST", path, &moved);
    let (left, arrived) = (count(from).await?, count(to).await?);
    println!("  objects under tour/: {left} in planes, {arrived} in weather");
    must(left == 0 && arrived > 0, "both lists show the move")
}

async fn a_session(client: &Client, token: &str) -> Result<(), Fault> {
    println!("\nA changed profile, then a logout");
    let path = "/auth/user";
    let ask = async |token: &str| -> Result<Reply, Fault> {
        let reply = client.send(Method::GET, path, Some(token), "").await?;
        show("GET", path, &reply);
        Ok(reply)
    };
    ask(token).await?;
    ask(token).await?;
    // Changed through another session of the same account.
    let other = client.login(0).await?;
    let email = format!("user0+{}@example.com", &other[..8]);
    show(
        "PATCH",
        path,
        &client
            .send(
                Method::PATCH,
                path,
                Some(&other),
                json!({ "email": email }).to_string(),
            )
            .await?,
    );
    must(
        ask(token).await?.json()["email"] == email,
        "every session of an account sees its new address",
    )?;
    show(
        "POST",
        "/auth/logout",
        &client
            .send(Method::POST, "/auth/logout", Some(token), "")
            .await?,
    );
    must(
        ask(token).await?.status == StatusCode::UNAUTHORIZED,
        "a token is worth nothing after its logout",
    )?;
    must(
        ask(&other).await?.status == StatusCode::OK,
        "the account's other session goes on",
    )
}

fn show(method: &str, path: &str, reply: &Reply) {
    let (status, took) = (reply.status.as_u16(), reply.took.as_secs_f64() * 1000.0);
    println!(
        "  {method:<6}{path:<46}{status} {took:>8.2} ms  {}",
        reply.cache_status()
    );
}

fn must(holds: bool, what: &str) -> Result<(), Fault> {
    println!("  {}: {what}", if holds { "ok" } else { "BROKEN" });
    if holds {
        Ok(())
    } else {
        Err(format!("this did not hold: {what}").into())
    }
}
