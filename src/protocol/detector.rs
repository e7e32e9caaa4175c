//! Failure detection: whom this node believes to be alive. Nobody is told.
//!
//! Promises: a peer that refuses requests is down once it refuses a probe as well;
//! one that leaves them unanswered is down when it answered no probe for some
//! seconds;
//! a peer that falls silent is down when its silence is too improbable for its
//! own past (phi over 8); a peer that is down is probed at least once a second
//! and is up again as soon as anything at all is heard from it. A peer's pause of
//! three seconds, or any pause of this node itself, takes nobody down.
//!
//! Does not promise to be right: a node that is up here may have just crashed,
//! and one that is down may serve others. Hearing of a peer through others says
//! that it lives, not that it can be reached: that alone never brings one up.
//!
//! Hayashibara, Défago, Yared and Katayama, *The φ accrual failure detector*
//! (SRDS 2004), with the allowance for pauses that Akka and Cassandra gave it.

use std::collections::{BTreeMap, VecDeque};

use super::id::NodeId;

/// The least probable silence that is still believed, as an exponent: phi 8 is
/// one wrong verdict in 10^8 arrivals if they are normally distributed.
pub const PHI_THRESHOLD: u32 = 8;
/// How many standard deviations beyond the mean `PHI_THRESHOLD` lies: the
/// quantile of the normal distribution for 1 − 10^−8. Comparing with it is
/// comparing phi with its threshold, without a logarithm whose last bit differs
/// from one C library to the next.
const PHI_THRESHOLD_DEVIATIONS: f64 = 5.612;
/// How many intervals a peer's past holds: enough for a mean, short enough to
/// follow a network that changes within minutes.
pub const WINDOW: usize = 64;
/// The silence that is forgiven before the distribution is asked: garbage
/// collection, a slow disk, a virtual machine that is moved. Akka's default.
pub const FORGIVEN_PAUSE_MS: u64 = 3_000;
/// The least deviation assumed: arrivals that were regular so far are no promise.
const MIN_DEVIATION_MS: f64 = 100.0;
/// An interval longer than this is a gap, not a rhythm; it is cut to this.
const MAX_INTERVAL_MS: u64 = 10_000;
/// Two ticks further apart than this mean that it was this node that slept.
const OWN_PAUSE_MS: u64 = 1_000;
/// How long a probe may go unanswered before the next one goes out.
pub const PROBE_TIMEOUT_MS: u64 = 500;
/// How long a peer that left a request unanswered may leave probes unanswered:
/// longer than a process stands still now and then, so that a pause of two
/// seconds takes nobody down however many requests it makes late. Until then
/// other replicas stand in for it anyway.
pub const SUSPECTED_FOR_MS: u64 = 2_500;
/// The first recovery probe goes out after this, and each next one after twice
/// the time, up to `PROBE_LONGEST_MS`.
pub const PROBE_SHORTEST_MS: u64 = 100;
/// So that a node that came back is noticed within a second, for the price of
/// one small message a second.
pub const PROBE_LONGEST_MS: u64 = 1_000;

/// What changed about a peer, as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// It was heard for the first time, or again: work that waits for it may go.
    CameUp(NodeId),
    /// It is not to be asked for now.
    WentDown(NodeId),
}

/// What this node believes about its peers.
#[derive(Debug)]
pub struct Detector {
    /// The rhythm assumed of a peer that has no past yet.
    expected_interval_ms: u64,
    peers: BTreeMap<NodeId, Peer>,
    /// Bounded by two per peer between two calls of `events`: see `push`.
    events: Vec<Liveness>,
    ticked_ms: Option<u64>,
}

#[derive(Debug)]
struct Peer {
    state: State,
    /// Whether anything came from the peer itself since this process began.
    heard: bool,
    /// The newest sign of life, first or second hand.
    sign_ms: u64,
    /// The newest heartbeat.
    heartbeat_ms: Option<u64>,
    /// The last intervals between heartbeats.
    intervals_ms: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Up,
    /// A request failed; probes decide. When the first and the last of them went
    /// out.
    Suspect {
        probes_ms: Option<(u64, u64)>,
    },
    Down {
        next_probe_ms: u64,
        backoff_ms: u64,
    },
}

