//! A few writes, each between two reads. The second read must return the write.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    BoxError,
    client::{Client, Reply},
};

/// Performs the writes and prints each exchange. Returns an error if a read is stale.
///
/// In memory, the second of two reads is a hit. Over Redis, a response is stored only if the store already knows the namespaces that the
/// handler names, and a listener invalidates again after each write. There, `late_hits` lets some more reads be misses.
pub(crate) async fn run(client: &Client, late_hits: bool) -> Result<(), BoxError> {
    let walkthrough = Walkthrough { client, token: client.login(0).await?, max_reads: if late_hits { 6 } else { 2 } };
    walkthrough.insert_row().await?;
    walkthrough.move_object().await?;
    walkthrough.change_profile_and_log_out().await
}

/// Reads the metrics, and the Inspector if it is served. Returns an error if a statement does not hold.
pub(crate) async fn look_as_an_operator(client: &Client, admin_token: Option<&str>) -> Result<(), BoxError> {
    println!("\nA look as an operator");
    let get = async |path: &str, token| -> Result<Reply, BoxError> {
        Ok(print_exchange("GET", path, client.send(Method::GET, path, token, "").await?))
    };
    let metrics = get("/metrics", None).await?;
    let text = String::from_utf8_lossy(&metrics.body);
    check(text.contains("cache_requests_total{cache=\"backend\""), "the metrics have the requests by route")?;
    let Some(token) = admin_token else { return Ok(()) };
    let refused = get("/_cache/api/stats", None).await?.status == StatusCode::UNAUTHORIZED;
    check(refused, "the Inspector refuses a request without its token")?;
    let hits = get("/_cache/api/stats", Some(token)).await?.json()["stats"]["hits"].as_u64();
    check(hits.is_some_and(|hits| hits > 0), "the Inspector counts the hits")?;
    let read = get("/tables/airlines", None).await?;
    let explained = get("/_cache/api/explain?url=/tables/airlines", Some(token)).await?.json();
    println!("  outcome {}, route {}", explained["outcome"], explained["rule"]["route"]);
    check(read.status == StatusCode::OK && explained["outcome"] == "hit", "a read that was stored is explained as a hit")
}

struct Walkthrough<'a> {
    client: &'a Client,
    token: String,
    /// The number of reads after which one must be a hit.
    max_reads: usize,
}

impl Walkthrough<'_> {
    async fn insert_row(&self) -> Result<(), BoxError> {
        println!("\nA new row");
        let list = "/tables/flights?carrier=HA&sort=-id&limit=3";
        let before = self.get_until_hit(list).await?.json();
        let row = json!({ "day": 31, "carrier": "HA", "flight": 51, "origin": "JFK", "dest": "HNL" });
        let inserted = self.send(Method::POST, "/tables/flights", row).await?.json();
        let after = self.get(list).await?.json();
        let [was, is] = [&before, &after].map(|list| &list["rows"][0]["id"]);
        println!("  the newest row was {was} and is now {is}");
        check(is.is_number() && *is == inserted["id"], "the new row is in the list")
    }

    async fn move_object(&self) -> Result<(), BoxError> {
        println!("\nA move to another bucket");
        let note = format!("walkthrough/{}.txt", &self.token[..8]);
        let (from, to) = ("/storage/planes?prefix=walkthrough/", "/storage/weather?prefix=walkthrough/");
        let contains = async |list: &str| -> Result<bool, BoxError> {
            let list = self.get(list).await?.json();
            let objects = list["objects"].as_array();
            Ok(objects.is_some_and(|objects| objects.iter().any(|object| object["path"] == note)))
        };
        let path = format!("/storage/planes/{note}");
        self.send(Method::PUT, &path, json!("a note")).await?;
        check(contains(from).await? && !contains(to).await?, "the object is in the first bucket")?;
        check(contains(from).await? && !contains(to).await?, "the second read agrees")?;
        let order = json!({ "bucket": "weather", "move_to": note });
        self.send(Method::POST, &path, order).await?;
        check(!contains(from).await? && contains(to).await?, "the object is in the second bucket only")
    }

    async fn change_profile_and_log_out(&self) -> Result<(), BoxError> {
        println!("\nA change of a profile, then a logout");
        let me = "/auth/user";
        self.get_until_hit(me).await?;
        let other = Walkthrough { token: self.client.login(0).await?, ..*self };
        let email = format!("user0+{}@example.com", &other.token[..8]);
        other.send(Method::PATCH, me, json!({ "email": email })).await?;
        let seen = &self.get(me).await?.json()["email"];
        check(*seen == email, "the change by another session of the account is visible")?;
        self.send(Method::POST, "/auth/logout", Value::Null).await?;
        let gone = self.get(me).await?.status == StatusCode::UNAUTHORIZED;
        check(gone, "the token is invalid after the logout")?;
        let alive = other.get(me).await?.status == StatusCode::OK;
        check(alive, "the other session of the account is still valid")
    }

    /// Reads until a response is a hit.
    async fn get_until_hit(&self, path: &str) -> Result<Reply, BoxError> {
        let mut reply = self.get(path).await?;
        for _ in 1..self.max_reads {
            reply = self.get(path).await?;
            if reply.hit() {
                break;
            }
        }
        check(reply.hit(), "a repeated read is a hit")?;
        Ok(reply)
    }

    async fn get(&self, path: &str) -> Result<Reply, BoxError> {
        // Public reads send no token, so that all users share their entries.
        let token = path.starts_with("/auth").then_some(self.token.as_str());
        let reply = self.client.send(Method::GET, path, token, "").await?;
        Ok(print_exchange("GET", path, reply))
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Result<Reply, BoxError> {
        let (name, token) = (method.to_string(), Some(self.token.as_str()));
        let reply = self.client.send(method, path, token, body.to_string()).await?;
        Ok(print_exchange(&name, path, reply))
    }
}

pub(crate) fn print_exchange(method: &str, path: &str, reply: Reply) -> Reply {
    let (status, took) = (reply.status.as_u16(), reply.took.as_secs_f64() * 1000.0);
    let cache = reply.cache_status();
    println!("  {method:<6}{path:<46}{status} {took:>8.2} ms  {cache}");
    reply
}

pub(crate) fn check(holds: bool, law: &str) -> Result<(), BoxError> {
    println!("  {}: {law}", if holds { "ok" } else { "FAILED" });
    if holds { Ok(()) } else { Err(format!("failed: {law}").into()) }
}
