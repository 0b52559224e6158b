//! HTTP requests and their answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::{Body, Bytes};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::accept;
use super::hosts::{Came, Hosts};
use super::lock::locked;
use super::pass::{Form, Passes};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::view::view;
use crate::lease::{Lease, Leases};
use crate::request::ContainerId;
use crate::slice::ready::peek;

/// The longest time to make an answer. A kernel that needs longer is stuck.
const TIMEOUT: Duration = Duration::from_secs(30);
const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

#[derive(Clone)]
struct Server {
    passes: Passes,
    leases: Arc<Mutex<Leases>>,
    config: Arc<Config>,
}

#[derive(Deserialize)]
struct Filter {
    container_id: Option<String>,
}

/// The routes, and the bounds that hold for every request.
pub fn router(passes: Passes, leases: Arc<Mutex<Leases>>, config: Arc<Config>) -> Router {
    Router::new()
        .route("/monitor/statistics", get(statistics))
        .route("/monitor/statistics.json", get(statistics))
        .route("/metrics", get(metrics))
        .route("/containers", get(containers))
        .route("/containers/{id}", get(container))
        .route("/healthz", get(health))
        .fallback(|| async { plain_text(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(|| async { plain_text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD") })
        .layer(middleware::from_fn_with_state(Arc::new(Hosts::of(&config.serve_hosts)), within_bounds))
        .with_state(Server { passes, leases, config })
}

async fn statistics(State(server): State<Server>, Query(filter): Query<Filter>) -> Response {
    let form = match filter.container_id {
        None => Form::Statistics,
        Some(id) => match id.parse() {
            Ok(id) => Form::One(id),
            Err(_) => return no_such_container(),
        },
    };
    server.answer_from_pass(form, JSON).await
}

async fn metrics(State(server): State<Server>, headers: HeaderMap) -> Response {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = accept::preferred(accepted);
    let mut answer = server.answer_from_pass(Form::Metrics(format), format.content_type()).await;
    // what stands between must not give one client the other's format
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    answer
}

async fn containers(State(server): State<Server>) -> Response {
    server
        .answer_from_leases(|leases| {
            to_json(&leases.iter().map(|lease| view(lease, None)).collect::<Vec<_>>()).map(Some)
        })
        .await
}

async fn container(State(server): State<Server>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<ContainerId>() else { return no_such_container() };
    let find = move |leases: &[Lease]| {
        let lease = leases.iter().find(|lease| lease.id == id || lease.member(&id).is_some());
        lease.map(|lease| to_json(&view(lease, lease.member(&id)))).transpose()
    };
    server.answer_from_leases(find).await
}

/// Answers whether the server can do its work.
async fn health(State(server): State<Server>) -> Response {
    let config = server.config.clone();
    let look = move |leases: &Mutex<Leases>| {
        locked(leases).now()?;
        peek(&config)
    };
    match server.blocking(look).await {
        Ok(Some(_)) => plain_text(StatusCode::OK, "ok"),
        Ok(None) => plain_text(StatusCode::SERVICE_UNAVAILABLE, "the host is not prepared: run `portslice setup`"),
        Err(e) => plain_text(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
    }
}

/// Refuses a request that is meant for another host or has a body, and answers with an error when the answer takes too long.
async fn within_bounds(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let came = request.extensions().get().copied().unwrap_or(Came::Tcp(None));
    if let Err(why) = hosts.check(came, request.uri(), request.headers()) {
        return plain_text(StatusCode::MISDIRECTED_REQUEST, &why);
    }
    if !request.body().is_end_stream() {
        let mut refused = plain_text(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body");
        refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return refused;
    }
    match timeout(TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => plain_text(StatusCode::SERVICE_UNAVAILABLE, "reading the statistics took too long"),
    }
}

impl Server {
    /// Answers from a pass over the containers.
    async fn answer_from_pass(&self, form: Form, kind: &'static str) -> Response {
        match self.passes.ask(form).await {
            Ok(Some(body)) => answer_of_type(kind, body),
            Ok(None) => no_such_container(),
            Err(why) => plain_text(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    /// Answers from the leases alone. `answer` returns `None` when there is no such container.
    async fn answer_from_leases(
        &self,
        answer: impl FnOnce(&[Lease]) -> Result<Option<Bytes>> + Send + 'static,
    ) -> Response {
        let read = move |leases: &Mutex<Leases>| {
            let leases = locked(leases).now()?;
            answer(&leases)
        };
        match self.blocking(read).await {
            Ok(Some(body)) => answer_of_type(JSON, body),
            Ok(None) => no_such_container(),
            Err(e) => plain_text(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
        }
    }

    /// Does `work` on a thread that may block on files. The work never enters a namespace.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mutex<Leases>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let leases = self.leases.clone();
        let done = spawn_blocking(move || work(&leases)).await;
        done.map_err(|e| Error::Failed(format!("reading the leases failed: {e}")))?
    }
}

fn to_json(value: &(impl Serialize + ?Sized)) -> Result<Bytes> {
    let text = serde_json::to_vec(value).map_err(|e| Error::Failed(format!("cannot encode JSON: {e}")))?;
    Ok(text.into())
}

fn answer_of_type(kind: &'static str, body: Bytes) -> Response {
    ([(CONTENT_TYPE, kind)], body).into_response()
}

fn no_such_container() -> Response {
    plain_text(StatusCode::NOT_FOUND, "no such container is attached: /containers lists those that are")
}

fn plain_text(status: StatusCode, line: &str) -> Response {
    (status, [(CONTENT_TYPE, PLAIN)], format!("{line}\n")).into_response()
}
