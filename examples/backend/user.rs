//! A simulated user, which checks after each write that the next read returns it.

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
    BoxError,
    client::{Client, Reply},
    load_test::RunResult,
    workload::{BUCKET, OBJECT, Operation, PlannedRequest, ROW, TABLE, Workload, Write, newest_of, read},
};

/// A flight's id and its carrier.
type Flight = (i64, &'static str);

pub(crate) struct User {
    client: Client,
    tokens: Arc<[String]>,
    workload: Workload,
    /// The last inserted flight, if it is not deleted.
    inserted: Option<Flight>,
    result: RunResult,
}

impl User {
    pub(crate) fn new(number: u64, server: SocketAddr, tokens: Arc<[String]>) -> Self {
        Self {
            client: Client::new(server),
            tokens,
            workload: Workload::new(number),
            inserted: None,
            result: RunResult::default(),
        }
    }

    /// Performs operations until the limit or the deadline.
    pub(crate) async fn run(mut self, limit: u64, deadline: Option<Instant>, done: &AtomicU64) -> Result<RunResult, BoxError> {
        let mut operations = 0;
        while operations < limit && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            match self.workload.next() {
                Operation::Read(step) => drop(self.send(step).await?),
                Operation::Write(write) => self.write(write).await?,
            }
            operations += 1;
            done.fetch_add(1, Ordering::Relaxed);
        }
        self.result.operations = vec![operations];
        Ok(self.result)
    }

    async fn write(&mut self, write: Write) -> Result<(), BoxError> {
        match (write, self.inserted) {
            (Write::Insert { carrier, row }, _) => self.insert(carrier, row).await,
            (Write::Upload { path, content }, _) => self.upload(path, content).await,
            (Write::Update { delay }, Some(flight)) => self.update(flight, delay).await,
            (Write::Delete, Some(flight)) => self.delete(flight).await,
            (Write::Update { .. } | Write::Delete, None) => Ok(()),
        }
    }

    async fn insert(&mut self, carrier: &'static str, row: String) -> Result<(), BoxError> {
        let path = "/tables/flights".into();
        let reply = self.change(Method::POST, TABLE, path, row).await?;
        let id = reply.json()["id"].as_i64().ok_or("the response to an insert has no id")?;
        self.inserted = Some((id, carrier));
        let rows = self.newest(carrier).await?;
        self.result.record_check(row_with(&rows, id).is_some());
        Ok(())
    }

    async fn update(&mut self, (id, carrier): Flight, delay: u32) -> Result<(), BoxError> {
        let (path, body) = (format!("/tables/flights/{id}"), json!({ "dep_delay": delay }));
        self.change(Method::PATCH, ROW, path, body.to_string()).await?;
        let rows = self.newest(carrier).await?;
        // The row may be behind newer rows.
        if let Some(row) = row_with(&rows, id) {
            self.result.record_check(row["dep_delay"] == delay);
        }
        Ok(())
    }

    async fn delete(&mut self, (id, carrier): Flight) -> Result<(), BoxError> {
        self.inserted = None;
        let path = format!("/tables/flights/{id}");
        self.change(Method::DELETE, ROW, path, String::new()).await?;
        let rows = self.newest(carrier).await?;
        self.result.record_check(row_with(&rows, id).is_none());
        Ok(())
    }

    async fn upload(&mut self, path: String, content: String) -> Result<(), BoxError> {
        let folder = path.split('/').next().unwrap_or_default();
        let list = format!("/storage/flights?prefix={folder}/");
        let path = format!("/storage/flights/{path}");
        let stored = self.change(Method::PUT, OBJECT, path, content).await?.json();
        let list = self.send(read(BUCKET, list, None)).await?.json();
        let objects = list["objects"].as_array();
        self.result.record_check(objects.is_some_and(|objects| objects.contains(&stored)));
        Ok(())
    }

    async fn newest(&mut self, carrier: &str) -> Result<Value, BoxError> {
        let reply = self.send(read(TABLE, newest_of(carrier), None)).await?;
        Ok(reply.json())
    }

    /// Sends a write with the account of this client.
    async fn change(&mut self, method: Method, route: &'static str, path: String, body: String) -> Result<Reply, BoxError> {
        let user = Some(self.workload.writer());
        let step = PlannedRequest { route, method, path, user, body };
        self.send(step).await
    }

    async fn send(&mut self, step: PlannedRequest) -> Result<Reply, BoxError> {
        let token = step.user.map(|user| self.tokens[user].as_str());
        let route = format!("{} {}", step.method, step.route);
        let reply = self.client.send(step.method, &step.path, token, step.body).await?;
        if !reply.status.is_success() {
            let (status, body) = (reply.status, String::from_utf8_lossy(&reply.body));
            return Err(format!("{route} at {}: {status} {body}", step.path).into());
        }
        self.result.record(route, &reply);
        Ok(reply)
    }
}

fn row_with(answer: &Value, id: i64) -> Option<&Value> {
    answer["rows"].as_array()?.iter().find(|row| row["id"] == id)
}
