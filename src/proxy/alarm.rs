//! A timer that outlives a request.
//!
//! To set a timer and take it back costs more than a thousand instructions, and nearly every wait of a request ends long
//! before its timeout. So a client's connection keeps one timer and leaves it where it is: when it rings, it is moved to
//! what is waited for then. It is moved earlier only for a timeout that is shorter than all before it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A timer for one wait after the other, of one task.
#[derive(Debug)]
pub(super) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// An alarm that has not been needed yet.
    pub(super) fn new(until: Instant) -> Alarm {
        Alarm(Box::pin(tokio::time::sleep_until(until)))
    }

    /// Waits for `future`, but not longer than `patience` and not beyond `deadline`: then `None`. The time counts from
    /// the moment that there is something to wait for, and only then the clock is read.
    pub(super) async fn within<F: Future>(
        &mut self,
        patience: Duration,
        deadline: Option<Instant>,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut until = None;
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                let until = *until.get_or_insert_with(|| {
                    let until = Instant::now() + patience;
                    deadline.map_or(until, |deadline| deadline.min(until))
                });
                self.poll(until, cx).map(|()| None)
            }
        })
        .await
    }

    fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.0.deadline() > until {
                self.0.as_mut().reset(until);
            }
            ready!(self.0.as_mut().poll(cx));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_wait_ends_at_its_own_time_whatever_came_before() {
        let (soon, late) = (Duration::from_millis(5), Duration::from_secs(600));
        let mut alarm = Alarm::new(Instant::now() + late);
        assert_eq!(alarm.within(late, None, std::future::ready(1)).await, Some(1));
        // Earlier than it was set for.
        assert_eq!(alarm.within(soon, None, std::future::pending::<()>()).await, None);
        // It has rung, and must not ring for this one.
        let wait = tokio::time::sleep(2 * soon);
        assert_eq!(alarm.within(late, None, wait).await, Some(()));
        assert_eq!(alarm.within(soon, None, std::future::pending::<()>()).await, None);
        // Whichever comes first.
        assert_eq!(alarm.within(late, Some(Instant::now() + soon), std::future::pending::<()>()).await, None);
        assert_eq!(alarm.within(soon, Some(Instant::now() + late), std::future::pending::<()>()).await, None);
        assert_eq!(alarm.within(Duration::ZERO, None, std::future::pending::<()>()).await, None);
        assert_eq!(alarm.within(Duration::ZERO, None, std::future::ready(2)).await, Some(2));
    }
}
