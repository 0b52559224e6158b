//! Connections: how many, how long, how large. Every bound is against a client that is broken or wants to harm; none is
//! near what an honest one needs.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::sockopt::{SndBuf, TcpUserTimeout};
use nix::sys::socket::{Backlog, listen, setsockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

use super::crowd::{Crowd, Seat};
use super::hosts::Came;
use super::listen::Socket;
use crate::error::{Error, Result};
use crate::ports::PortSet;

/// Connections at once.
const MOST: usize = 256;
/// How long a client may take to send a request, and to send the next one.
const ASKING: Duration = Duration::from_secs(10);
/// How long it may take to fetch an answer: three megabytes for a thousand containers.
const FETCHING: Duration = Duration::from_secs(30);
/// Bytes of an answer that the kernel keeps until they are fetched; it takes twice as much with its own books.
const UNFETCHED: usize = 64 * 1024;
/// Room for a request's first line and headers. More is answered with 431.
const HEAD: usize = 16 * 1024;
/// Waiting after a failed accept(2): without descriptors the next one would fail at once, too.
const RECOVERY: Duration = Duration::from_millis(100);

/// Serves on all sockets until `end`, then gives answers that are under way `farewell` to be fetched. Connections of this
/// host that come from ports of its `containers` are closed: the loopback address is theirs, too, and the statistics of
/// others are not.
pub async fn serve(
    sockets: &[Socket],
    router: Router,
    containers: &PortSet,
    end: impl Future<Output = ()>,
    farewell: Duration,
) -> Result<()> {
    let crowd = Arc::new(Crowd::new(MOST));
    let graceful = Arc::new(GracefulShutdown::new());
    let mut accepting = JoinSet::new();
    for socket in sockets {
        let door = Door { crowd: crowd.clone(), watched: graceful.clone(), router: router.clone() };
        // the names of unix sockets are taken away by whoever holds `sockets`
        match socket {
            Socket::Tcp(listener) => {
                bound(listener).map_err(|e| unusable(e.into()))?;
                let listener = listener.try_clone().and_then(TcpListener::from_std).map_err(unusable)?;
                let containers = containers.clone();
                accepting.spawn(door.keep(async move || {
                    loop {
                        let (stream, peer) = listener.accept().await?;
                        if is_here(&stream, peer) && containers.contains(peer.port()) {
                            log::debug!("a container asked, from port {}", peer.port());
                            continue;
                        }
                        // an answer's end must not wait for the client's acknowledgement of its beginning
                        let _ = stream.set_nodelay(true);
                        let own = stream.local_addr().ok().map(|own| own.ip());
                        return Ok((stream, Came::Tcp(own)));
                    }
                }));
            }
            Socket::Unix { listener, .. } => {
                let listener = listener.try_clone().and_then(UnixListener::from_std).map_err(unusable)?;
                accepting.spawn(door.keep(async move || Ok((listener.accept().await?.0, Came::Unix))));
            }
        }
    }
    end.await;
    accepting.shutdown().await;
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = timeout(farewell, graceful.shutdown()).await;
    }
    Ok(())
}

fn unusable(e: io::Error) -> Error {
    Error::Failed(format!("cannot wait for connections: {e}"))
}

/// Connections inherit both options: else the kernel would keep whole answers that nobody fetches, as long as the client wants.
fn bound(listener: &impl AsFd) -> nix::Result<()> {
    // std's queue is short: whoever finds it full tries again after a second
    listen(listener, Backlog::MAXCONN)?;
    setsockopt(listener, SndBuf, &UNFETCHED)?;
    setsockopt(listener, TcpUserTimeout, &(FETCHING.as_millis() as u32))
}

/// Does a connection come from this host?
fn is_here(stream: &TcpStream, peer: SocketAddr) -> bool {
    let from = peer.ip().to_canonical();
    from.is_loopback() || stream.local_addr().is_ok_and(|own| own.ip().to_canonical() == from)
}

/// What one listening socket needs.
struct Door {
    crowd: Arc<Crowd>,
    watched: Arc<GracefulShutdown>,
    router: Router,
}

impl Door {
    async fn keep<S>(self, mut accept: impl AsyncFnMut() -> io::Result<(S, Came)>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        loop {
            match accept().await {
                Ok((stream, came)) => self.converse(stream, came, self.crowd.seat().await),
                Err(e) => {
                    log::warn!("cannot take a connection: {e}");
                    sleep(RECOVERY).await;
                }
            }
        }
    }

    fn converse<S>(&self, stream: S, came: Came, seat: Arc<Seat>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router.clone());
        let answering = seat.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            answering.answers();
            request.extensions_mut().insert(came);
            let (answer, answering) = (router.call(request), answering.clone());
            async move {
                let answer = answer.await;
                answering.answered();
                answer
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ASKING)
            .max_buf_size(HEAD)
            // a client may say that it has asked all it wants to
            .half_close(true)
            .serve_connection(TokioIo::new(Bounded { stream, seat: seat.clone(), deadline: None }), service);
        let connection = self.watched.watch(connection);
        // the task does not run before this returns: one thread runs all
        let task = tokio::spawn(async move {
            if let Err(e) = connection.await {
                log::debug!("a connection ended: {e}");
            }
        });
        seat.taken_by(task.abort_handle());
    }
}

/// A stream whose client has to fetch what is written: the time runs from the first byte that had to wait until all are
/// gone, so that fetching a little now and then gains nothing.
struct Bounded<S> {
    stream: S,
    seat: Arc<Seat>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Bounded<S> {
    /// Fails when time is up; else asks to be woken when it is.
    fn hurry<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(FETCHING)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Pending => self.hurry(cx),
            written => written,
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, parts) {
            Poll::Pending => self.hurry(cx),
            written => written,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Hyper flushes when it has handed over all it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.deadline = None;
        self.seat.flushed();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