impl Peer {
    fn new(now_ms: u64) -> Self {
        Peer {
            state: State::Up,
            heard: false,
            sign_ms: now_ms,
            heartbeat_ms: None,
            intervals_ms: VecDeque::new(),
        }
    }

    /// The longest silence that is believed: where phi reaches its threshold.
    fn longest_silence_ms(&self, expected_interval_ms: u64) -> u64 {
        let (mean, variance) = if self.intervals_ms.is_empty() {
            (expected_interval_ms as f64, 0.0)
        } else {
            let count = self.intervals_ms.len() as f64;
            let mean = self.intervals_ms.iter().sum::<u64>() as f64 / count;
            let spread = |interval: &u64| (*interval as f64 - mean) * (*interval as f64 - mean);
            let squares: f64 = self.intervals_ms.iter().map(spread).sum();
            (mean, squares / count)
        };
        // A quarter of the mean: peers are drawn at random, so a rhythm learned
        // from a few arrivals is a guess.
        let deviation = variance.sqrt().max(MIN_DEVIATION_MS).max(mean / 4.0);
        FORGIVEN_PAUSE_MS + (mean + PHI_THRESHOLD_DEVIATIONS * deviation) as u64
    }
}

impl Detector {
    /// A detector for peers whose heartbeats arrive about this often.
    pub fn new(expected_interval_ms: u64) -> Self {
        Detector {
            expected_interval_ms,
            peers: BTreeMap::new(),
            events: Vec::new(),
            ticked_ms: None,
        }
    }

    /// A member from memory: presumed up, and its silence counts from now.
    pub fn expect(&mut self, peer: NodeId, now_ms: u64) {
        self.peers.entry(peer).or_insert_with(|| Peer::new(now_ms));
    }

