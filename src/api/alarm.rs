//! The time that hyper is given on one connection.
//!
//! hyper waits for each head with a sleep of its own, which it drops when the head has
//! come: nearly always at once. To tell the runtime of a timer and to take it back costs
//! more than to find out what a request is about, so all sleeps of a connection share
//! one `Alarm`, which is moved only when it has gone off, or when it would go off too
//! late for a sleep.
//!
//! Promises: a sleep ends at its deadline, as precisely as the runtime's timers do.
//! Not promised: that nobody is woken without need (an alarm that was set for a sleep
//! which is gone by then wakes its connection, once in the time of a sleep), and that
//! two tasks may wait at once: a connection is one task.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// A timer for hyper, for one connection.
#[derive(Default)]
pub struct SharedAlarm(Arc<Mutex<Alarm>>);

/// What all sleeps of a connection wait for.
#[derive(Default)]
struct Alarm {
    /// None as long as nobody has slept.
    bell: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Who hears it.
    heard_by: Option<Waker>,
}

impl Alarm {
    /// Ready when it is as late as this, of which the one who asks is told then.
    fn poll_until(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let deadline = tokio::time::Instant::from_std(deadline);
        let bell = self
            .bell
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let waker = context.waker();
        let is_heard = self.heard_by.as_ref().is_some_and(|by| by.will_wake(waker));
        let goes_off = bell.deadline();
        let has_gone_off = bell.is_elapsed();
        if is_heard && !has_gone_off && goes_off <= deadline {
            return Poll::Pending;
        }
        if goes_off > deadline || (has_gone_off && goes_off < deadline) {
            bell.as_mut().reset(deadline);
        }
        self.heard_by = Some(waker.clone());
        // A task that has used up its turn would be put off without being noted.
        pin!(tokio::task::coop::unconstrained(bell.as_mut())).poll(context)
    }
}

/// One sleep of a connection.
struct Until {
    deadline: Instant,
    alarm: Arc<Mutex<Alarm>>,
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // An alarm is sound whatever happened to who looked at it last.
        let alarm = self.alarm.lock();
        let mut alarm = alarm.unwrap_or_else(PoisonError::into_inner);
        alarm.poll_until(self.deadline, context)
    }
}

impl Sleep for Until {}

impl Timer for SharedAlarm {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Until {
            deadline,
            alarm: self.0.clone(),
        })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Longer than any test takes that passes.
    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(10);

    /// Polls it once, as the task that this is called in.
    async fn is_over(sleep: &mut Pin<Box<dyn Sleep>>) -> bool {
        poll_fn(|context| Poll::Ready(sleep.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn a_sleep_ends_at_its_deadline_whatever_the_alarm_was_set_for() {
        let timer = SharedAlarm::default();
        let mut long = timer.sleep(LONG);
        assert!(!is_over(&mut long).await);
        // Sooner than the alarm was set for.
        let begun = timer.now();
        timer.sleep(SHORT).await;
        assert!(timer.now() >= begun + SHORT);
        // It has gone off, and nobody was to be woken yet.
        assert!(!is_over(&mut long).await);
        assert!(!is_over(&mut timer.sleep(LONG)).await);
        timer.sleep(SHORT).await;
        // One whose time has passed need not wait.
        timer.sleep_until(begun).await;
    }

    #[tokio::test]
    async fn an_alarm_that_woke_nobody_in_particular_is_set_anew() {
        let timer = SharedAlarm::default();
        let mut gone = timer.sleep(SHORT);
        assert!(!is_over(&mut gone).await);
        drop(gone);
        // This one asks while the alarm is set for the one that is gone, is woken by
        // it, and goes on waiting until its own time has come.
        let begun = timer.now();
        timer.sleep(2 * SHORT).await;
        assert!(timer.now() >= begun + 2 * SHORT);
    }

    #[tokio::test]
    async fn another_task_is_woken_too() {
        let timer = SharedAlarm::default();
        let mut sleep = timer.sleep(3 * SHORT);
        assert!(!is_over(&mut sleep).await);
        tokio::spawn(sleep).await.expect("it ends");
    }

    #[tokio::test]
    async fn a_task_that_has_used_up_its_turn_is_woken_too() {
        let timer = SharedAlarm::default();
        let mut sleep = timer.sleep(SHORT);
        let woken = tokio::spawn(poll_fn(move |context| {
            while tokio::task::coop::has_budget_remaining() {
                let used = pin!(tokio::task::coop::consume_budget()).poll(context);
                assert!(used.is_ready(), "there was budget");
            }
            sleep.as_mut().poll(context)
        }));
        let woken = tokio::time::timeout(LONG, woken).await;
        woken.expect("it is woken").expect("it ends");
    }
}
