//! One simulated user: does what its plan says, and after each write looks whether the next read shows it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::http::Method;
use serde_json::{Value, json};

use super::{
    Fault,
    client::{Client, Reply},
    drive::Outcome,
    plan::{BUCKET, Next, OBJECT, Plan, ROW, Step, TABLE, Write, newest_of, read},
};

/// A flight's id and its carrier.
type Flight = (i64, &'static str);

pub(crate) struct User {
    client: Client,
    tokens: Arc<[String]>,
    plan: Plan,
    /// The one this client inserted last and has not deleted.
    inserted: Option<Flight>,
    seen: Outcome,
}

impl User {
    pub(crate) fn new(number: u64, server: SocketAddr, tokens: Arc<[String]>) -> Self {
        Self { client: Client::new(server), tokens, plan: Plan::new(number), inserted: None, seen: Outcome::default() }
    }

    /// Lives by its plan, for so many deeds or until so late.
    pub(crate) async fn live(mut self, limit: u64, deadline: Option<Instant>, done: &AtomicU64) -> Result<Outcome, Fault> {
        let mut deeds = 0;
        while deeds < limit && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            match self.plan.next() {
                Next::Read(step) => drop(self.send(step).await?),
                Next::Write(write) => self.write(write).await?,
            }
            deeds += 1;
            done.fetch_add(1, Ordering::Relaxed);
        }
        self.seen.deeds = vec![deeds];
        Ok(self.seen)
    }

    async fn write(&mut self, write: Write) -> Result<(), Fault> {
        match (write, self.inserted) {
            (Write::Insert { carrier, row }, _) => self.insert(carrier, row).await,
            (Write::Upload { path, content }, _) => self.upload(path, content).await,
            (Write::Update { delay }, Some(flight)) => self.update(flight, delay).await,
            (Write::Delete, Some(flight)) => self.delete(flight).await,
            (Write::Update { .. } | Write::Delete, None) => Ok(()),
        }
    }

    async fn insert(&mut self, carrier: &'static str, row: String) -> Result<(), Fault> {
        let path = "/tables/flights".into();
        let reply = self.change(Method::POST, TABLE, path, row).await?;
        let id = reply.json()["id"].as_i64().ok_or("an insert named no id")?;
        self.inserted = Some((id, carrier));
        let rows = self.newest(carrier).await?;
        self.seen.checked(row_with(&rows, id).is_some());
        Ok(())
    }

    async fn update(&mut self, (id, carrier): Flight, delay: u32) -> Result<(), Fault> {
        let (path, body) = (format!("/tables/flights/{id}"), json!({ "dep_delay": delay }));
        self.change(Method::PATCH, ROW, path, body.to_string()).await?;
        let rows = self.newest(carrier).await?;
        // Out of sight, behind newer rows, says nothing about the cache.
        if let Some(row) = row_with(&rows, id) {
            self.seen.checked(row["dep_delay"] == delay);
        }
        Ok(())
    }

    async fn delete(&mut self, (id, carrier): Flight) -> Result<(), Fault> {
        self.inserted = None;
        let path = format!("/tables/flights/{id}");
        self.change(Method::DELETE, ROW, path, String::new()).await?;
        let rows = self.newest(carrier).await?;
        self.seen.checked(row_with(&rows, id).is_none());
        Ok(())
    }

    async fn upload(&mut self, path: String, content: String) -> Result<(), Fault> {
        let folder = path.split('/').next().unwrap_or_default();
        let list = format!("/storage/flights?prefix={folder}/");
        let path = format!("/storage/flights/{path}");
        let stored = self.change(Method::PUT, OBJECT, path, content).await?.json();
        let list = self.send(read(BUCKET, list, None)).await?.json();
        let objects = list["objects"].as_array();
        self.seen.checked(objects.is_some_and(|objects| objects.contains(&stored)));
        Ok(())
    }

    async fn newest(&mut self, carrier: &str) -> Result<Value, Fault> {
        let reply = self.send(read(TABLE, newest_of(carrier), None)).await?;
        Ok(reply.json())
    }

    /// A write, in the name of this client's own account.
    async fn change(&mut self, method: Method, route: &'static str, path: String, body: String) -> Result<Reply, Fault> {
        let user = Some(self.plan.writer());
        let step = Step { route, method, path, user, body };
        self.send(step).await
    }

    async fn send(&mut self, step: Step) -> Result<Reply, Fault> {
        let token = step.user.map(|user| self.tokens[user].as_str());
        let route = format!("{} {}", step.method, step.route);
        let reply = self.client.send(step.method, &step.path, token, step.body).await?;
        if !reply.status.is_success() {
            let (status, body) = (reply.status, String::from_utf8_lossy(&reply.body));
            return Err(format!("{route} at {}: {status} {body}", step.path).into());
        }
        self.seen.saw(route, &reply);
        Ok(reply)
    }
}

fn row_with(answer: &Value, id: i64) -> Option<&Value> {
    answer["rows"].as_array()?.iter().find(|row| row["id"] == id)
}
