//! From a request to its answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::{Body, Bytes};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::pass::{Form, Passes, locked};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::{Lease, Leases};
use crate::request::ContainerId;
use crate::slice::prepare;
use crate::stats::openmetrics;

/// How long an answer may take: a kernel that is slower is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

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

/// All that can be asked.
pub fn router(passes: Passes, leases: Arc<Mutex<Leases>>, config: Arc<Config>) -> Router {
    Router::new()
        .route("/monitor/statistics", get(statistics))
        .route("/monitor/statistics.json", get(statistics))
        .route("/metrics", get(metrics))
        .route("/containers", get(containers))
        .route("/containers/{id}", get(container))
        .route("/healthz", get(health))
        .fallback(|| async { said(StatusCode::NOT_FOUND, "there is nothing here") })
        .method_not_allowed_fallback(|| async { said(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD") })
        .layer(middleware::from_fn(bounded))
        .with_state(Server { passes, leases, config })
}

async fn statistics(State(server): State<Server>, Query(filter): Query<Filter>) -> Response {
    let form = match filter.container_id {
        None => Form::Statistics,
        Some(id) => match id.parse() {
            Ok(id) => Form::One(id),
            Err(_) => return unknown(),
        },
    };
    server.passed(form, JSON).await
}

async fn metrics(State(server): State<Server>) -> Response {
    server.passed(Form::Metrics, openmetrics::CONTENT_TYPE).await
}

async fn containers(State(server): State<Server>) -> Response {
    server.of_leases(|leases| encoded(leases).map(Some)).await
}

async fn container(State(server): State<Server>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse::<ContainerId>() else { return unknown() };
    server.of_leases(move |leases| leases.iter().find(|lease| lease.id == id).map(encoded).transpose()).await
}

/// Can the server do its work?
async fn health(State(server): State<Server>) -> Response {
    let config = server.config.clone();
    let look = move |leases: &Mutex<Leases>| {
        locked(leases).now()?;
        prepare::peek(&config)
    };
    match server.blocking(look).await {
        Ok(Some(_)) => said(StatusCode::OK, "ok"),
        Ok(None) => said(StatusCode::SERVICE_UNAVAILABLE, "the host is not prepared: run `portslice setup`"),
        Err(e) => said(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
    }
}

/// What holds for every request: it has no body, and its answer comes in time.
async fn bounded(request: Request, next: Next) -> Response {
    if !request.body().is_end_stream() {
        let mut refused = said(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body");
        refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return refused;
    }
    match timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => said(StatusCode::SERVICE_UNAVAILABLE, "reading the statistics took too long"),
    }
}

impl Server {
    async fn passed(&self, form: Form, kind: &'static str) -> Response {
        match self.passes.ask(form).await {
            Ok(Some(body)) => typed(kind, body),
            Ok(None) => unknown(),
            Err(why) => said(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    /// An answer from the leases alone, `None` when there is no such one.
    async fn of_leases(&self, answer: impl FnOnce(&[Lease]) -> Result<Option<Bytes>> + Send + 'static) -> Response {
        let read = move |leases: &Mutex<Leases>| {
            let leases = locked(leases).now()?;
            answer(&leases)
        };
        match self.blocking(read).await {
            Ok(Some(body)) => typed(JSON, body),
            Ok(None) => unknown(),
            Err(e) => said(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
        }
    }

    /// On a thread that may wait for files. None of this enters a namespace.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Mutex<Leases>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let leases = self.leases.clone();
        let done = spawn_blocking(move || work(&leases)).await;
        done.map_err(|e| Error::Failed(format!("reading the leases failed: {e}")))?
    }
}

fn encoded(value: &(impl Serialize + ?Sized)) -> Result<Bytes> {
    let text = serde_json::to_vec(value).map_err(|e| Error::Failed(format!("cannot encode JSON: {e}")))?;
    Ok(text.into())
}

fn typed(kind: &'static str, body: Bytes) -> Response {
    ([(CONTENT_TYPE, kind)], body).into_response()
}

fn unknown() -> Response {
    said(StatusCode::NOT_FOUND, "no such container is attached: /containers lists those that are")
}

fn said(status: StatusCode, line: &str) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], format!("{line}\n")).into_response()
}
