//! Threads that carry connections.
//!
//! Promises: each thread runs its share of the connections in a runtime of its own,
//! one task a connection, so that nothing moves between threads; the first failure
//! ends that thread's others.

use tokio::task::JoinSet;

use super::BenchError;

/// Has `threads` threads do `work` for each of so many places.
pub fn spawn<Work, Working>(
    threads: usize,
    places: usize,
    work: Work,
) -> JoinSet<Result<(), BenchError>>
where
    Work: Fn(usize) -> Working + Clone + Send + 'static,
    Working: Future<Output = Result<(), BenchError>> + Send + 'static,
{
    let mut crew = JoinSet::new();
    for first in 0..threads.min(places) {
        let work = work.clone();
        crew.spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(BenchError::Thread)?;
            runtime.block_on(async move {
                let mut connections = JoinSet::new();
                for place in (first..places).step_by(threads) {
                    connections.spawn(work(place));
                }
                while let Some(ended) = connections.join_next().await {
                    ended??;
                }
                Ok(())
            })
        });
    }
    crew
}

/// Waits until all have ended, or one has failed.
pub async fn wait(crew: &mut JoinSet<Result<(), BenchError>>) -> Result<(), BenchError> {
    while let Some(ended) = crew.join_next().await {
        ended??;
    }
    Ok(())
}
