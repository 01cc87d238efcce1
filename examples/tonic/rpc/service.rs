//! The service of the tests.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use self::notes::{Empty, GetRequest, Note, Size, notes_server::Notes};

#[allow(unreachable_pub, clippy::all)]
pub(crate) mod notes {
    tonic::include_proto!("notes.v1");
}

/// Notes by name, and the number of calls of each kind.
#[derive(Clone)]
pub(crate) struct Notebook {
    notes: Arc<Mutex<BTreeMap<String, String>>>,
    changes: broadcast::Sender<Note>,
    gets: Arc<AtomicUsize>,
    puts: Arc<AtomicUsize>,
    /// A permit lets one call of `Get` for a name that begins with `slow` go on, or one of `Put` for such a text.
    pub(crate) slow: Arc<Semaphore>,
}

impl Default for Notebook {
    fn default() -> Self {
        let (changes, _) = broadcast::channel(16);
        Self { notes: Arc::default(), changes, gets: Arc::default(), puts: Arc::default(), slow: Arc::new(Semaphore::new(0)) }
    }
}

impl Notebook {
    fn notes(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.notes.lock().expect("no panic")
    }

    pub(crate) fn set(&self, name: &str, text: &str) {
        self.notes().insert(name.into(), text.into());
        let _ = self.changes.send(Note { name: name.into(), text: text.into() });
    }

    /// Returns the number of calls of `Put`.
    pub(crate) fn puts(&self) -> usize {
        self.puts.load(Ordering::SeqCst)
    }

    /// Returns the number of calls of `Get`.
    pub(crate) fn gets(&self) -> usize {
        self.gets.load(Ordering::SeqCst)
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;

#[tonic::async_trait]
impl Notes for Notebook {
    type WatchStream = Messages;
    type ChatStream = Messages;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Note>, Status> {
        let call = self.gets.fetch_add(1, Ordering::SeqCst) + 1;
        let tenant = request.metadata().get("x-tenant").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let name = request.into_inner().name;
        if name.starts_with("slow") {
            self.slow.acquire().await.expect("open").forget();
        }
        match name.as_str() {
            "broken" => return Err(Status::internal(format!("call {call}"))),
            "lost" => return Err(Status::with_details(tonic::Code::NotFound, format!("call {call}"), b"\x01\x02"[..].into())),
            _ => {}
        }
        let text = self.notes().get(&name).cloned();
        let text = text.ok_or_else(|| Status::not_found(format!("call {call}")))?;
        let mut response = Response::new(Note { name, text: text + &tenant });
        response.metadata_mut().insert("x-call", call.to_string().parse().expect("a value"));
        response.metadata_mut().insert_bin("x-call-bin", tonic::metadata::MetadataValue::from_bytes(&[call as u8, 255]));
        Ok(response)
    }

    async fn put(&self, request: Request<Note>) -> Result<Response<Empty>, Status> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let Note { name, text } = request.into_inner();
        if text.starts_with("slow") {
            self.slow.acquire().await.expect("open").forget();
        }
        if name == "broken" {
            return Err(Status::internal("after a part of the change"));
        }
        if text.is_empty() {
            return Err(Status::invalid_argument("a note has a text"));
        }
        self.set(&name, &text);
        Ok(Response::new(Empty {}))
    }

    async fn watch(&self, request: Request<GetRequest>) -> Result<Response<Messages>, Status> {
        let name = request.into_inner().name;
        let mut changes = self.changes.subscribe();
        let text = self.notes().get(&name).cloned().unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut next = Note { name, text };
            loop {
                let name = next.name.clone();
                if sender.send(Ok(next)).await.is_err() {
                    return;
                }
                next = loop {
                    match changes.recv().await {
                        Ok(note) if note.name == name => break note,
                        Ok(_) => {}
                        Err(_) => return,
                    }
                };
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn count(&self, request: Request<Streaming<Note>>) -> Result<Response<Size>, Status> {
        let mut notes = request.into_inner();
        let mut characters = 0;
        while let Some(note) = notes.next().await {
            characters += note?.text.len() as u64;
        }
        Ok(Response::new(Size { characters }))
    }

    async fn chat(&self, request: Request<Streaming<Note>>) -> Result<Response<Messages>, Status> {
        let notebook = self.clone();
        let keep = move |note: Result<Note, Status>| note.inspect(|note| notebook.set(&note.name, &note.text));
        Ok(Response::new(Box::pin(request.into_inner().map(keep))))
    }
}
