//! Two things at the same time.

/// Runs two closures at the same time, the second on the calling thread.
pub fn both<A: Send, B>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|s| {
        let a = s.spawn(a);
        let b = b();
        (a.join().expect("the other one"), b)
    })
}