    /// Something came from the peer itself: it is up.
    pub fn on_heard(&mut self, peer: NodeId, now_ms: u64) {
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(now_ms));
        known.sign_ms = known.sign_ms.max(now_ms);
        let was_down = matches!(known.state, State::Down { .. });
        known.state = State::Up;
        if was_down || !known.heard {
            known.heard = true;
            self.push(Liveness::CameUp(peer));
        }
    }

    /// The peer's heartbeat advanced, wherever that was learned from. A peer that
    /// was unknown is presumed up: the first request tells.
    pub fn on_heartbeat(&mut self, peer: NodeId, now_ms: u64) {
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(now_ms));
        known.sign_ms = known.sign_ms.max(now_ms);
        if let Some(before_ms) = known.heartbeat_ms.replace(now_ms) {
            let interval_ms = now_ms.saturating_sub(before_ms).min(MAX_INTERVAL_MS);
            known.intervals_ms.push_back(interval_ms);
            if known.intervals_ms.len() > WINDOW {
                known.intervals_ms.pop_front();
            }
        }
    }

    /// A request to the peer failed for certain: not delivered, or disconnected.
    /// (A queue that is full is no failure of the peer.) The first failure asks
    /// for a probe, one after the probe went out takes the peer down.
    pub fn on_failure(&mut self, peer: NodeId, now_ms: u64) {
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(now_ms));
        match known.state {
            State::Up => known.state = State::Suspect { probes_ms: None },
            State::Suspect { probes_ms: None } | State::Down { .. } => {}
            State::Suspect { probes_ms: Some(_) } => self.take_down(peer, now_ms),
        }
    }

    /// A request to the peer went unanswered. That asks for probes and no more,
    /// however many requests do: all those that were under way when a process
    /// paused end at the same moment.
    pub fn on_timeout(&mut self, peer: NodeId, now_ms: u64) {
        let known = self.peers.entry(peer).or_insert_with(|| Peer::new(now_ms));
        if matches!(known.state, State::Up) {
            known.state = State::Suspect { probes_ms: None };
        }
    }

    /// Whether requests should go to the peer. One that was never heard of is
    /// presumed up.
    pub fn is_up(&self, peer: NodeId) -> bool {
        let state = self.peers.get(&peer).map(|known| known.state);
        !matches!(state, Some(State::Down { .. }))
    }

    /// Judges silences and unanswered probes. Call it every few dozen
    /// milliseconds.
    pub fn tick(&mut self, now_ms: u64) {
        let slept_ms = now_ms.saturating_sub(self.ticked_ms.unwrap_or(now_ms));
        self.ticked_ms = Some(now_ms);
        if slept_ms > OWN_PAUSE_MS {
            // What the peers said meanwhile waits in a buffer: the silence was ours.
            for peer in self.peers.values_mut() {
                peer.sign_ms += slept_ms;
                peer.heartbeat_ms = None;
                if let State::Suspect { probes_ms } = &mut peer.state {
                    *probes_ms = None;
                }
            }
        }
        let expected_ms = self.expected_interval_ms;
        let lost: Vec<NodeId> = self
            .peers
            .iter()
            .filter(|(_, peer)| match peer.state {
                State::Up => {
                    // The past is asked only when the pause is not forgiven anyway.
                    let silence_ms = now_ms.saturating_sub(peer.sign_ms);
                    silence_ms > FORGIVEN_PAUSE_MS
                        && silence_ms > peer.longest_silence_ms(expected_ms)
                }
                State::Suspect { probes_ms } => {
                    probes_ms.is_some_and(|(first_ms, _)| now_ms >= first_ms + SUSPECTED_FOR_MS)
                }
                State::Down { .. } => false,
            })
            .map(|(&node, _)| node)
            .collect();
        lost.into_iter()
            .for_each(|node| self.take_down(node, now_ms));
    }

    /// The peers to which a probe should go now; any answer brings them up. Those
    /// returned are taken to be probed.
    pub fn due_probes(&mut self, now_ms: u64) -> Vec<NodeId> {
        let mut due = Vec::new();
        for (&node, peer) in &mut self.peers {
            match &mut peer.state {
                State::Suspect { probes_ms }
                    if probes_ms
                        .is_none_or(|(_, last_ms)| now_ms >= last_ms + PROBE_TIMEOUT_MS) =>
                {
                    let first_ms = probes_ms.map_or(now_ms, |(first_ms, _)| first_ms);
                    *probes_ms = Some((first_ms, now_ms));
                    due.push(node);
                }
                State::Down {
                    next_probe_ms,
                    backoff_ms,
                } if *next_probe_ms <= now_ms => {
                    *next_probe_ms = now_ms + *backoff_ms;
                    *backoff_ms = (*backoff_ms * 2).min(PROBE_LONGEST_MS);
                    due.push(node);
                }
                _ => {}
            }
        }
        due
    }

    /// What changed since the last call, in order.
    pub fn events(&mut self) -> Vec<Liveness> {
        std::mem::take(&mut self.events)
    }

    /// The peer is no member any more.
    pub fn forget(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    fn take_down(&mut self, peer: NodeId, now_ms: u64) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.state = State::Down {
                next_probe_ms: now_ms,
                backoff_ms: PROBE_SHORTEST_MS,
            };
            // The gap that follows says nothing about the peer's rhythm.
            known.heartbeat_ms = None;
            self.push(Liveness::WentDown(peer));
        }
    }

    /// Keeps the newest event of a peer only, so that events that nobody fetches
    /// are no more than the peers.
    fn push(&mut self, event: Liveness) {
        let node_of = |event: &Liveness| match *event {
            Liveness::CameUp(node) | Liveness::WentDown(node) => node,
        };
        let node = node_of(&event);
        self.events.retain(|earlier| node_of(earlier) != node);
        self.events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(7);

    /// Ticks every 50 ms, with a heartbeat every second up to `until_ms`.
    fn beating(until_ms: u64) -> Detector {
        let mut detector = Detector::new(1_000);
        for now_ms in (0..=until_ms).step_by(50) {
            if now_ms.is_multiple_of(1_000) {
                detector.on_heartbeat(PEER, now_ms);
                detector.on_heard(PEER, now_ms);
            }
            detector.tick(now_ms);
            assert!(detector.is_up(PEER));
        }
        detector
    }

    /// The first tick at which the peer is down, if it is before `until_ms`.
    fn falls(detector: &mut Detector, from_ms: u64, until_ms: u64) -> Option<u64> {
        (from_ms..until_ms).step_by(50).find(|&now_ms| {
            detector.tick(now_ms);
            !detector.is_up(PEER)
        })
    }

    #[test]
    fn a_pause_is_forgiven_and_silence_is_not() {
        let mut detector = beating(60_000);
        assert_eq!(detector.events(), [Liveness::CameUp(PEER)]);
        assert_eq!(falls(&mut detector, 60_000, 62_900), None);
        let down_ms = falls(&mut detector, 62_900, 90_000).expect("silence is noticed");
        assert!((64_000..67_000).contains(&down_ms), "{down_ms}");
        assert_eq!(detector.events(), [Liveness::WentDown(PEER)]);
        // Being spoken of does not bring it up; being heard does, once.
        detector.on_heartbeat(PEER, 70_000);
        assert!(!detector.is_up(PEER));
        detector.on_heard(PEER, 70_000);
        detector.on_heard(PEER, 70_001);
        assert!(detector.is_up(PEER));
        assert_eq!(detector.events(), [Liveness::CameUp(PEER)]);
    }

    #[test]
    fn own_sleep_takes_nobody_down() {
        let mut detector = beating(10_000);
        detector.tick(60_000);
        assert!(detector.is_up(PEER));
        assert!(falls(&mut detector, 60_050, 80_000).is_some());
    }

    #[test]
    fn a_failed_request_and_a_failed_probe_take_it_down() {
        let mut detector = beating(1_000);
        detector.on_failure(PEER, 1_000);
        detector.on_failure(PEER, 1_000);
        assert!(detector.is_up(PEER), "the probe decides");
        assert_eq!(detector.due_probes(1_010), [PEER]);
        assert!(detector.due_probes(1_020).is_empty());
        detector.on_failure(PEER, 1_030);
        assert!(!detector.is_up(PEER));
    }

    #[test]
    fn an_answered_probe_clears_it_and_an_unanswered_one_does_not() {
        let mut detector = beating(1_000);
        detector.on_failure(PEER, 1_000);
        detector.due_probes(1_000);
        detector.on_heard(PEER, 1_005);
        assert_eq!(falls(&mut detector, 1_010, 2_000), None);
        detector.on_failure(PEER, 2_000);
        detector.due_probes(2_000);
        assert_eq!(detector.due_probes(2_450), []);
        assert_eq!(detector.due_probes(2_500), [PEER], "one may have been lost");
        assert_eq!(falls(&mut detector, 2_000, 6_000), Some(4_500));
    }

    /// Hundreds of requests under way to a process that pauses for two seconds
    /// all run out of time; it is up again when the pause ends.
    #[test]
    fn requests_that_a_pause_makes_late_take_nobody_down() {
        let mut detector = beating(1_000);
        for late_ms in [1_500, 1_550, 1_600, 2_900] {
            detector.on_timeout(PEER, late_ms);
            detector.due_probes(late_ms);
            detector.tick(late_ms);
        }
        assert!(detector.is_up(PEER));
        detector.on_heard(PEER, 3_000);
        assert_eq!(falls(&mut detector, 3_000, 5_500), None);
    }

    #[test]
    fn probes_back_off_to_one_a_second() {
        let mut detector = beating(1_000);
        detector.on_failure(PEER, 1_000);
        detector.due_probes(1_000);
        detector.on_failure(PEER, 1_000);
        let probes: Vec<u64> = (1_000..8_000)
            .step_by(10)
            .filter(|&now_ms| !detector.due_probes(now_ms).is_empty())
            .collect();
        assert_eq!(probes[..5], [1_000, 1_100, 1_300, 1_700, 2_500]);
        assert!(
            probes[4..]
                .windows(2)
                .all(|pair| pair[1] - pair[0] == PROBE_LONGEST_MS)
        );
    }
}
