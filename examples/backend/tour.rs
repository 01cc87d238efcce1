//! A few writes by hand, each between two reads, to see that it shows in the very next one.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    Fault,
    client::{Client, Reply},
};

/// Walks through them, printing each exchange; fails if a write does not show.
///
/// What is read twice over memory comes from the cache the second time. A store that is `shared` stores nothing under a name that
/// it has only just learned from a response, so that this takes a little longer there.
pub(crate) async fn walk(client: &Client, shared: bool) -> Result<(), Fault> {
    let tour = Tour { client, token: client.login(0).await?, readings: if shared { 6 } else { 2 } };
    tour.a_row().await?;
    tour.an_object().await?;
    tour.a_session().await
}

struct Tour<'a> {
    client: &'a Client,
    token: String,
    /// After how many readings at most one comes from the cache.
    readings: usize,
}

impl Tour<'_> {
    async fn a_row(&self) -> Result<(), Fault> {
        println!("\nA new row");
        let list = "/tables/flights?carrier=HA&sort=-id&limit=3";
        let before = self.again_and_again(list).await?.json();
        let row = json!({ "day": 31, "carrier": "HA", "flight": 51, "origin": "JFK", "dest": "HNL" });
        let inserted = self.send(Method::POST, "/tables/flights", row).await?.json();
        let after = self.get(list).await?.json();
        let [was, is] = [&before, &after].map(|list| &list["rows"][0]["id"]);
        println!("  the newest row was {was}, and is {is}");
        must(is.is_number() && *is == inserted["id"], "the new row is in the list")
    }

    async fn an_object(&self) -> Result<(), Fault> {
        println!("\nA move from bucket to bucket");
        let note = format!("tour/{}.txt", &self.token[..8]);
        let (from, to) = ("/storage/planes?prefix=tour/", "/storage/weather?prefix=tour/");
        let shows = async |list: &str| -> Result<bool, Fault> {
            let list = self.get(list).await?.json();
            let objects = list["objects"].as_array();
            Ok(objects.is_some_and(|objects| objects.iter().any(|object| object["path"] == note)))
        };
        let path = format!("/storage/planes/{note}");
        self.send(Method::PUT, &path, json!("a note")).await?;
        must(shows(from).await? && !shows(to).await?, "the first bucket has it")?;
        must(shows(from).await? && !shows(to).await?, "and has it still")?;
        let order = json!({ "bucket": "weather", "move_to": note });
        self.send(Method::POST, &path, order).await?;
        must(!shows(from).await? && shows(to).await?, "now the second has it, and the first has not")
    }

    async fn a_session(&self) -> Result<(), Fault> {
        println!("\nA changed profile, then a logout");
        let me = "/auth/user";
        self.again_and_again(me).await?;
        let other = Tour { token: self.client.login(0).await?, ..*self };
        let email = format!("user0+{}@example.com", &other.token[..8]);
        other.send(Method::PATCH, me, json!({ "email": email })).await?;
        let seen = &self.get(me).await?.json()["email"];
        must(*seen == email, "what another session of this account has changed is seen")?;
        self.send(Method::POST, "/auth/logout", Value::Null).await?;
        let gone = self.get(me).await?.status == StatusCode::UNAUTHORIZED;
        must(gone, "a token is worth nothing after its logout")?;
        let alive = other.get(me).await?.status == StatusCode::OK;
        must(alive, "the account's other session goes on")
    }

    /// Reads until the cache answers.
    async fn again_and_again(&self, path: &str) -> Result<Reply, Fault> {
        let mut reply = self.get(path).await?;
        for _ in 1..self.readings {
            reply = self.get(path).await?;
            if reply.hit() {
                break;
            }
        }
        must(reply.hit(), "read again, it comes from the cache")?;
        Ok(reply)
    }

    async fn get(&self, path: &str) -> Result<Reply, Fault> {
        // Who reads what is open to all shows no token, and so shares what is cached for all.
        let token = path.starts_with("/auth").then_some(self.token.as_str());
        let reply = self.client.send(Method::GET, path, token, "").await?;
        Ok(shown("GET", path, reply))
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Result<Reply, Fault> {
        let (name, token) = (method.to_string(), Some(self.token.as_str()));
        let reply = self.client.send(method, path, token, body.to_string()).await?;
        Ok(shown(&name, path, reply))
    }
}

fn shown(method: &str, path: &str, reply: Reply) -> Reply {
    let (status, took) = (reply.status.as_u16(), reply.took.as_secs_f64() * 1000.0);
    let cache = reply.cache_status();
    println!("  {method:<6}{path:<46}{status} {took:>8.2} ms  {cache}");
    reply
}

fn must(holds: bool, what: &str) -> Result<(), Fault> {
    println!("  {}: {what}", if holds { "ok" } else { "BROKEN" });
    if holds { Ok(()) } else { Err(format!("this did not hold: {what}").into()) }
}
