//! Modules on trial: run on what is stored, apart from those that serve.
//!
//! A [`Rehearsal`] has a sandbox of its own, with the same limits. Promises: what
//! a module gives here it gives to requests, because the bytes, the limits and
//! the arguments are the same; nothing that happens here shows in the figures of
//! the modules that serve, takes an instance from them, or is left on disk; all
//! of it is gone when the rehearsal is dropped. Not promised: that a call is
//! short; it may take all its fuel, so calls belong on a thread where nobody
//! waits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::laws::{self, Samples, Settings};
use super::registry::describe;
use super::wasm::{
    Call, Failure, InvalidModule, Loaded, Outcome, Sandbox, SandboxError, SandboxLimits, fuel_burnt,
};
use crate::clock::{Clock, SystemClock};
use crate::protocol::catalog::{Digest, Lawfulness, ModuleInfo, ModuleKind};
use crate::protocol::effect::{GuestCost, GuestReply, GuestRequest, GuestSibling, View};

/// Why there is no rehearsal.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Invalid(#[from] InvalidModule),
}

/// A sandbox for trying modules.
pub struct Rehearsal {
    sandbox: Sandbox,
    modules: BTreeMap<Digest, Arc<Loaded>>,
    clock: SystemClock,
}

impl Rehearsal {
    /// A sandbox with these limits and nothing in it.
    pub fn new(limits: SandboxLimits) -> Result<Self, RehearsalError> {
        Ok(Rehearsal {
            sandbox: Sandbox::new(limits, None)?,
            modules: BTreeMap::new(),
            clock: SystemClock::new(),
        })
    }

    /// Makes a module ready, and says what it says of itself. Whether it keeps the
    /// laws is not known yet. Blocks while it compiles.
    pub fn prepare(&mut self, bytes: &[u8]) -> Result<ModuleInfo, RehearsalError> {
        let loaded = self.sandbox.prepare(bytes)?;
        let info = describe(&loaded, Lawfulness::Unchecked);
        self.modules.insert(info.digest, loaded);
        Ok(info)
    }

    /// Whether a module that is ready keeps the laws, by the check that an upload
    /// goes through. Blocks, up to some seconds.
    pub fn judge(&self, digest: Digest, seed: u64) -> Lawfulness {
        let Some(loaded) = self.modules.get(&digest) else {
            return Lawfulness::Unchecked;
        };
        let report = laws::check(
            &self.sandbox,
            loaded,
            &Samples::Module,
            Settings::new(seed, laws::DEFAULT_CASES),
            &mut |_| ControlFlow::Continue(()),
        );
        laws::lawfulness(&report.verdict)
    }

    /// What the module makes of the siblings, as a read would have it: several are
    /// folded, one is taken as it is, and a data type renders what is left.
    pub fn run(&self, request: &GuestRequest) -> (GuestReply, GuestCost) {
        self.measured(request, |call, loaded| match &request.siblings[..] {
            [only] => self.render(request, loaded, only.version.value.clone()),
            siblings => self.fold(request, loaded, call, siblings),
        })
    }

    /// The same, but folds one sibling, too. A data type does that to what it
    /// stored itself when a copy comes back, so it has to take it.
    pub fn refold(&self, request: &GuestRequest) -> (GuestReply, GuestCost) {
        self.measured(request, |call, loaded| {
            self.fold(request, loaded, call, &request.siblings)
        })
    }

    fn measured(
        &self,
        request: &GuestRequest,
        work: impl FnOnce(&Call<'_>, &Loaded) -> Result<GuestReply, Failure>,
    ) -> (GuestReply, GuestCost) {
        let Some(loaded) = self.modules.get(&request.digest) else {
            return (GuestReply::Missing, GuestCost::default());
        };
        let call = Call::new(&request.table, &request.key, request.max_output_bytes);
        let (begun_us, burnt) = (self.clock.now().wall_us, fuel_burnt());
        let reply = match work(&call, loaded) {
            Ok(reply) => reply,
            Err(Failure::Busy) => GuestReply::Overloaded,
            Err(failure) => GuestReply::Failed(failure.to_string()),
        };
        let cost = GuestCost {
            fuel: fuel_burnt().wrapping_sub(burnt),
            time_us: self.clock.now().wall_us.saturating_sub(begun_us),
        };
        (reply, cost)
    }

    fn fold(
        &self,
        request: &GuestRequest,
        loaded: &Loaded,
        call: &Call<'_>,
        siblings: &[GuestSibling],
    ) -> Result<GuestReply, Failure> {
        match self.sandbox.fold(loaded, call, siblings)? {
            Outcome::Merged(value) => self.render(request, loaded, Some(value.into())),
            Outcome::Deleted => self.render(request, loaded, None),
            Outcome::Unresolved => Ok(GuestReply::Unresolved),
        }
    }

    fn render(
        &self,
        request: &GuestRequest,
        loaded: &Loaded,
        value: Option<Bytes>,
    ) -> Result<GuestReply, Failure> {
        let view: Option<View> = match &value {
            Some(state) if loaded.kind() == ModuleKind::DataType => Some(self.sandbox.render(
                loaded,
                state,
                request.max_output_bytes,
            )?),
            _ => None,
        };
        Ok(GuestReply::Done { value, view })
    }
}
