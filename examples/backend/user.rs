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
use serde_json::Value;

use super::{
    Fault,
    client::{Client, Reply},
    drive::Outcome,
    plan::{Next, Plan, Step, Write, newest_of, read},
};

pub(crate) struct User {
    client: Client,
    tokens: Arc<[String]>,
    plan: Plan,
    /// The flight this client inserted last and has not deleted, with its carrier.
    inserted: Option<(i64, &'static str)>,
    seen: Outcome,
}

impl User {
    pub(crate) fn new(number: u64, server: SocketAddr, tokens: Arc<[String]>) -> Self {
        Self {
            client: Client::new(server),
            tokens,
            plan: Plan::new(number),
            inserted: None,
            seen: Outcome::default(),
        }
    }

    /// Lives by its plan, for so many deeds or until so late.
    pub(crate) async fn live(
        mut self,
        limit: u64,
        deadline: Option<Instant>,
        done: &AtomicU64,
    ) -> Result<Outcome, Fault> {
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
        match write {
            Write::Insert { carrier, row } => {
                let reply = self
                    .change(
                        Method::POST,
                        "/tables/{table}",
                        "/tables/flights".into(),
                        row,
                    )
                    .await?;
                if let Some(id) = reply.json()["id"].as_i64() {
                    self.inserted = Some((id, carrier));
                    let rows = self.newest(carrier).await?;
                    self.seen.checked(row_with(&rows, id).is_some());
                }
            }
            Write::Update { delay } => {
                let Some((id, carrier)) = self.inserted else {
                    return Ok(());
                };
                let path = format!("/tables/flights/{id}");
                self.change(
                    Method::PATCH,
                    "/tables/{table}/{id}",
                    path,
                    format!("{{\"dep_delay\": {delay}}}"),
                )
                .await?;
                let rows = self.newest(carrier).await?;
                // Out of sight, behind newer rows, says nothing about the cache.
                if let Some(row) = row_with(&rows, id) {
                    self.seen.checked(row["dep_delay"] == delay);
                }
            }
            Write::Delete => {
                let Some((id, carrier)) = self.inserted.take() else {
                    return Ok(());
                };
                self.change(
                    Method::DELETE,
                    "/tables/{table}/{id}",
                    format!("/tables/flights/{id}"),
                    String::new(),
                )
                .await?;
                let rows = self.newest(carrier).await?;
                self.seen.checked(row_with(&rows, id).is_none());
            }
            Write::Upload { path, content } => {
                let route = "/storage/{bucket}/{*path}";
                let reply = self
                    .change(
                        Method::PUT,
                        route,
                        format!("/storage/flights/{path}"),
                        content,
                    )
                    .await?;
                let folder = path.split('/').next().unwrap_or_default();
                let list = self
                    .send(read(
                        "/storage/{bucket}",
                        format!("/storage/flights?prefix={folder}/"),
                        None,
                    ))
                    .await?
                    .json();
                let stored = reply.json();
                self.seen.checked(
                    list["objects"]
                        .as_array()
                        .is_some_and(|objects| objects.contains(&stored)),
                );
            }
        }
        Ok(())
    }

    async fn newest(&mut self, carrier: &str) -> Result<Value, Fault> {
        Ok(self
            .send(read("/tables/{table}", newest_of(carrier), None))
            .await?
            .json())
    }

    async fn change(
        &mut self,
        method: Method,
        route: &'static str,
        path: String,
        body: String,
    ) -> Result<Reply, Fault> {
        let user = Some(self.plan.writer());
        self.send(Step {
            route,
            method,
            path,
            user,
            body,
        })
        .await
    }

    async fn send(&mut self, step: Step) -> Result<Reply, Fault> {
        let token = step.user.map(|user| self.tokens[user].as_str());
        let route = format!("{} {}", step.method, step.route);
        let reply = self
            .client
            .send(step.method, &step.path, token, step.body)
            .await?;
        if !reply.status.is_success() {
            return Err(format!(
                "{route} at {}: {} {}",
                step.path,
                reply.status,
                String::from_utf8_lossy(&reply.body)
            )
            .into());
        }
        self.seen.saw(route, &reply);
        Ok(reply)
    }
}

fn row_with(answer: &Value, id: i64) -> Option<&Value> {
    answer["rows"]
        .as_array()?
        .iter()
        .find(|row| row["id"] == id)
}
