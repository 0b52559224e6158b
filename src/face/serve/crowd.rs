//! Who is connected: room for so many, and who has to go when there is no more.
//!
//! A connection whose client is asking, or says nothing, costs a place and gives nothing in return. When somebody new comes
//! and all places are taken, the one that has been so for the longest time is closed. Clients that wait for an answer, or
//! fetch it, are never closed for others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::lock::locked;

/// How often is looked again whether a place can be made free, where all clients wait for answers.
const AGAIN: Duration = Duration::from_millis(100);

/// All connections.
pub struct Crowd {
    room: Arc<Semaphore>,
    asking: Arc<Mutex<Asking>>,
}

/// Connections whose clients are asking, in the order in which they began to.
#[derive(Default)]
struct Asking {
    next: u64,
    connections: BTreeMap<u64, AbortHandle>,
}

/// The place of one connection; free again when this is dropped.
pub struct Seat {
    asking: Arc<Mutex<Asking>>,
    state: Mutex<State>,
    task: OnceLock<AbortHandle>,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy)]
enum State {
    /// The client is asking, since it got this number.
    Asking(u64),
    /// An answer is being made.
    Answering,
    /// The answer is made and not yet fetched.
    Fetching,
}

impl Crowd {
    /// Room for `most` connections.
    pub fn new(most: usize) -> Self {
        Crowd { room: Arc::new(Semaphore::new(most)), asking: Arc::default() }
    }

    /// A place for one more connection, as soon as there is one.
    pub async fn seat(&self) -> Arc<Seat> {
        let place = loop {
            if let Ok(place) = self.room.clone().try_acquire_owned() {
                break place;
            }
            let longest = locked(&self.asking).connections.pop_first();
            if let Some((_, connection)) = longest {
                log::debug!("there is no room: the connection that has been asking for the longest time is closed");
                connection.abort();
            }
            // the semaphore is never closed
            if let Ok(Ok(place)) = timeout(AGAIN, self.room.clone().acquire_owned()).await {
                break place;
            }
        };
        let (asking, task) = (self.asking.clone(), OnceLock::new());
        Arc::new(Seat { asking, state: Mutex::new(State::Answering), task, _place: place })
    }
}

impl Seat {
    /// Tells which task serves the connection; its client begins to ask.
    pub fn taken_by(&self, task: AbortHandle) {
        let _ = self.task.set(task);
        self.asks();
    }

    /// A request is there.
    pub fn answers(&self) {
        self.leave_queue();
        *locked(&self.state) = State::Answering;
    }

    /// Its answer is made.
    pub fn answered(&self) {
        *locked(&self.state) = State::Fetching;
    }

    /// All that was written has gone out. After an answer, the client may ask again.
    pub fn flushed(&self) {
        let fetching = matches!(*locked(&self.state), State::Fetching);
        if fetching {
            self.asks();
        }
    }

    fn asks(&self) {
        let Some(task) = self.task.get() else { return };
        let mut asking = locked(&self.asking);
        let number = asking.next;
        asking.next += 1;
        asking.connections.insert(number, task.clone());
        *locked(&self.state) = State::Asking(number);
    }

    fn leave_queue(&self) {
        let state = *locked(&self.state);
        if let State::Asking(number) = state {
            locked(&self.asking).connections.remove(&number);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave_queue();
    }
}
